"""The compiled form of a cell's step, as data: sizes, products and source."""

import linecache
import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """A product with rows first .. last - 1 of a parameter W (., width): W v, or W^T v where `transposed`.

    factor: where v lies: ("old", offset) or ("new", offset) in a row of the state, or ("tape", offset).
    result: where the product is added: ("net", offset) or ("rec", offset).
    error: what becomes of the error of v. "state": it is added to the error of the old state, at v's offset, after the
        last adjoint. An integer: it is written to `dfactor`, from this index on, where the adjoints read it. None: it
        is cut.
    """

    parameter: str
    first: int
    last: int
    width: int
    transposed: bool
    factor: tuple[str, int]
    result: tuple[str, int]
    error: str | int | None

    @property
    def factors(self) -> int:
        """The length of v."""
        return self.last - self.first if self.transposed else self.width

    @property
    def results(self) -> int:
        """The length of the product."""
        return self.width if self.transposed else self.last - self.first


@dataclass(frozen=True)
class Recurrence:
    """A step and its adjoint, for one sequence; all that a scan needs to know of a cell.

    Forward, net (rows,) starts as W x(t) + b and rec (recs,) as zeros. Then come step_0, product 0, step_1,
    product 1 and so on; `source` defines those that have something to do:

        step_n(p, old, new, tape, net, rec, y)

    p is the trial's row of parameters; they fill the new state and y, and the tape with what the adjoints need.
    Backward, the adjoints come in the reverse order:

        adjoint_n(p, dy, dstate, old, new, tape, dnet, drec, dfactor, g)

    If `dfactor` takes the error of the factor of product n - 1, the product's error in dnet or drec is complete after
    adjoint_n. The error of the factor is then computed, and adjoint_(n-1) may read it. After adjoint_0 all errors are
    complete.

    dstate is the error of the new state, and after adjoint_0 that of the old state; g, laid out like p, takes the
    gradients of the vectors. The matrices' gradients are outer products of the results' errors with the factors.

    parameters: (name, shape) of the cell's parameters in the order in which they lie in p: weight_ih and bias, whose
        length may be less than `rows`, then as the cell has them.
    """

    name: str
    inputs: int
    rows: int
    state: int
    tape: int
    outputs: int
    recs: int
    dfactors: int
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    products: tuple[Product, ...]
    source: str

    def place(self, parameter: str) -> int:
        """The offset of a parameter in p; for "end", the offset after the last parameter."""
        place = 0
        for name, shape in self.parameters:
            if name == parameter:
                return place
            place += math.prod(shape)
        return place

    def shape(self, parameter: str) -> tuple[int, ...]:
        return dict(self.parameters)[parameter]

    def functions(self, namespace: dict) -> dict[str, Callable]:
        """The functions that the source defines: step_0, ..., adjoint_0, ....

        namespace: gives f32, a function that makes constants, and tanh, exp, log, log1p, sqrt, sin and cos.
        """
        file = f"<step of {self.name}, {self.outputs} units>"
        linecache.cache[file] = (len(self.source), None, self.source.splitlines(keepends=True), file)
        defined = dict(namespace)
        exec(compile(self.source, file, "exec"), defined)
        return {name: f for name, f in defined.items() if name.startswith(("step_", "adjoint_"))}
