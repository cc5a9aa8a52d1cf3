"""The scan over time of one sequence: products, steps and adjoints as loops whose sizes are constants.

A Recurrence gives a cell's step, the adjoint of its step and its products with weight matrices. Sizes are constants, so
that the compiler finds vectors in the short inner loops. One thread computes everything about one trial in a fixed
order: a trial's numbers depend neither on the rest of its stack (the trials trained together) nor on the number of
threads.

Shapes: R trials, B sequences, T time steps, I input features, K net inputs, S state entries, A cell outputs,
P parameters of a trial, W entries of all matrices that the recurrence multiplies with. Data lie sequence by sequence,
(R, B, T, I).
"""

from collections.abc import Callable

from llvmlite import ir

from amu_experiments.scans import functions
from amu_experiments.scans.jobs import LINE, Driver
from amu_experiments.scans.recurrence import Product, Recurrence
from amu_experiments.scans.vectorised import defined, namespace
from amu_experiments.scans.vectors import F32, I64, Code, Numbers, Value

EXACT = ("contract", "nsz")
"""A product and a sum may become one instruction. Nothing here may assume that values are finite: a trial that
diverges must be seen to diverge."""

REORDERED = (*EXACT, "reassoc")
"""The compiler chooses the order of a sum, once for all calls."""

FORWARD = ("parameters", "P", "x", "lengths", "states", "tape", "y", "T", "B")
BACKWARD = (*FORWARD[:6], "dy", "dstate", "gradients", "dx", "T", "B", "G")
"""The arguments of the drivers of a layer: sizes, and addresses of arrays."""


class Scalar(Code):
    """Code on single numbers, in which the compiler finds vectors."""

    flags = EXACT

    def do(self, function: "Inlined", *arguments) -> None:
        """Call it with Numbers and sizes."""
        values = (a.address if isinstance(a, Numbers) else self.integer(a) for a in arguments)
        self.builder.call(function.function, [value.ir for value in values])

    def fill(self, array: Numbers, count) -> None:
        for i in self.loop(count):
            array[i] = self.f32(0.0)


class Inlined(Scalar):
    """A function that is being written, and becomes a part of its callers; no two of its arrays overlap.

    arrays: numbers of floats; sizes: 64-bit integers after them.
    """

    def __init__(self, module: ir.Module, name: str, arrays: int, sizes: int = 0, inlined: bool = True):
        name = module.get_unique_name(name)
        self._begin(module, name, [F32.as_pointer()] * arrays + [I64] * sizes, 1)
        self.function.linkage = "internal"
        self.function.attributes.add("alwaysinline" if inlined else "noinline")
        for argument in self.function.args[:arrays]:
            argument.add_attribute("noalias")
        self.arrays = [Numbers(self, argument) for argument in self.arguments[:arrays]]
        self.sizes = self.arguments[arrays:]


class SequenceDriver(Scalar, Driver):
    """A driver over sequences or trials, with memory that it takes from its scratch memory."""

    def __init__(self, module: ir.Module, name: str, arguments: tuple[str, ...]):
        super().__init__(module, name, arguments, 1)
        self._free = self.floats(self.scratch)

    def floats(self, address: Value, place=0) -> Numbers:
        pointer = Value(self, self.builder.inttoptr(address.ir, F32.as_pointer()))
        return Numbers(self, pointer).after(place)

    def take(self, count) -> Numbers:
        taken, self._free = self._free, self._free.after(count)
        return taken


def _add_rows(module: ir.Module, rows: int, width: int) -> Inlined:
    """out[:width] += sum over j < rows of factors[j] * matrix[j, :width], four rows at a time."""
    code = Inlined(module, "add_rows", 3)
    out, factors, matrix = code.arrays
    whole = rows - rows % 4
    for j in code.loop(0, whole, 4):
        a, b, c, d = (factors[j + n] for n in range(4))
        i = j * width
        for k in code.loop(width):
            out[k] = out[k] + (
                (a * matrix[i + k] + b * matrix[i + width + k])
                + (c * matrix[i + 2 * width + k] + d * matrix[i + 3 * width + k])
            )
    for j in code.loop(whole, rows):
        a, i = factors[j], j * width
        for k in code.loop(width):
            out[k] = out[k] + a * matrix[i + k]
    code.done()
    return code


def _add_outer(module: ir.Module, rows: int, width: int, left_width: int, right_width: int) -> Inlined:
    """out[:rows, :width] += sum over t < steps of left[t, :rows]^T right[t, :width], four steps at a time.

    left_width, right_width: distance between two rows of left and of right, in numbers.
    """
    code = Inlined(module, "add_outer", 3, 1)
    (out, left, right), (steps,) = code.arrays, code.sizes
    whole = steps / 4 * 4
    for t in code.loop(0, whole, 4):
        for i in code.loop(rows):
            a, b, c, d = (left[(t + n) * left_width + i] for n in range(4))
            row, at = out.after(i * width), right.after(t * right_width)
            for k in code.loop(width):
                row[k] = row[k] + (
                    (a * at[k] + b * at[right_width + k]) + (c * at[2 * right_width + k] + d * at[3 * right_width + k])
                )
    for t in code.loop(whole, steps):
        for i in code.loop(rows):
            a = left[t * left_width + i]
            row, at = out.after(i * width), right.after(t * right_width)
            for k in code.loop(width):
                row[k] = row[k] + a * at[k]
    code.done()
    return code


def _add_transposed(module: ir.Module, rows: int, width: int, first: bool) -> Inlined:
    """out[:width, :rows] += matrix[:rows, :width]^T; or =, if first.

    Goes in strips of a cache line: one by one, each number of a large matrix would take a line of its own from RAM.
    """
    code = Inlined(module, "add_transposed", 2)
    out, matrix = code.arrays

    def strip(begin, end) -> None:
        for j in code.loop(width):
            for k in code.loop(begin, end):
                value = matrix[k * width + j]
                out[j * rows + k] = value if first else out[j * rows + k] + value

    whole = rows - rows % LINE
    for begin in code.loop(0, whole, LINE):
        strip(begin, begin + LINE)
    strip(whole, rows)
    code.done()
    return code


class Scan:
    """A recurrence over time, for one sequence, written into a driver.

    weights (W,): the matrices of the products, one after the other. Each lies there by columns, with the shape
        (factors, results).
    g_weights: their gradient, in the same layout.
    """

    def __init__(self, code: SequenceDriver, recurrence: Recurrence):
        self.code, self.r = code, recurrence
        self.W = sum(p.factors * p.results for p in recurrence.products)
        self.ih, self.bias = recurrence.place("weight_ih"), recurrence.place("bias")
        (self.biased,) = recurrence.shape("bias")
        self._functions: dict[str, Inlined] = {}

    def _once(self, name: str, write: Callable[[], Inlined]) -> Inlined:
        if name not in self._functions:
            self._functions[name] = write()
        return self._functions[name]

    def rows(self, rows: int, width: int) -> Inlined:
        return self._once(f"rows {rows} {width}", lambda: _add_rows(self.code.module, rows, width))

    def outer(self, *sizes: int) -> Inlined:
        return self._once(f"outer {sizes}", lambda: _add_outer(self.code.module, *sizes))

    def transposed(self, *sizes: int) -> Inlined:
        return self._once(f"transposed {sizes}", lambda: _add_transposed(self.code.module, *sizes))

    def part(self, name: str, arguments: int) -> Inlined | None:
        """A step or adjoint of the recurrence."""

        def write():
            code = Inlined(self.code.module, name, arguments)
            known = defined(self.r.source, namespace(code, functions))
            known[name](*code.arrays)
            code.done()
            return code

        return self._once(name, write) if f"def {name}(" in self.r.source else None

    def memory(self) -> tuple[Numbers, ...]:
        """Memory for weight_ih, by columns, and for weights."""
        return self.code.take(self.r.inputs * self.r.rows), self.code.take(self.W)

    def places(self):
        """Each product with the offsets of its matrix in weights and in p."""
        at = 0
        for product in self.r.products:
            yield product, at, self.r.place(product.parameter) + product.first * product.width
            at += product.factors * product.results

    def transpose(self, p: Numbers, weight_ih: Numbers, weights: Numbers) -> None:
        """Copy the weight matrices of a trial's parameters, by columns: what `run` reads."""
        self.code.do(self.transposed(self.r.rows, self.r.inputs, True), weight_ih, p.after(self.ih))
        self.transpose_products(p, weights)

    def transpose_products(self, p: Numbers, weights: Numbers, backward: bool = False) -> None:
        """Copy the matrices of the products, by columns; with `backward`, only those that `sweep` reads."""
        for product, at, base in self.places():
            if product.transposed or not backward:
                matrix = self.transposed(product.last - product.first, product.width, True)
                self.code.do(matrix, weights.after(at), p.after(base))

    def run(self, p, weight_ih, weights, x, length, states, tape, y, net, rec) -> None:
        """Forward over one sequence: states (T + 1, S) from states[0] on, tape (T, N), y (T, A)."""
        code, r = self.code, self.r
        for t in code.loop(length):
            old, new = states.after(t * r.state), states.after((t + 1) * r.state)
            tape_t, y_t = tape.after(t * r.tape), y.after(t * r.outputs)
            for k in code.loop(self.biased):
                net[k] = p[self.bias + k]
            for k in code.loop(self.biased, r.rows):
                net[k] = code.f32(0.0)
            code.do(self.rows(r.inputs, r.rows), net, x.after(t * r.inputs), weight_ih)
            code.fill(rec, r.recs)
            for n, (product, at, base) in enumerate([(None, 0, 0), *self.places()]):
                if product is not None:
                    factor = {"old": old, "new": new, "tape": tape_t}[product.factor[0]].after(product.factor[1])
                    result = {"net": net, "rec": rec}[product.result[0]].after(product.result[1])
                    matrix = p.after(base) if product.transposed else weights.after(at)
                    code.do(self.rows(product.factors, product.results), result, factor, matrix)
                if step := self.part(f"step_{n}", 7):
                    code.do(step, p, old, new, tape_t, net, rec, y_t)

    def sweep(self, p, weights, x, length, states, tape, dy, dstate, errors, stretch, g_ih, g_weights, g) -> None:
        """Backward over one sequence: from dy (T, A) and dstate (S,) add to the gradients, matrices by columns.

        errors: dnet (stretch, K), drec and dfactor. Goes in stretches, whose weight gradients are summed up while they
        are in the cache. On return dnet and drec hold the first stretch; the same sequence of sums is made whatever T
        is.
        """
        code, r = self.code, self.r
        dnet, drec, dfactor = errors
        for n in code.loop((length + stretch - 1) / stretch):
            stop = length - n * stretch
            first = code.where(stop > stretch, stop - stretch, code.integer(0))
            steps = stop - first
            for back in code.loop(steps):
                t = steps - 1 - back
                self._adjoint(p, weights, states, tape, dy, dstate, first + t, dnet, drec, dfactor, g, t)
            outer = self.outer(r.inputs, r.rows, r.inputs, r.rows)
            code.do(outer, g_ih, x.after(first * r.inputs), dnet, steps)
            for product, at, _ in self.places():
                row, factor_at = product.factor
                if row == "tape":
                    factors, width = tape.after(first * r.tape), r.tape
                else:
                    factors, width = states.after((first + int(row == "new")) * r.state), r.state
                error, error_width = (dnet, r.rows) if product.result[0] == "net" else (drec, r.recs)
                outer = self.outer(product.factors, product.results, width, error_width)
                code.do(outer, g_weights.after(at), factors.after(factor_at), error.after(product.result[1]), steps)
            for t in code.loop(steps):
                for k in code.loop(self.biased):
                    g[self.bias + k] = g[self.bias + k] + dnet[t * r.rows + k]

    def _adjoint(self, p, weights, states, tape, dy, dstate, now, dnet, drec, dfactor, g, t) -> None:
        code, r = self.code, self.r
        old, new = states.after(now * r.state), states.after((now + 1) * r.state)
        tape_t, dy_t = tape.after(now * r.tape), dy.after(now * r.outputs)
        dnet, drec = dnet.after(t * r.rows), drec.after(t * r.recs)
        errors = {"net": dnet, "rec": drec}

        def back(product: Product, at: int, base: int, into: Numbers) -> None:
            matrix = weights.after(at) if product.transposed else p.after(base)
            error = errors[product.result[0]].after(product.result[1])
            code.do(self.rows(product.results, product.factors), into, error, matrix)

        for n, (product, at, base) in reversed([*enumerate([(None, 0, 0), *self.places()])]):
            if adjoint := self.part(f"adjoint_{n}", 10):
                code.do(adjoint, p, dy_t, dstate, old, new, tape_t, dnet, drec, dfactor, g)
            if product is not None and isinstance(product.error, int):
                into = dfactor.after(product.error)
                code.fill(into, product.factors)
                back(product, at, base, into)
        for product, at, base in self.places():
            if product.error == "state":
                back(product, at, base, dstate.after(product.factor[1]))

    def scatter(self, g_ih: Numbers, g_weights: Numbers, g: Numbers) -> None:
        """Set the gradient of weight_ih, and add those of the products; g_ih and g_weights are by columns."""
        code = self.code
        code.do(self.transposed(self.r.inputs, self.r.rows, True), g.after(self.ih), g_ih)
        for product, at, base in self.places():
            rows, width = product.last - product.first, product.width
            if product.transposed:
                for k in code.loop(rows * width):
                    g[base + k] = g[base + k] + g_weights[at + k]
            else:
                code.do(self.transposed(width, rows, False), g.after(base), g_weights.after(at))


def forward_driver(module: ir.Module, recurrence: Recurrence) -> None:
    """states (R, B, T + 1, S) from states[:, :, 0] on, tape (R, B, T, N), y (R, B, T, A); a job is a sequence."""
    code, r = SequenceDriver(module, "forward", FORWARD), recurrence
    a, scan = code.given, Scan(code, recurrence)
    net, rec = code.take(r.rows), code.take(r.recs)
    weight_ih, weights = scan.memory()
    for job in code.loop(code.begin, code.end):
        trial, _ = code.divided(job, a.B)
        p = code.floats(a.parameters, trial * a.P)
        scan.transpose(p, weight_ih, weights)
        x, states = code.floats(a.x, job * a.T * r.inputs), code.floats(a.states, job * (a.T + 1) * r.state)
        tape, y = code.floats(a.tape, job * a.T * r.tape), code.floats(a.y, job * a.T * r.outputs)
        scan.run(p, weight_ih, weights, x, code.numbers(a.lengths, job, I64)[0], states, tape, y, net, rec)
    code.done()


def backward_driver(module: ir.Module, recurrence: Recurrence) -> None:
    """Gradients (R, G, P) of groups of sequences, to be summed over G, and dx; dstate (R, B, S) is changed.

    A job is a group."""
    code, r = SequenceDriver(module, "backward", BACKWARD), recurrence
    a, scan = code.given, Scan(code, recurrence)
    weights, (g_ih, g_weights) = code.take(scan.W), scan.memory()
    errors = code.take(a.T * r.rows), code.take(a.T * r.recs), code.take(r.dfactors)
    for job in code.loop(code.begin, code.end):
        trial, group = code.divided(job, a.G)
        p, g = code.floats(a.parameters, trial * a.P), code.floats(a.gradients, job * a.P)
        scan.transpose_products(p, weights, backward=True)
        code.fill(g_ih, r.inputs * r.rows)
        code.fill(g_weights, scan.W)
        for b in code.loop(group, a.B, a.G):
            at = trial * a.B + b
            length = code.numbers(a.lengths, at, I64)[0]
            x, dx = (code.floats(array, at * a.T * r.inputs) for array in (a.x, a.dx))
            states, tape = code.floats(a.states, at * (a.T + 1) * r.state), code.floats(a.tape, at * a.T * r.tape)
            dy, dstate = code.floats(a.dy, at * a.T * r.outputs), code.floats(a.dstate, at * r.state)
            scan.sweep(p, weights, x, length, states, tape, dy, dstate, errors, a.T, g_ih, g_weights, g)
            for t in code.loop(length):
                into, error = dx.after(t * r.inputs), errors[0].after(t * r.rows)
                code.do(scan.rows(r.rows, r.inputs), into, error, p.after(scan.ih))
        scan.scatter(g_ih, g_weights, g)
    code.done()
