"""Products of matrices with blocks of sequences, in tiles that stay in registers.

A block has a lane for each sequence; each of its rows has one number per lane. Each result is one chain of fused
multiply-adds in a fixed order, so that neither the size of the tiles nor the processor changes a digit.
"""

import functools

from llvmlite import ir

from amu_experiments.scans.machine import Machine
from amu_experiments.scans.vectors import F32, I32, Code, Numbers, Rows, Value, Variable

COLUMNS = 4
"""Columns of a tile of `outer`: its sums are added to the matrix in vectors of this length."""


def tile_rows(machine: Machine, lanes: int) -> int:
    """Rows of a tile of `multiply`: their sums fill about half the registers.

    If a register has room for more numbers than there are lanes, each of its numbers is of another row.
    """
    if lanes < machine.width:
        return machine.width
    half = 12 if machine.width == 16 else machine.registers // 2
    return half // max(lanes // machine.width, 1)


def multiply(module: ir.Module, machine: Machine, lanes: int) -> ir.Function:
    """multiply(out, matrix, factor, rows, columns): out[i] += sum over j of matrix[i, j] factor[j].

    The matrix is packed: its rows in groups of `tile_rows`, the last group as large as what remains, and each group
    by columns.
    """
    code = Code(module, "multiply", 5, lanes)
    out, packed, factor, rows, columns = code.arguments
    out, packed, factor = Rows(code, out), Numbers(code, packed), Rows(code, factor)
    size = tile_rows(machine, lanes)

    def tile(first, count):
        sums = [Variable(code, out[first + i]) for i in range(count)]
        place = first * columns
        for j in code.loop(columns):
            v = factor[j]
            for i, total in enumerate(sums):
                total.value = code.fma(packed[place + j * count + i].spread(), v, total.value)
        for i, total in enumerate(sums):
            out[first + i] = total.value

    whole = rows / size * size
    for first in code.loop(0, whole, size):
        if lanes < size == machine.width:
            _tile_of_columns(code, out.from_row(first), packed.after(first * columns), factor, size, columns)
        else:
            tile(first, size)
    code.switch(rows - whole, {n: lambda n=n: tile(whole, n) for n in range(1, size)})
    return code.done()


def _tile_of_columns(code: Code, out: Rows, packed: Numbers, factor: Rows, size: int, columns: Value) -> None:
    """`size` rows of `multiply`, computed as a vector of `size` numbers for each lane."""
    lanes, numbers = code.lanes, Numbers(code, factor.address)
    block = out.wide(size * lanes)
    before = block[0].ir
    sums = [
        Variable(code, Value(code, _picked(code, before, before, range(k, size * lanes, lanes)))) for k in range(lanes)
    ]
    for j in code.loop(columns):
        weights = packed.wide(size)[j * size]
        for lane, total in enumerate(sums):
            total.value = code.fma(weights, numbers[j * lanes + lane].spread(size), total.value)
    # From a vector for each lane back to rows of lanes: interleave vectors in pairs until one is left.
    vectors = [total.value.ir for total in sums]
    while len(vectors) > 1:
        half, n = len(vectors) // 2, vectors[0].type.count
        order = [index for i in range(n) for index in (i, n + i)]
        vectors = [_picked(code, a, b, order) for a, b in zip(vectors[:half], vectors[half:], strict=True)]
    block[0] = Value(code, vectors[0])


def _picked(code: Code, a: ir.Value, b: ir.Value, indices) -> ir.Value:
    """The entries at these indices of two vectors, concatenated."""
    indices = list(indices)
    return code.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(indices)), indices))


def outer(module: ir.Module, machine: Machine, lanes: int) -> ir.Function:
    """outer(out, width, left, left_step, rows, right, right_step, columns, steps): out[i, j] += sums of products.

    The sum is over time steps t < steps and lanes, of left[t, i] right[t, j]: in every lane over time, then over the
    lanes, those at distance 8 first if there are 16, then 4, 2 and 1. A row of out has `width` entries; left_step and
    right_step are the distances between time steps, in rows.
    """
    code = Code(module, "outer", 9, lanes)
    out, width, left, left_step, rows, right, right_step, columns, steps = code.arguments
    left, right, out = Rows(code, left), Rows(code, right), Numbers(code, out)
    count = 6 if machine.registers == 32 else 2
    width_of_part = min(machine.width, lanes)
    part = ir.VectorType(F32, width_of_part)
    scratch = Variable(code, Value(code, ir.Constant(ir.VectorType(F32, COLUMNS), None)))
    sums = Numbers(code, code.address(scratch))

    def inside(row, first, size):
        return code.where(first + row < size, first + row, size - 1)

    def load(rows, row, lane):
        return rows.wide(width_of_part)[row * lanes + lane]

    for i in code.loop(0, rows, count):
        of_left = [inside(n, i, rows) for n in range(count)]
        for j in code.loop(0, columns, COLUMNS):
            of_right = [inside(n, j, columns) for n in range(COLUMNS)]
            parts = []
            for lane in range(0, lanes, width_of_part):
                zero = Value(code, ir.Constant(part, None))
                totals = [[Variable(code, zero) for _ in of_right] for _ in of_left]
                for t in code.loop(steps):
                    at_left, at_right = t * left_step, t * right_step
                    b = [load(right, at_right + row, lane) for row in of_right]
                    for row, line in zip(of_left, totals, strict=True):
                        a = load(left, at_left + row, lane)
                        for total, v in zip(line, b, strict=True):
                            total.value = code.fma(a, v, total.value)
                parts.append([[total.value for total in line] for line in totals])
            whole = j + COLUMNS <= columns
            for n in range(count):
                four = _over_lanes(code, [[line[n][c] for line in parts] for c in range(COLUMNS)])
                place = (i + n) * width + j
                with code.when(i + n < rows), code.builder.if_else(whole.ir) as (then, otherwise):
                    with then:
                        out.wide(COLUMNS)[place] = out.wide(COLUMNS)[place] + four
                    with otherwise:
                        scratch.value = four
                        for c in code.loop(columns - j):
                            out[place + c] = out[place + c] + sums[c]
    return code.done()


def _over_lanes(code: Code, four: list[list[Value]]) -> Value:
    """Four sums over lanes as one vector; `four` has, for each sum, the parts of the vector to add up."""
    builder, pick = code.builder, functools.partial(_picked, code)

    eights = []
    for parts in four:
        vectors = [part.ir for part in parts]
        while len(vectors) > 1 and vectors[0].type.count * len(vectors) > 8:
            half = len(vectors) // 2
            vectors = [builder.fadd(a, b) for a, b in zip(vectors[:half], vectors[half:], strict=True)]
        if len(vectors) == 2:
            vectors = [pick(*vectors, list(range(8)))]
        (v,) = vectors
        if v.type.count == 16:
            v = builder.fadd(pick(v, v, list(range(8))), pick(v, v, list(range(8, 16))))
        eights.append(v)
    a, b, c, d = eights
    pairs = [
        builder.fadd(pick(x, y, [0, 1, 2, 3, 8, 9, 10, 11]), pick(x, y, [4, 5, 6, 7, 12, 13, 14, 15]))
        for x, y in ((a, b), (c, d))
    ]
    fours = builder.fadd(pick(*pairs, [0, 1, 4, 5, 8, 9, 12, 13]), pick(*pairs, [2, 3, 6, 7, 10, 11, 14, 15]))
    return Value(code, builder.fadd(pick(fours, fours, [0, 2, 4, 6]), pick(fours, fours, [1, 3, 5, 7])))
