"""Scalar expressions as a graph: simplification and reverse-mode differentiation.

A node is an operation on other nodes, a constant, or a leaf: an entry of a buffer. Equal nodes are one node.
`detach` is an operation: it keeps the value and has no derivative. `Graph.value` removes it.

Every operation on tensors that a step may use is written with the few operations in `Node.op`, so that value and
derivative are those of torch at ties, too. Where torch halves the gradient at a tie, so does `maximum`; where torch
gives it to one branch, the comparison decides.
"""

import math
from collections.abc import Iterable

FUNCTIONS = ("tanh", "exp", "log", "log1p", "sqrt", "sin", "cos")
"""Operations that cost more than arithmetic."""

_COMMUTATIVE = ("add", "mul", "eq", "and", "or")


class Node:
    """op: add, sub, mul, div, pow with a constant, where, gt, ge, eq, and, or, not, detach, const, leaf or a function.

    attr: the number of a const, or (buffer, index) of a leaf.
    """

    __slots__ = ("args", "attr", "id", "op")

    def __init__(self, op: str, args: tuple["Node", ...], attr, number: int):
        self.op, self.args, self.attr, self.id = op, args, attr, number


class Graph:
    """Makes nodes; constants are folded, and what structure alone can simplify is simplified."""

    def __init__(self):
        self._nodes: dict[tuple, Node] = {}
        self._values: dict[int, Node] = {}

    def const(self, number: float) -> Node:
        return self._node("const", (), float(number))

    def leaf(self, buffer: str, index: int) -> Node:
        return self._node("leaf", (), (buffer, index))

    def _node(self, op: str, args: tuple[Node, ...], attr=None) -> Node:
        ids = tuple(arg.id for arg in args)
        key = (op, tuple(sorted(ids)) if op in _COMMUTATIVE else ids, str(attr))  # str: -0.0 is not 0.0
        if key not in self._nodes:
            self._nodes[key] = Node(op, args, attr, len(self._nodes))
        return self._nodes[key]

    def __call__(self, op: str, *args: Node | float) -> Node:
        args = tuple(arg if isinstance(arg, Node) else self.const(arg) for arg in args)
        rule = getattr(self, f"_{op}", None)
        return (rule and rule(*args)) or self._node(op, args)

    # Simplifications; None where there is nothing to simplify ---------------------------------------------------

    def _add(self, a: Node, b: Node) -> Node | None:
        if a.op == b.op == "const":
            return self.const(a.attr + b.attr)
        if _is(a, 0):
            return b
        if _is(b, 0):
            return a
        if _negative(b):
            return self("sub", a, b.args[1])
        if _negative(a):
            return self("sub", b, a.args[1])
        return None

    def _sub(self, a: Node, b: Node) -> Node | None:
        if a.op == b.op == "const":
            return self.const(a.attr - b.attr)
        if _is(b, 0):
            return a
        if _is(a, 0):
            return self("neg", b)
        return self("add", a, b.args[1]) if _negative(b) else None

    def _neg(self, a: Node) -> Node:
        if _negative(a):
            return a.args[1]
        return self("sub", a.args[1], a.args[0]) if a.op == "sub" else self("mul", -1.0, a)

    def _mul(self, a: Node, b: Node) -> Node | None:
        if b.op == "const":
            a, b = b, a
        if a.op == "const":
            if b.op == "const":
                return self.const(a.attr * b.attr)
            if _is(a, 1):
                return b
            if _is(a, 0):
                return a
            if b.op == "mul" and b.args[0].op == "const":
                return self("mul", a.attr * b.args[0].attr, b.args[1])
            return self._node("mul", (a, b))
        for x, y in ((a, b), (b, a)):  # constants outward
            if x.op == "mul" and x.args[0].op == "const":
                return self("mul", x.args[0], self("mul", x.args[1], y))
        return None

    def _div(self, a: Node, b: Node) -> Node | None:
        return self("mul", 1 / b.attr, a) if b.op == "const" and b.attr else None

    def _where(self, condition: Node, a: Node, b: Node) -> Node | None:
        if condition.op == "const":
            return a if condition.attr else b
        return a if a is b else None

    def _not(self, a: Node) -> Node | None:
        if a.op == "const":
            return self.const(not a.attr)
        return a.args[0] if a.op == "not" else None

    def _detach(self, a: Node) -> Node | None:
        return a if a.op in ("const", "detach") else None

    # Compositions -----------------------------------------------------------------------------------------------

    def sigmoid(self, a: Node) -> Node:
        return self("add", 0.5, self("mul", 0.5, self("tanh", self("mul", 0.5, a))))

    def maximum(self, a: Node, b: Node) -> Node:
        """At a tie each argument has half the gradient; NaN stays NaN."""
        tie = self("mul", 0.5, self("add", a, b))
        return self("where", self("gt", a, b), a, self("where", self("gt", b, a), b, tie))

    def minimum(self, a: Node, b: Node) -> Node:
        tie = self("mul", 0.5, self("add", a, b))
        return self("where", self("gt", b, a), a, self("where", self("gt", a, b), b, tie))

    def clamp(self, a: Node, low: float | None = None, high: float | None = None) -> Node:
        """At a bound the gradient passes."""
        if low is not None:
            a = self("where", self("gt", low, a), low, a)
        return a if high is None else self("where", self("gt", a, high), high, a)

    def hardtanh(self, a: Node, low: float, high: float) -> Node:
        """At a bound the gradient is zero."""
        return self("where", self("ge", low, a), low, self("where", self("ge", a, high), high, a))

    def relu(self, a: Node) -> Node:
        return self("where", self("ge", 0.0, a), 0.0, a)

    def leaky_relu(self, a: Node, slope: float = 0.01) -> Node:
        return self("where", self("gt", a, 0.0), a, self("mul", slope, a))

    def abs(self, a: Node) -> Node:
        """At 0 the gradient is zero."""
        return self(
            "where",
            self("gt", a, 0.0),
            a,
            self("where", self("gt", 0.0, a), self("mul", -1.0, a), self("detach", a)),
        )

    def sign(self, a: Node) -> Node:
        return self("where", self("gt", a, 0.0), 1.0, self("where", self("gt", 0.0, a), -1.0, 0.0))

    def hardsigmoid(self, a: Node) -> Node:
        inner = self("div", self("add", a, 3.0), 6.0)
        return self("where", self("ge", -3.0, a), 0.0, self("where", self("ge", a, 3.0), 1.0, inner))

    def hardswish(self, a: Node) -> Node:
        inner = self("mul", a, self("div", self("add", a, 3.0), 6.0))
        return self("where", self("ge", -3.0, a), 0.0, self("where", self("ge", a, 3.0), a, inner))

    def softplus(self, a: Node, beta: float = 1.0, threshold: float = 20.0) -> Node:
        scaled = self("mul", beta, a)
        linear = self("gt", scaled, threshold)
        # No overflow in the branch that is not taken: its derivative would be NaN.
        bent = self("log1p", self("exp", self("where", linear, 0.0, scaled)))
        return self("where", linear, a, self("div", bent, beta))

    def log_sigmoid(self, a: Node) -> Node:
        negative = self("gt", 0.0, a)
        rest = self("log1p", self("exp", self("where", negative, a, self("neg", a))))
        return self("where", negative, self("sub", a, rest), self("neg", rest))

    def elu(self, a: Node, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Node:
        positive = self("gt", a, 0.0)
        bent = self("sub", self("exp", self("where", positive, 0.0, self("mul", input_scale, a))), 1.0)
        return self("where", positive, self("mul", scale, a), self("mul", alpha * scale, bent))

    def power(self, a: Node, exponent: float) -> Node:
        """A power as products if the exponent is whole, from -64 to 64; as a square root if it is 0.5 or -0.5.

        The square root, and every other power, of a negative number is NaN.
        """
        if exponent == 0:
            return self.const(1.0)
        if exponent < 0:
            return self("div", 1.0, self.power(a, -exponent))
        if exponent == 0.5:
            return self("sqrt", a)
        if exponent == int(exponent) and exponent <= 64:
            half = self.power(a, exponent // 2) if exponent > 1 else None
            even = self("mul", half, half) if half else a
            return self("mul", even, a) if half and exponent % 2 else even
        return self._node("pow", (a, self.const(exponent)))

    # Whole graphs -----------------------------------------------------------------------------------------------

    def value(self, node: Node) -> Node:
        """The node of equal value without any `detach`."""
        for n in in_order([node], self._values):
            if n.op == "detach":
                self._values[n.id] = self._values[n.args[0].id]
            else:
                self._values[n.id] = self(n.op, *(self._values[a.id] for a in n.args)) if n.args else n
        return self._values[node.id]

    def replaced(self, nodes: Iterable[Node], new: dict[int, Node]) -> list[Node]:
        """The nodes, after every node of their graph whose id is a key of `new` was replaced by its value there."""
        nodes, new = list(nodes), dict(new)
        for n in in_order(nodes, new):
            new[n.id] = self(n.op, *(new[a.id] for a in n.args)) if n.args else n
        return [new[n.id] for n in nodes]

    def factored(self, node: Node, made: dict[int, Node]) -> Node:
        """The node with a c + b c written as (a + b) c; `made` keeps results between calls."""
        for n in in_order([node], made):
            args = [made[a.id] for a in n.args]
            out = self(n.op, *args) if args else n
            if n.op in ("add", "sub") and args[0].op == args[1].op == "mul":
                for (x, y), (u, v) in ((p, q) for p in _both(args[0]) for q in _both(args[1])):
                    if y is v and y.op != "const":
                        out = self("mul", self(n.op, x, u), y)
                        break
            made[n.id] = out
        return made[node.id]

    def gradients(self, seeds: Iterable[tuple[Node, Node]]) -> dict[int, Node]:
        """Reverse mode: from (node, its error) the error of every node that has one, by id."""
        seeds, errors = list(seeds), {}

        def add(node: Node, error: Node) -> None:
            if node.op != "const" and not _is(error, 0):
                errors[node.id] = self("add", errors[node.id], error) if node.id in errors else error

        for node, error in seeds:
            add(node, error)
        for node in reversed(in_order([node for node, _ in seeds])):
            if node.id in errors:
                for arg, error in zip(node.args, self._errors(node, errors[node.id]), strict=False):
                    add(arg, error)
        return errors

    def _errors(self, node: Node, error: Node) -> tuple[Node, ...]:
        """The errors of a node's arguments; none for those that have no derivative."""
        op, args = node.op, node.args
        if op == "add":
            return error, error
        if op == "sub":
            return error, self("neg", error)
        if op == "mul":
            return self("mul", error, args[1]), self("mul", error, args[0])
        if op == "div":
            share = self("div", error, args[1])
            return share, self("neg", self("mul", share, node))
        if op == "tanh":
            return (self("mul", error, self("sub", 1.0, self("mul", node, node))),)
        if op == "exp":
            return (self("mul", error, node),)
        if op == "log":
            return (self("div", error, args[0]),)
        if op == "log1p":
            return (self("div", error, self("add", 1.0, args[0])),)
        if op == "sqrt":
            return (self("div", self("mul", 0.5, error), node),)
        if op == "sin":
            return (self("mul", error, self("cos", args[0])),)
        if op == "cos":
            return (self("neg", self("mul", error, self("sin", args[0]))),)
        if op == "pow":
            exponent = args[1].attr
            return (self("mul", error, self("mul", exponent, self.power(args[0], exponent - 1))),)
        if op == "where":
            zero = self.const(0.0)
            return zero, self("where", args[0], error, zero), self("where", args[0], zero, error)
        return ()  # detach, and comparisons, whose results are no numbers


def in_order(nodes: Iterable[Node], known: dict[int, object] | None = None) -> list[Node]:
    """The nodes and all that they are computed from, arguments first; not those whose ids are in `known`."""
    known = {} if known is None else known
    done, out = set(), []
    stack = [(node, False) for node in reversed(list(nodes))]
    while stack:
        node, ready = stack.pop()
        if node.id in done or node.id in known:
            continue
        if ready or not node.args:
            done.add(node.id)
            out.append(node)
        else:
            stack.append((node, True))
            stack += [(arg, False) for arg in reversed(node.args)]
    return out


def _is(node: Node, number: float) -> bool:
    return node.op == "const" and node.attr == number and not (number == 0 and math.copysign(1, node.attr) < 0)


def _negative(node: Node) -> bool:
    return node.op == "mul" and _is(node.args[0], -1)


def _both(product: Node) -> tuple[tuple[Node, Node], tuple[Node, Node]]:
    a, b = product.args
    return (a, b), (b, a)
