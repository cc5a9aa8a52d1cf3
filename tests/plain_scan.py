"""A derived recurrence, run as it stands: its source as plain Python, in double precision, one sequence at a time.

What a scan makes of a Recurrence, without a compiler and without speed.
"""

import numpy as np
import torch

from amu_experiments.scans.derive import derive

PLAIN = {
    "f32": np.float64,
    **{name: getattr(np, name) for name in ("tanh", "exp", "log", "log1p", "sqrt", "sin", "cos")},
}


def plain_scan(recurrence, p, x, state, dy, dlast):
    """Outputs (T, A), last state (S,), and gradients of sum(dy * y) + sum(dlast * last): of p, x and the first state.

    p (P,), x (T, I), state (S,), dy (T, A), dlast (S,).
    """
    functions = recurrence.functions(PLAIN)
    count, T, K = len(recurrence.products), len(x), recurrence.rows
    weight_ih, bias = (_parameter(recurrence, p, name) for name in ("weight_ih", "bias"))
    states = np.full((T + 1, recurrence.state), np.nan)
    states[0] = state
    tape, y = np.full((T, recurrence.tape), np.nan), np.full((T, recurrence.outputs), np.nan)
    for t in range(T):
        old, new = states[t], states[t + 1]
        net, rec = weight_ih @ x[t], np.zeros(recurrence.recs)
        net[: len(bias)] += bias
        for n in range(count + 1):
            if f"step_{n}" in functions:
                functions[f"step_{n}"](p, old, new, tape[t], net, rec, y[t])
            if n < count:
                product = recurrence.products[n]
                _result(product, net, rec)[:] += _matrix(recurrence, p, product) @ _factor(product, old, new, tape[t])
    g, dx, dstate = np.zeros_like(p), np.zeros_like(x), dlast.copy()
    for t in reversed(range(T)):
        old, new = states[t], states[t + 1]
        dnet, drec, dfactor = (np.full(size, np.nan) for size in (K, recurrence.recs, recurrence.dfactors))
        for n in range(count, -1, -1):
            if f"adjoint_{n}" in functions:
                functions[f"adjoint_{n}"](p, dy[t], dstate, old, new, tape[t], dnet, drec, dfactor, g)
            if n and isinstance(recurrence.products[n - 1].error, int):
                product = recurrence.products[n - 1]
                error = _matrix(recurrence, p, product).T @ _result(product, dnet, drec)
                dfactor[product.error : product.error + len(error)] = error
        for product in recurrence.products:
            error, factor = _result(product, dnet, drec), _factor(product, old, new, tape[t])
            if product.error == "state":
                place = product.factor[1]
                dstate[place : place + product.factors] += _matrix(recurrence, p, product).T @ error
            outer = np.outer(factor, error) if product.transposed else np.outer(error, factor)
            _parameter(recurrence, g, product.parameter)[product.first : product.last] += outer
        _parameter(recurrence, g, "weight_ih")[:] += np.outer(dnet, x[t])
        _parameter(recurrence, g, "bias")[:] += dnet[: len(bias)]
        dx[t] = weight_ih.T @ dnet
    return y, states[T], g, dx, dstate


def _parameter(recurrence, p, name):
    """A view of p."""
    shape, place = recurrence.shape(name), recurrence.place(name)
    return p[place : place + int(np.prod(shape))].reshape(shape)


def _matrix(recurrence, p, product):
    matrix = _parameter(recurrence, p, product.parameter)[product.first : product.last]
    return matrix.T if product.transposed else matrix


def _factor(product, old, new, tape):
    row, place = product.factor
    return {"old": old, "new": new, "tape": tape}[row][place : place + product.factors]


def _result(product, net, rec):
    row, place = product.result
    return {"net": net, "rec": rec}[row][place : place + product.results]


def assert_derived_equals_autograd(cell, steps=4, batch=2, inputs=torch.randn, unroll=None, tolerance=1e-12):
    """All outputs, states and gradients of a cell in double precision: derived as under autograd.

    inputs: makes inputs and states of a given shape; unroll: another form of the recurrence.
    """
    recurrence = derive(cell)
    cell = cell.double()
    x = inputs(1, steps, batch, cell.input_size).double().requires_grad_()
    state = [inputs(1, batch, size).double().requires_grad_() for size in cell.state_sizes()]
    y, last = (unroll or cell.unroll)(x, tuple(state), None)
    dy, dlast = torch.randn_like(y), [torch.randn_like(s) for s in last]
    loss = sum((a * b).sum() for a, b in zip((dy, *dlast), (y, *last), strict=True))
    parameters = list(cell.parameters())
    wanted = torch.autograd.grad(loss, [x, *state, *parameters], allow_unused=True, materialize_grads=True)
    dx, dstate, dp = (
        wanted[0],
        torch.cat(wanted[1 : 1 + len(state)], -1),
        torch.cat([w.flatten() for w in wanted[1 + len(state) :]]),
    )
    theirs = [y, torch.cat(last, -1), dp, dx, dstate]
    p = torch.cat([parameter.detach().flatten() for parameter in parameters]).numpy()
    first, into = (torch.cat(list(parts), -1).detach().numpy()[0] for parts in (state, dlast))
    with np.errstate(all="ignore"):
        runs = [
            plain_scan(recurrence, p, x.detach().numpy()[0, :, b], first[b], dy.numpy()[0, :, b], into[b])
            for b in range(batch)
        ]
    ours = [np.stack(arrays) for arrays in zip(*runs, strict=True)]
    ours = [ours[0].swapaxes(0, 1), ours[1], ours[2].sum(axis=0), ours[3].swapaxes(0, 1), ours[4]]
    scale = max(1.0, *(float(t.detach().abs().max()) for t in theirs if t.numel()))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy().reshape(a.shape), rtol=0, atol=tolerance * scale)
    return recurrence
