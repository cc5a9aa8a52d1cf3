"""Readout, loss, clipping and optimiser around a scan: training and prediction, sequence by sequence, as machine code.

Shapes as in kernels.py; O readout outputs.
"""

from llvmlite import ir

from amu_experiments.scans import functions
from amu_experiments.scans.kernels import REORDERED, Inlined, Scan, SequenceDriver
from amu_experiments.scans.recurrence import Recurrence
from amu_experiments.scans.updates import finite, loss_of_answer, update_parameters
from amu_experiments.scans.vectorised import namespace
from amu_experiments.scans.vectors import I64, Numbers, Value, Variable

PIECE = 32
"""Sequences of a trial that one job predicts."""

STRETCH = 128
"""Time steps whose errors are kept at once in training: few enough to stay in the fastest cache."""

DATA = ("parameters", "P", "x", "lengths", "n", "T", "every", "answers", "O", "A")
TRAIN = (*DATA, "memory", "targets", "batch", "updates", "loss", "squash", "optimizer", "options", "steps", "losses",
         "errors", "norms", "done")  # fmt: skip
PREDICT = (*DATA, "pieces", "outputs")
"""The arguments of the drivers: sizes, and addresses of arrays."""


class Reordered(Inlined):
    flags = REORDERED


def dot(module: ir.Module) -> Inlined:
    """out[0] = the scalar product of a and b, which may be the same: they are only read.

    The compiler chooses the order of the sum, once for all calls.
    """
    code = Reordered(module, "dot", 3, 1, inlined=False)
    (out, a, b), (size,) = code.arrays, code.sizes
    total = Variable(code, code.f32(0.0))
    for i in code.loop(size):
        total.value = total.value + a[i] * b[i]
    out[0] = total.value
    code.done()
    return code


def loss(module: ir.Module) -> Inlined:
    """For updates.loss_of_answer: arrays result (2,), net, target, dnet, scale; sizes loss, squash, outputs."""
    code = Inlined(module, "loss", 5, 3)
    (result, net, target, dnet, scale), (loss, squash, outputs) = code.arrays, code.sizes
    known = namespace(code, functions)
    result[0], result[1] = loss_of_answer(code, known, net, target, loss, squash, scale[0], dnet, outputs)
    code.done()
    return code


def update(module: ir.Module) -> Inlined:
    """For updates.update_parameters: arrays p, g, first, second, options, steps; sizes P and optimizer."""
    code = Inlined(module, "update", 6, 2)
    (p, g, first, second, options, steps), (size, optimizer) = code.arrays, code.sizes
    update_parameters(code, code.sqrt, p, g, first, second, size, optimizer, options, steps)
    code.done()
    return code


def read(module: ir.Module, product: Inlined, A: int, end: int) -> Inlined:
    """The readout: net (O,) from the cell's output y (A,); it has a bias if the parameters have room for one.

    product: from `dot`. Arrays p, y, net and room for a sum; sizes A, O and P.
    """
    code = Inlined(module, "read", 4, 3)
    (p, y, net, total), (size, outputs, P) = code.arrays, code.sizes
    last = end + outputs * A
    for o in code.loop(outputs):
        bias = Variable(code, code.f32(0.0))
        with code.when(last < P):
            bias.value = p[last + o]
        code.do(product, total, p.after(end + o * A), y, size)
        net[o] = bias.value + total[0]
    code.done()
    return code


def read_back(module: ir.Module, A: int, end: int) -> Inlined:
    """Error of the readout: set dy (A,), add to the readout's part of g. Arrays p, y, dnet, dy, g; sizes O and P."""
    code = Inlined(module, "read_back", 5, 2)
    (p, y, dnet, dy, g), (outputs, P) = code.arrays, code.sizes
    last = end + outputs * A
    code.fill(dy, A)
    for o in code.loop(outputs):
        d = dnet[o]
        with code.when(last < P):
            g[last + o] = g[last + o] + d
        of_weights, weights = (array.after(end + o * A) for array in (g, p))
        for k in code.loop(A):
            of_weights[k] = of_weights[k] + d * y[k]
            dy[k] = dy[k] + d * weights[k]
    code.done()
    return code


class Learner:
    """The common part of training and prediction: memory of a sequence, the scan, and the readout."""

    def __init__(self, code: SequenceDriver, recurrence: Recurrence):
        self.code, self.r, a = code, recurrence, code.given
        self.scan = Scan(code, recurrence)
        self.A = recurrence.outputs
        self.states, self.tape = code.take((a.T + 1) * recurrence.state), code.take(a.T * recurrence.tape)
        self.y = code.take(a.T * self.A)
        self.net, self.rec = code.take(recurrence.rows), code.take(recurrence.recs)
        self.weight_ih, self.weights = self.scan.memory()
        self.sum = code.take(1)
        self.dot = dot(code.module)
        self._read = read(code.module, self.dot, self.A, recurrence.place("end"))

    def run(self, p: Numbers, at: Value) -> Value:
        """The forward scan over sequence `at` of all; its length."""
        code, a = self.code, self.code.given
        length = code.numbers(a.lengths, at, I64)[0]
        code.fill(self.states, self.r.state)
        x = code.floats(a.x, at * a.T * self.r.inputs)
        self.scan.run(p, self.weight_ih, self.weights, x, length, self.states, self.tape, self.y, self.net, self.rec)
        return length

    def read(self, p: Numbers, y: Numbers, net: Numbers) -> None:
        a = self.code.given
        self.code.do(self._read, p, y, net, self.sum, a.A, a.O, a.P)

    def each_answer(self, length: Value):
        """(number of an answer, its time step)."""
        every = self.code.given.every
        for answer in self.code.loop(self.code.where(every, length, self.code.integer(1))):
            yield answer, self.code.where(every, answer, length - 1)


def train_driver(module: ir.Module, recurrence: Recurrence) -> None:
    """Update trials on consecutive batches, each by itself; a job is a trial.

    Changed in place: parameters (R, P) and memory (R, 2P), the optimiser's moments. Read: x (R, n, T, I), lengths
    (R, n), targets (R, n, T or 1, O). Written: losses, errors (R, n) and norms (R, n / batch). done (R,) must begin as
    zeros; it counts the updates made, fewer than n / batch if a loss or a gradient was not finite.
    """
    code, r = SequenceDriver(module, "train", TRAIN), recurrence
    a, learner = code.given, Learner(code, recurrence)
    scan, known, losses = learner.scan, namespace(code, functions), loss(module)
    back, end_update = read_back(module, r.outputs, r.place("end")), update(module)
    scale, result = code.take(1), code.take(2)
    dy = code.take(a.T * r.outputs)
    dnet, drec, dfactor = code.take(STRETCH * r.rows), code.take(STRETCH * r.recs), code.take(r.dfactors)
    dstate, out, dout, g = code.take(r.state), code.take(a.O), code.take(a.O), code.take(a.P)
    g_ih, g_weights = scan.memory()
    done, options = code.numbers(a.done, 0, I64), code.floats(a.options)
    stretch = code.integer(STRETCH)
    for trial in code.loop(code.begin, code.end):
        p, memory = code.floats(a.parameters, trial * a.P), code.floats(a.memory, 2 * trial * a.P)
        code.fill(dy, a.T * r.outputs)
        for n in code.loop(a.updates):
            with code.when(done[trial] >= n):
                scan.transpose(p, learner.weight_ih, learner.weights)
                code.fill(g, a.P)
                code.fill(g_ih, r.inputs * r.rows)
                code.fill(g_weights, scan.W)
                healthy = Variable(code, code.integer(1))
                for b in code.loop(n * a.batch, (n + 1) * a.batch):
                    at = trial * a.n + b
                    length = learner.run(p, at)
                    answers = code.where(a.every, length, code.integer(1))
                    parts = code.where(a.loss == 2, code.integer(1), answers)
                    scale[0] = code.f32(1.0) / code.f32(parts * a.batch)
                    total, worst = (Variable(code, code.f32(0.0)) for _ in range(2))
                    for answer, t in learner.each_answer(length):
                        y_t, target = learner.y.after(t * r.outputs), (at * a.answers + answer) * a.O
                        learner.read(p, y_t, out)
                        here = code.floats(a.targets, target)
                        code.do(losses, result, out, here, dout, scale, a.loss, a.squash, a.O)
                        code.do(back, p, y_t, dout, dy.after(t * r.outputs), g, a.O, a.P)
                        total.value = total.value + result[0]
                        worst.value = known["max"](worst.value, result[1])
                    code.floats(a.losses, at)[0] = total.value / code.f32(parts)
                    code.floats(a.errors, at)[0] = worst.value
                    healthy.value = code.where(finite(total.value), healthy.value, code.integer(0))
                    code.fill(dstate, r.state)
                    x = code.floats(a.x, at * a.T * r.inputs)
                    scan.sweep(
                        p, learner.weights, x, length, learner.states, learner.tape, dy, dstate, (dnet, drec, dfactor),
                        stretch, g_ih, g_weights, g,
                    )  # fmt: skip
                    with code.when(a.every == 0):
                        code.fill(dy.after((length - 1) * r.outputs), r.outputs)
                scan.scatter(g_ih, g_weights, g)
                code.do(learner.dot, learner.sum, g, g, a.P)
                norm = known["sqrt"](learner.sum[0])
                code.floats(a.norms, trial * a.updates)[n] = norm
                with code.when(code.where(finite(norm), healthy.value, code.integer(0)) != 0):
                    with code.when(norm > options[2]):
                        shrink = options[2] / norm
                        for i in code.loop(a.P):
                            g[i] = g[i] * shrink
                    steps = code.floats(a.steps, 2 * n)
                    code.do(end_update, p, g, memory, memory.after(a.P), options, steps, a.P, a.optimizer)
                    done[trial] = done[trial] + 1
    code.done()


def predict_driver(module: ir.Module, recurrence: Recurrence) -> None:
    """The readout before squashing, in outputs (R, B, T or 1, O); a job is a trial's next PIECE sequences."""
    code, r = SequenceDriver(module, "predict", PREDICT), recurrence
    a, learner = code.given, Learner(code, recurrence)
    for job in code.loop(code.begin, code.end):
        trial, piece = code.divided(job, a.pieces)
        p = code.floats(a.parameters, trial * a.P)
        learner.scan.transpose(p, learner.weight_ih, learner.weights)
        for b in code.loop(piece * PIECE, code.lowest((piece + 1) * PIECE, a.n)):
            at = trial * a.n + b
            length = learner.run(p, at)
            for answer, t in learner.each_answer(length):
                out = code.floats(a.outputs, (at * a.answers + answer) * a.O)
                learner.read(p, learner.y.after(t * r.outputs), out)
    code.done()
