"""From a cell's torch `step` to the source of a compiled step and its adjoint.

1. `trace` runs the step once and gives a graph of scalar nodes.
2. A product whose result is only ever added to the net inputs is added there; every other has its own memory, `rec`.
3. Connected nodes are a unit, mostly one unit of the cell. Units of one form are one loop if their indices change by
   constant strides.
4. The first unit of a loop is differentiated in reverse mode.
5. Source: tanh and its kind are computed for all units in a row, in loops that vectorise. What the adjoint needs and
   cannot compute again from the states and the parameters is kept on the tape.
"""

import itertools
import math
from collections import defaultdict

from amu_experiments.scans.graph import Node, in_order
from amu_experiments.scans.recurrence import Product, Recurrence
from amu_experiments.scans.source import Loop, LoopSource, Place, constant
from amu_experiments.scans.trace import NotDerivableError, Traced, TracedProduct, trace

MOST_LINES = 3000
"""Maximum number of lines of source: a step that couples its units has no loop over them and compiles for minutes."""


def derive(cell, name: str | None = None) -> Recurrence:
    """The Recurrence of a cell; raises NotDerivableError, which says why, where its step has no compiled form."""
    traced = trace(cell)
    shapes = cell.shapes(cell.input_size, cell.hidden_size, **cell.options)
    parameters = tuple((parameter, tuple(shape)) for parameter, shape in shapes.items())
    derivation = _Derivation(traced, parameters, cell.states, cell.state_sizes())
    try:
        return derivation.recurrence(name or type(cell).__name__.lower(), cell.input_size)
    except RecursionError:
        raise NotDerivableError("the step couples its units in a chain that is too long") from None


class _Derivation:
    def __init__(self, traced: Traced, parameters, states, state_sizes):
        self.graph, self.traced = traced.graph, traced
        self.parameters = parameters
        sizes = [math.prod(shape) for _, shape in parameters]
        self.places = dict(zip(dict(parameters), itertools.accumulate([0, *sizes]), strict=False))
        self.named = list(traced.names)
        self.state_names = [state for state, size in zip(states, state_sizes, strict=True) for _ in range(size)]
        self._of_parameters: dict[int, bool] = {}
        self.tape = 0
        self.recs = 0
        self.dfactors = 0
        self.net_stage: dict[int, int] = {}  # of net inputs that products are added to: the stage from which they count
        self.rec_place: dict[str, int] = {}
        self.step: dict[int, list[str]] = defaultdict(list)
        self.adjoint: dict[int, list[str]] = defaultdict(list)

    def recurrence(self, name: str, inputs: int) -> Recurrence:
        roots, traced_products = self._merge()
        self.names: dict[int, str] = {}
        for node, given in self.named:
            self.names.setdefault(self.graph.value(node).id, given)
        new = [self.graph.value(node) for buffer, _, node in roots if buffer == "new"]
        products = [self._product(*found, new) for found in traced_products]
        roots += [
            (f"factor{n}", j, node)
            for n, (product, (traced, _)) in enumerate(zip(products, traced_products, strict=True))
            if product.factor[0] == "tape" or isinstance(product.error, int)
            for j, node in enumerate(traced.factor)
        ]
        self.products = products
        loops = self._loops(roots)
        written = set()
        for loop in loops:
            source = LoopSource(self, loop)
            for stage, lines in source.forward().items():
                self.step[stage] += lines
            for stage, lines in source.backward().items():
                self.adjoint[stage] += lines
            for buffer, place, _ in loop.leaves.values():
                if buffer == "net" or buffer.startswith("rec"):
                    written |= {(buffer, place.offset + place.stride * a) for a in range(loop.n)}
        self._clear(written, traced_products)
        source = self._source()
        if source.count("\n") > MOST_LINES:
            raise NotDerivableError(
                "the step couples its units, or gives each a form of its own: "
                f"{source.count(chr(10))} lines of source, of which {MOST_LINES} are the most"
            )
        return Recurrence(
            name=name,
            inputs=inputs,
            rows=self.traced.rows,
            state=self.traced.state,
            tape=self.tape,
            outputs=self.traced.outputs,
            recs=self.recs,
            dfactors=self.dfactors,
            parameters=self.parameters,
            products=tuple(products),
            source=source,
        )

    # Products ---------------------------------------------------------------------------------------------------

    def _merge(self):
        """Roots, and each product with the buffer and offset of its result: `net` for all that can be added there."""
        roots, products = list(self.traced.roots), list(self.traced.products)
        placed = []
        for n in range(len(products)):
            nodes = [node for *_, node in roots] + [node for p in products for node in p.factor]
            nodes += [node for node, _ in self.named]
            offset, sums = self._sums(nodes[: -len(self.named) or None], f"rec{n}", products[n].rows)
            if offset is None:
                placed.append(("rec", self.recs))
                self.rec_place[f"rec{n}"] = self.recs
                self.recs += products[n].rows
                continue
            placed.append(("net", offset))
            for k in range(products[n].rows):
                self.net_stage[offset + k] = n + 1
            new = self.graph.replaced(nodes, sums)
            roots = [(buffer, i, node) for (buffer, i, _), node in zip(roots, new, strict=False)]
            rest = iter(new[len(roots) :])
            products = [
                TracedProduct(p.parameter, p.first, p.last, p.transposed, [next(rest) for _ in p.factor], p.rows)
                for p in products
            ]
            self.named = [(node, given) for node, (_, given) in zip(rest, self.named, strict=True)]
        return roots, list(zip(products, placed, strict=True))

    def _sums(self, nodes: list[Node], rec: str, rows: int) -> tuple[int | None, dict[int, Node]]:
        """The offset in net at which a product can be added, and the net leaf that replaces each sum, by the sum's id.

        (None, {}) if the product has any other use.
        """
        users = defaultdict(list)
        for node in in_order(nodes):
            for arg in node.args:
                if arg.op == "leaf":
                    users[arg.attr].append(node)
        tops = {node.attr for node in nodes if node.op == "leaf"}
        sums, offsets = {}, set()
        for attr, found in list(users.items()):
            if attr[0] != rec:
                continue
            for node in found:
                others = [arg for arg in node.args if arg.attr != attr]
                if node.op != "add" or len(others) != 1 or others[0].op != "leaf" or others[0].attr[0] != "net":
                    return None, {}
                if users[others[0].attr] != [node]:
                    return None, {}
                offsets.add(others[0].attr[1] - attr[1])
                sums[node.id] = others[0]
        if (
            len(offsets) != 1
            or len(sums) != rows
            or any(attr[0] == rec or attr in {s.attr for s in sums.values()} for attr in tops)
        ):
            return None, {}
        return offsets.pop(), sums

    def _product(self, traced: TracedProduct, result: tuple[str, int], new: list[Node]) -> Product:
        values = [self.graph.value(node) for node in traced.factor]
        factor = self._row(values, new)
        if all(node.op in ("detach", "const") for node in traced.factor):
            error = None
        elif factor is not None and factor[0] == "old" and all(node.op == "leaf" for node in traced.factor):
            error = "state"
        else:
            error, self.dfactors = self.dfactors, self.dfactors + len(values)
        if factor is None:
            factor, self.tape = ("tape", self.tape), self.tape + len(values)
        width = dict(self.parameters)[traced.parameter][1]
        return Product(traced.parameter, traced.first, traced.last, width, traced.transposed, factor, result, error)

    def _row(self, values: list[Node], new: list[Node]) -> tuple[str, int] | None:
        """The state, "old" or "new", in which these values lie side by side, and their offset; None if in neither."""
        first = values[0]
        if first.op == "leaf" and first.attr[0] == "old":
            place = first.attr[1]
            if all(v.op == "leaf" and v.attr == ("old", place + j) for j, v in enumerate(values)):
                return "old", place
        for place in range(len(new) - len(values) + 1):
            if all(new[place + j] is value for j, value in enumerate(values)):
                return "new", place
        return None

    # Units ------------------------------------------------------------------------------------------------------

    def of_parameters(self, node: Node) -> bool:
        """Whether a node depends on parameters alone: every unit computes it for itself."""
        known = self._of_parameters
        for n in in_order([node], known):
            known[n.id] = n.attr[0] in self.places if n.op == "leaf" else all(known[a.id] for a in n.args)
        return known[node.id]

    def _loops(self, roots: list[tuple[str, int, Node]]) -> list[Loop]:
        graph, parent = self.graph, {}

        def find(x):
            while parent.setdefault(x, x) != x:
                parent[x] = parent[parent[x]]
                x = parent[x]
            return x

        def join(x, y):
            parent[find(x)] = find(y)

        for r, (buffer, i, node) in enumerate(roots):
            find(("root", r))
            if buffer == "new":  # the error of the state is kept in place: an entry belongs to one unit
                join(("root", r), graph.leaf("old", i).id)
            if not self.of_parameters(node):
                join(("root", r), graph.value(node).id)
        for n in in_order([node for *_, node in roots]):
            for arg in n.args:
                if not self.of_parameters(arg):
                    join(graph.value(n).id, graph.value(arg).id)
        units = defaultdict(list)
        for r in range(len(roots)):
            units[find(("root", r))].append(r)
        forms = defaultdict(list)
        for members in units.values():
            members.sort(key=lambda r: (roots[r][0] != "new", roots[r][0], roots[r][1]))
            form, leaves = self._form([roots[r] for r in members])
            forms[form].append(([roots[r] for r in members], leaves))
        loops = []
        for found in forms.values():
            found.sort(key=lambda unit: unit[0][0][1])
            loops += self._strided(found)
        return loops

    def _form(self, roots) -> tuple[tuple, list[Node]]:
        """The form of a unit, and its leaves in graph order. One loop can compute all units of equal form."""
        nodes = in_order([node for *_, node in roots])
        number = {node.id: i for i, node in enumerate(nodes)}
        leaves = [node for node in nodes if node.op == "leaf"]
        text = tuple(
            (n.op, n.attr[0]) if n.op == "leaf" else (n.op, str(n.attr), *(number[a.id] for a in n.args)) for n in nodes
        )
        # Also in the form: the stage from which each leaf has its final value, and the buffer of each root.
        stages = tuple(self.stage_of_leaf(leaf) for leaf in leaves)
        return (text, stages, tuple((buffer, number[node.id]) for buffer, _, node in roots)), leaves

    def _strided(self, found) -> list[Loop]:
        """Units of one form, in order, as loops: from unit to unit, each index changes by its own constant stride."""
        rows = [[i for _, i, _ in roots] + [leaf.attr[1] for leaf in leaves] for roots, leaves in found]
        loops, first = [], 0
        while first < len(found):
            last = first + 1
            strides = [0] * len(rows[first])
            if last < len(found):
                strides = [b - a for a, b in zip(rows[first], rows[last], strict=True)]
                while last < len(found) and [b - a for a, b in zip(rows[last - 1], rows[last], strict=True)] == strides:
                    last += 1
            roots, leaves = found[first]
            places = [Place(i, stride) for i, stride in zip(rows[first], strides, strict=True)]
            loops.append(
                Loop(
                    last - first,
                    [(buffer, place, node) for (buffer, _, node), place in zip(roots, places, strict=False)],
                    {
                        leaf.id: (leaf.attr[0], place, leaf)
                        for leaf, place in zip(leaves, places[len(roots) :], strict=True)
                    },
                )
            )
            first = last
        return loops

    def stage_of_leaf(self, leaf: Node) -> int:
        buffer, index = leaf.attr
        if buffer == "net":
            return self.net_stage.get(index, 0)
        return int(buffer[3:]) + 1 if buffer in self.rec_place else 0

    def adjoint_stage(self, stage: int) -> int:
        """The adjoint that gives an error of this stage: adjoints without an error of a factor between them are one."""
        while stage and not isinstance(self.products[stage - 1].error, int):
            stage -= 1
        return stage

    # Source -----------------------------------------------------------------------------------------------------

    def entry(self, buffer: str, place: Place, n: int) -> str:
        """An entry of a buffer as source, in a loop over n units a."""
        stride = place.stride if n > 1 else 0
        moving = {0: "", 1: "a"}.get(stride, f"{self.size(stride)} * a")
        buffer, terms = self.located(buffer, place.offset)
        return f"{buffer}[{' + '.join([*terms, moving] if moving else terms) or '0'}]"

    def located(self, buffer: str, offset: int) -> tuple[str, list[str]]:
        """The argument that an entry lies in, and the terms of its index."""
        if buffer in self.rec_place:
            buffer, offset = "rec", offset + self.rec_place[buffer]
        terms = [self.size(offset)] if offset else []
        return ("p", [constant(buffer), *terms]) if buffer in self.places else (buffer, terms)

    def size(self, n: int) -> str:
        """A number, as a multiple of the number of units if it is one."""
        units = self.traced.outputs
        if units < 2 or n == 0 or n % units:
            return str(n)
        return {1: "A", -1: "-A"}.get(n // units, f"{n // units} * A")

    def _clear(self, written: set, traced_products) -> None:
        """Set to zero the errors of net inputs and results that nothing reads."""
        for buffer, size, into, stage in [("net", self.traced.rows, "dnet", None)] + [
            (f"rec{n}", traced.rows, "drec", n + 1)
            for n, (traced, result) in enumerate(traced_products)
            if result[0] == "rec"
        ]:
            base = self.rec_place.get(buffer, 0)
            for i in range(size):
                if (buffer, i) not in written:
                    at = self.net_stage.get(i, 0) if stage is None else stage
                    self.adjoint[self.adjoint_stage(at)].append(f"{into}[{base + i}] = f32(0.0)")

    def _source(self) -> str:
        text = "\n".join(line for bodies in (self.step, self.adjoint) for body in bodies.values() for line in body)
        parts = [f"A = {self.traced.outputs}\n"]
        for parameter, place in self.places.items():
            name = constant(parameter)
            if f"[{name} " in text or f"[{name}]" in text:
                parts.append(f"{name} = {place}  # its offset in p\n")
        for kind, bodies, arguments in (
            ("step", self.step, "p, old, new, tape, net, rec, y"),
            ("adjoint", self.adjoint, "p, dy, dstate, old, new, tape, dnet, drec, dfactor, g"),
        ):
            for stage in sorted(bodies):
                if bodies[stage]:
                    body = "\n".join("    " + line for line in bodies[stage])
                    parts.append(f"\n\ndef {kind}_{stage}({arguments}):\n{body}\n")
        return "".join(parts)
