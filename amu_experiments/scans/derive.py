"""From a cell's torch `step` to the source of a compiled step and its adjoint.

1. `trace` runs the step once on shadows and gives a graph of scalar nodes.
2. A product whose result is only ever added to the net inputs is added there; every other has room of its own.
3. Nodes that hang together are a unit. Units of one form, with their entries at even distances, are one loop.
4. The first unit of a loop is differentiated in reverse mode.
5. Source: tanh and its kind are computed for all units in a row, in loops that vectorise. What the adjoint needs and
   cannot compute again from the states and the parameters is kept on the tape.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from amu_experiments.scans.graph import FUNCTIONS, Node, in_order
from amu_experiments.scans.recurrence import Product, Recurrence
from amu_experiments.scans.trace import NotDerivableError, Traced, TracedProduct, trace

MOST_LINES = 3000
"""Of source: a step that couples its units has no loop over them, and would compile for minutes."""

_CONDITIONS = ("gt", "ge", "eq", "and", "or", "not")
_BUFFERS = ("p", "old", "new", "tape", "net", "rec", "y", "dy", "dstate", "dnet", "drec", "dfactor", "g")
_RESERVED = {*_BUFFERS, *FUNCTIONS, "a", "k", "A", "f32", "self", "range", "min", "max", "if", "else", "for", "in"}


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


@dataclass(frozen=True)
class _Place:
    """Of unit a: entry offset + stride * a."""

    offset: int
    stride: int


@dataclass
class _Loop:
    """n units of one form.

    roots: (buffer, place, node of the first unit) of what they compute.
    leaves: buffer and place of every leaf of the first unit, by the leaf's id.
    """

    n: int
    roots: list[tuple[str, _Place, Node]]
    leaves: dict[int, tuple[str, _Place, Node]]


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
            source = _LoopSource(self, loop)
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
        """Roots, and products with their results' places, after adding to `net` all products that can be."""
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
        """Where in net a product's rows are always added, and what the sums become; None where they are not."""
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
        """Where these values lie side by side in the old or the new state."""
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

    def _loops(self, roots: list[tuple[str, int, Node]]) -> list[_Loop]:
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
            loops += self._even(found)
        return loops

    def _form(self, roots) -> tuple[tuple, list[Node]]:
        """What two units must share to be computed by one loop, and the unit's leaves in an order of their own."""
        nodes = in_order([node for *_, node in roots])
        number = {node.id: i for i, node in enumerate(nodes)}
        leaves = [node for node in nodes if node.op == "leaf"]
        text = tuple(
            (n.op, n.attr[0]) if n.op == "leaf" else (n.op, str(n.attr), *(number[a.id] for a in n.args)) for n in nodes
        )
        # Which of the leaves count from a later stage, and which entries of the state are read and written.
        stages = tuple(self.stage_of_leaf(leaf) for leaf in leaves)
        return (text, stages, tuple((buffer, number[node.id]) for buffer, _, node in roots)), leaves

    def _even(self, found) -> list[_Loop]:
        """Units of one form, in order, as loops whose entries lie at even distances."""
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
            places = [_Place(i, stride) for i, stride in zip(rows[first], strides, strict=True)]
            loops.append(
                _Loop(
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

    def entry(self, buffer: str, place: _Place, n: int) -> str:
        """An entry of a buffer as source, in a loop over n units a."""
        stride = place.stride if n > 1 else 0
        moving = {0: "", 1: "a"}.get(stride, f"{self.size(stride)} * a")
        buffer, terms = self.located(buffer, place.offset)
        return f"{buffer}[{' + '.join([*terms, moving] if moving else terms) or '0'}]"

    def located(self, buffer: str, offset: int) -> tuple[str, list[str]]:
        """The argument that an entry lies in, and the terms of its place."""
        if buffer in self.rec_place:
            buffer, offset = "rec", offset + self.rec_place[buffer]
        terms = [self.size(offset)] if offset else []
        return ("p", [_constant(buffer), *terms]) if buffer in self.places else (buffer, terms)

    def size(self, n: int) -> str:
        """A number as a multiple of the number of units where it is one."""
        units = self.traced.outputs
        if units < 2 or n == 0 or n % units:
            return str(n)
        return {1: "A", -1: "-A"}.get(n // units, f"{n // units} * A")

    def _clear(self, written: set, traced_products) -> None:
        """Errors of net inputs and results that nothing reads."""
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
            name = _constant(parameter)
            if f"[{name} " in text or f"[{name}]" in text:
                parts.append(f"{name} = {place}  # its place in p\n")
        for kind, bodies, arguments in (
            ("step", self.step, "p, old, new, tape, net, rec, y"),
            ("adjoint", self.adjoint, "p, dy, dstate, old, new, tape, dnet, drec, dfactor, g"),
        ):
            for stage in sorted(bodies):
                if bodies[stage]:
                    body = "\n".join("    " + line for line in bodies[stage])
                    parts.append(f"\n\ndef {kind}_{stage}({arguments}):\n{body}\n")
        return "".join(parts)


def _constant(parameter: str) -> str:
    """The name of a parameter's place in p."""
    return f"{parameter}_" if parameter in _RESERVED else parameter


class _LoopSource:
    """The lines that one loop gives to the steps and adjoints."""

    def __init__(self, derivation: _Derivation, loop: _Loop):
        self.d, self.graph, self.n = derivation, derivation.graph, loop.n
        self.loop = loop
        value = self.graph.value
        self.roots = [(buffer, place, value(node)) for buffer, place, node in loop.roots]
        self.values = in_order([node for *_, node in self.roots])
        self.in_forward = {node.id for node in self.values}
        self.time = self._times()
        self.where = {i: derivation.entry(buffer, place, self.n) for i, (buffer, place, _) in loop.leaves.items()}
        self.leaf_of = {i: (buffer, place) for i, (buffer, place, _) in loop.leaves.items()}
        for number, (buffer, place, _) in loop.leaves.items():
            given = f"{derivation.state_names[place.offset]}_old" if buffer == "old" else f"{buffer}_a"
            derivation.names.setdefault(number, given)
        self.home: dict[int, tuple[str, _Place]] = {}
        self._find_homes()
        self.outputs = self._differentiated()
        self._save()

    # Where values lie -------------------------------------------------------------------------------------------

    def _times(self) -> dict[int, tuple[int, int]]:
        """When each value can be computed: stage, and how many functions of functions in that stage."""
        time = {}
        for node in self.values:
            if node.op == "leaf":
                time[node.id] = (self.d.stage_of_leaf(node), 0)
                continue
            stage, level = max((time[arg.id] for arg in node.args), default=(0, 0))
            time[node.id] = (stage, level + self._is_function(node))
        return time

    def _is_function(self, node: Node) -> bool:
        return node.op in FUNCTIONS and not self.d.of_parameters(node)

    def _find_homes(self) -> None:
        """The new state and factors on the tape are homes of their values; functions without one get a place."""
        roots = []
        for buffer, place, node in self.roots:
            if buffer.startswith("factor"):
                kind, offset = self.d.products[int(buffer[6:])].factor
                if kind != "tape":
                    continue  # its value lies in the state
                buffer, place = "tape", _Place(offset + place.offset, place.stride)
            if buffer != "y" and node.args:
                self.home.setdefault(node.id, (buffer, place))
            roots.append((buffer, place, node))
        self.written = roots
        functions = sorted(
            (n for n in self.values if self._is_function(n)), key=lambda n: (self.time[n.id], self._row(n))
        )
        for node in functions:
            if node.id not in self.home:
                self._to_tape(node)

    def _row(self, node: Node) -> int:
        """The first net input that a value depends on: functions of neighbours become neighbours."""
        rows = [self.leaf_of[n.id][1].offset for n in in_order([node]) if self._is_input(n)]
        return min(rows, default=1 << 30)

    def _is_input(self, node: Node) -> bool:
        return node.op == "leaf" and (node.attr[0] == "net" or node.attr[0] in self.d.rec_place)

    def _to_tape(self, node: Node) -> None:
        self.home[node.id] = ("tape", _Place(self.d.tape, 1))
        self.d.tape += self.n

    def _save(self) -> None:
        """Put on the tape what the adjoint needs and cannot compute again."""
        depends: dict[int, bool] = {}

        def lost(node: Node) -> bool:
            """Whether it takes a net input to compute this value from what is at hand in the adjoint."""
            if node.id in self.home:
                return False
            if node.id not in depends:
                depends[node.id] = self._is_input(node) or any(lost(arg) for arg in node.args)
            return depends[node.id]

        visited, self.saved = set(), []
        stack = [node for *_, node in reversed(self.outputs)]
        while stack:
            node = stack.pop()
            if node.id in visited or node.id in self.home:
                continue
            visited.add(node.id)
            if node.id in self.in_forward and node.op not in _CONDITIONS and lost(node):
                self._to_tape(node)
                self.saved.append(node)
                depends.clear()
            else:
                stack += reversed(node.args)

    # Forward ----------------------------------------------------------------------------------------------------

    def forward(self) -> dict[int, list[str]]:
        lines = defaultdict(list)
        known = dict(self.where)
        pending = [(self._entry(*self.home[node.id]), node) for node in self.saved]
        pending += [(self._entry(buffer, place), node) for buffer, place, node in self.written]
        functions = defaultdict(list)
        for node in self.values:
            if self._is_function(node):
                functions[self.time[node.id]].append(node)
        last = (max((self.time[node.id][0] for _, node in pending), default=0) + 1, 0)
        stages = sorted({stage for stage, _ in self.time.values()})
        for time in sorted({*functions, *((stage, 0) for stage in stages), last}):
            # All that later functions may read, and at the end of a stage everything.
            ready = [
                (entry, node) for entry, node in pending if self.time[node.id] < time and known.get(node.id) != entry
            ]
            pending = [(entry, node) for entry, node in pending if self.time[node.id] >= time]
            for stage in sorted({self.time[node.id][0] for _, node in ready}):
                lines[stage] += self._written([item for item in ready if self.time[item[1].id][0] == stage], known)
            for entry, node in ready:
                if node.args and not entry.startswith("y["):
                    known.setdefault(node.id, entry)
            if functions.get(time):
                lines[time[0]] += self._functions(functions[time], known)
                known |= {node.id: self._entry(*self.home[node.id]) for node in functions[time]}
        return lines

    def _entry(self, buffer: str, place: _Place) -> str:
        return self.d.entry(buffer, place, self.n)

    def _written(self, targets: list[tuple[str, Node]], known: dict[int, str]) -> list[str]:
        writer = _Writer(self.d, known)
        return self._over_units(writer.statements([(entry, "=", node) for entry, node in targets]))

    def _over_units(self, lines: list[str]) -> list[str]:
        if self.n == 1 or not lines:
            return lines
        return [f"for a in range({self.d.size(self.n)}):"] + ["    " + line for line in lines]

    def _functions(self, nodes: list[Node], known: dict[int, str]) -> list[str]:
        """Functions of one time: one loop over their rows where it can be, else arguments first, then the functions."""
        nodes = sorted(nodes, key=lambda node: (self.home[node.id][0], self.home[node.id][1].offset))
        rows = self._in_a_row(nodes, known)
        if rows is not None:
            return rows
        if len(nodes) == 1:
            return self._written([(self._entry(*self.home[nodes[0].id]), nodes[0])], known)
        lines, runs = [], []
        for node in nodes:
            buffer, place = self.home[node.id]
            lines += self._written([(self._entry(buffer, place), node.args[0])], known)
            stride = place.stride if self.n > 1 else 1
            first, last = place.offset, place.offset + stride * self.n
            if runs and runs[-1][:2] == (node.op, buffer) and runs[-1][3:] == (first, 1) and stride == 1:
                first = runs.pop()[2]
            runs.append((node.op, buffer, first, last, stride))
        for op, buffer, first, last, stride in runs:
            span = [self.d.size(first), self.d.size(last)] if stride == 1 else [str(first), str(last), str(stride)]
            span = span[1:] if span[0] == "0" and len(span) == 2 else span
            lines += [f"for k in range({', '.join(span)}):", f"    {buffer}[k] = {op}({buffer}[k])"]
        return lines

    def _in_a_row(self, nodes: list[Node], known: dict[int, str]) -> list[str] | None:
        """One loop, where each argument is a multiple of entries that lie row beside row, as its function does."""
        n, shape, scales = self.n, None, []
        if len(nodes) < 2 or n == 1:
            return None
        for j, node in enumerate(nodes):
            argument, scale = node.args[0], 1.0
            if argument.op == "mul" and argument.args[0].op == "const":
                scale, argument = argument.args[0].attr, argument.args[1]
            terms = argument.args if argument.op == "add" and argument.id not in known else (argument,)
            places = [self._place(term, known) for term in terms]
            buffer, place = self.home[node.id]
            if None in places or place.stride != 1 or any(p.stride != 1 for _, p in places):
                return None
            here = (node.op, buffer, place.offset - j * n, tuple((b, p.offset - j * n) for b, p in places))
            if shape not in (None, here):
                return None
            shape = here
            scales.append(scale)
        op, buffer, offset, sources = shape
        common = max(scales, key=scales.count)
        total = " + ".join(self._shifted(*source) for source in sources)
        bracketed = f"({total})" if len(sources) > 1 else total

        def scaled(scale):
            return total if scale == 1 else f"f32({scale!r}) * {bracketed}"

        text = scaled(common)
        for j, scale in enumerate(scales):
            if scale != common:
                text = f"{scaled(scale)} if k // {self.d.size(n)} == {j} else {text}"
        count = self.d.size(len(nodes) * n)
        return [f"for k in range({count}):", f"    {self._shifted(buffer, offset)} = {op}({text})"]

    def _place(self, node: Node, known: dict[int, str]) -> tuple[str, _Place] | None:
        if node.id not in known:
            return None
        return self.leaf_of.get(node.id) or self.home.get(node.id)

    def _shifted(self, buffer: str, offset: int) -> str:
        buffer, terms = self.d.located(buffer, offset)
        return f"{buffer}[{' + '.join(['k', *terms])}]".replace("+ -", "- ")

    # Backward ---------------------------------------------------------------------------------------------------

    def _differentiated(self) -> list[tuple[int, str, str, Node]]:
        """(stage, entry, how it is written, error) of every leaf."""
        graph, made = self.graph, {}
        self.seeds, seeds, names = {}, [], self.d.names
        for buffer, place, node in self.loop.roots:
            into = {"new": "dstate", "y": "dy"}.get(buffer)
            if into is None:
                error = self.d.products[int(buffer[6:])].error
                if not isinstance(error, int):
                    continue
                into, place = "dfactor", _Place(error + place.offset, place.stride)
            seed = graph.leaf(into, place.offset)
            self.seeds[seed.id] = self._entry(into, place)
            of_state = f"d_{self.d.state_names[place.offset]}_new" if buffer == "new" else None
            names.setdefault(seed.id, of_state or f"d_{buffer}")
            seeds.append((node, seed))
        errors = graph.gradients(seeds)

        def final(node: Node) -> Node:
            return graph.factored(graph.value(node), made)

        by_id = {node.id: node for node in in_order([node for node, _ in seeds])}
        for number, error in errors.items():
            node = graph.value(by_id[number])
            if node.id in names and error.args:
                names.setdefault(final(error).id, f"d_{names[node.id]}")
        zero, outputs, covered = graph.const(0.0), [], set()
        for number, (buffer, place, leaf) in self.loop.leaves.items():
            error = final(errors[number]) if number in errors else zero
            stage = self.d.adjoint_stage(self.d.stage_of_leaf(leaf))
            if buffer in self.d.places:
                if error is not zero:
                    outputs.append((0, "g" + self._entry(buffer, place)[1:], "+=", error))
                continue
            if buffer == "old":
                covered.add(place)
            entry = {"net": "dnet", "old": "dstate"}.get(buffer)
            text = self._entry(buffer, place)
            outputs.append((stage, f"{entry or 'drec'}{text[text.index('[') :]}", "=", error))
        for buffer, place, _ in self.loop.roots:
            if buffer == "new" and place not in covered:
                outputs.append((0, self._entry("dstate", place), "=", zero))
        return outputs

    def backward(self) -> dict[int, list[str]]:
        at_hand = {
            number: text
            for number, text in self.where.items()
            if self.leaf_of[number][0] == "old" or self.leaf_of[number][0] in self.d.places
        }
        known = at_hand | {number: self._entry(*home) for number, home in self.home.items()} | self.seeds
        lines = {}
        for stage in sorted({stage for stage, *_ in self.outputs}, reverse=True):
            todo = [(entry, how, node) for s, entry, how, node in self.outputs if s == stage]
            todo.sort(key=lambda item: not item[0].startswith(("dnet", "drec")))
            writer = _Writer(self.d, known)
            # Errors of the state are read before they are written in place.
            body = writer.statements(todo, first=self.seeds)
            lines[stage] = self._over_units(body)
            known = dict(known)
            for entry, how, node in todo:
                if how == "=" and node.args and entry.startswith(("dnet", "drec")):
                    known.setdefault(node.id, entry)
        return lines


class _Writer:
    """Statements of one body: a value that is used more than once, or that the step names, gets a name."""

    _BINARY = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2)}
    _COMPARED = {"gt": ">", "ge": ">=", "eq": "==", "and": "and", "or": "or"}

    def __init__(self, derivation: _Derivation, known: dict[int, str]):
        self.d, self.known = derivation, known
        self.lines: list[str] = []
        self.local: dict[int, str] = {}
        self.taken = {*_RESERVED, *map(_constant, derivation.places)}

    def statements(self, targets: list[tuple[str, str, Node]], first: Iterable[int] = ()) -> list[str]:
        self.uses = self._uses([node for *_, node in targets])
        for number in first:
            if self.uses[number]:
                self._name(number, self.known[number])
        for entry, how, node in targets:
            self.lines.append(f"{entry} {how} {self._visit(node, top=True)[0]}")
        return self.lines

    def _uses(self, tops: list[Node]) -> dict[int, int]:
        uses = defaultdict(int)
        visited = set()
        stack = list(tops)
        while stack:
            node = stack.pop()
            uses[node.id] += 1
            if node.id not in visited and node.id not in self.known:
                visited.add(node.id)
                stack += node.args
        return uses

    def _name(self, number: int, text: str) -> tuple[str, int]:
        name = base = self.d.names.get(number, "t")
        count = 1
        while name in self.taken:
            count += 1
            name = f"{base}{count}" if base == "t" else f"{base}_{count}"
        self.taken.add(name)
        self.lines.append(f"{name} = {text}")
        self.local[number] = name
        return name, 4

    def _visit(self, node: Node, top: bool = False) -> tuple[str, int]:
        """Source of a value and how tightly it binds: 4 for a name or call, 0 for a choice."""
        if node.id in self.local:
            return self.local[node.id], 4
        if node.id in self.known:
            text = self.known[node.id]
            return self._name(node.id, text) if self.uses[node.id] > 1 else (text, 4)
        if node.op == "const":
            return f"f32({node.attr!r})", 4
        text, binds = self._operation(node, [self._visit(arg) for arg in node.args])
        if self.uses[node.id] > 1 or (node.id in self.d.names and not top):
            return self._name(node.id, text)
        return text, binds

    def _operation(self, node: Node, args: list[tuple[str, int]]) -> tuple[str, int]:
        if node.op in self._BINARY:
            sign, binds = self._BINARY[node.op]
            left = args[0][0] if args[0][1] >= binds else f"({args[0][0]})"
            right = args[1][0] if args[1][1] > binds else f"({args[1][0]})"
            return f"{left} {sign} {right}", binds
        texts = [text if binds > 0 else f"({text})" for text, binds in args]
        if node.op in self._COMPARED:
            return f"{texts[0]} {self._COMPARED[node.op]} {texts[1]}", 0
        if node.op == "not":
            return f"not {texts[0]}", 0
        if node.op == "where":
            return f"{texts[1]} if {texts[0]} else {texts[2]}", 0
        if node.op == "pow":
            return f"exp({args[1][0]} * log({args[0][0]}))", 4
        return f"{node.op}({args[0][0]})", 4
