"""Jobs of machine code: how a function over jobs is written, and how it is called."""

from types import SimpleNamespace

import numpy as np
from llvmlite import ir

from amu_experiments.scans.threads import shared
from amu_experiments.scans.vectors import F32, I64, Code, Numbers, Value

LINE = 16
"""Floats of a line of the cache."""


class Driver(Code):
    """A function (first job, job after the last, scratch memory, arguments) that is being written.

    arguments: the names of the numbers that the last one points to. Jobs write different places, so that several
    threads can share them; their number changes no result.
    """

    def __init__(self, module: ir.Module, name: str, arguments: tuple[str, ...], lanes: int):
        super().__init__(module, name, 4, lanes, internal=False)
        self.begin, self.end, self.scratch, given = self.arguments
        numbers = Numbers(self, given, I64)
        self.given = SimpleNamespace(**{argument: numbers[i] for i, argument in enumerate(arguments)})

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
        """Do all jobs. given: sizes, and arrays; multiplications: about how many; floats: of scratch memory."""
        function, names = self._functions[name]
        arguments = np.array([_number(argument, given[argument]) for argument in names], np.int64)

        def work(begin, end):
            memory = np.empty(floats + LINE, np.float32)
            function(begin, end, memory.ctypes.data, arguments.ctypes.data)

        shared(work, jobs, multiplications)


def _number(name: str, value) -> int:
    """A size, or the address of an array, whose numbers lie one after another."""
    if not isinstance(value, np.ndarray):
        return int(value)
    if not value.flags.c_contiguous or value.dtype not in (np.float32, np.int64):
        raise ValueError(f"{name}: an array of type {value.dtype}, shape {value.shape} and strides {value.strides}")
    return value.__array_interface__["data"][0]
