"""The compiled scans of a recurrence: `scans` makes them for layers or for training.

Batches of FULL sequences and more run in blocks of sequences side by side (blocks.py), smaller ones sequence by
sequence (kernels.py). Only the size of the batch decides.
"""

import functools
import hashlib
import inspect
import threading

import numba
import numpy as np

from amu_experiments import numerics
from amu_experiments.scans import block_learning, blocks, functions, kernels, lanes, learning, slots, tiles
from amu_experiments.scans.compiling import Driver, Notice, beside
from amu_experiments.scans.functions import f32
from amu_experiments.scans.recurrence import Recurrence
from amu_experiments.scans.threads import number_of_threads, shared
from amu_experiments.scans.vectors import LANES

FULL = 8
"""The smallest batch that runs in blocks."""

_COMPILING = threading.Lock()
"""One at a time: how numba compiles is a setting of the whole process."""


def in_blocks(batch_size: int) -> bool:
    return batch_size >= FULL


def scans(recurrence: Recurrence, purpose: str, batch_size: int):
    """The drivers of a recurrence for "layer" (forward, backward) or "training" (train, predict).

    Compiled, or taken from the cache on disk. Compiling takes seconds, once per machine; a line on standard error says
    so.
    """
    notice = Notice(recurrence)
    made = (BlockScans if in_blocks(batch_size) else SequenceScans)(recurrence, purpose, notice)
    beside(made.compile)
    notice.done()
    return made


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


class BlockScans:
    """Scans of blocks of sequences side by side; sizes are arguments of the compiled code.

    Shapes as in blocks.py.
    """

    blocks = True
    lanes = LANES

    def __init__(self, recurrence: Recurrence, purpose: str, notice: Notice):
        self.recurrence = recurrence
        self._purpose, self._notice = purpose, notice
        self._form = lanes.form_of(recurrence)
        self._frame = lanes.frame_of(recurrence)
        # Few enough steps for the factors and errors of a stretch to stay in the second cache.
        widest = max([recurrence.inputs, *(p.factors for p in recurrence.products)])
        self._stretch = min(max(16384 // widest, 32), 128)
        self._frame[slots.STRETCH] = self._stretch
        self._matrices = 2 * (
            recurrence.inputs * recurrence.rows + sum(p.factors * p.results for p in recurrence.products)
        )

    def compile(self) -> None:
        with _COMPILING:
            numerics.fix_numba()
            self._code = lanes.compiled(self._form, lanes.machine())
            numba.config.SLP_VECTORIZE, before = 0, numba.config.SLP_VECTORIZE
            try:
                _compile_blocks(self._purpose, self._notice)
            finally:
                numba.config.SLP_VECTORIZE = before
        products = self.recurrence.products
        self._static = (
            self._frame,
            len(self._frame) - len(products) * len(slots.PRODUCT),
            np.array([p.transposed for p in products], bool),
            tiles.tile_rows(lanes.machine()),
        )
        self._ones = np.ones(LANES, f32)
        self._forward, self._backward = self._code.address("forward"), self._code.address("backward")

    @staticmethod
    def groups_of(batch_size: int) -> int:
        """Partial sums of a trial's gradient."""
        return blocks.groups_of(batch_size)

    # Layers -----------------------------------------------------------------------------------------------------

    def forward(self, parameters, x, lengths, first, xs, states, tape, ys, y, last) -> None:
        r = self.recurrence
        size = (blocks.odd_rows(r.rows) + blocks.odd_rows(r.recs)) * LANES + self._matrices

        def work(begin, end):
            blocks.forward(
                begin, end, self._forward, *self._static, parameters, x, lengths, first, xs, states, tape, ys, y, last,
                scratch(size),
            )  # fmt: skip

        shared(work, xs.shape[0] * xs.shape[1], 2 * x.size * r.rows)

    def backward(self, parameters, lengths, xs, states, tape, dy, dlast, gradients, dx, dfirst) -> None:
        size = self._rows(dy.shape[1], 0, 0) * LANES + self._matrices

        def work(begin, end):
            blocks.backward(
                begin, end, self._backward, *self._static, parameters, lengths, xs, states, tape, dy, dlast,
                self._ones, gradients, dx, dfirst, scratch(size),
            )  # fmt: skip

        shared(work, gradients.shape[0] * gradients.shape[1], 4 * dx.size * self.recurrence.rows)

    # Training ---------------------------------------------------------------------------------------------------

    def train(
        self, parameters, memory, x, lengths, targets, batch, every, loss, squash, optimizer, rate, momentum, clip,
        updates, losses, errors, norms, done,
    ) -> None:  # fmt: skip
        """As `train` of learning.py."""
        R, P = parameters.shape
        groups = blocks.groups_of(batch)
        partial, healthy = np.empty((R, groups, P), f32), np.zeros((R, groups), bool)
        done[:] = 0
        T, O = x.shape[2], targets.shape[3]
        size = self._rows(T, T, O * (self.recurrence.outputs + 1)) * LANES + self._matrices

        def part(what, update):
            def work(begin, end):
                block_learning.train(
                    begin, end, what, update, self._forward, self._backward, *self._static,
                    self.recurrence.place("end"), self._ones, parameters, memory, x, lengths, targets, batch, every,
                    loss, squash, optimizer, rate, momentum, clip, updates, losses, errors, norms, done, partial,
                    healthy, scratch(size), np.empty(LANES, np.int64),
                )  # fmt: skip

            return work

        work = 4 * x.size * self.recurrence.rows
        if groups == 1 or number_of_threads() <= R:
            shared(part(block_learning.WHOLE_TRIALS, 0), R, work)
            return
        for update in range(norms.shape[1]):
            shared(part(block_learning.GROUPS_OF_AN_UPDATE, update), R * groups, work / norms.shape[1])
            shared(part(block_learning.ENDS_OF_AN_UPDATE, update), R, 0)

    def predict(self, parameters, x, lengths, every, outputs) -> None:
        """As `predict` of learning.py."""
        R, B = lengths.shape
        size = self._rows(x.shape[2], 1, 0) * LANES + self._matrices

        def work(begin, end):
            block_learning.predict(
                begin, end, self._forward, *self._static, self.recurrence.place("end"), parameters, x, lengths, every,
                outputs, scratch(size), np.empty(LANES, np.int64),
            )  # fmt: skip

        shared(work, R * -(-B // LANES), 2 * x.size * self.recurrence.rows)

    def _rows(self, T: int, tape_steps: int, readout: int) -> int:
        """Rows of scratch memory that `carve` and its kind need at most."""
        r, odd = self.recurrence, blocks.odd_rows
        by_step = odd(r.inputs) + odd(r.state) + 2 * odd(r.outputs)
        vectors = int(self._frame[slots.VECTORS])
        once = odd(r.rows) + odd(r.recs) + odd(r.dfactors) + 3 * odd(r.state) + 3 * odd(vectors)
        stretch = self._stretch * (odd(r.rows) + odd(r.recs))
        return T * by_step + tape_steps * odd(r.tape) + once + stretch + readout


def scratch(size: int) -> np.ndarray:
    """Memory for so many floats, on the boundary of a line of the cache."""
    raw = np.empty(size + LANES, f32)
    shift = -raw.ctypes.data // 4 % LANES
    return raw[shift : shift + size]


def _compile_blocks(purpose: str, notice: Notice) -> None:
    """Compile the drivers over blocks, which are the same for all recurrences and sizes."""
    drivers = _block_drivers()
    f, flags = np.zeros(0, np.int64), np.zeros(0, bool)
    static = (0, f, 0, flags, 1)
    blocks5, three = _empty(0, 0, 0, 0), _empty(0, 0)
    calls = {
        "layer": {
            "forward": (*static, TABLE, X, np.zeros((0, 0, 0), np.int64), three, blocks5, blocks5, blocks5, blocks5)
            + (X, three, _empty()),
            "backward": (*static, TABLE, np.zeros((0, 0, 0), np.int64), blocks5, blocks5, blocks5, X, three)
            + (_empty(), three, X, three, _empty()),
        },
        "training": {
            "train": (0, 0, 0, *static, 0, _empty(), TABLE, TABLE, X, LENGTHS, X, *OPTIONS, TABLE, TABLE, TABLE)
            + (UPDATES, three, np.zeros((0, 0), bool), _empty(), f),
            "predict": (*static, 0, TABLE, X, LENGTHS, False, X, _empty(), f),
        },
    }
    for name, arguments in calls[purpose].items():
        drivers[name].missed = notice.compiling
        drivers[name].compile(*arguments)


@functools.cache
def _block_drivers() -> dict[str, Driver]:
    key = hashlib.sha256(_sources(blocks, block_learning, learning, functions, slots).encode()).hexdigest()
    functions_of = {
        "forward": blocks.forward,
        "backward": blocks.backward,
        "train": block_learning.train,
        "predict": block_learning.predict,
    }
    return {name: Driver(function, None, key) for name, function in functions_of.items()}
