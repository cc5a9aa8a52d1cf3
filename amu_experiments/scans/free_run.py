"""A network that reads its own answers, as machine code: step, readout and next input in one loop.

Shapes as in kernels.py; O readout outputs, G given inputs of each sequence.
"""

from llvmlite import ir

from amu_experiments.scans import functions
from amu_experiments.scans.kernels import Scan, SequenceDriver
from amu_experiments.scans.learning import dot, read
from amu_experiments.scans.recurrence import Recurrence
from amu_experiments.scans.vectorised import namespace
from amu_experiments.scans.vectors import I64, Variable

FEEDBACKS = {"none": 0, "value": 1, "symbol": 2, "bits": 3}

FREE_RUN = ("parameters", "P", "given", "n", "G", "steps", "O", "A", "squash", "feedback", "temperature", "draws",
            "answers")  # fmt: skip
"""The arguments of the driver: sizes, and addresses of arrays."""


def free_run_driver(module: ir.Module, recurrence: Recurrence) -> None:
    """Answers (R, n, steps, O) of networks to inputs given (R, n, G, I), then to their answers; a job is a sequence.

    From step G on, the input is the last one given. Its first O numbers are replaced by the previous answer, unless
    nothing is fed back. An answer is the squashed readout. If a symbol is fed back, the answer is a symbol of the
    softmax instead, selected by draws (R, n, steps) in [0, 1). With bits, draws (R, n, steps, O) select 0 or 1 for each
    output. The readout is divided by temperature (1,) before a softmax, or before bits are drawn.
    """
    code, r = SequenceDriver(module, "free_run", FREE_RUN), recurrence
    a, scan, known = code.given, Scan(code, recurrence), namespace(code, functions)
    exp = known["exp"]
    product = dot(module)
    readout = read(module, product, r.outputs, r.place("end"))
    # A step at a time: the state before it, and the state after it.
    states, tape, y = code.take(2 * r.state), code.take(r.tape), code.take(r.outputs)
    net, rec, x = code.take(r.rows), code.take(r.recs), code.take(r.inputs)
    weight_ih, weights = scan.memory()
    out, total = code.take(a.O), code.take(1)
    for job in code.loop(code.begin, code.end):
        trial, _ = code.divided(job, a.n)
        p = code.floats(a.parameters, trial * a.P)
        scan.transpose(p, weight_ih, weights)
        code.fill(states, r.state)
        for t in code.loop(a.steps):
            with code.when(t < a.G):
                given = code.floats(a.given, (job * a.G + t) * r.inputs)
                for i in code.loop(r.inputs):
                    x[i] = given[i]
            scan.run(p, weight_ih, weights, x, 1, states, tape, y, net, rec)
            for s in code.loop(r.state):
                states[s] = states[s + r.state]
            code.do(readout, p, y, out, total, a.A, a.O, a.P)
            with code.when(a.feedback == 3):
                for o in code.loop(a.O):
                    out[o] = out[o] / code.floats(a.temperature)[0]
            with code.when(a.squash == 1):
                for o in code.loop(a.O):
                    out[o] = code.f32(1.0) / (code.f32(1.0) + exp(-out[o]))
            with code.when(a.squash == 2):
                _softmax(code, out, exp, code.floats(a.temperature)[0])
            with code.when(a.feedback == 2):
                _select(code, out, code.floats(a.draws, job * a.steps)[t])
            with code.when(a.feedback == 3):
                each = code.floats(a.draws, (job * a.steps + t) * a.O)
                for o in code.loop(a.O):
                    out[o] = code.where(out[o] > each[o], code.f32(1.0), code.f32(0.0))
            answer = code.floats(a.answers, (job * a.steps + t) * a.O)
            for o in code.loop(a.O):
                answer[o] = out[o]
            with code.when(a.feedback != 0):
                for o in code.loop(a.O):
                    x[o] = out[o]
    code.done()


def _softmax(code: SequenceDriver, out, exp, temperature) -> None:
    """Replace out (O,) by the softmax of out / temperature."""
    a, top, total = code.given, Variable(code, out[0]), Variable(code, code.f32(0.0))
    for o in code.loop(1, a.O):
        top.value = code.where(out[o] > top.value, out[o], top.value)
    for o in code.loop(a.O):
        out[o] = exp((out[o] - top.value) / temperature)
        total.value = total.value + out[o]
    for o in code.loop(a.O):
        out[o] = out[o] / total.value


def _select(code: SequenceDriver, out, draw) -> None:
    """Replace probabilities (O,) by 1 for the symbol whose part of [0, 1) contains `draw`, by 0 for the others."""
    a, below, symbol = code.given, Variable(code, code.f32(0.0)), Variable(code, code.constant(I64, 0))
    for o in code.loop(a.O - 1):
        below.value = below.value + out[o]
        symbol.value = symbol.value + code.where(below.value > draw, code.integer(0), code.integer(1))
    for o in code.loop(a.O):
        out[o] = code.where(o == symbol.value, code.f32(1.0), code.f32(0.0))
