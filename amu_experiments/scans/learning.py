"""Readout, loss, clipping and optimiser around a scan: training and prediction, sequence by sequence, as compiled code.

Shapes as in kernels.py; O readout outputs.
"""

from collections.abc import Callable

import numpy as np
from numba import njit

from amu_experiments.scans.compiling import compiled, driver, exp, log
from amu_experiments.scans.functions import f32
from amu_experiments.scans.kernels import Scan
from amu_experiments.scans.recurrence import Recurrence

PIECE = 32
"""Sequences of a trial that one job predicts."""

STRETCH = 128
"""Time steps whose errors are kept at once in training: few enough to stay in the fastest cache."""

# Sums in any order the compiler likes, always the same one.
_REORDERED = {"contract", "nsz", "reassoc"}


@njit(fastmath=_REORDERED, error_model="numpy")
def squared_norm(vector):
    total = f32(0.0)
    for i in range(vector.size):
        total += vector[i] * vector[i]
    return total


@njit(fastmath=_REORDERED, error_model="numpy")
def dot(a, b):
    total = f32(0.0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@compiled
def loss_of_answer(net, target, loss, squash, scale, dnet):
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
def update_parameters(p, g, first, second, optimizer, rate, momentum, updates):
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


def training_drivers(recurrence: Recurrence, scan: Scan) -> dict[str, tuple[Callable, Callable]]:
    """The drivers train and predict, each with the count of its jobs (see compiling.Driver)."""
    I, K, S = recurrence.inputs, recurrence.rows, recurrence.state
    N, A = recurrence.tape, recurrence.outputs
    recs, dfactors, end = recurrence.recs, recurrence.dfactors, recurrence.place("end")
    W, transpose, run, sweep, scatter = scan

    @compiled
    def read(p, y, net):
        """The readout: net (O,) from the cell's output y (A,); it has a bias if the parameters have room for one."""
        size = net.size
        last = end + size * A
        for o in range(size):
            net[o] = p[last + o] if p.size > last else f32(0.0)
            net[o] += dot(p[end + o * A : end + (o + 1) * A], y)

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
                    value, error = loss_of_answer(out, targets[b, answer], loss, squash, scale, dout)
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
            norm = np.sqrt(squared_norm(g))
            norms[update] = norm
            if not (healthy and np.isfinite(norm)):
                return update
            if norm > clip:
                shrink = clip / norm
                for i in range(g.size):
                    g[i] *= shrink
            update_parameters(p, g, memory[: p.size], memory[p.size :], optimizer, rate, momentum, updates + update + 1)
        return norms.size

    @driver
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

    @driver
    def predict(begin, end_of_jobs, parameters, x, lengths, every, outputs):
        """The readout before squashing, in outputs (R, B, T or 1, O); a job is a trial's next PIECE sequences."""
        B = lengths.shape[1]
        pieces = (B + PIECE - 1) // PIECE
        for job in range(begin, end_of_jobs):
            r, first = job // pieces, job % pieces * PIECE
            last = min(first + PIECE, B)
            predict_some(parameters[r], x[r, first:last], lengths[r, first:last], every, outputs[r, first:last])

    def each_trial(parameters, memory, x, *_):
        return parameters.shape[0], 4 * x.size * K

    def each_piece(parameters, x, lengths, *_):
        R, B = lengths.shape
        return R * ((B + PIECE - 1) // PIECE), 2 * x.size * K

    return {"train": (train, each_trial), "predict": (predict, each_piece)}
