"""The compiled scans of one sequence after another, for small batches; numba compiles them, which takes seconds.

Their digits are those of all stored runs with small batches, and hang on what the compiler makes of the source.
"""

import hashlib
import inspect
import threading

import numba
import numpy as np

from amu_experiments import numerics
from amu_experiments.scans import functions, kernels, learning
from amu_experiments.scans.compiling import Driver
from amu_experiments.scans.functions import f32
from amu_experiments.scans.notice import Notice
from amu_experiments.scans.recurrence import Recurrence

_COMPILING = threading.Lock()
"""One at a time: how numba compiles is a setting of the whole process."""


def _empty(*shape):
    return np.zeros((0, *shape), f32)


X, ROWS_, LENGTHS, TABLE = _empty(0, 0, 0), _empty(0, 0), np.zeros((0, 0), np.int64), _empty(0)
UPDATES = np.zeros(0, np.int64)
OPTIONS = (1, False, 0, 0, 0, f32(1.0), f32(1.0), f32(1.0), 0)
"""Of `train`: batch, every, loss, squash, optimizer, rate, momentum, clip, updates."""


class SequenceScans:
    """Scans of one sequence after another; sizes are compiled in."""

    blocks = False

    def __init__(self, recurrence: Recurrence, purpose: str, notice: Notice):
        self.recurrence = recurrence
        key = hashlib.sha256(f"{recurrence}\n{_sources(functions, kernels, learning)}".encode()).hexdigest()
        scan = kernels.scan_of(recurrence)
        of_purpose = kernels.layer_drivers if purpose == "layer" else learning.training_drivers
        self._drivers = {
            name: Driver(function, count, key, notice.compiling)
            for name, (function, count) in of_purpose(recurrence, scan).items()
        }
        vars(self).update(self._drivers)

    def compile(self) -> None:
        arguments = {
            "forward": (TABLE, X, LENGTHS, X, X, X),
            "backward": (TABLE, X, LENGTHS, X, X, X, ROWS_, ROWS_, X),
            "predict": (TABLE, X, LENGTHS, False, X),
            "train": (TABLE, TABLE, X, LENGTHS, X, *OPTIONS, TABLE, TABLE, TABLE, UPDATES),
        }
        with _COMPILING:
            numerics.fix_numba()
            # Short loops are unrolled before they could be vectorised; this has LLVM find the vectors in the result.
            numba.config.SLP_VECTORIZE, before = 1, numba.config.SLP_VECTORIZE
            try:
                for name, driver in self._drivers.items():
                    driver.compile(*arguments[name])
            finally:
                numba.config.SLP_VECTORIZE = before


def _sources(*modules) -> str:
    return "".join(map(inspect.getsource, modules))
