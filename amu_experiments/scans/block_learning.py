"""Training and prediction over blocks of sequences, for recurrences of every form and size: compiled once.

Shapes as in blocks.py; O readout outputs, n sequences of a stretch.
"""

from llvmlite import ir

from amu_experiments.scans import functions
from amu_experiments.scans.blocks import FRAME, Frame, odd_rows, pack
from amu_experiments.scans.jobs import Driver
from amu_experiments.scans.tiles import tile_rows
from amu_experiments.scans.updates import elementwise, finite, loss_of_answer, norm_of, update_parameters
from amu_experiments.scans.vectorised import namespace
from amu_experiments.scans.vectors import I64, Numbers, Rows, Value, Variable

WHOLE_TRIALS, GROUPS_OF_AN_UPDATE, ENDS_OF_AN_UPDATE = range(3)
"""What a job of `train` is: all updates of a trial; one group's gradient in one update; or the rest of that update."""

DATA = ("end", "parameters", "P", "packed", "W", "x", "lengths", "n", "T", "every", "answers", "O")
TRAIN = (*FRAME, *DATA, "what", "update", "updates", "batch", "groups", "matrices", "M", "memory", "targets", "loss",
         "squash", "optimizer", "options", "steps", "losses", "errors", "norms", "done", "partial",
         "healthy")  # fmt: skip
PREDICT = (*FRAME, *DATA, "blocks", "outputs")


class Learner:
    """The common part of training and prediction: a frame with room for a block, and the readout."""

    def __init__(self, code: Driver, training: bool):
        self.code, self.f = code, Frame(code)
        self.functions = namespace(code, functions)
        a, f = code.given, self.f
        self.I, self.A, self.S = f["inputs"], f["outputs"], f["state"]
        f["x_step"], f["states_step"], f["y_step"] = (odd_rows(n) for n in (self.I, self.S, self.A))
        f["tape_step"] = odd_rows(f["tape_rows"]) if training else 0
        self.x = f.take_field("x", a.T * odd_rows(self.I))
        self.states = f.take_field("states", (a.T + 1) * odd_rows(self.S))
        f.take_field("tape", (a.T if training else 1) * odd_rows(f["tape_rows"]))
        self.y = f.take_field("y", a.T * odd_rows(self.A))
        f.take_field("net", odd_rows(f["rows"]))
        f.take_field("rec", odd_rows(f["recs"]))
        self.net, self.y_last = f.take(a.O), f.take(self.A)
        if training:
            f["dx"] = 0
            self.dstate = f.take_errors()
            self.dy, self.dy_last = f.take_field("dy", a.T * odd_rows(self.A)), f.take(self.A)
            self.target, self.dnet = f.take(a.O), f.take(a.O)
            self.of_readout = f.take(a.O * (self.A + 1))
        biased = a.end + a.O * self.A < a.P
        self.biases = code.where(biased, a.O, code.integer(0))

    def fill(self, rows: Rows, count) -> None:
        for k in self.code.loop(count):
            rows[k] = self.code.f32(0.0)

    def run(self, r: Value, first: Value, count: Value) -> None:
        """The forward scan over sequences first, first + 1, ... of trial r."""
        code, a, f = self.code, self.code.given, self.f
        f["p"], f["packed"] = a.parameters + r * a.P * 4, a.packed + r * a.W * 4
        self.p = code.numbers(f["p"])
        place = r * a.n + first
        f.set_lengths(code.numbers(a.lengths, place, I64), count)
        source = code.numbers(a.x, place * a.T * self.I)
        f.into_block(source, self.I, a.T * self.I, count, self.I, self.x, f["x_step"], f["longest"])
        self.fill(self.states, self.S)
        code.invoke(a.code_forward, f.address)

    def answers(self) -> Value:
        """How many answers the longest sequence of the block gives."""
        every = self.code.given.every
        return self.code.where(every, self.f["longest"], self.code.integer(1))

    def at_answer(self, block: Rows, last: Rows, answer: Value) -> Rows:
        """The rows for an answer: those of its time step in `block`, or `last` if only the last steps are answered."""
        every = self.code.given.every
        row = block.from_row(answer * self.f["y_step"])
        return Rows(self.code, self.code.where(every, row.address, last.address))

    def each_last(self, count: Value):
        """For every entry of every lane: (index in the block at the lane's last step, index in the gathered rows)."""
        code = self.code
        for lane in code.loop(count):
            start = (self.f.ends[lane] - 1) * self.f["y_step"] * code.lanes + lane
            for k in code.loop(self.A):
                yield start + k * code.lanes, k * code.lanes + lane

    def read(self, answer: Value, count: Value) -> Rows:
        """Compute the readout `net` of an answer; returns the outputs of the cell that it reads."""
        code, a = self.code, self.code.given
        with code.when(a.every == 0):
            self.fill(self.y_last, self.A)
            block, last = (Numbers(code, rows.address) for rows in (self.y, self.y_last))
            for there, here in self.each_last(count):
                last[here] = block[there]
        y = self.at_answer(self.y, self.y_last, answer)
        for o in code.loop(a.O):
            total = Variable(code, code.f32(0.0).spread())
            with code.when(self.biases > 0):
                total.value = self.p[a.end + a.O * self.A + o].spread()
            weights = self.p.after(a.end + o * self.A)
            for k in code.loop(self.A):
                total.value = total.value + weights[k] * y[k]
            self.net[o] = total.value
        return y

    def read_back(self, answer: Value, count: Value, y: Rows) -> None:
        """Compute dy and the readout's gradient from dnet, the error of the readout."""
        code, a = self.code, self.code.given
        dy = self.at_answer(self.dy, self.dy_last, answer)
        self.fill(dy, self.A)
        for o in code.loop(a.O):
            error, bias = self.dnet[o], a.O * self.A + o
            self.of_readout[bias] = self.of_readout[bias] + error
            weights, sums = self.p.after(a.end + o * self.A), self.of_readout.from_row(o * self.A)
            for k in code.loop(self.A):
                sums[k] = sums[k] + error * y[k]
                dy[k] = dy[k] + weights[k] * error
        with code.when(a.every == 0):
            block, last = (Numbers(code, rows.address) for rows in (self.dy, self.dy_last))
            for there, here in self.each_last(count):
                block[there] = last[here]

    def losses_of_block(self, first: Value, count: Value) -> Value:
        """Compute dy and the readout's gradient; write losses and largest errors, from index `first` on.

        Returns whether all losses of the block are finite.
        """
        code, a, f = self.code, self.code.given, self.f
        zero = code.f32(0.0)
        value, worst = (Variable(code, zero.spread()) for _ in range(2))
        ends = Numbers(code, f.ends.address, I64, code.lanes)[0]
        mean = code.builder.and_((a.every != 0).ir, (a.loss != 2).ir)
        parts = code.where(Value(code, mean), ends, code.integer(1))
        scale = code.f32(1.0) / code.f32(parts * a.batch)
        for answer in code.loop(self.answers()):
            y = self.read(answer, count)
            self.fill(self.target, a.O)
            into = Numbers(code, self.target.address)
            for lane in code.loop(count):
                target = code.numbers(a.targets, ((first + lane) * a.answers + answer) * a.O)
                for o in code.loop(a.O):
                    into[o * code.lanes + lane] = target[o]
            here, largest = loss_of_answer(
                code, self.functions, self.net, self.target, a.loss, a.squash, scale, self.dnet, a.O
            )
            alive = ends > answer
            for o in code.loop(a.O):
                self.dnet[o] = code.where(alive, self.dnet[o], zero)
            value.value = value.value + code.where(alive, here, zero)
            worst.value = self.functions["max"](worst.value, code.where(alive, largest, zero))
            self.read_back(answer, count, y)
        value.value = value.value / code.f32(parts)
        losses, errors = code.numbers(a.losses, first), code.numbers(a.errors, first)
        each, largest = (Numbers(code, code.address(variable)) for variable in (value, worst))
        healthy = Variable(code, code.integer(1))
        for lane in code.loop(count):
            losses[lane], errors[lane] = each[lane], largest[lane]
            healthy.value = code.where(finite(each[lane]), healthy.value, code.integer(0))
        return healthy.value

    def gradient_of_group(self, r: Value, update: Value, group: Value) -> None:
        """Compute a group's gradient in one batch, and whether all its losses are finite."""
        code, a, f = self.code, self.code.given, self.f
        at = r * a.groups + group
        f["g"] = a.partial + at * a.P * 4
        g, healthy = code.numbers(f["g"]), code.numbers(a.healthy, 0, I64)
        for i, each in elementwise(code, a.P, g):
            each[i] = code.f32(0.0)
        self.fill(self.of_readout, a.O * (self.A + 1))
        self.fill(self.dy, a.T * f["y_step"])
        healthy[at] = 1
        for first in code.loop(group * code.lanes, a.batch, a.groups * code.lanes):
            count = code.lowest(a.batch - first, code.lanes)
            self.run(r, update * a.batch + first, count)
            fine = self.losses_of_block(r * a.n + update * a.batch + first, count)
            healthy[at] = healthy[at] & fine
            self.fill(self.dstate, self.S)
            code.invoke(a.code_backward, f.address)
            with code.when(a.every == 0):
                dy = Numbers(code, self.dy.address)
                for there, _ in self.each_last(count):
                    dy[there] = code.f32(0.0)
        sums = Numbers(code, self.of_readout.address)
        for i in code.loop(a.O * self.A + self.biases):
            for lane in code.loop(code.lanes):
                g[a.end + i] = g[a.end + i] + sums[i * code.lanes + lane]

    def end_update(self, r: Value, update: Value, size: int) -> None:
        """Add up the groups' gradients, clip, update and pack; count the update if the trial is still finite."""
        code, a, sqrt = self.code, self.code.given, self.functions["sqrt"]
        g, p = code.numbers(a.partial, r * a.groups * a.P), code.numbers(a.parameters, r * a.P)
        healthy, fine = code.numbers(a.healthy, r * a.groups, I64), Variable(code, code.integer(1))
        for group in code.loop(a.groups):
            fine.value = fine.value & healthy[group]
        for group in code.loop(1, a.groups):
            for i, total, other in elementwise(code, a.P, g, g.after(group * a.P)):
                total[i] = total[i] + other[i]
        norm, options = norm_of(code, sqrt, g, a.P), code.numbers(a.options)
        code.numbers(a.norms, r * a.updates)[update] = norm
        with code.when(code.where(finite(norm), fine.value, code.integer(0)) != 0):
            with code.when(norm > options[2]):
                shrink = options[2] / norm
                for i, each in elementwise(code, a.P, g):
                    each[i] = each[i] * shrink
            first, steps = code.numbers(a.memory, 2 * r * a.P), code.numbers(a.steps, 2 * update)
            update_parameters(code, sqrt, p, g, first, first.after(a.P), a.P, a.optimizer, options, steps)
            self.pack(r, size)
            done = code.numbers(a.done, 0, I64)
            done[r] = done[r] + 1

    def pack(self, r: Value, size: int) -> None:
        code, a = self.code, self.code.given
        p, packed = code.numbers(a.parameters, r * a.P), code.numbers(a.packed, r * a.W)
        for matrix in code.loop(a.M):
            pack(code, code.numbers(a.matrices, matrix * 6, I64), p, packed, size)


def train_driver(module: ir.Module, machine, lanes: int) -> None:
    """As `train_driver` of learning.py; partial (R, G, P) and healthy (R, G) are written, too.

    The parameters are packed before the first update. what: what a job is, above. update: the index of the update
    that a job belongs to.
    """
    code = Driver(module, "train", TRAIN, lanes)
    a, learner = code.given, Learner(code, True)
    whole, groups_only = a.what == WHOLE_TRIALS, a.what == GROUPS_OF_AN_UPDATE
    jobs_of_trial = code.where(groups_only, a.groups, code.integer(1))
    first_update = code.where(whole, code.integer(0), a.update)
    last_update = code.where(whole, a.updates, a.update + 1)
    done = code.numbers(a.done, 0, I64)
    for job in code.loop(code.begin, code.end):
        r, group = code.divided(job, jobs_of_trial)
        last_group = code.where(groups_only, group + 1, a.groups)
        for update in code.loop(first_update, last_update):
            with code.when(done[r] >= update):
                with code.when(a.what != ENDS_OF_AN_UPDATE):
                    for each in code.loop(group, last_group):
                        learner.gradient_of_group(r, update, each)
                with code.when(a.what != GROUPS_OF_AN_UPDATE):
                    learner.end_update(r, update, tile_rows(machine, lanes))
    code.done()


def predict_driver(module: ir.Module, lanes: int) -> None:
    """As `predict_driver` of learning.py; a job is a block. The parameters are packed before."""
    code = Driver(module, "predict", PREDICT, lanes)
    a, learner = code.given, Learner(code, False)
    for job in code.loop(code.begin, code.end):
        r, c = code.divided(job, a.blocks)
        first = c * lanes
        count = code.lowest(a.n - first, lanes)
        learner.run(r, first, count)
        for answer in code.loop(learner.answers()):
            learner.read(answer, count)
            net = Numbers(code, learner.net.address)
            for lane in code.loop(count):
                with code.when(learner.f.ends[lane] > answer):
                    out = code.numbers(a.outputs, ((r * a.n + first + lane) * a.answers + answer) * a.O)
                    for o in code.loop(a.O):
                        out[o] = net[o * lanes + lane]
    code.done()
