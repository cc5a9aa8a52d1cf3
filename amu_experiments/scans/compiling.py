"""Compiling with numba: options, the entries of the cache on disk, and drivers."""

import functools
import hashlib
import pickle
import platform
from collections.abc import Callable
from types import FunctionType

import llvmlite
import numba
import numpy as np
from numba import njit
from numba.core import serialize
from numba.core.caching import CompileResultCacheImpl
from numba.core.compiler import CompilerBase, DefaultPassBuilder

from amu_experiments.scans import cache, functions
from amu_experiments.scans.threads import shared

EXACT = {"contract", "nsz"}
"""A product and a sum may become one instruction. Nothing here may assume that values are finite: a trial that
diverges must be seen to diverge."""


def _jitted_functions() -> dict[str, Callable]:
    """The functions of functions.py, written into the loops that call them before anything is optimised: so the loops
    are vectorised."""
    inlined = functools.partial(njit, fastmath=EXACT, error_model="numpy", inline="always")
    known = dict(vars(functions))
    for function in functions.VECTORISED:
        known[function.__name__] = inlined()(FunctionType(function.__code__, known, function.__name__))
    return known


_JITTED = _jitted_functions()
exp, log = _JITTED["exp"], _JITTED["log"]

NAMESPACE = {
    "__name__": __name__,  # a module that can be imported: cached code is loaded by its name
    "f32": np.float32,
    "sqrt": np.sqrt,
    **{name: _JITTED[name] for name in ("tanh", "exp", "log", "log1p", "sin", "cos")},
}
"""The names that the source of a step uses."""


class CodeCache:
    """The cache of one numba dispatcher; numba calls `load_overload` before it compiles and `save_overload` after.

    Args:
        function: the Python function that is compiled.
        key: everything the code depends on (sources, sizes, settings), except its signature and the machine.
        missed: called if there is no entry, just before numba compiles.
    """

    def __init__(self, function: Callable, key: str, missed: Callable[[], None] = lambda: None):
        self.cache_path = str(cache.folder())
        self._results = CompileResultCacheImpl.__new__(CompileResultCacheImpl)
        self._key = f"{key} {function.__qualname__}"
        self._missed = missed

    def load_overload(self, signature, target):
        """The compiled function of this signature, or None."""
        target.refresh()
        payload = cache.load(self._digest(signature, target))
        if payload is not None:
            return self._results.rebuild(target, pickle.loads(payload))
        self._missed()
        return None

    def save_overload(self, signature, compiled) -> None:
        """Write an entry; if that fails, this process uses the code without an entry."""
        if self._results.check_cachable(compiled):
            key = self._digest(signature, compiled.target_context)
            cache.save(key, serialize.dumps(self._results.reduce(compiled)))

    def flush(self) -> None:
        """Does nothing: numba requires it, but entries never become stale, since other code has another key."""

    def _digest(self, signature, target) -> str:
        parts = (
            self._key,
            signature,
            target.codegen().magic_tuple(),
            numba.__version__,
            llvmlite.__version__,
            np.__version__,
            platform.python_version(),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


class Separate(CompilerBase):
    """Numba's usual pipeline, with the promise that no two array arguments of a function overlap.

    Without it the compiler must assume that writing one array changes another, and leaves the loops scalar.
    """

    def define_pipelines(self):
        self.state.flags.noalias = True
        # Only compiled code calls these functions.
        self.state.flags.no_cpython_wrapper = True
        self.state.flags.no_cfunc_wrapper = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


compiled = functools.partial(njit, fastmath=EXACT, error_model="numpy", forceinline=True, pipeline_class=Separate)
driver = functools.partial(njit, nogil=True, no_cfunc_wrapper=True)


class Driver:
    """A compiled loop over jobs, of which a call does all: function(begin, end_of_jobs, *arguments).

    count(*arguments): how many jobs there are, and about how many multiplications they take together. Jobs write
    different places, so that several threads can share them; their number changes no result.
    """

    def __init__(self, function: Callable, count: Callable, key: str, missed: Callable[[], None] = lambda: None):
        self.function = function
        self.missed = missed
        self._count = count
        function._cache = CodeCache(function.py_func, key, lambda: self.missed())

    def __call__(self, *arguments) -> None:
        shared(lambda begin, end: self.function(begin, end, *arguments), *self._count(*arguments))

    def compile(self, *arguments) -> None:
        """Compile the loop for arguments of these types, or take it from the cache."""
        self.function.compile(tuple(map(numba.typeof, (0, 0, *arguments))))
