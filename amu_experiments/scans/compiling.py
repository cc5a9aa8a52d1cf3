"""Compiling with numba: options, the cache on disk, and a message for whoever waits."""

import functools
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

import numba
from numba import njit
from numba.core.compiler import CompilerBase, DefaultPassBuilder

from amu_experiments.scans.cache import CodeCache
from amu_experiments.scans.functions import EXACT
from amu_experiments.scans.recurrence import Recurrence
from amu_experiments.scans.threads import shared


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
        with suppress(RuntimeError, OSError):  # there is no folder for a cache
            function._cache = CodeCache(function.py_func, key, lambda: self.missed())

    def __call__(self, *arguments) -> None:
        shared(lambda begin, end: self.function(begin, end, *arguments), *self._count(*arguments))

    def compile(self, *arguments) -> None:
        """Compile the loop for arguments of these types, or take it from the cache."""
        self.function.compile(tuple(map(numba.typeof, (0, 0, *arguments))))


class Notice:
    """Says that a cell is being compiled, and how long it took; nothing where it is only loaded."""

    def __init__(self, recurrence: Recurrence):
        self._cell = f"the {recurrence.name} cell ({recurrence.inputs} inputs, {recurrence.outputs} units)"
        self._began: float | None = None

    def compiling(self) -> None:
        if self._began is None:
            self._began = time.monotonic()
            self._say(f"Compiling {self._cell} ...")

    def done(self) -> None:
        if self._began is not None:
            self._say(f"Compiled {self._cell} in {time.monotonic() - self._began:.1f} s.")

    @staticmethod
    def _say(text: str) -> None:
        with suppress(OSError):  # standard error is closed
            print(text, file=sys.stderr, flush=True)


def beside(function: Callable, *arguments) -> None:
    """Call in a thread and wait for it, for Ctrl-C and signals to act at once and not when native code returns.

    Whoever leaves the wait so leaves the thread to itself, which ends what it does.
    """
    called: Future = Future()

    def call():
        try:
            called.set_result(function(*arguments))
        except BaseException as error:
            called.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    called.result()
