"""Loss, norm, clipping and optimiser as code for vectors or single numbers."""

from collections.abc import Callable, Iterator

import numpy as np

from amu_experiments.scans.vectors import F32, Code, Numbers, Value, Variable

LOSSES = {"squared_error": 0, "cross_entropy": 1, "half_squared_error": 2, "binary_cross_entropy": 3}
SQUASHES = {"linear": 0, "logistic": 1, "softmax": 2}
OPTIMIZERS = {"adam": 0, "rmsprop": 1, "sgd": 2}

AT_ONCE = 16
"""Number of parameters that vector code handles at once."""


def loss_of_answer(code: Code, functions: dict, net, target, loss, squash, scale, dnet, outputs) -> tuple[Value, Value]:
    """An answer's loss and the largest absolute error of its outputs; its gradient times `scale` goes to dnet.

    net, target and dnet: a number, or one for each lane, of each output.
    """
    f32, exp, log, where = code.f32, functions["exp"], functions["log"], code.where
    value, worst = (Variable(code, f32(0.0).spread()) for _ in range(2))

    def largest(a, b):
        return where(b > a, b, a)

    with code.builder.if_else((loss == 1).ir) as (cross_entropy, other):
        with cross_entropy:
            top = Variable(code, net[0])
            for o in code.loop(1, outputs):
                top.value = largest(top.value, net[o])
            total = Variable(code, f32(0.0).spread())
            for o in code.loop(outputs):
                power = exp(net[o] - top.value)
                dnet[o] = power
                total.value = total.value + power
            log_total = log(total.value) + top.value
            for o in code.loop(outputs):
                error = dnet[o] / total.value - target[o]
                value.value = value.value + target[o] * (log_total - net[o])
                worst.value = largest(worst.value, functions["abs"](error))
                dnet[o] = scale * error
        with other, code.builder.if_else((loss == 3).ir) as (binary_cross_entropy, squared_error):
            with binary_cross_entropy:
                for o in code.loop(outputs):
                    # ln(1 + e^net) - target * net, without e^net, which may overflow a float32.
                    over = largest(net[o], f32(0.0).spread())
                    softplus = over + functions["log1p"](exp(-functions["abs"](net[o])))
                    value.value = value.value + softplus - target[o] * net[o]
                    error = f32(1.0) / (f32(1.0) + exp(-net[o])) - target[o]
                    worst.value = largest(worst.value, functions["abs"](error))
                    dnet[o] = scale * error
            with squared_error:
                weight = where(loss == 2, f32(0.5), f32(1.0))
                for o in code.loop(outputs):
                    out, slope = Variable(code, net[o]), Variable(code, f32(1.0).spread())
                    with code.when(squash == 1):
                        out.value = f32(1.0) / (f32(1.0) + exp(-net[o]))
                        slope.value = out.value * (f32(1.0) - out.value)
                    error = out.value - target[o]
                    value.value = value.value + weight * error * error
                    worst.value = largest(worst.value, functions["abs"](error))
                    dnet[o] = scale * f32(2.0) * weight * error * slope.value
    return value.value, worst.value


def finite(value: Value) -> Value:
    return value - value == 0.0


def elementwise(code: Code, size: Value, *arrays: Numbers) -> Iterator[tuple]:
    """All places of these arrays: (place, arrays as they are read and written there).

    Code for vectors goes AT_ONCE places at a time as far as it can.
    """
    whole = code.integer(0)
    if code.lanes > 1:
        whole = size / AT_ONCE * AT_ONCE
        for i in code.loop(0, whole, AT_ONCE):
            yield i, *(array.wide(AT_ONCE) for array in arrays)
    for i in code.loop(whole, size):
        yield i, *arrays


def norm_of(code: Code, sqrt: Callable, g: Numbers, size: Value) -> Value:
    """The Euclidean norm: the sum of squares in AT_ONCE sums, which are then added in order."""
    sums = Variable(code, code.f32(0.0).spread(AT_ONCE))
    rest = Variable(code, code.f32(0.0))
    for i, values in elementwise(code, size, g):
        v = values[i]
        total = sums if v.wide else rest
        total.value = total.value + v * v
    each = Numbers(code, code.address(sums), F32)
    for lane in code.loop(AT_ONCE):
        rest.value = rest.value + each[lane]
    return sqrt(rest.value)


def update_parameters(code: Code, sqrt: Callable, p, g, first, second, size, optimizer, options, steps) -> None:
    """One optimiser step of one trial, all (P,); first and second are its moments; as torch.optim computes it.

    options: rate, momentum and clip; steps: see `adam_steps`.
    """
    f32 = code.f32
    rate, momentum = options[0], options[1]
    step, correction = steps[0], steps[1]
    with code.when(optimizer == 0):
        for i, p_, g_, m_, v_ in elementwise(code, size, p, g, first, second):
            d = g_[i]
            m = m_[i] + f32(0.1) * (d - m_[i])
            v = f32(0.999) * v_[i] + f32(0.001) * d * d
            m_[i], v_[i] = m, v
            p_[i] = p_[i] - step * m / (sqrt(v) * correction + f32(1e-8))
    with code.when(optimizer == 1):
        for i, p_, g_, m_, v_ in elementwise(code, size, p, g, first, second):
            d = g_[i]
            v = f32(0.99) * v_[i] + f32(0.01) * d * d
            m = momentum * m_[i] + d / (sqrt(v) + f32(1e-8))
            m_[i], v_[i] = m, v
            p_[i] = p_[i] - rate * m
    with code.when(optimizer == 2):
        for i, p_, g_, m_ in elementwise(code, size, p, g, first):
            m = momentum * m_[i] + g_[i]
            m_[i] = m
            p_[i] = p_[i] - rate * m


def adam_steps(rate: np.float32, first: int, count: int) -> np.ndarray:
    """(count, 2): the rate and the factor of sqrt(v), with Adam's bias correction, in updates first, first + 1, ...."""
    updates = np.arange(first, first + count)
    rates = np.float64(rate) / (1.0 - _power(0.9, updates))
    return np.stack([rates, 1.0 / np.sqrt(1.0 - _power(0.999, updates))], axis=1).astype(np.float32)


def _power(base: float, exponents: np.ndarray) -> np.ndarray:
    """base to whole powers, by squaring: the same digits on every machine."""
    result = np.ones(len(exponents))
    while exponents.any():
        result[exponents & 1 == 1] *= base
        base *= base
        exponents = exponents >> 1
    return result
