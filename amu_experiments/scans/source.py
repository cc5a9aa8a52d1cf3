"""The source of steps and adjoints: what one loop over units computes, forward and backward, as lines of Python."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from amu_experiments.scans.graph import FUNCTIONS, Node, in_order

_CONDITIONS = ("gt", "ge", "eq", "and", "or", "not")
_BUFFERS = ("p", "old", "new", "tape", "net", "rec", "y", "dy", "dstate", "dnet", "drec", "dfactor", "g")
_RESERVED = {*_BUFFERS, *FUNCTIONS, "a", "k", "A", "f32", "self", "range", "min", "max", "if", "else", "for", "in"}


@dataclass(frozen=True)
class Place:
    """The index in a buffer for each unit a: offset + stride * a."""

    offset: int
    stride: int


@dataclass
class Loop:
    """n units of one form.

    roots: (buffer, place, node of the first unit) of each value that they compute.
    leaves: buffer and place of every leaf of the first unit, by the leaf's id.
    """

    n: int
    roots: list[tuple[str, Place, Node]]
    leaves: dict[int, tuple[str, Place, Node]]


def constant(parameter: str) -> str:
    """The name of a parameter's offset in p."""
    return f"{parameter}_" if parameter in _RESERVED else parameter


class LoopSource:
    """The lines that one loop gives to the steps and adjoints; `derivation` is that of derive.py."""

    def __init__(self, derivation, loop: Loop):
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
        self.home: dict[int, tuple[str, Place]] = {}
        self._find_homes()
        self.outputs = self._differentiated()
        self._save()

    # Where values lie -------------------------------------------------------------------------------------------

    def _times(self) -> dict[int, tuple[int, int]]:
        """When each value can be computed: its stage, and the depth of nested functions in that stage."""
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
        """Choose homes of values: the new state, or factors on the tape. Other functions get entries of the tape."""
        roots = []
        for buffer, place, node in self.roots:
            if buffer.startswith("factor"):
                kind, offset = self.d.products[int(buffer[6:])].factor
                if kind != "tape":
                    continue  # its value lies in the state
                buffer, place = "tape", Place(offset + place.offset, place.stride)
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
        self.home[node.id] = ("tape", Place(self.d.tape, 1))
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
            # Write the values of earlier times before the functions of this time read them, or the next stage begins.
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

    def _entry(self, buffer: str, place: Place) -> str:
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

    def _place(self, node: Node, known: dict[int, str]) -> tuple[str, Place] | None:
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
                into, place = "dfactor", Place(error + place.offset, place.stride)
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

    def __init__(self, derivation, known: dict[int, str]):
        self.d, self.known = derivation, known
        self.lines: list[str] = []
        self.local: dict[int, str] = {}
        self.taken = {*_RESERVED, *map(constant, derivation.places)}

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
