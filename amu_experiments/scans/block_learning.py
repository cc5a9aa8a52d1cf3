"""Training and prediction over blocks of sequences, for recurrences of every form and size: compiled once.

Shapes as in blocks.py; O readout outputs, n sequences of a stretch.
"""

import numpy as np

from amu_experiments.scans import slots
from amu_experiments.scans.blocks import compiled, into_block, invoke, odd, pack_matrices, take
from amu_experiments.scans.compiling import driver
from amu_experiments.scans.functions import f32
from amu_experiments.scans.learning import loss_of_answer, squared_norm, update_parameters
from amu_experiments.scans.vectors import LANES

WHOLE_TRIALS, GROUPS_OF_AN_UPDATE, ENDS_OF_AN_UPDATE = range(3)
"""What a job of `train` is: all updates of a trial; one group's gradient in one update; or the rest of that update."""


@compiled()
def carve(f, scratch, T, tape_steps):
    """Give a frame its blocks in scratch memory, for T time steps; (places of x, states, y, dy and dstate, the end)."""
    K, S, N, A, I = f[slots.ROWS], f[slots.STATE], f[slots.TAPE_ROWS], f[slots.OUTPUTS], f[slots.INPUTS]
    f[slots.X_STEP], f[slots.STATES_STEP], f[slots.Y_STEP] = odd(I), odd(S), odd(A)
    f[slots.TAPE_STEP] = odd(N) if tape_steps > 1 else 0
    f[slots.DNET_STEP], f[slots.DREC_STEP] = odd(K), odd(f[slots.RECS])
    f[slots.X], states_at = take(scratch, 0, T * odd(I))
    f[slots.STATES], at = take(scratch, states_at, (T + 1) * odd(S))
    f[slots.TAPE], y_at = take(scratch, at, tape_steps * odd(N))
    f[slots.Y], dy_at = take(scratch, y_at, T * odd(A))
    f[slots.DY], at = take(scratch, dy_at, tape_steps * odd(A))
    f[slots.NET], at = take(scratch, at, odd(K))
    f[slots.REC], at = take(scratch, at, odd(f[slots.RECS]))
    f[slots.DNET], at = take(scratch, at, f[slots.STRETCH] * odd(K))
    f[slots.DREC], at = take(scratch, at, f[slots.STRETCH] * odd(f[slots.RECS]))
    f[slots.DFACTOR], at = take(scratch, at, odd(f[slots.DFACTORS]))
    f[slots.OF_VECTORS], at = take(scratch, at, odd(f[slots.VECTORS]))
    f[slots.SAVED], dstate_at = take(scratch, at, odd(S + f[slots.VECTORS]))
    f[slots.DSTATE], at = take(scratch, dstate_at, odd(S))
    f[slots.DX] = 0
    return states_at, y_at, dy_at, dstate_at, at


@compiled()
def begin_block(f, scratch, states_at, x, lengths, c, ends):
    """Put the sequences of block c into the frame's memory: x (n, T, I), lengths (n,)."""
    first = c * LANES
    count = min(LANES, lengths.size - first)
    for lane in range(LANES):
        ends[lane] = lengths[first + lane] if lane < count else 0
    T, I = ends.max(), f[slots.INPUTS]
    f[slots.LENGTHS], f[slots.LONGEST], f[slots.SHORTEST] = ends.ctypes.data, T, ends.min()
    block = scratch[: T * odd(I) * LANES].reshape((T, odd(I), LANES))
    into_block(np.transpose(x[first : first + count, :T], (1, 0, 2)), ends, block)
    scratch[states_at : states_at + f[slots.STATE] * LANES] = f32(0.0)
    return count


@compiled()
def read(p, end, y, net):
    """The readout of every lane: net (O, LANES) from y (rows, LANES), of which A count."""
    O, A = net.shape[0], y.shape[0]
    last = end + O * A
    for o in range(O):
        bias = p[last + o] if p.size > last else f32(0.0)
        for lane in range(LANES):
            net[o, lane] = bias
        for a in range(A):
            w = p[end + o * A + a]
            for lane in range(LANES):
                net[o, lane] += w * y[a, lane]


@compiled()
def read_back(p, end, y, dnet, dy, of_readout):
    """Error of the readout: set dy (A, LANES), add to of_readout (O * A + O, LANES)."""
    O, A = dnet.shape[0], y.shape[0]
    dy[:] = f32(0.0)
    for o in range(O):
        for lane in range(LANES):
            of_readout[O * A + o, lane] += dnet[o, lane]
        for a in range(A):
            w = p[end + o * A + a]
            for lane in range(LANES):
                of_readout[o * A + a, lane] += dnet[o, lane] * y[a, lane]
                dy[a, lane] += w * dnet[o, lane]


@compiled()
def group_gradient(
    code_forward,
    code_backward,
    f,
    products_at,
    transposed,
    size,
    end,
    p,
    x,
    lengths,
    targets,
    every,
    loss,
    squash,
    group,
    groups,
    g,
    losses,
    errors,
    scratch,
    ends,
):
    """The gradient g (P,) of a group's blocks in one batch, x (n, T, I); whether all losses are finite."""
    T, A, O = x.shape[1], f[slots.OUTPUTS], targets.shape[2]
    states_at, y_at, dy_at, dstate_at, at = carve(f, scratch, T, T)
    f[slots.P], f[slots.G] = p.ctypes.data, g.ctypes.data
    y = scratch[y_at : y_at + T * odd(A) * LANES].reshape((T, odd(A), LANES))
    dy = scratch[dy_at : dy_at + T * odd(A) * LANES].reshape((T, odd(A), LANES))
    of_readout = scratch[at : at + (O * A + O) * LANES].reshape((O * A + O, LANES))
    at += of_readout.size
    net, dnet = np.empty((O, LANES), f32), np.empty((O, LANES), f32)
    out, dout = np.empty(O, f32), np.empty(O, f32)
    y_last, dy_last = np.empty((A, LANES), f32), np.empty((A, LANES), f32)
    pack_matrices(f, products_at, transposed, p, size, scratch[at:])
    g[:] = f32(0.0)
    of_readout[:] = f32(0.0)
    dy[:] = f32(0.0)
    healthy = True
    for c in range(group, (lengths.size + LANES - 1) // LANES, groups):
        count = begin_block(f, scratch, states_at, x, lengths, c, ends)
        invoke(code_forward, f)
        first = c * LANES
        losses[first : first + count] = f32(0.0)
        errors[first : first + count] = f32(0.0)
        for answer in range(f[slots.LONGEST] if every else 1):
            if not every:
                for lane in range(LANES):
                    for a in range(A):
                        y_last[a, lane] = y[ends[lane] - 1, a, lane] if lane < count else f32(0.0)
            here = y[answer, :A] if every else y_last
            read(p, end, here, net)
            dnet[:] = f32(0.0)
            for lane in range(count):
                if answer < ends[lane]:
                    parts = ends[lane] if every and loss != 2 else 1
                    scale = f32(1.0) / f32(parts * lengths.size)
                    out[:] = net[:, lane]
                    value, error = loss_of_answer(out, targets[first + lane, answer], loss, squash, scale, dout)
                    dnet[:, lane] = dout
                    losses[first + lane] += value
                    errors[first + lane] = max(errors[first + lane], error)
            read_back(p, end, here, dnet, dy[answer, :A] if every else dy_last, of_readout)
            if not every:
                for lane in range(count):
                    for a in range(A):
                        dy[ends[lane] - 1, a, lane] = dy_last[a, lane]
        for lane in range(count):
            healthy = healthy and np.isfinite(losses[first + lane])
            if every and loss != 2:
                losses[first + lane] /= f32(ends[lane])
        scratch[dstate_at : dstate_at + f[slots.STATE] * LANES] = f32(0.0)
        invoke(code_backward, f)
        if not every:
            for lane in range(count):
                for a in range(A):
                    dy[ends[lane] - 1, a, lane] = f32(0.0)
    bias = 0 if p.size == end + O * A else O
    for i in range(O * A + bias):
        for lane in range(LANES):
            g[end + i] += of_readout[i, lane]
    return healthy


@compiled()
def end_update(p, memory, partial, healthy, optimizer, rate, momentum, clip, number, norms, update):
    """Add up the groups' gradients, clip, update; whether the trial is still finite."""
    g = partial[0]
    for group in range(1, partial.shape[0]):
        for i in range(g.size):
            g[i] += partial[group, i]
    norm = np.sqrt(squared_norm(g))
    norms[update] = norm
    if not (healthy.all() and np.isfinite(norm)):
        return False
    if norm > clip:
        shrink = clip / norm
        for i in range(g.size):
            g[i] *= shrink
    update_parameters(p, g, memory[: p.size], memory[p.size :], optimizer, rate, momentum, number)
    return True


@driver
def train(
    begin,
    end_of_jobs,
    what,
    update,
    code_forward,
    code_backward,
    frame,
    products_at,
    transposed,
    size,
    end,
    ones,
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
    partial,
    healthy,
    scratch,
    ends,
):
    """As `train` of learning.py; partial (R, G, P) and healthy (R, G) are written, done (R,) begins as zeros.

    what: what a job is, above; `update` is the number of the update of which a job is a part.
    """
    groups = partial.shape[1]
    f = frame.copy()
    f[slots.ONES] = ones.ctypes.data
    for job in range(begin, end_of_jobs):
        r = job // groups if what == GROUPS_OF_AN_UPDATE else job
        first_update = 0 if what == WHOLE_TRIALS else update
        last_update = norms.shape[1] if what == WHOLE_TRIALS else update + 1
        first_group = job % groups if what == GROUPS_OF_AN_UPDATE else 0
        last_group = first_group + 1 if what == GROUPS_OF_AN_UPDATE else groups
        for u in range(first_update, last_update):
            if done[r] < u:
                break
            if what != ENDS_OF_AN_UPDATE:
                span = slice(u * batch, (u + 1) * batch)
                for group in range(first_group, last_group):
                    healthy[r, group] = group_gradient(
                        code_forward,
                        code_backward,
                        f,
                        products_at,
                        transposed,
                        size,
                        end,
                        parameters[r],
                        x[r, span],
                        lengths[r, span],
                        targets[r, span],
                        every,
                        loss,
                        squash,
                        group,
                        groups,
                        partial[r, group],
                        losses[r, span],
                        errors[r, span],
                        scratch,
                        ends,
                    )
            if what != GROUPS_OF_AN_UPDATE:
                going_on = end_update(
                    parameters[r],
                    memory[r],
                    partial[r],
                    healthy[r],
                    optimizer,
                    rate,
                    momentum,
                    clip,
                    updates + u + 1,
                    norms[r],
                    u,
                )
                if going_on:
                    done[r] += 1


@driver
def predict(
    begin,
    end_of_jobs,
    code,
    frame,
    products_at,
    transposed,
    size,
    end,
    parameters,
    x,
    lengths,
    every,
    outputs,
    scratch,
    ends,
):
    """As `predict` of learning.py; a job is a block."""
    B, T, A, O = lengths.shape[1], x.shape[2], frame[slots.OUTPUTS], outputs.shape[3]
    blocks = (B + LANES - 1) // LANES
    f = frame.copy()
    net = np.empty((O, LANES), f32)
    y_last = np.empty((A, LANES), f32)
    states_at, y_at, _, _, at = carve(f, scratch, T, 1)
    y = scratch[y_at : y_at + T * odd(A) * LANES].reshape((T, odd(A), LANES))
    for job in range(begin, end_of_jobs):
        r, c = job // blocks, job % blocks
        p = parameters[r]
        f[slots.P] = p.ctypes.data
        pack_matrices(f, products_at, transposed, p, size, scratch[at:])
        count = begin_block(f, scratch, states_at, x[r], lengths[r], c, ends)
        invoke(code, f)
        for answer in range(f[slots.LONGEST] if every else 1):
            if not every:
                for lane in range(LANES):
                    for a in range(A):
                        y_last[a, lane] = y[ends[lane] - 1, a, lane] if lane < count else f32(0.0)
            read(p, end, y[answer, :A] if every else y_last, net)
            for lane in range(count):
                if answer < ends[lane]:
                    outputs[r, c * LANES + lane, answer] = net[:, lane]
