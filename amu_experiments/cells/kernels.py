"""Fused CPU scans: a recurrence, its gradient and the whole of a training step as compiled loops over trials.

A Recurrence gives a cell's step, the adjoint of its step and its products with weight matrices; `scans` puts the loop
over time, the readout, the loss, the clipping and the optimiser around them. Sizes are captured as constants, so that
the short inner loops vectorise. Everything about one trial is computed by one thread in a fixed order: a trial's
numbers depend neither on the rest of the stack nor on the number of threads. Nothing calls the C library's exp, log,
sin or cos, which differ between machines.

Shapes: R trials, B sequences, T time steps, I input features, K net inputs, S state entries, A cell outputs,
O readout outputs, P parameters of a trial, W entries of all matrices that the recurrence multiplies with. Data lie
sequence by sequence, (R, B, T, I).
"""

import functools
import hashlib
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from typing import NamedTuple

import numba
import numpy as np
from numba import njit
from numba.core.compiler import CompilerBase, DefaultPassBuilder

from amu_experiments import numerics
from amu_experiments.scans.cache import CodeCache
from amu_experiments.scans.recurrence import Product, Recurrence

LOSSES = {"squared_error": 0, "cross_entropy": 1, "half_squared_error": 2}
SQUASHES = {"linear": 0, "logistic": 1, "softmax": 2}
OPTIMIZERS = {"adam": 0, "rmsprop": 1, "sgd": 2}

# Contraction lets a product and a sum become one instruction. Nothing here may assume that values are finite:
# a trial that diverges must be seen to diverge.
_EXACT = {"contract", "nsz"}
# Sums in any order the compiler likes, always the same one.
_REORDERED = {"contract", "nsz", "reassoc"}


class _Separate(CompilerBase):
    """Numba's usual pipeline, with the promise that no two array arguments of a function overlap.

    Without it the compiler must assume that writing one array changes another, and leaves the loops scalar.
    """

    def define_pipelines(self):
        self.state.flags.noalias = True
        # Only compiled code calls these functions.
        self.state.flags.no_cpython_wrapper = True
        self.state.flags.no_cfunc_wrapper = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


PIECE = 32
"""Sequences of a trial that one job predicts."""

STRETCH = 128
"""Time steps whose errors are kept at once in training: few enough to stay in the fastest cache."""

compiled = functools.partial(njit, fastmath=_EXACT, error_model="numpy", forceinline=True, pipeline_class=_Separate)
# Written into the loops that call it before anything is optimised, so that these and not it alone are vectorised.
_inlined = functools.partial(njit, fastmath=_EXACT, error_model="numpy", inline="always")
_driver = functools.partial(njit, nogil=True, no_cfunc_wrapper=True)
f32 = np.float32


@_inlined
def tanh(x):
    """tanh of a float32 as x P(x^2) / Q(x^2), relative error below 4e-7; vectorises.

    The coefficients minimise the largest relative error on [-8, 8] (rational fit by iteratively reweighted least
    squares); beyond, tanh differs from +-1 by less than 3e-7. NaN stays NaN.
    """
    x = max(min(x, f32(8.0)), f32(-8.0))  # in this order of arguments NaN passes
    u = x * x
    p = f32(1.5230370e-08) * u + f32(2.1894630e-05)
    p = (p * u + f32(3.5715962e-03)) * u + f32(1.3444497e-01)
    p = p * u + f32(1.0)
    q = f32(8.5224281e-07) * u + f32(3.4112888e-04)
    q = (q * u + f32(2.6164435e-02)) * u + f32(4.6777824e-01)
    q = q * u + f32(1.0)
    return x * p / q


_ROOTS = np.array([float(Decimal(2) ** (Decimal(i) / 32)) for i in range(32)]).view(np.int64)
"""The bits of 2^(i/32) in double precision; exact decimals, since pow of the C library may differ in the last bit."""

_LOG2 = 0.6931471805599453


@_inlined
def exp(x):
    """e to the power of a float32, correct to the last digit of a float32 or its neighbour; NaN stays NaN.

    In double precision: x = (k + r) ln(2)/32 with a whole k and |r| <= 1/2, so that e^x = 2^(k/32) e^(r ln(2)/32),
    where the first factor comes from a table and the second from four terms of its series.
    """
    scaled = max(min(np.float64(x), 700.0), -700.0) * (32 / _LOG2)
    whole = np.floor(scaled + 0.5)
    r = (scaled - whole) * (_LOG2 / 32)
    k = np.int64(whole)
    power = np.int64(_ROOTS[k & 31] + ((k >> 5) << 52)).view(np.float64)
    result = f32(power + power * (r + r * r * (0.5 + r * (1.0 / 6.0))))
    return result if x == x else x


@_inlined
def log(x):
    """Natural logarithm of a normal positive float32, relative error below 2e-7; of 0 or less NaN."""
    bits = np.float32(x).view(np.int32)
    exponent = (bits - 0x3F3504F3) >> 23  # so that the mantissa lies between the roots of 1/2 and 2
    mantissa = np.int32(bits - (exponent << 23)).view(np.float32)
    s = (mantissa - f32(1.0)) / (mantissa + f32(1.0))
    z = s * s
    series = ((f32(1.0 / 9) * z + f32(1.0 / 7)) * z + f32(1.0 / 5)) * z + f32(1.0 / 3)
    result = f32(exponent) * f32(0.693147181) + (f32(2.0) * s + f32(2.0) * s * z * series)
    if x == f32(np.inf) or x != x:
        return x
    if x == f32(0.0):
        return f32(-np.inf)
    return result if x > f32(0.0) else f32(np.nan)


@_inlined
def log1p(x):
    """log(1 + x) of a float32, relative error below 4e-7, small x included."""
    x = f32(x)
    u = f32(1.0) + x
    # What the sum has lost of x is made good by a factor.
    return x if u == f32(1.0) or u == f32(np.inf) else log(u) * (x / (u - f32(1.0)))


@_inlined
def _quarter(x):
    """x = k pi / 2 + r with a whole k and |r| <= pi / 4, in double precision: (k modulo 4, sin r, cos r)."""
    whole = np.floor(np.float64(x) * (2 / np.pi) + 0.5)
    r = (np.float64(x) - whole * _HALF_PI[0]) - whole * _HALF_PI[1]
    z = r * r
    sine = r + r * z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880))))
    cosine = 1 + z * (-1 / 2 + z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320 - z * (1 / 3628800)))))
    return np.int64(whole) & 3, sine, cosine


_HALF_PI = (1.5707963267341256, 6.077100506506192e-11)
"""pi / 2 in two parts, the first so short that small multiples of it are exact."""


@_inlined
def sin(x):
    """Sine of a float32, absolute error below 1e-7 up to |x| = 1e6; of what is not finite NaN."""
    k, sine, cosine = _quarter(x)
    size = cosine if k & 1 else sine
    return f32(-size if k & 2 else size) if abs(x) < f32(np.inf) else f32(np.nan)


@_inlined
def cos(x):
    """Cosine of a float32, absolute error below 1e-7 up to |x| = 1e6; of what is not finite NaN."""
    k, sine, cosine = _quarter(x)
    size = sine if k & 1 else cosine
    return f32(-size if (k + 1) & 2 else size) if abs(x) < f32(np.inf) else f32(np.nan)


NAMESPACE = {
    "__name__": __name__,  # of a module that can be imported, or what is cached could not be loaded
    "f32": f32,
    "tanh": tanh,
    "exp": exp,
    "log": log,
    "log1p": log1p,
    "sqrt": np.sqrt,
    "sin": sin,
    "cos": cos,
}
"""What the source of a recurrence is written with."""


class Driver:
    """A compiled loop over jobs, of which a call does all: function(begin, end_of_jobs, *arguments).

    count(*arguments): how many jobs there are, and about how many multiplications they take together. Jobs write
    different places, so that several threads can share them; their number changes no result.
    """

    def __init__(self, function: Callable, count: Callable, key: str, missed: Callable[[], None]):
        self.function = function
        self._count = count
        with suppress(RuntimeError, OSError):  # there is no folder for a cache
            function._cache = CodeCache(function.py_func, key, missed)

    def __call__(self, *arguments) -> None:
        _shared(lambda begin, end: self.function(begin, end, *arguments), *self._count(*arguments))

    def compile(self, *arguments) -> None:
        """Compile the loop for arguments of these types, or take it from the cache."""
        self.function.compile(tuple(map(numba.typeof, (0, 0, *arguments))))


class Scans(NamedTuple):
    """The compiled drivers of one recurrence; their docstrings stand in `_make`."""

    outputs: int
    tape: int
    forward: Driver
    backward: Driver
    train: Driver
    predict: Driver


def _add_rows(rows: int, width: int, out_at: int = 0, factors_at: int = 0, at: int = 0) -> Callable:
    """out[:width] += sum over j < rows of factors[j] * matrix[j, :width], four rows at a time.

    The three begin at these places of one-dimensional arguments.
    """
    whole = rows - rows % 4

    @compiled
    def add_rows(out, factors, matrix):
        for j in range(0, whole, 4):
            a, b, c, d = (
                factors[factors_at + j],
                factors[factors_at + j + 1],
                factors[factors_at + j + 2],
                factors[factors_at + j + 3],
            )
            i = at + j * width
            for k in range(width):
                out[out_at + k] += (a * matrix[i + k] + b * matrix[i + width + k]) + (
                    c * matrix[i + 2 * width + k] + d * matrix[i + 3 * width + k]
                )
        for j in range(whole, rows):
            a = factors[factors_at + j]
            i = at + j * width
            for k in range(width):
                out[out_at + k] += a * matrix[i + k]

    return add_rows


def _add_outer(rows: int, width: int, left_at: int = 0, right_at: int = 0) -> Callable:
    """out[:rows, :width] += sum over t < steps of left[t, :rows]^T right[t, :width], four steps at a time.

    left and right begin at these columns of their arguments.
    """

    @compiled
    def add_outer(out, left, right, steps):
        whole = steps - steps % 4
        for t in range(0, whole, 4):
            for i in range(rows):
                j = left_at + i
                a, b, c, d = left[t, j], left[t + 1, j], left[t + 2, j], left[t + 3, j]
                for k in range(width):
                    r = right_at + k
                    out[i, k] += (a * right[t, r] + b * right[t + 1, r]) + (c * right[t + 2, r] + d * right[t + 3, r])
        for t in range(whole, steps):
            for i in range(rows):
                a = left[t, left_at + i]
                for k in range(width):
                    out[i, k] += a * right[t, right_at + k]

    return add_outer


@njit(fastmath=_REORDERED, error_model="numpy")
def _squared_norm(vector):
    total = f32(0.0)
    for i in range(vector.size):
        total += vector[i] * vector[i]
    return total


@njit(fastmath=_REORDERED, error_model="numpy")
def _dot(a, b):
    total = f32(0.0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@compiled
def _loss(net, target, loss, squash, scale, dnet):
    """One answer's loss, its gradient times `scale` in dnet, and the largest absolute error of its outputs."""
    size = net.size
    weight = f32(0.5) if loss == 2 else f32(1.0)
    value = f32(0.0)
    worst = f32(0.0)
    if loss == 1:
        top = net[0]
        for o in range(1, size):
            top = max(top, net[o])
        total = f32(0.0)
        for o in range(size):
            dnet[o] = exp(net[o] - top)
            total += dnet[o]
        log_total = log(total) + top
        for o in range(size):
            share = dnet[o] / total
            value += target[o] * (log_total - net[o])
            worst = max(worst, abs(share - target[o]))
            dnet[o] = scale * (share - target[o])
        return value, worst
    for o in range(size):
        out = net[o]
        slope = f32(1.0)
        if squash == 1:
            out = f32(1.0) / (f32(1.0) + exp(-out))
            slope = out * (f32(1.0) - out)
        error = out - target[o]
        value += weight * error * error
        worst = max(worst, abs(error))
        dnet[o] = scale * f32(2.0) * weight * error * slope
    return value, worst


@compiled
def _power(base, exponent):
    """base to a whole power, by squaring."""
    result = 1.0
    while exponent > 0:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


@compiled
def _update(p, g, first, second, optimizer, rate, momentum, updates):
    """One optimiser step of one trial, all (P,); first and second are its memory; as torch.optim computes it."""
    size = p.size
    if optimizer == 0:
        step = f32(rate / (1.0 - _power(0.9, updates)))
        correction = f32(1.0 / np.sqrt(1.0 - _power(0.999, updates)))
        for i in range(size):
            first[i] += f32(0.1) * (g[i] - first[i])
            second[i] = f32(0.999) * second[i] + f32(0.001) * g[i] * g[i]
            p[i] -= step * first[i] / (np.sqrt(second[i]) * correction + f32(1e-8))
    elif optimizer == 1:
        for i in range(size):
            second[i] = f32(0.99) * second[i] + f32(0.01) * g[i] * g[i]
            first[i] = momentum * first[i] + g[i] / (np.sqrt(second[i]) + f32(1e-8))
            p[i] -= rate * first[i]
    else:
        for i in range(size):
            first[i] = momentum * first[i] + g[i]
            p[i] -= rate * first[i]


_COMPILING = threading.Lock()
"""One at a time: how numba compiles is a setting of the whole process."""


def scans(recurrence: Recurrence, purpose: str) -> Scans:
    """The drivers of a recurrence, compiled, or taken from the cache on disk, for "layer" or "training".

    Compiling takes seconds, once per machine and set of sizes; a line on standard error says so.
    """
    notice = _Notice(recurrence)
    made = _make(recurrence, hashlib.sha256(_description(recurrence).encode()).hexdigest(), notice.compiling)
    _beside(_compile, made, purpose)
    notice.done()
    return made


class _Notice:
    """Says that a cell is being compiled, and how long it took; nothing where it is only loaded."""

    def __init__(self, recurrence: Recurrence):
        self._cell = f"the {recurrence.name} cell ({recurrence.inputs} inputs, {recurrence.outputs} units)"
        self._began: float | None = None

    def compiling(self) -> None:
        if self._began is None:
            self._began = time.monotonic()
            self._say(f"Compiling {self._cell} ...")

    def done(self) -> None:
        if self._began is not None:
            self._say(f"Compiled {self._cell} in {time.monotonic() - self._began:.1f} s.")

    @staticmethod
    def _say(text: str) -> None:
        with suppress(OSError):  # nobody reads it
            print(text, file=sys.stderr, flush=True)


def _beside(function: Callable, *arguments) -> None:
    """Call in a thread and wait for it, for Ctrl-C and signals to act at once and not when native code returns.

    Whoever leaves the wait so leaves the thread to itself, which ends what it does.
    """
    called: Future = Future()

    def call():
        try:
            called.set_result(function(*arguments))
        except BaseException as error:
            called.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    called.result()


def _compile(made: Scans, purpose: str) -> None:
    """Compile the drivers for the types of the arguments that they will be called with, or find them on disk."""

    def empty(*shape):
        return np.zeros((0, *shape), f32)

    x, rows, lengths, table = empty(0, 0, 0), empty(0, 0), np.zeros((0, 0), np.int64), empty(0)
    if purpose == "layer":
        calls = {
            made.forward: (table, x, lengths, x, x, x),
            made.backward: (table, x, lengths, x, x, x, rows, rows, x),
        }
    else:
        one, updates = f32(1.0), np.zeros(0, np.int64)
        options = (1, False, 0, 0, 0, one, one, one, 0)
        calls = {
            made.predict: (table, x, lengths, False, x),
            made.train: (table, table, x, lengths, x, *options, table, table, table, updates),
        }
    with _COMPILING:
        numerics.fix_numba()
        # Short loops are unrolled before they could be vectorised; this has LLVM find the vectors in what comes of it.
        numba.config.SLP_VECTORIZE, before = 1, numba.config.SLP_VECTORIZE
        try:
            for driver, arguments in calls.items():
                driver.compile(*arguments)
        finally:
            numba.config.SLP_VECTORIZE = before


def _description(recurrence: Recurrence) -> str:
    return f"{recurrence}\n{inspect.getsource(inspect.getmodule(scans))}"


def _in_turn(functions: list[Callable]) -> Callable:
    """One function that calls these with its own arguments."""
    if not functions:
        functions = [compiled(lambda *_: None)]
    first, *rest = functions
    if not rest:
        return first
    second = _in_turn(rest)

    @compiled
    def both(*arguments):
        first(*arguments)
        second(*arguments)

    return both


class _Products(NamedTuple):
    """What a scan does with the products of a recurrence, each in one call.

    The matrices that a product reads by columns lie side by side in `weights` (W,), those of later products later;
    `gradients` has the same layout, a product's gradient as (factors, results).
    """

    size: int
    forward: Callable
    backward: Callable
    transpose: Callable
    outer: Callable
    scatter: Callable


def _products(recurrence: Recurrence) -> _Products:
    functions = {name: compiled(function) for name, function in recurrence.functions(NAMESPACE).items()}
    forward, backward, to_state, transposes, outers, scatters = [], [], [], [], [], []
    size = 0
    for n, product in enumerate([None, *recurrence.products]):
        if product is not None:
            multiply, multiply_back, transpose, outer, scatter = _product(recurrence, product, size)
            forward.append(multiply)
            if isinstance(product.error, int):
                backward.append(multiply_back)
            elif product.error == "state":
                to_state.append(multiply_back)
            transposes.append(transpose)
            outers.append(outer)
            scatters.append(scatter)
            size += product.factors * product.results
        if f"step_{n}" in functions:
            forward.append(_step(functions[f"step_{n}"]))
        if f"adjoint_{n}" in functions:
            backward.append(_adjoint(functions[f"adjoint_{n}"]))
    return _Products(
        size,
        _in_turn(forward),
        _in_turn([*reversed(backward), *to_state]),
        _in_turn(transposes),
        _in_turn(outers),
        _in_turn(scatters),
    )


def _product(recurrence: Recurrence, product: Product, at: int) -> tuple[Callable, ...]:
    """The product, its adjoint, the matrix's transpose, the sum of its gradient over time, and where that goes."""
    H, M, transposed = product.factors, product.results, product.transposed
    base = recurrence.place(product.parameter) + product.first * product.width
    (row, factor_at), (result, result_at) = product.factor, product.result
    old_factor, new_factor, to_net = row == "old", row == "new", result == "net"
    into_state = product.error == "state"
    error_at = factor_at if into_state else product.error or 0
    rows, width = product.last - product.first, product.width
    # A matrix is read by columns in one direction, as it lies in the other.
    add = _add_rows(H, M, result_at, factor_at, base if transposed else at)
    add_back = _add_rows(M, H, error_at, result_at, at if transposed else base)
    add_outer = _add_outer(H, M, factor_at, result_at)

    @compiled
    def multiply(p, weights, old, new, tape, net, rec, y):
        factor = old if old_factor else new if new_factor else tape
        add(net if to_net else rec, factor, p if transposed else weights)

    @compiled
    def multiply_back(p, weights, dy, dstate, old, new, tape, dnet, drec, dfactor, g):
        if not into_state:
            for j in range(H):
                dfactor[error_at + j] = f32(0.0)
        add_back(dstate if into_state else dfactor, dnet if to_net else drec, weights if transposed else p)

    @compiled
    def transpose(p, weights):
        for k in range(rows):
            for j in range(width):
                weights[at + j * rows + k] = p[base + k * width + j]

    @compiled
    def outer(states, tape, first, steps, dnet, drec, gradients):
        if old_factor:
            factors = states[first : first + steps]
        elif new_factor:
            factors = states[first + 1 : first + steps + 1]
        else:
            factors = tape[first : first + steps]
        add_outer(gradients[at : at + H * M].reshape((H, M)), factors, dnet if to_net else drec, steps)

    @compiled
    def scatter(gradients, g):
        for k in range(rows):
            for j in range(width):
                g[base + k * width + j] += gradients[at + (k * width + j if transposed else j * rows + k)]

    return multiply, multiply_back, transpose, outer, scatter


def _step(function: Callable) -> Callable:
    """With the arguments of a product."""

    @compiled
    def step(p, weights, old, new, tape, net, rec, y):
        function(p, old, new, tape, net, rec, y)

    return step


def _adjoint(function: Callable) -> Callable:
    @compiled
    def adjoint(p, weights, dy, dstate, old, new, tape, dnet, drec, dfactor, g):
        function(p, dy, dstate, old, new, tape, dnet, drec, dfactor, g)

    return adjoint


def _make(recurrence: Recurrence, key: str, missed: Callable[[], None]) -> Scans:
    I, K, S = recurrence.inputs, recurrence.rows, recurrence.state
    N, A = recurrence.tape, recurrence.outputs
    recs, dfactors = recurrence.recs, recurrence.dfactors
    # Where the parameters lie in a trial's row.
    ih, bias, end = (recurrence.place(name) for name in ("weight_ih", "bias", "end"))
    (biased,) = recurrence.shape("bias")
    W, forward_step, backward_step, transpose_products, outer_products, scatter_products = _products(recurrence)

    add_input = _add_rows(I, K)
    add_to_input = _add_rows(K, I, at=ih)
    outer_input = _add_outer(I, K)

    @compiled
    def transpose(p, weight_ih, weights):
        """The weight matrices of a trial's parameters, by columns: what the loops over net inputs read."""
        for k in range(K):
            for i in range(I):
                weight_ih[i * K + k] = p[ih + k * I + i]
        transpose_products(p, weights)

    @compiled
    def run(p, weight_ih, weights, x, length, states, tape, y, net, rec):
        """Forward over one sequence: states (T + 1, S) from states[0] on, tape (T, N), y (T, A)."""
        for t in range(length):
            for k in range(biased):
                net[k] = p[bias + k]
            for k in range(biased, K):
                net[k] = f32(0.0)
            add_input(net, x[t], weight_ih)
            for k in range(recs):
                rec[k] = f32(0.0)
            forward_step(p, weights, states[t], states[t + 1], tape[t], net, rec, y[t])

    @compiled
    def sweep(p, weights, x, length, states, tape, dy, dstate, dnet, drec, dfactor, g_ih, g_weights, g):
        """Backward over one sequence: from dy (T, A) and dstate (S,) add to the gradients, matrices by columns.

        Goes in stretches of dnet's length, whose weight gradients are summed up while they are in the cache. On
        return dnet and drec hold the first stretch; the same sequence of sums is made whatever T is.
        """
        for stop in range(length, 0, -dnet.shape[0]):
            first = max(stop - dnet.shape[0], 0)
            steps = stop - first
            for t in range(steps - 1, -1, -1):
                now = first + t
                backward_step(
                    p,
                    weights,
                    dy[now],
                    dstate,
                    states[now],
                    states[now + 1],
                    tape[now],
                    dnet[t],
                    drec[t],
                    dfactor,
                    g,
                )
            outer_input(g_ih, x[first:stop], dnet, steps)
            outer_products(states, tape, first, steps, dnet, drec, g_weights)
            for t in range(steps):
                for k in range(biased):
                    g[bias + k] += dnet[t, k]

    @compiled
    def scatter(g_ih, g_weights, g):
        for k in range(K):
            for i in range(I):
                g[ih + k * I + i] = g_ih[i, k]
        scatter_products(g_weights, g)

    @compiled
    def read(p, y, net):
        """The readout: net (O,) from the cell's output y (A,); it has a bias if the parameters have room for one."""
        size = net.size
        last = end + size * A
        for o in range(size):
            net[o] = p[last + o] if p.size > last else f32(0.0)
            net[o] += _dot(p[end + o * A : end + (o + 1) * A], y)

    @compiled
    def read_back(p, y, dnet, dy, g):
        """Error of the readout: set dy (A,), add to the readout's part of g."""
        size = dnet.size
        last = end + size * A
        for a in range(A):
            dy[a] = f32(0.0)
        for o in range(size):
            d = dnet[o]
            if p.size > last:
                g[last + o] += d
            for a in range(A):
                g[end + o * A + a] += d * y[a]
                dy[a] += d * p[end + o * A + a]

    @compiled
    def train_trial(
        p,
        memory,
        x,
        lengths,
        targets,
        batch,
        every,
        loss,
        squash,
        optimizer,
        rate,
        momentum,
        clip,
        updates,
        losses,
        errors,
        norms,
    ):
        T, O = x.shape[1], targets.shape[2]
        states = np.zeros((T + 1, S), f32)
        tape = np.empty((T, N), f32)
        y, dy = np.empty((T, A), f32), np.zeros((T, A), f32)
        dnet, drec, dfactor = np.empty((STRETCH, K), f32), np.empty((STRETCH, recs), f32), np.empty(dfactors, f32)
        net, rec, dstate = np.empty(K, f32), np.empty(recs, f32), np.empty(S, f32)
        out, dout = np.empty(O, f32), np.empty(O, f32)
        g, start = np.empty(p.size, f32), np.zeros(S, f32)
        weight_ih, weights = np.empty(I * K, f32), np.empty(W, f32)
        g_ih, g_weights = np.empty((I, K), f32), np.empty(W, f32)

        for update in range(norms.size):
            transpose(p, weight_ih, weights)
            g[:] = f32(0.0)
            g_ih[:] = f32(0.0)
            g_weights[:] = f32(0.0)
            healthy = True
            for b in range(update * batch, (update + 1) * batch):
                length = lengths[b]
                states[0] = start
                run(p, weight_ih, weights, x[b], length, states, tape, y, net, rec)
                answers = length if every else 1
                parts = 1 if loss == 2 else answers
                scale = f32(1.0) / f32(parts * batch)
                total, worst = f32(0.0), f32(0.0)
                for answer in range(answers):
                    t = answer if every else length - 1
                    read(p, y[t], out)
                    value, error = _loss(out, targets[b, answer], loss, squash, scale, dout)
                    read_back(p, y[t], dout, dy[t], g)
                    total += value
                    worst = max(worst, error)
                losses[b] = total / f32(parts)
                errors[b] = worst
                healthy = healthy and np.isfinite(total)
                dstate[:] = f32(0.0)
                sweep(p, weights, x[b], length, states, tape, dy, dstate, dnet, drec, dfactor, g_ih, g_weights, g)
                if not every:
                    dy[length - 1] = f32(0.0)
            scatter(g_ih, g_weights, g)
            norm = np.sqrt(_squared_norm(g))
            norms[update] = norm
            if not (healthy and np.isfinite(norm)):
                return update
            if norm > clip:
                shrink = clip / norm
                for i in range(g.size):
                    g[i] *= shrink
            _update(p, g, memory[: p.size], memory[p.size :], optimizer, rate, momentum, updates + update + 1)
        return norms.size

    @_driver
    def train(
        begin,
        end_of_jobs,
        parameters,
        memory,
        x,
        lengths,
        targets,
        batch,
        every,
        loss,
        squash,
        optimizer,
        rate,
        momentum,
        clip,
        updates,
        losses,
        errors,
        norms,
        done,
    ):
        """Update trials on consecutive batches, each by itself; a job is a trial.

        parameters (R, P) and memory (R, 2P) are changed in place; x (R, n, T, I), lengths (R, n), targets
        (R, n, T or 1, O); losses, errors (R, n) and norms (R, n / batch) are written; done (R,) is the number of
        updates made, fewer than n / batch where the loss or the gradient was not finite.
        """
        for r in range(begin, end_of_jobs):
            done[r] = train_trial(
                parameters[r],
                memory[r],
                x[r],
                lengths[r],
                targets[r],
                batch,
                every,
                loss,
                squash,
                optimizer,
                rate,
                momentum,
                clip,
                updates,
                losses[r],
                errors[r],
                norms[r],
            )

    @compiled
    def predict_some(p, x, lengths, every, outputs):
        T = x.shape[1]
        states, start = np.zeros((T + 1, S), f32), np.zeros(S, f32)
        tape, y = np.empty((T, N), f32), np.empty((T, A), f32)
        net, rec = np.empty(K, f32), np.empty(recs, f32)
        weight_ih, weights = np.empty(I * K, f32), np.empty(W, f32)
        transpose(p, weight_ih, weights)
        for b in range(x.shape[0]):
            states[0] = start
            run(p, weight_ih, weights, x[b], lengths[b], states, tape, y, net, rec)
            if every:
                for t in range(lengths[b]):
                    read(p, y[t], outputs[b, t])
            else:
                read(p, y[lengths[b] - 1], outputs[b, 0])

    @_driver
    def predict(begin, end_of_jobs, parameters, x, lengths, every, outputs):
        """The readout before squashing, in outputs (R, B, T or 1, O); a job is a trial's next PIECE sequences."""
        B = lengths.shape[1]
        pieces = (B + PIECE - 1) // PIECE
        for job in range(begin, end_of_jobs):
            r, first = job // pieces, job % pieces * PIECE
            last = min(first + PIECE, B)
            predict_some(parameters[r], x[r, first:last], lengths[r, first:last], every, outputs[r, first:last])

    @_driver
    def forward(begin, end_of_jobs, parameters, x, lengths, states, tape, y):
        """states (R, B, T + 1, S) from states[:, :, 0] on, tape (R, B, T, N), y (R, B, T, A); a job is a sequence."""
        B = lengths.shape[1]
        for job in range(begin, end_of_jobs):
            r, b = job // B, job % B
            net, rec = np.empty(K, f32), np.empty(recs, f32)
            weight_ih, weights = np.empty(I * K, f32), np.empty(W, f32)
            transpose(parameters[r], weight_ih, weights)
            run(
                parameters[r],
                weight_ih,
                weights,
                x[r, b],
                lengths[r, b],
                states[r, b],
                tape[r, b],
                y[r, b],
                net,
                rec,
            )

    @_driver
    def backward(begin, end_of_jobs, parameters, x, lengths, states, tape, dy, dstate, gradients, dx):
        """Gradients (R, G, P) of groups of sequences, to be summed over G, and dx; dstate (R, B, S) is changed.

        A job is a group."""
        B = lengths.shape[1]
        T, G = x.shape[2], gradients.shape[1]
        for job in range(begin, end_of_jobs):
            r, group = job // G, job % G
            g, p = gradients[r, group], parameters[r]
            dnet, drec, dfactor = np.empty((T, K), f32), np.empty((T, recs), f32), np.empty(dfactors, f32)
            weight_ih, weights = np.empty(I * K, f32), np.empty(W, f32)
            transpose(p, weight_ih, weights)
            g_ih, g_weights = np.zeros((I, K), f32), np.zeros(W, f32)
            for b in range(group, B, G):
                length = lengths[r, b]
                sweep(
                    p,
                    weights,
                    x[r, b],
                    length,
                    states[r, b],
                    tape[r, b],
                    dy[r, b],
                    dstate[r, b],
                    dnet,
                    drec,
                    dfactor,
                    g_ih,
                    g_weights,
                    g,
                )
                for t in range(length):
                    add_to_input(dx[r, b, t], dnet[t], p)
            scatter(g_ih, g_weights, g)

    def each_trial(parameters, memory, x, *_):
        return parameters.shape[0], 4 * x.size * K

    def each_piece(parameters, x, lengths, *_):
        R, B = lengths.shape
        return R * ((B + PIECE - 1) // PIECE), 2 * x.size * K

    def each_sequence(parameters, x, lengths, *_):
        return lengths.size, 2 * x.size * K

    def each_group(parameters, x, lengths, states, tape, dy, dstate, gradients, dx):
        return gradients.shape[0] * gradients.shape[1], 4 * x.size * K

    return Scans(
        A,
        N,
        Driver(forward, each_sequence, key, missed),
        Driver(backward, each_group, key, missed),
        Driver(train, each_trial, key, missed),
        Driver(predict, each_piece, key, missed),
    )


# Threads ----------------------------------------------------------------------------------------------------------

SMALL = 200_000
"""Multiplications below which a call stays on the caller's thread: waking another one takes longer."""

_threads: int | None = None
_pool: tuple[int, int, ThreadPoolExecutor] | None = None
_STARTING = threading.Lock()


def set_threads(threads: int | None) -> None:
    """How many threads the scans use (None: all cores)."""
    global _threads
    _threads = threads


def _shared(work: Callable[[int, int], None], jobs: int, multiplications: float) -> None:
    """Call work(begin, end) for ranges that together cover all jobs; the threads take the next range when free."""
    threads = min(_threads or os.cpu_count() or 1, jobs)
    if threads <= 1 or multiplications < SMALL:
        work(0, jobs)
        return
    ranges = min(4 * threads, jobs)
    ends = iter([jobs * i // ranges for i in range(ranges + 1)])
    taken, begin = threading.Lock(), next(ends)

    def take():
        nonlocal begin
        while True:
            with taken:
                first, last = begin, next(ends, None)
                if last is None:
                    return
                begin = last
            work(first, last)

    others = [_executor(threads - 1).submit(take) for _ in range(threads - 1)]
    take()
    for other in others:
        other.result()


def _executor(threads: int) -> ThreadPoolExecutor:
    """A pool of this process (threads do not survive a fork) with at least so many threads."""
    global _pool
    with _STARTING:
        if _pool is None or _pool[0] != os.getpid() or _pool[1] < threads:
            _pool = os.getpid(), threads, ThreadPoolExecutor(threads, "scan")
        return _pool[2]
