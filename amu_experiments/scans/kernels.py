"""The scan over time of one sequence: products, steps and adjoints as compiled loops whose sizes are constants.

A Recurrence gives a cell's step, the adjoint of its step and its products with weight matrices. Sizes are constants, so
that the short inner loops vectorise. One thread computes everything about one trial in a fixed order: a trial's numbers
depend neither on the rest of the stack nor on the number of threads.

Shapes: R trials, B sequences, T time steps, I input features, K net inputs, S state entries, A cell outputs,
P parameters of a trial, W entries of all matrices that the recurrence multiplies with. Data lie sequence by sequence,
(R, B, T, I).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from amu_experiments.scans.compiling import NAMESPACE, compiled, driver
from amu_experiments.scans.functions import f32
from amu_experiments.scans.recurrence import Product, Recurrence


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


class Scan(NamedTuple):
    """A recurrence over time, for one sequence; the docstrings of the functions stand in `scan_of`.

    weights: W.
    """

    weights: int
    transpose: Callable
    run: Callable
    sweep: Callable
    scatter: Callable


def scan_of(recurrence: Recurrence) -> Scan:
    I, K, recs = recurrence.inputs, recurrence.rows, recurrence.recs
    # Where the parameters lie in a trial's row.
    ih, bias = recurrence.place("weight_ih"), recurrence.place("bias")
    (biased,) = recurrence.shape("bias")
    W, forward_step, backward_step, transpose_products, outer_products, scatter_products = _products(recurrence)

    add_input = _add_rows(I, K)
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

    return Scan(W, transpose, run, sweep, scatter)


def layer_drivers(recurrence: Recurrence, scan: Scan) -> dict[str, tuple[Callable, Callable]]:
    """The drivers of a layer, forward and backward, each with the count of its jobs (see compiling.Driver)."""
    I, K, recs, dfactors = recurrence.inputs, recurrence.rows, recurrence.recs, recurrence.dfactors
    W, transpose, run, sweep, scatter = scan
    add_to_input = _add_rows(K, I, at=recurrence.place("weight_ih"))

    @driver
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

    @driver
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

    def each_sequence(parameters, x, lengths, *_):
        return lengths.size, 2 * x.size * K

    def each_group(parameters, x, lengths, states, tape, dy, dstate, gradients, dx):
        return gradients.shape[0] * gradients.shape[1], 4 * x.size * K

    return {"forward": (forward, each_sequence), "backward": (backward, each_group)}
