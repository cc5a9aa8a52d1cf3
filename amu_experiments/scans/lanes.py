"""A recurrence over blocks of sequences side by side, one in each lane: forward and backward over time as machine code.

The code knows the form of a step and no sizes, which it reads from a frame. So it is made once for all sizes.

Layout of a block, rows of a number for each lane: inputs (T, I), states (T + 1, S), tape (T, N), outputs (T, A), and
their errors. A lane whose sequence has ended computes on, but everything that it leaves behind is zero, so that it adds
nothing to a sum over lanes.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from amu_experiments.scans import functions, slots, tiles
from amu_experiments.scans.machine import Compiled, Machine
from amu_experiments.scans.recurrence import Product, Recurrence
from amu_experiments.scans.slots import FIELDS, PRODUCT, VECTOR
from amu_experiments.scans.vectorised import defined, namespace
from amu_experiments.scans.vectors import I64, Code, Numbers, Rows, Value


class Form(NamedTuple):
    """The part of a recurrence that does not depend on its sizes.

    source: that of the functions; it names sizes, and `constants` are these names.
    products: (buffer of the factor, buffer of the result, kind of the error, transposed) of each.
    """

    source: str
    constants: tuple[str, ...]
    products: tuple[tuple[str, str, str | None, bool], ...]


def form_of(recurrence: Recurrence) -> Form:
    head, functions_, body = recurrence.source.partition("\n\ndef ")
    products = tuple(
        (p.factor[0], p.result[0], "own" if isinstance(p.error, int) else p.error, p.transposed)
        for p in recurrence.products
    )
    return Form(functions_ + body, tuple(line.split(" = ")[0] for line in head.split("\n") if line), products)


def frame_of(recurrence: Recurrence) -> np.ndarray:
    """The frame of a recurrence with its sizes; addresses and lengths are filled in later."""
    form, shape = form_of(recurrence), dict(recurrence.parameters)
    vectors = [name for name in form.constants if name != "A"]
    known = {
        "inputs": recurrence.inputs,
        "rows": recurrence.rows,
        "state": recurrence.state,
        "tape_rows": recurrence.tape,
        "outputs": recurrence.outputs,
        "recs": recurrence.recs,
        "dfactors": recurrence.dfactors,
        "ih": recurrence.place("weight_ih"),
        "bias": recurrence.place("bias"),
        "biased": shape["bias"][0],
    }
    frame = [known.get(name, 0) for name in FIELDS]
    row = 0
    for name in vectors:
        parameter = name if name in shape else name.removesuffix("_")
        size = shape[parameter][0]
        frame += [recurrence.place(parameter), row, size]
        row += size
    frame[slots.VECTORS] = row
    matrices = recurrence.rows * recurrence.inputs
    half = matrices + sum(p.factors * p.results for p in recurrence.products)
    frame[slots.BACKWARD_IH] = half
    for p in recurrence.products:
        error = p.factor[1] if p.error == "state" else p.error or 0
        frame += [p.factors, p.results, p.factor[1], p.result[1], error, _place(recurrence, p), p.width]
        frame += [matrices, half + matrices]
        matrices += p.factors * p.results
    return np.array(frame, np.int64)


def matrices_of(recurrence: Recurrence) -> np.ndarray:
    """A row for each packed matrix: (offset in p, row stride, column stride, rows, columns, offset when packed).

    The first half is for the forward direction; the second has their transposes, in the same order.
    """
    I, K = recurrence.inputs, recurrence.rows
    found = [(recurrence.place("weight_ih"), I, 1, K, I)]
    for p in recurrence.products:
        steps = (1, p.width) if p.transposed else (p.width, 1)
        found.append((_place(recurrence, p), *steps, p.results, p.factors))
    found += [(place, to_column, to_row, columns, rows) for place, to_row, to_column, rows, columns in found]
    places = itertools.accumulate([0, *(rows * columns for *_, rows, columns in found)])
    return np.array([(*matrix, place) for matrix, place in zip(found, places, strict=False)], np.int64)


def _place(recurrence: Recurrence, product: Product) -> int:
    return recurrence.place(product.parameter) + product.first * product.width


@functools.cache
def machine() -> Machine:
    """This machine, with its widest vectors: they change no digit."""
    return Machine()


_made: dict[tuple, Compiled] = {}


def compiled(form: Form, machine: Machine, lanes: int, missed: Callable[[], None] = lambda: None) -> Compiled:
    """Machine code with the functions forward(frame) and backward(frame) of a block with this many lanes."""
    key = (form, machine, lanes)
    if key not in _made:
        _made[key] = machine.compile(f"{form} {lanes}", lambda: module_of(*key), missed)
    return _made[key]


def module_of(form: Form, machine: Machine, lanes: int) -> ir.Module:
    module = ir.Module("lanes")
    calls = {"multiply": tiles.multiply(module, machine, lanes), "outer": tiles.outer(module, machine, lanes)}
    for name in ("forward", "backward"):
        getattr(_Block(Code(module, name, 1, lanes, internal=False), form, **calls), name)()
    return module


class _Gradient:
    """Argument `g` of an adjoint: rows that sum the gradients of vector parameters, by index in p."""

    def __init__(self, rows: Rows, places: dict[str, tuple[Value, Value]]):
        self.rows, self.places = rows, places

    def _row(self, place: Value) -> Value:
        at, row = self.places[place.origin]
        return place - at + row

    def __getitem__(self, place):
        return self.rows[self._row(place)]

    def __setitem__(self, place, value):
        self.rows[self._row(place)] = value


class _Product:
    def __init__(self, form, fields: dict[str, Value]):
        self.factor, self.result, self.error, self.transposed = form
        vars(self).update(fields)


class _Block:
    def __init__(self, code: Code, form: Form, multiply: ir.Function, outer: ir.Function):
        self.code = code
        self._multiply, self._outer = multiply, outer
        (frame,) = code.arguments
        slots_, place = Numbers(code, frame, I64), itertools.count()

        def read() -> Value:
            return slots_[next(place)]

        self.at = {field: read() for field in FIELDS}
        self.vectors = {c: [read() for _ in VECTOR] for c in form.constants if c != "A"}
        self.products = [_Product(p, {field: read() for field in PRODUCT}) for p in form.products]
        self.functions = namespace(code, functions)
        self.defined = defined(form.source, self.functions)
        self.defined["A"] = self.at["outputs"]
        for constant, (value, _, _) in self.vectors.items():
            value.origin = constant
            self.defined[constant] = value
        self.p = Numbers(code, self.at["p"])

    def rows(self, name: str, row=0) -> Rows:
        return Rows(self.code, self.at[name]).from_row(self.code.integer(row))

    def multiply(self, out: Rows, matrix, factor: Rows, rows, columns) -> None:
        """matrix: its offset in the packed matrices."""
        address = self.at["packed"] + matrix * 4
        self.code.call(self._multiply, out.address, address, factor.address, rows, columns)

    def outer(self, place, width, left, left_step, rows, right, right_step, columns, steps) -> None:
        out = self.at["g"] + place * 4
        self.code.call(
            self._outer, out, width, left.address, left_step, rows, right.address, right_step, columns, steps
        )

    def fill(self, rows: Rows, first, last, value) -> None:
        for k in self.code.loop(first, last):
            rows[k] = value

    def alive(self, t: Value) -> Value:
        """Which lanes have not ended at a time step."""
        return Numbers(self.code, self.at["lengths"], I64, self.code.lanes)[0] > t

    def clear(self, alive: Value, rows: Rows, count: Value) -> None:
        """Zeros in lanes that have ended."""
        for k in self.code.loop(count):
            rows[k] = self.code.where(alive, rows[k], self.code.f32(0.0))

    def forward(self) -> None:
        code, at = self.code, self.at
        zero = code.f32(0.0)
        net, rec = self.rows("net"), self.rows("rec")
        for t in code.loop(at["longest"]):
            old, new = (self.rows("states", at["states_step"] * time) for time in (t, t + 1))
            x, tape, y = (self.rows(name, at[f"{name}_step"] * t) for name in ("x", "tape", "y"))
            for k in code.loop(at["biased"]):
                net[k] = self.p[at["bias"] + k]
            self.fill(net, at["biased"], at["rows"], zero)
            self.fill(rec, 0, at["recs"], zero)
            self.multiply(net, at["forward_ih"], x, at["rows"], at["inputs"])
            for n in range(len(self.products) + 1):
                if n:
                    product = self.products[n - 1]
                    factor = {"old": old, "new": new, "tape": tape}[product.factor].from_row(product.factor_at)
                    result = {"net": net, "rec": rec}[product.result].from_row(product.result_at)
                    self.multiply(result, product.forward, factor, product.results, product.factors)
                if f"step_{n}" in self.defined:
                    self.defined[f"step_{n}"](self.p, old, new, tape, net, rec, y)
            with code.when(t >= at["shortest"]):
                alive = self.alive(t)
                for rows, count in ((new, "state"), (tape, "tape_rows"), (y, "outputs")):
                    self.clear(alive, rows, at[count])
        code.done()

    def backward(self) -> None:
        """Adds to the gradient of p, and turns dstate from the error of the last state into that of the first."""
        code, at = self.code, self.at
        for row in code.loop(at["vectors"]):
            self.rows("of_vectors")[row] = code.f32(0.0)
        for n in code.loop((at["longest"] + at["stretch"] - 1) / at["stretch"]):
            stop = at["longest"] - n * at["stretch"]
            first = code.where(stop > at["stretch"], stop - at["stretch"], code.integer(0))
            for back in code.loop(stop - first):
                self._adjoint(stop - 1 - back, stop - first - 1 - back)
            self._gradients(first, stop - first)
        ones = self.rows("ones")
        for place, row, size in self.vectors.values():
            self.outer(place, 1, self.rows("of_vectors", row), 0, size, ones, 0, 1, 1)
        code.done()

    def _adjoint(self, t: Value, row: Value) -> None:
        """The adjoint of a time step, whose errors of net and rec go to this row of the stretch."""
        code, at = self.code, self.at
        old, new = (self.rows("states", at["states_step"] * time) for time in (t, t + 1))
        tape = self.rows("tape", at["tape_step"] * t)
        dy = self.rows("dy", at["y_step"] * t)
        dnet, drec = (self.rows(name, at[f"{name}_step"] * row) for name in ("dnet", "drec"))
        dstate, dfactor, of_vectors = (self.rows(name) for name in ("dstate", "dfactor", "of_vectors"))
        kept = ((dstate, self.rows("saved"), "state"), (of_vectors, self.rows("saved", at["state"]), "vectors"))
        ended = t >= at["shortest"]
        with code.when(ended):
            for rows, copies, count in kept:
                for k in code.loop(at[count]):
                    copies[k] = rows[k]
        g = _Gradient(of_vectors, {name: (place, first) for name, (place, first, _) in self.vectors.items()})
        errors = {"net": dnet, "rec": drec}
        for n in range(len(self.products), -1, -1):
            if f"adjoint_{n}" in self.defined:
                self.defined[f"adjoint_{n}"](self.p, dy, dstate, old, new, tape, dnet, drec, dfactor, g)
            if n and self.products[n - 1].error == "own":
                product = self.products[n - 1]
                into = dfactor.from_row(product.error_at)
                self.fill(into, 0, product.factors, code.f32(0.0))
                self._back(product, into, errors)
        with code.when(ended):
            alive = self.alive(t)
            self.clear(alive, dnet, at["rows"])
            self.clear(alive, drec, at["recs"])
            for rows, copies, count in kept:
                for k in code.loop(at[count]):
                    rows[k] = code.where(alive, rows[k], copies[k])
        for product in self.products:
            if product.error == "state":
                self._back(product, dstate.from_row(product.error_at), errors)
        with code.when(at["dx"] != 0):
            dx = self.rows("dx", at["x_step"] * t)
            self.fill(dx, 0, at["inputs"], code.f32(0.0))
            self.multiply(dx, at["backward_ih"], dnet, at["inputs"], at["rows"])

    def _back(self, product: _Product, into: Rows, errors: dict[str, Rows]) -> None:
        error = errors[product.result].from_row(product.result_at)
        self.multiply(into, product.backward, error, product.factors, product.results)

    def _gradients(self, first: Value, steps: Value) -> None:
        """Add the share of one stretch of time steps to the gradients of matrices and bias."""
        at = self.at
        dnet = self.rows("dnet")
        self.outer(at["bias"], 1, dnet, at["dnet_step"], at["biased"], self.rows("ones"), 0, 1, steps)
        x = self.rows("x", at["x_step"] * first)
        self.outer(at["ih"], at["inputs"], dnet, at["dnet_step"], at["rows"], x, at["x_step"], at["inputs"], steps)
        for product in self.products:
            buffer = "tape" if product.factor == "tape" else "states"
            time = first + 1 if product.factor == "new" else first
            step = at[f"{buffer}_step"]
            factor = self.rows(buffer, step * time + product.factor_at), step, product.factors
            error_of = {"net": "dnet", "rec": "drec"}[product.result]
            error = self.rows(error_of, product.result_at), at[f"{error_of}_step"], product.results
            left, right = (factor, error) if product.transposed else (error, factor)
            self.outer(product.place, product.width, *left, *right, steps)
