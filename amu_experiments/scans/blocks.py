"""Drivers of the scans over blocks of sequences: what goes into a block, what comes out, and who computes it.

A trial's batch is cut into blocks, the last one with empty lanes. The blocks of a trial are shared out to groups, at
most GROUPS. Each group sums its gradients, block after block; the sums of the groups are then added in order. All this
follows from the size of the batch, whatever number of threads computes it.

Shapes: R trials, B sequences, G groups, C blocks of a trial, T time steps, I input features, S state entries, A cell
outputs, P parameters of a trial, W entries of a trial's packed matrices. Blocks end in (rows, lanes), with an odd
number of rows in memory: equal rows of successive time steps then fall into different sets of the processor's cache.
"""

from llvmlite import ir

from amu_experiments.scans.jobs import Driver
from amu_experiments.scans.slots import FIELDS
from amu_experiments.scans.tiles import tile_rows
from amu_experiments.scans.vectors import F32, I64, Code, Numbers, Rows, Value, Variable

GROUPS = 8
"""Maximum number of partial sums of a trial's gradient."""

FRAME = ("code_forward", "code_backward", "frame", "frame_size", "ones")
FORWARD = (*FRAME, "parameters", "P", "packed", "W", "x", "lengths", "first", "xs", "states", "tape", "ys", "y", "last",
           "T", "B", "C")  # fmt: skip
BACKWARD = (*FRAME, "parameters", "P", "packed", "W", "lengths", "xs", "states", "tape", "dy", "dlast", "gradients",
            "dx", "dfirst", "T", "B", "C", "G")  # fmt: skip
PACK = ("parameters", "P", "packed", "W", "matrices", "M")
"""The arguments of each driver: sizes, and addresses of arrays."""


def odd_rows(rows):
    """Rows to allocate for this many rows: an odd number."""
    return rows | 1


def groups_of(batch_size: int, lanes: int) -> int:
    return min(-(-batch_size // lanes), GROUPS)


class Frame:
    """A copy of a recurrence's frame (its addresses and sizes, slots.py) in scratch memory, and the memory after it."""

    def __init__(self, code: Driver):
        given = code.given
        self.code, self.address = code, code.scratch
        self._slots = Numbers(code, self.address, I64)
        source = Numbers(code, given.frame, I64)
        for i in code.loop(given.frame_size):
            self._slots[i] = source[i]
        # Aligned to a cache line.
        self.free = (code.scratch + given.frame_size * 8 + 63) / 64 * 64
        self["ones"] = given.ones
        self.ends = Numbers(code, self.take_bytes(8 * code.lanes), I64)
        self["lengths"] = self.ends.address

    def __getitem__(self, field: str) -> Value:
        return self._slots[FIELDS.index(field)]

    def __setitem__(self, field: str, value) -> None:
        self._slots[FIELDS.index(field)] = value

    def take_bytes(self, count) -> Value:
        address, self.free = self.free, self.free + self.code.integer(count)
        return address

    def take(self, rows: Value) -> Rows:
        """Take this many rows of scratch memory."""
        return Rows(self.code, self.take_bytes(rows * (4 * self.code.lanes)))

    def take_field(self, field: str, rows: Value) -> Rows:
        taken = self.take(rows)
        self[field] = taken.address
        return taken

    def take_errors(self) -> Rows:
        """Take the memory of a backward scan; returns the rows of the state's error."""
        K, S, recs = (odd_rows(self[name]) for name in ("rows", "state", "recs"))
        self["dnet_step"], self["drec_step"] = K, recs
        self.take_field("dnet", self["stretch"] * K)
        self.take_field("drec", self["stretch"] * recs)
        self.take_field("dfactor", odd_rows(self["dfactors"]))
        self.take_field("of_vectors", odd_rows(self["vectors"]))
        self.take_field("saved", odd_rows(self["state"] + self["vectors"]))
        return self.take_field("dstate", S)

    def set_lengths(self, source: Numbers, count: Value) -> None:
        """Set the lengths of a block's sequences, zero in empty lanes."""
        code = self.code
        longest, shortest = (Variable(code, code.integer(n)) for n in (0, 1 << 62))
        for lane in code.loop(code.lanes):
            self.ends[lane] = 0
        for lane in code.loop(count):
            self.ends[lane] = source[lane]
        for lane in code.loop(code.lanes):
            length = self.ends[lane]
            longest.value = code.where(length > longest.value, length, longest.value)
            shortest.value = code.where(length < shortest.value, length, shortest.value)
        self["longest"], self["shortest"] = longest.value, shortest.value

    def into_block(self, values: Numbers, to_step, to_sequence, count, n, block: Rows, rows, steps) -> None:
        """Copy sequences into the lanes of a block (steps, rows, lanes), with zeros after their ends.

        values: entry i at step t of the sequence for a lane has the index `to_step` t + `to_sequence` lane + i.
        """
        code, L = self.code, self.code.lanes
        whole, zero = code.where(count < L, code.integer(0), self["shortest"]), code.f32(0.0)
        for t in code.loop(code.lowest(whole, steps)):
            here, there = values.after(t * to_step), block.from_row(t * rows)
            for i in code.loop(n):
                gathered = Value(code, ir.Constant(ir.VectorType(F32, L), ir.Undefined))
                for lane in range(L):
                    gathered = gathered.inserted(here[i + to_sequence * lane], lane)
                there[i] = gathered
        for t in code.loop(code.lowest(whole, steps), steps):
            here, there = values.after(t * to_step), block.from_row(t * rows)
            for i in code.loop(n):
                there[i] = zero
            for lane in code.loop(count):
                with code.when(self.ends[lane] > t):
                    numbers = Numbers(code, there.address)
                    for i in code.loop(n):
                        numbers[i * L + lane] = here[to_sequence * lane + i]

    def out_of_block(self, block: Rows, rows, values: Numbers, to_step, to_sequence, count, n, steps) -> None:
        """Copy a block back into sequences, with zeros after their ends."""
        code, L = self.code, self.code.lanes
        for t in code.loop(steps):
            here, there = values.after(t * to_step), Numbers(code, block.from_row(t * rows).address)
            for lane in code.loop(count):
                into = here.after(to_sequence * lane)
                with code.builder.if_else((self.ends[lane] > t).ir) as (going, ended):
                    with going:
                        for i in code.loop(n):
                            into[i] = there[i * L + lane]
                    with ended:
                        for i in code.loop(n):
                            into[i] = code.f32(0.0)

    def rows_from(self, values: Numbers, n: Value, count: Value, rows: Rows) -> None:
        """Fill rows with a number for each sequence, from values (count, n), and with zeros in empty lanes."""
        code, numbers = self.code, Numbers(self.code, rows.address)
        for i in code.loop(n):
            rows[i] = code.f32(0.0)
        for lane in code.loop(count):
            for i in code.loop(n):
                numbers[i * code.lanes + lane] = values[lane * n + i]


def pack(code: Code, matrix: Numbers, p: Numbers, packed: Numbers, size: int) -> None:
    """Pack a matrix (a row of lanes.matrices_of) for `multiply`: rows in groups of `size`, each by columns."""
    place, to_row, to_column, rows, columns, at = (matrix[i] for i in range(6))
    source, out = p.after(place), packed.after(at)
    whole = rows / size * size
    for first in code.loop(0, whole, size):
        for j in code.loop(columns):
            here, there = source.after(first * to_row + j * to_column), out.after(first * columns + j * size)
            for i in range(size):
                there[i] = here[to_row * i]
    for j in code.loop(columns):
        here, there = source.after(whole * to_row + j * to_column), out.after(whole * columns + j * (rows - whole))
        for i in code.loop(rows - whole):
            there[i] = here[to_row * i]


def pack_driver(module: ir.Module, machine, lanes: int) -> None:
    """A job is a matrix. parameters (R, P); written: packed (R, W)."""
    code = Driver(module, "pack", PACK, lanes)
    a = code.given
    for job in code.loop(code.begin, code.end):
        r, matrix = code.divided(job, a.M)
        row = code.numbers(a.matrices, matrix * 6, I64)
        pack(code, row, code.numbers(a.parameters, r * a.P), code.numbers(a.packed, r * a.W), tile_rows(machine, lanes))
    code.done()


def forward_driver(module: ir.Module, lanes: int) -> None:
    """A job is a block. x (R, T, B, I), lengths (R, B), the first state (R, B, S).

    Written: blocks xs, states, tape and ys (R, C, T or T + 1, rows, lanes), y (R, T, B, A), last (R, B, S).
    """
    code = Driver(module, "forward", FORWARD, lanes)
    a, f = code.given, Frame(code)
    I, S, A = f["inputs"], f["state"], f["outputs"]
    f.take_field("net", odd_rows(f["rows"]))
    f.take_field("rec", odd_rows(f["recs"]))
    for job in code.loop(code.begin, code.end):
        r, c = code.divided(job, a.C)
        place = c * lanes
        count = code.lowest(a.B - place, lanes)
        f["p"], f["packed"] = a.parameters + r * a.P * 4, a.packed + r * a.W * 4
        _blocks_of_layer(code, f, job)
        f.set_lengths(code.numbers(a.lengths, r * a.B + place, I64), count)
        xs, ys = Rows(code, f["x"]), Rows(code, f["y"])
        f.into_block(
            code.numbers(a.x, (r * a.T * a.B + place) * I), a.B * I, I, count, I, xs, f["x_step"], f["longest"]
        )
        states = Rows(code, f["states"])
        f.rows_from(code.numbers(a.first, (r * a.B + place) * S), S, count, states)
        code.invoke(a.code_forward, f.address)
        f.out_of_block(ys, f["y_step"], code.numbers(a.y, (r * a.T * a.B + place) * A), a.B * A, A, count, A, a.T)
        for lane in code.loop(count):
            reached = Numbers(code, states.from_row(f.ends[lane] * f["states_step"]).address)
            last = code.numbers(a.last, (r * a.B + place + lane) * S)
            for s in code.loop(S):
                last[s] = reached[s * lanes + lane]
    code.done()


def _blocks_of_layer(code: Driver, f: Frame, block: Value) -> None:
    """Point the frame to this one of the blocks that the forward scan leaves for the backward scan."""
    a = code.given
    for field, array, rows, steps in (
        ("x", a.xs, "inputs", a.T),
        ("states", a.states, "state", a.T + 1),
        ("tape", a.tape, "tape_rows", a.T),
        ("y", getattr(a, "ys", None), "outputs", a.T),
    ):
        step = odd_rows(f[rows])
        f[f"{field}_step"] = step
        if array is not None:
            f[field] = array + block * steps * step * (4 * code.lanes)


def backward_driver(module: ir.Module, lanes: int) -> None:
    """A job is a group. dy (R, T, B, A), dlast (R, B, S); written: gradients (R, G, P), dx (R, T, B, I), dfirst."""
    code = Driver(module, "backward", BACKWARD, lanes)
    a, f = code.given, Frame(code)
    I, S, A = f["inputs"], f["state"], f["outputs"]
    dstate = f.take_errors()
    dys = f.take_field("dy", a.T * odd_rows(A))
    dxs = f.take_field("dx", a.T * odd_rows(I))
    for job in code.loop(code.begin, code.end):
        r, group = code.divided(job, a.G)
        f["p"], f["packed"] = a.parameters + r * a.P * 4, a.packed + r * a.W * 4
        f["g"] = a.gradients + job * a.P * 4
        for c in code.loop(group, a.C, a.G):
            place = c * lanes
            count = code.lowest(a.B - place, lanes)
            _blocks_of_layer(code, f, r * a.C + c)
            f.set_lengths(code.numbers(a.lengths, r * a.B + place, I64), count)
            f.into_block(
                code.numbers(a.dy, (r * a.T * a.B + place) * A), a.B * A, A, count, A, dys, f["y_step"], f["longest"]
            )
            f.rows_from(code.numbers(a.dlast, (r * a.B + place) * S), S, count, dstate)
            code.invoke(a.code_backward, f.address)
            f.out_of_block(dxs, f["x_step"], code.numbers(a.dx, (r * a.T * a.B + place) * I), a.B * I, I, count, I, a.T)
            errors, dfirst = Numbers(code, dstate.address), code.numbers(a.dfirst, (r * a.B + place) * S)
            for lane in code.loop(count):
                for s in code.loop(S):
                    dfirst[lane * S + s] = errors[s * lanes + lane]
    code.done()
