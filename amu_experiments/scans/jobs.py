"""Jobs of machine code: how a function over jobs is written, and how it is called."""

from types import SimpleNamespace

import llvmlite.binding as llvm
import numpy as np
import torch
from llvmlite import ir

from amu_experiments.scans.threads import shared
from amu_experiments.scans.vectors import F32, I32, I64, Code, Numbers, Value

LINE = 16
"""Number of floats in a cache line of the processor."""

FLUSH_X86 = 0x8040
"""Bits of the register MXCSR: subnormal numbers are taken as zero, and results that would be subnormal are zero."""

FLUSH_ARM = 1 << 24
"""The same, in the register FPCR."""


class Driver(Code):
    """A function (first job, job after the last, scratch memory, arguments) that is being written.

    arguments: the names of the numbers that the last one points to. Jobs write different places, so that several
    threads can share them; their number changes no result.

    While the function runs, numbers below 1.2e-38 are zero. Where gradients vanish there are many of them, and a
    processor computes with them many times as slowly as with others.
    """

    def __init__(self, module: ir.Module, name: str, arguments: tuple[str, ...], lanes: int):
        super().__init__(module, name, 4, lanes, internal=False)
        self.begin, self.end, self.scratch, given = self.arguments
        numbers = Numbers(self, given, I64)
        self.given = SimpleNamespace(**{argument: numbers[i] for i, argument in enumerate(arguments)})
        self._machine = llvm.get_default_triple().partition("-")[0]
        self._mode = self._float_mode()
        self._set_float_mode(self._flushing(self._mode))

    def done(self) -> ir.Function:
        self._set_float_mode(self._mode)
        return super().done()

    def _float_mode(self) -> ir.Value | None:
        """How this thread computes with floats; None if that is not known for this kind of processor."""
        if self._machine == "x86_64":
            with self.builder.goto_entry_block():
                self._place = self.builder.alloca(I32)
            self._registers("llvm.x86.sse.stmxcsr", ir.VoidType(), self._place)
            return self.builder.load(self._place)
        if self._machine in ("aarch64", "arm64"):
            return self._registers("llvm.aarch64.get.fpcr", I64)
        return None

    def _flushing(self, mode: ir.Value | None) -> ir.Value | None:
        bits = FLUSH_X86 if self._machine == "x86_64" else FLUSH_ARM
        return None if mode is None else self.builder.or_(mode, ir.Constant(mode.type, bits))

    def _set_float_mode(self, mode: ir.Value | None) -> None:
        if mode is None:
            return
        if self._machine == "x86_64":
            self.builder.store(mode, self._place)
            self._registers("llvm.x86.sse.ldmxcsr", ir.VoidType(), self._place)
        else:
            self._registers("llvm.aarch64.set.fpcr", ir.VoidType(), mode)

    def _registers(self, name: str, result: ir.Type, *values: ir.Value) -> ir.Value:
        """Call an intrinsic function that reads or writes the mode of the processor."""
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(result, [value.type for value in values]), name)
        return self.builder.call(function, values)

    def divided(self, a: Value, b: Value) -> tuple[Value, Value]:
        """Quotient and remainder."""
        quotient = a / b
        return quotient, a - quotient * b

    def numbers(self, address: Value, place=0, kind=F32) -> Numbers:
        return Numbers(self, address, kind).after(place)

    def lowest(self, a, b) -> Value:
        a, b = self.integer(a), self.integer(b)
        return self.where(b < a, b, a)


class Jobs:
    """Functions over jobs in machine code, by name, each with the names of its arguments."""

    def __init__(self, code, arguments: dict[str, tuple[str, ...]]):
        self._code = code  # the functions live as long as it does
        self._functions = {name: (code.function(name, 4), names) for name, names in arguments.items()}

    def run(self, name: str, given: dict, jobs: int, multiplications: float, floats: int) -> None:
        """Run all jobs.

        given: sizes, and arrays or tensors; multiplications: their approximate number; floats: size of scratch memory.
        """
        function, names = self._functions[name]
        arguments = np.array([_number(argument, given[argument]) for argument in names], np.int64)

        def work(begin, end):
            memory = np.empty(floats + LINE, np.float32)
            function(begin, end, memory.ctypes.data, arguments.ctypes.data)

        shared(work, jobs, multiplications)


def _number(name: str, value) -> int:
    """A size, or the address of an array or tensor, whose numbers lie one after another."""
    if isinstance(value, int):
        return value
    if isinstance(value, torch.Tensor) and value.dim():  # in a trace of torch, sizes are tensors without axes
        if value.is_contiguous() and value.dtype in (torch.float32, torch.int64):
            return value.data_ptr()
    elif not isinstance(value, np.ndarray):
        return int(value)
    elif value.flags.c_contiguous and value.dtype in (np.float32, np.int64):
        return value.__array_interface__["data"][0]
    raise ValueError(f"{name}: {type(value).__name__} of {value.dtype} and shape {tuple(value.shape)} in another order")
