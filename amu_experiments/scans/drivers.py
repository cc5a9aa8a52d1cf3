"""The compiled scans of a recurrence: `scans` makes them for layers or for training.

Batches of FULL sequences and more run in blocks of sequences side by side (blocks.py), smaller ones sequence by
sequence (kernels.py). Only the size of the batch decides.
"""

from collections.abc import Callable

import numpy as np
from llvmlite import ir

from amu_experiments import numerics
from amu_experiments.scans import block_learning, blocks, free_run, kernels, lanes, learning, slots
from amu_experiments.scans.compiling import Notice, beside
from amu_experiments.scans.jobs import LINE, Jobs
from amu_experiments.scans.machine import Machine
from amu_experiments.scans.recurrence import Recurrence
from amu_experiments.scans.threads import number_of_threads
from amu_experiments.scans.updates import adam_steps

f32 = np.float32

FULL = 8
"""The smallest batch that runs in blocks."""


def lanes_of(batch_size: int) -> int:
    """Sequences of a block; 0 for batches that run sequence by sequence."""
    return 0 if batch_size < FULL else 8 if batch_size == 8 else 16


def scans(recurrence: Recurrence, purpose: str, batch_size: int):
    """The drivers of a recurrence for "layer" (forward, backward), "training" (train, predict) or "free run".

    Free runs go sequence by sequence, whatever the size of the batch.

    They are compiled, or loaded from the cache on disk. Compiling takes seconds, once per machine; a line on standard
    error announces it.
    """
    notice = Notice(recurrence)
    count = 0 if purpose == "free run" else lanes_of(batch_size)
    made = BlockScans(recurrence, notice, count) if count else SequenceScans(recurrence, purpose, notice)
    beside(made.compile)
    notice.done()
    return made


class SequenceScans:
    """Scans of one sequence after another; sizes are compiled in. Shapes as in kernels.py."""

    blocks = False

    def __init__(self, recurrence: Recurrence, purpose: str, notice: Notice):
        self.recurrence = recurrence
        self._purpose, self._notice = purpose, notice

    def compile(self) -> None:
        arguments = PURPOSES[self._purpose]
        key = f"{self.recurrence} {self._purpose}"
        code = portable_machine().compile(key, self._module, self._notice.compiling)
        self._jobs = Jobs(code, arguments)

    def _module(self) -> ir.Module:
        module, r = ir.Module("sequences"), self.recurrence
        if self._purpose == "layer":
            kernels.forward_driver(module, r)
            kernels.backward_driver(module, r)
        elif self._purpose == "free run":
            free_run.free_run_driver(module, r)
        else:
            learning.train_driver(module, r)
            learning.predict_driver(module, r)
        return module

    def forward(self, parameters, x, lengths, states, tape, y) -> None:
        (R, B, T, I), r = x.shape, self.recurrence
        given = _layer(parameters, x, lengths) | {"states": states, "tape": tape, "y": y}
        self._jobs.run("forward", given, R * B, 2 * R * B * T * I * r.rows, self._floats(0, False))

    def backward(self, parameters, x, lengths, states, tape, dy, dstate, gradients, dx) -> None:
        (R, B, T, I), G, r = x.shape, gradients.shape[1], self.recurrence
        given = _layer(parameters, x, lengths) | {"states": states, "tape": tape, "dy": dy, "dstate": dstate}
        given |= {"gradients": gradients, "dx": dx, "G": G}
        floats = self._floats(0, True) + T * (r.rows + r.recs)
        self._jobs.run("backward", given, R * G, 4 * R * B * T * I * r.rows, floats)

    def train(
        self, parameters, memory, x, lengths, targets, batch, every, loss, squash, optimizer, rate, momentum, clip,
        updates, losses, errors, norms, done,
    ) -> None:  # fmt: skip
        """As `train_driver` of learning.py; rate, momentum and clip are numbers, as is the count of updates."""
        x, lengths, targets = map(np.ascontiguousarray, (x, lengths, targets))
        (R, P), r, T, O = parameters.shape, self.recurrence, x.shape[2], targets.shape[3]
        done[:] = 0
        given = _data(parameters, x, lengths, every, targets) | {
            "A": r.outputs, "memory": memory, "targets": targets, "batch": batch, "updates": norms.shape[1],
            "loss": loss, "squash": squash, "optimizer": optimizer, "options": np.array([rate, momentum, clip], f32),
            "steps": adam_steps(rate, updates + 1, norms.shape[1]), "losses": losses, "errors": errors,
            "norms": norms, "done": done,
        }  # fmt: skip
        floats = self._floats(T, True) + learning.STRETCH * (r.rows + r.recs) + T * r.outputs + 2 * O + P
        self._jobs.run("train", given, R, 4 * x.size * r.rows, floats)

    def predict(self, parameters, x, lengths, every, outputs) -> None:
        """The readout before squashing of x (R, B, T, I), in outputs (R, B, T or 1, O)."""
        x, lengths = np.ascontiguousarray(x), np.ascontiguousarray(lengths)
        (R, B), r = lengths.shape, self.recurrence
        pieces = -(-B // learning.PIECE)
        given = _data(parameters, x, lengths, every, outputs) | {
            "A": r.outputs, "pieces": pieces, "outputs": outputs
        }  # fmt: skip
        self._jobs.run("predict", given, R * pieces, 2 * x.size * r.rows, self._floats(x.shape[2], False))

    def free_run(self, parameters, given, squash, feedback, temperature, draws, answers) -> None:
        """As `free_run_driver` of free_run.py; squash and feedback are numbers, temperature an array of one number."""
        (R, n, G, _), r, (steps, O) = given.shape, self.recurrence, answers.shape[2:]
        arguments = {
            "parameters": parameters, "P": parameters.shape[1], "given": given, "n": n, "G": G, "steps": steps, "O": O,
            "A": r.outputs, "squash": squash, "feedback": feedback, "temperature": temperature, "draws": draws,
            "answers": answers,
        }  # fmt: skip
        work = 2 * R * n * steps * (r.inputs * r.rows + sum(p.factors * p.results for p in r.products))
        self._jobs.run("free_run", arguments, R * n, work, self._floats(1, False) + r.inputs + O)

    def _floats(self, T: int, backward: bool) -> int:
        """Number of floats of scratch memory for T time steps and the weights, and if `backward`, their gradients."""
        r = self.recurrence
        weights = r.inputs * r.rows + sum(p.factors * p.results for p in r.products)
        of_steps = (T + 1) * r.state + T * (r.tape + r.outputs)
        return of_steps + r.rows + r.recs + r.dfactors + r.state + 1 + weights * (1 + backward)


class BlockScans:
    """Scans of blocks of sequences side by side; sizes are arguments of the compiled code.

    Shapes as in blocks.py.
    """

    blocks = True

    def __init__(self, recurrence: Recurrence, notice: Notice, lanes_: int):
        self.recurrence, self.lanes = recurrence, lanes_
        self._notice = notice
        self._frame = lanes.frame_of(recurrence)
        # Few enough steps for the factors and errors of a stretch to stay in the second cache.
        widest = max([recurrence.inputs, *(p.factors for p in recurrence.products)])
        self._frame[slots.STRETCH] = min(max(16384 // widest, 32), 128)
        self._matrices = lanes.matrices_of(recurrence)
        self._ones = np.ones(self.lanes, f32)

    def compile(self) -> None:
        machine, missed = lanes.machine(), self._notice.compiling
        cell = lanes.compiled(lanes.form_of(self.recurrence), machine, self.lanes, missed)
        self._jobs = block_jobs(machine, self.lanes, missed)
        self._given = {
            "code_forward": cell.address("forward"),
            "code_backward": cell.address("backward"),
            "frame": self._frame,
            "frame_size": self._frame.size,
            "ones": self._ones,
            "matrices": self._matrices,
        }
        self._cell = cell

    def groups_of(self, batch_size: int) -> int:
        """The number of partial sums of a trial's gradient."""
        return blocks.groups_of(batch_size, self.lanes)

    # Layers -----------------------------------------------------------------------------------------------------

    def forward(self, parameters, x, lengths, first, xs, states, tape, ys, y, last) -> None:
        (R, T, B, I), C, r = x.shape, xs.shape[1], self.recurrence
        given = self._packed(parameters, 0, 1) | {
            "x": x, "lengths": lengths, "first": first, "xs": xs, "states": states, "tape": tape, "ys": ys, "y": y,
            "last": last, "T": T, "B": B, "C": C,
        }  # fmt: skip
        rows = blocks.odd_rows(r.rows) + blocks.odd_rows(r.recs)
        self._run("forward", given, R * C, 2 * R * T * B * I * r.rows, rows)

    def backward(self, parameters, lengths, xs, states, tape, dy, dlast, gradients, dx, dfirst) -> None:
        (R, T, B, I), G = dx.shape, gradients.shape[1]
        given = self._packed(parameters, 1, 2) | {
            "lengths": lengths, "xs": xs, "states": states, "tape": tape, "dy": dy, "dlast": dlast,
            "gradients": gradients, "dx": dx, "dfirst": dfirst, "T": T, "B": B, "C": xs.shape[1], "G": G,
        }  # fmt: skip
        self._run("backward", given, R * G, 4 * R * T * B * I * self.recurrence.rows, self._rows(T, 0, 0))

    # Training ---------------------------------------------------------------------------------------------------

    def train(
        self, parameters, memory, x, lengths, targets, batch, every, loss, squash, optimizer, rate, momentum, clip,
        updates, losses, errors, norms, done,
    ) -> None:  # fmt: skip
        """As `train_driver` of learning.py."""
        x, lengths, targets = map(np.ascontiguousarray, (x, lengths, targets))
        (R, P), count, groups = parameters.shape, norms.shape[1], self.groups_of(batch)
        T, O = x.shape[2], targets.shape[3]
        done[:] = 0
        given = self._packed(parameters, 0, 2) | _data(parameters, x, lengths, every, targets) | {
            "end": self.recurrence.place("end"), "updates": count, "batch": batch, "groups": groups,
            "M": len(self._matrices), "memory": memory, "targets": targets, "loss": loss, "squash": squash,
            "optimizer": optimizer, "options": np.array([rate, momentum, clip], f32),
            "steps": adam_steps(rate, updates + 1, count), "losses": losses, "errors": errors, "norms": norms,
            "done": done, "partial": np.empty((R, groups, P), f32), "healthy": np.zeros((R, groups), np.int64),
        }  # fmt: skip
        rows = self._rows(T, T, O * (self.recurrence.outputs + 5))
        work = 4 * x.size * self.recurrence.rows
        if groups == 1 or number_of_threads() <= R:
            self._run("train", given | {"what": block_learning.WHOLE_TRIALS, "update": 0}, R, work, rows)
            return
        for update in range(count):
            for what, jobs in (
                (block_learning.GROUPS_OF_AN_UPDATE, R * groups),
                (block_learning.ENDS_OF_AN_UPDATE, R),
            ):
                self._run("train", given | {"what": what, "update": update}, jobs, jobs // R * work / count, rows)

    def predict(self, parameters, x, lengths, every, outputs) -> None:
        """As `predict_driver` of learning.py."""
        x, lengths = np.ascontiguousarray(x), np.ascontiguousarray(lengths)
        (R, n, T, _), O = x.shape, outputs.shape[3]
        count = -(-n // self.lanes)
        given = self._packed(parameters, 0, 1) | _data(parameters, x, lengths, every, outputs) | {
            "end": self.recurrence.place("end"), "blocks": count, "outputs": outputs,
        }  # fmt: skip
        self._run("predict", given, R * count, 2 * x.size * self.recurrence.rows, self._rows(T, 1, O))

    # Memory and jobs --------------------------------------------------------------------------------------------

    def _packed(self, parameters, first: int, last: int) -> dict:
        """Arguments with the forward (first, last = 0, 1), backward (1, 2) or all matrices (0, 2) packed."""
        (R, P), half = parameters.shape, len(self._matrices) // 2
        matrices = self._matrices[first * half : last * half]
        W = int(np.prod(self._matrices[-1, 3:5]) + self._matrices[-1, 5])
        given = self._given | {"parameters": parameters, "P": P, "packed": np.empty((R, W), f32), "W": W}
        chosen = {"matrices": matrices, "M": len(matrices)}
        self._run("pack", given | chosen, R * len(matrices), 0, 0)
        return given

    def _run(self, driver: str, given: dict, jobs: int, multiplications: float, rows: int) -> None:
        """rows: number of rows of scratch memory; a frame and the lengths of a block come before them."""
        floats = 2 * (self._frame.size + self.lanes) + LINE + rows * self.lanes
        self._jobs.run(driver, given, jobs, multiplications, floats)

    def _rows(self, T: int, tape_steps: int, readout: int) -> int:
        """The largest number of rows of scratch memory that a driver takes."""
        r, odd = self.recurrence, blocks.odd_rows
        by_step = odd(r.inputs) + odd(r.state) + 2 * odd(r.outputs)
        vectors, stretch = (int(self._frame[slot]) for slot in (slots.VECTORS, slots.STRETCH))
        once = odd(r.rows) + odd(r.recs) + odd(r.dfactors) + 3 * odd(r.state) + 3 * odd(vectors) + 2 * r.outputs
        return T * by_step + tape_steps * odd(r.tape) + once + stretch * (odd(r.rows) + odd(r.recs)) + readout


def _layer(parameters, x, lengths) -> dict:
    R, B, T, _ = x.shape
    return {"parameters": parameters, "P": parameters.shape[1], "x": x, "lengths": lengths, "T": T, "B": B}


def _data(parameters, x, lengths, every: bool, answers) -> dict:
    """Arguments of training and prediction; answers (R, n, T or 1, O) are the targets or the outputs."""
    _, n, T, _ = x.shape
    data = {"parameters": parameters, "P": parameters.shape[1], "x": x, "lengths": lengths, "n": n, "T": T}
    return data | {"every": every, "answers": answers.shape[2], "O": answers.shape[3]}


LAYER = {"forward": kernels.FORWARD, "backward": kernels.BACKWARD}
TRAINING = {"train": learning.TRAIN, "predict": learning.PREDICT}
PURPOSES = {"layer": LAYER, "training": TRAINING, "free run": {"free_run": free_run.FREE_RUN}}
BLOCKS = {
    "pack": blocks.PACK,
    "forward": blocks.FORWARD,
    "backward": blocks.BACKWARD,
    "train": block_learning.TRAIN,
    "predict": block_learning.PREDICT,
}
"""The drivers and their arguments; those over blocks are the same for all recurrences and sizes."""

_made: dict[tuple[Machine, int], Jobs] = {}


def block_jobs(machine: Machine, lanes: int, missed: Callable[[], None]) -> Jobs:
    key = (machine, lanes)
    if key not in _made:
        _made[key] = Jobs(machine.compile(f"drivers {lanes}", lambda: _drivers_module(*key), missed), BLOCKS)
    return _made[key]


def portable_machine() -> Machine:
    """The processor that scans of single sequences are compiled for: their sums depend on its vectors."""
    return Machine(*numerics.compiled_for(), vectorised=True)


def _drivers_module(machine: Machine, lanes: int) -> ir.Module:
    module = ir.Module("drivers")
    blocks.pack_driver(module, machine, lanes)
    blocks.forward_driver(module, lanes)
    blocks.backward_driver(module, lanes)
    block_learning.train_driver(module, machine, lanes)
    block_learning.predict_driver(module, lanes)
    return module
