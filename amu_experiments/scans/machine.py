"""LLVM modules as machine code for a processor, kept on disk from one process to the next."""

import ctypes
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from amu_experiments.scans import cache

I64 = ctypes.c_int64


class Machine:
    """Compiles modules for a processor: by default for this one, with its widest vectors.

    vectorised: the compiler makes vectors of loops over single numbers; otherwise the module itself has vector code.
    """

    def __init__(self, processor: str | None = None, features: str | None = None, vectorised: bool = False):
        _start_llvm()
        self.processor = processor or llvm.get_host_cpu_name()
        self.features = features if features is not None else llvm.get_host_cpu_features().flatten()
        self.vectorised = vectorised

    @property
    def width(self) -> int:
        """Floats of one register."""
        return 16 if "+avx512f" in self.features else 8 if "+avx2" in self.features else 4

    @property
    def registers(self) -> int:
        return 16 if self.width == 8 else 32

    def compile(
        self, key: str, write: Callable[[], ir.Module], missed: Callable[[], None] = lambda: None
    ) -> "Compiled":
        """The machine code of the module that `write` gives, from the cache if there is an entry.

        key: everything that the module depends on, except the sources of this package. missed: called without an entry.
        """
        parts = (key, _sources(), llvmlite.__version__, llvm.get_default_triple(), *vars(self).values())
        key = hashlib.sha256(repr(parts).encode()).hexdigest()
        code = cache.load(key)
        if code is None:
            missed()
            code = self._emitted(write())
            cache.save(key, code)
        return Compiled(code, self._target())

    def _target(self):
        triple = llvm.Target.from_default_triple()
        reloc = "static" if triple.name.startswith("x86") else "default"
        return triple.create_target_machine(
            cpu=self.processor, features=self.features, opt=3, reloc=reloc, codemodel="jitdefault", jit=True
        )

    def _emitted(self, module: ir.Module) -> bytes:
        target = self._target()
        parsed = llvm.parse_assembly(str(module))
        # Vectorise first and unroll second: otherwise a loop of eight iterations is unrolled and not vectorised.
        for unrolling in (False, True) if self.vectorised else (False,):
            options = llvm.create_pipeline_tuning_options(speed_level=3 if self.vectorised else 2)
            options.loop_vectorization = self.vectorised
            options.slp_vectorization = options.loop_unrolling = unrolling
            passes = llvm.create_pass_builder(target, options)
            passes.getModulePassManager().run(parsed, passes)
        return target.emit_object(parsed)


@functools.cache
def _start_llvm() -> None:
    """Once in a process: LLVM takes an option once only."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # Otherwise LLVM vectorises loops of fewer than 16 iterations with masks, which are slow on processors of AMD.
    llvm.set_option("", "--vectorizer-min-trip-count=0")


class Compiled:
    """Machine code, as long as this object lives."""

    def __init__(self, code: bytes, target):
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        return self._engine.get_function_address(name)

    def function(self, name: str, arguments: int) -> Callable:
        """A function of this many 64-bit integers, which releases Python's global lock."""
        return ctypes.CFUNCTYPE(None, *[I64] * arguments)(self.address(name))


_SOURCES: list[str] = []


def _sources() -> str:
    """A digest of all modules of this package."""
    if not _SOURCES:
        files = sorted(Path(__file__).parent.glob("*.py"))
        _SOURCES.append(hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest())
    return _SOURCES[0]
