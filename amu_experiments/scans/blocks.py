"""Drivers of the scans over blocks of sequences: what goes into a block, what comes out, and who computes it.

A trial's batch is cut into blocks of LANES sequences, the last one with empty lanes. The blocks of a trial are shared
out to groups, at most GROUPS. Each group sums up gradients of its own, block after block; the groups' are then added
in order. All this follows from the size of the batch, whatever number of threads computes it.

Shapes: R trials, B sequences, G groups, C blocks of a trial, T time steps, I input features, S state entries, A cell
outputs, P parameters of a trial. Blocks end in (rows, LANES), with an odd number of rows in memory: equal rows of
successive time steps then fall into different sets of the processor's cache.
"""

import functools

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from amu_experiments.scans import slots
from amu_experiments.scans.compiling import Separate, driver
from amu_experiments.scans.functions import EXACT, f32
from amu_experiments.scans.vectors import LANES

GROUPS = 8
"""Most partial sums of a trial's gradient."""

compiled = functools.partial(njit, fastmath=EXACT, error_model="numpy", pipeline_class=Separate)


@intrinsic
def invoke(typingctx, address, frame):
    """Call the machine code at an address with a frame."""

    def write(context, builder, signature, arguments):
        place, array = arguments
        i64 = ir.IntType(64)
        function = builder.inttoptr(place, ir.FunctionType(ir.VoidType(), [i64]).as_pointer())
        data = context.make_array(signature.args[1])(context, builder, array).data
        builder.call(function, [builder.ptrtoint(data, i64)])
        return context.get_dummy_value()

    return types.void(types.int64, frame), write


def odd_rows(rows: int) -> int:
    """Rows of memory for so many rows."""
    return rows | 1


def groups_of(batch_size: int) -> int:
    return min(-(-batch_size // LANES), GROUPS)


odd = compiled()(odd_rows)


@compiled()
def pack(p, place, to_row, to_column, rows, columns, size, out, at):
    """A matrix for `multiply`: rows in groups of `size`, each by columns, from out[at] on."""
    for first in range(0, rows, size):
        count = min(size, rows - first)
        for j in range(columns):
            for i in range(count):
                out[at + first * columns + j * count + i] = p[place + (first + i) * to_row + j * to_column]


@compiled()
def pack_matrices(frame, products_at, transposed, p, size, out):
    """All matrices of a trial, and their transposes, with their addresses in the frame; out: 2 W floats."""
    K, I = frame[slots.ROWS], frame[slots.INPUTS]
    base, at = out.ctypes.data, 0
    pack(p, frame[slots.IH], I, 1, K, I, size, out, at)
    frame[slots.FORWARD_IH] = base + 4 * at
    at += K * I
    pack(p, frame[slots.IH], 1, I, I, K, size, out, at)
    frame[slots.BACKWARD_IH] = base + 4 * at
    at += K * I
    for n in range(transposed.size):
        product = frame[products_at + n * slots.SLOTS_OF_PRODUCT : products_at + (n + 1) * slots.SLOTS_OF_PRODUCT]
        H, M, width = product[slots.FACTORS], product[slots.RESULTS], product[slots.WIDTH]
        to_result, to_factor = (1, width) if transposed[n] else (width, 1)
        pack(p, product[slots.PLACE], to_result, to_factor, M, H, size, out, at)
        product[slots.FORWARD] = base + 4 * at
        at += M * H
        pack(p, product[slots.PLACE], to_factor, to_result, H, M, size, out, at)
        product[slots.BACKWARD] = base + 4 * at
        at += M * H


@compiled()
def into_block(values, lengths, block):
    """Sequences (T, B, n) into the lanes of a block (T, rows, LANES), zeros after their ends."""
    for t in range(values.shape[0]):
        for lane in range(LANES):
            if t < lengths[lane]:
                for i in range(values.shape[2]):
                    block[t, i, lane] = values[t, lane, i]
            else:
                for i in range(values.shape[2]):
                    block[t, i, lane] = f32(0.0)


@compiled()
def out_of_block(block, lengths, values):
    """The reverse, zeros after the ends included."""
    for t in range(values.shape[0]):
        for lane in range(values.shape[1]):
            if t < lengths[lane]:
                for i in range(values.shape[2]):
                    values[t, lane, i] = block[t, i, lane]
            else:
                for i in range(values.shape[2]):
                    values[t, lane, i] = f32(0.0)


@driver
def forward(
    begin,
    end,
    code,
    frame,
    products_at,
    transposed,
    size,
    parameters,
    x,
    lengths,
    first,
    xs,
    states,
    tape,
    ys,
    y,
    last,
    scratch,
):
    """A job is a block. parameters (R, P), x (R, T, B, I), lengths (R, C, LANES), the first state (R, B, S).

    Written: blocks xs, states, tape and ys (R, C, T or T + 1, rows, LANES), y (R, T, B, A), last (R, B, S).
    """
    B, C = x.shape[2], xs.shape[1]
    for job in range(begin, end):
        r, c = job // C, job % C
        here = lengths[r, c]
        count = min(LANES, B - c * LANES)
        f = frame.copy()
        K, S = f[slots.ROWS], f[slots.STATE]
        part = x[r, :, c * LANES : c * LANES + count]
        into_block(part, here, xs[r, c])
        for s in range(S):
            for lane in range(LANES):
                states[r, c, 0, s, lane] = first[r, c * LANES + lane, s] if lane < count else f32(0.0)
        p = parameters[r]
        net = scratch[: odd(K) * LANES]
        rec = scratch[odd(K) * LANES : (odd(K) + odd(f[slots.RECS])) * LANES]
        pack_matrices(f, products_at, transposed, p, size, scratch[(odd(K) + odd(f[slots.RECS])) * LANES :])
        f[slots.P], f[slots.NET], f[slots.REC] = p.ctypes.data, net.ctypes.data, rec.ctypes.data
        set_blocks(f, xs[r, c], states[r, c], tape[r, c], ys[r, c], here)
        invoke(code, f)
        out_of_block(ys[r, c], here, y[r, :, c * LANES : c * LANES + count])
        for lane in range(count):
            for s in range(S):
                last[r, c * LANES + lane, s] = states[r, c, here[lane], s, lane]


@compiled()
def set_blocks(f, x, states, tape, y, lengths):
    f[slots.X], f[slots.X_STEP] = x.ctypes.data, x.shape[1]
    f[slots.STATES], f[slots.STATES_STEP] = states.ctypes.data, states.shape[1]
    f[slots.TAPE], f[slots.TAPE_STEP] = tape.ctypes.data, tape.shape[1]
    f[slots.Y], f[slots.Y_STEP] = y.ctypes.data, y.shape[1]
    f[slots.LENGTHS] = lengths.ctypes.data
    f[slots.LONGEST], f[slots.SHORTEST] = lengths.max(), lengths.min()


@compiled()
def take(scratch, at, rows):
    """The address of so many rows of scratch memory from `at` on, and the place after them."""
    return scratch.ctypes.data + 4 * at, at + rows * LANES


@driver
def backward(
    begin,
    end,
    code,
    frame,
    products_at,
    transposed,
    size,
    parameters,
    lengths,
    xs,
    states,
    tape,
    dy,
    dlast,
    ones,
    gradients,
    dx,
    dfirst,
    scratch,
):
    """A job is a group. dy (R, T, B, A), dlast (R, B, S); written: gradients (R, G, P), dx (R, T, B, I), dfirst."""
    B, C, G_ = dy.shape[2], xs.shape[1], gradients.shape[1]
    T = dy.shape[1]
    for job in range(begin, end):
        r, group = job // G_, job % G_
        f = frame.copy()
        p, g = parameters[r], gradients[r, group]
        f[slots.P], f[slots.G], f[slots.ONES] = p.ctypes.data, g.ctypes.data, ones.ctypes.data
        K, S, A, I = f[slots.ROWS], f[slots.STATE], f[slots.OUTPUTS], f[slots.INPUTS]
        f[slots.DNET_STEP], f[slots.DREC_STEP] = odd(K), odd(f[slots.RECS])
        f[slots.DNET], at = take(scratch, 0, f[slots.STRETCH] * odd(K))
        f[slots.DREC], at = take(scratch, at, f[slots.STRETCH] * odd(f[slots.RECS]))
        f[slots.DFACTOR], at = take(scratch, at, odd(f[slots.DFACTORS]))
        f[slots.OF_VECTORS], at = take(scratch, at, odd(f[slots.VECTORS]))
        f[slots.SAVED], at = take(scratch, at, odd(S + f[slots.VECTORS]))
        dstate_at = at
        f[slots.DSTATE], at = take(scratch, at, odd(S))
        dys = scratch[at : at + T * odd(A) * LANES].reshape((T, odd(A), LANES))
        f[slots.DY], at = take(scratch, at, T * odd(A))
        dxs = scratch[at : at + T * odd(I) * LANES].reshape((T, odd(I), LANES))
        f[slots.DX], at = take(scratch, at, T * odd(I))
        pack_matrices(f, products_at, transposed, p, size, scratch[at:])
        for c in range(group, C, G_):
            here = lengths[r, c]
            count = min(LANES, B - c * LANES)
            set_blocks(f, xs[r, c], states[r, c], tape[r, c], dys, here)
            into_block(dy[r, :, c * LANES : c * LANES + count], here, dys)
            for s in range(S):
                for lane in range(LANES):
                    scratch[dstate_at + s * LANES + lane] = dlast[r, c * LANES + lane, s] if lane < count else f32(0.0)
            invoke(code, f)
            out_of_block(dxs, here, dx[r, :, c * LANES : c * LANES + count])
            for lane in range(count):
                for s in range(S):
                    dfirst[r, c * LANES + lane, s] = scratch[dstate_at + s * LANES + lane]
