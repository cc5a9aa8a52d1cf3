"""A cell's torch `step`, run once on shadows of its tensors: which numbers it computes from which.

The step runs on tensors of two trials and two sequences. Every tensor has a shadow, an array of graph nodes; its own
numbers mean nothing.
What trial 0 computes for sequence 0 is the step; where it reads an entry of another trial or sequence, the step is
refused, and so is every operation without a rule here: `NotDerivableError` names it.
"""

import copy
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from amu_experiments.scans.graph import Graph, Node, in_order

R = B = 2
"""Trials and sequences of the trace: enough to notice a step that mixes them."""

_OPTIONS = ("memory_format", "layout", "device", "pin_memory", "non_blocking")


class NotDerivableError(ValueError):
    """The step does something that has no compiled form; the cell runs in torch."""


@dataclass(frozen=True)
class TracedProduct:
    """Result number n of the step's products, leaves ("rec<n>", row): rows of a parameter times `factor`."""

    parameter: str
    first: int
    last: int
    transposed: bool
    factor: list[Node]
    rows: int


@dataclass(frozen=True)
class Traced:
    """The step of one trial and one sequence.

    Leaves: ("net", k), ("old", place in the state), (parameter's name, index) and ("rec<n>", row) of product n.

    roots: (buffer, index, node) of every entry of the new state ("new") and of the output ("y").
    names: nodes and the names that the step gives them.
    """

    graph: Graph
    roots: list[tuple[str, int, Node]]
    products: list[TracedProduct]
    names: list[tuple[Node, str]]
    rows: int
    state: int
    outputs: int


def trace(cell) -> Traced:
    """Trace `cell.step`; raises NotDerivableError for a step that has no compiled form."""
    # In a thread of its own: torch.func, autocast and other modes around the caller belong to the caller's thread.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_trace, cell).result()


def _trace(cell) -> Traced:
    graph = Graph()
    tracer = _Tracer(graph, getattr(type(cell).step, "__code__", None))
    shapes = cell.shapes(cell.input_size, cell.hidden_size, **cell.options)
    rows = shapes["weight_ih"][0]
    parameters = {}
    for name, shape in shapes.items():
        parameters[name] = torch.ones(R, *shape)
        tracer.shadow(parameters[name], None if name in ("weight_ih", "bias") else _parameter(graph, name, shape))
    net = tracer.made("net", 0, rows)
    state, place = [], 0
    for size in cell.state_sizes():
        state.append(tracer.made("old", place, size))
        place += size
    (y, new), local = _call(cell, parameters, tracer, net, tuple(state))
    new_shadows = [tracer.result(tensor, "new state") for tensor in new]
    if [tuple(n.shape) for n in new] != [tuple(s.shape) for s in state]:
        raise NotDerivableError(
            f"the new state has shapes {[tuple(n.shape) for n in new]} where the old has "
            f"{[tuple(s.shape) for s in state]}"
        )
    entries = np.concatenate([shadow[0, 0] for shadow in new_shadows])
    output = tracer.result(y, "output")[0, 0]
    roots = [("new", i, node) for i, node in enumerate(entries)] + [("y", i, node) for i, node in enumerate(output)]
    traced = Traced(graph, roots, tracer.products, _names(tracer, local), rows, place, len(output))
    _check_lanes(traced)
    return traced


def _parameter(graph: Graph, name: str, shape: tuple[int, ...]):
    if len(shape) == 2:
        return _Matrix(name, 0, shape[0], shape[1])
    if len(shape) != 1:
        raise NotDerivableError(f"{name} has {len(shape)} axes; a step's parameters are vectors and matrices")
    return _lanes(graph, [graph.leaf(name, i) for i in range(shape[0])], (R,))


def _lanes(graph: Graph, nodes: list[Node], lanes: tuple[int, ...]) -> np.ndarray:
    """(*lanes, len(nodes)): the nodes in the first lane, a leaf that must not be read in the others."""
    array = np.full((*lanes, len(nodes)), graph.leaf("other", 0), object)
    array[(0,) * len(lanes)] = nodes
    return array


def _call(cell, parameters, tracer, net, state):
    """The step's result and its local variables, with others in the place of the cell's parameters."""
    stand_in = copy.copy(cell)
    stand_in.__dict__["_parameters"] = {}
    stand_in.__dict__.update(parameters)
    with tracer, torch.enable_grad():
        result = stand_in.step(net, state)
    # The frame of a function that has returned keeps its variables.
    return result, tracer.frame.f_locals if tracer.frame else {}


def _names(tracer, local: dict) -> list[tuple[Node, str]]:
    names = []
    for name, tensor in local.items():
        shadow = tracer.shadows.get(id(tensor))
        if isinstance(tensor, Tensor) and isinstance(shadow, np.ndarray) and shadow.ndim == 3:
            names += [(node, name.removesuffix("_RBK")) for node in shadow[0, 0]]
    return names


def _check_lanes(traced: Traced) -> None:
    tops = [node for *_, node in traced.roots] + [node for product in traced.products for node in product.factor]
    if any(node.op == "leaf" and node.attr[0] == "other" for node in in_order(tops)):
        raise NotDerivableError("the step mixes sequences of a batch, or trials")


@dataclass(frozen=True)
class _Matrix:
    """Rows of a parameter (K, H), which a step may multiply with a vector and do nothing else with."""

    name: str
    first: int
    last: int
    width: int
    transposed: bool = False


class _Tracer(TorchDispatchMode):
    """Gives every tensor that the step makes its shadow; `code` is that of the step, `frame` its frame."""

    def __init__(self, graph: Graph, code):
        super().__init__()
        self.graph, self.code = graph, code
        self.frame = None
        self.products: list[TracedProduct] = []
        self.shadows: dict[int, np.ndarray | _Matrix | None] = {}
        self._alive: list[Tensor] = []  # an id is a tensor's as long as the tensor lives

    def shadow(self, tensor: Tensor, shadow) -> None:
        self.shadows[id(tensor)] = shadow
        self._alive.append(tensor)

    def made(self, buffer: str, place: int, size: int) -> Tensor:
        tensor = torch.ones(R, B, size)
        self.shadow(tensor, _lanes(self.graph, [self.graph.leaf(buffer, place + i) for i in range(size)], (R, B)))
        return tensor

    def result(self, tensor: Tensor, what: str) -> np.ndarray:
        found = self._get(tensor)
        if not isinstance(found, np.ndarray) or found.ndim != 3 or found.shape[:2] != (R, B):
            raise NotDerivableError(f"the {what} of the step must be (R, B, width)")
        return found

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # else torch imports its compiler, which takes seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        frame = None if self.frame else sys._getframe(1)
        while frame is not None and frame.f_code is not self.code:
            frame = frame.f_back
        self.frame = self.frame or frame
        name = func.overloadpacket.__name__
        rule = _RULES.get(name)
        if rule is None:
            called = _called() or name
            raise NotDerivableError(f"{called} has no compiled form{_REASONS.get(called, '')}")
        if not torch.is_grad_enabled():
            raise NotDerivableError(
                f"{name} under torch.no_grad or in an autograd.Function: cut an error flow by detach"
            )
        kwargs = kwargs or {}
        shadows = [self._get(arg) for arg in args]
        options = {key: self._get(value) for key, value in kwargs.items() if key not in _OPTIONS}
        made = rule(self, *shadows, **options)
        out = func(*args, **kwargs)
        for tensor, shadow in zip(*((out, made) if isinstance(out, list | tuple) else ([out], [made])), strict=True):
            if isinstance(shadow, np.ndarray) and shadow.shape != tuple(tensor.shape):
                raise NotDerivableError(f"{name} to shape {tuple(tensor.shape)} has no compiled form")
            self.shadow(tensor, shadow)
        return out

    def _get(self, value):
        if isinstance(value, list | tuple):
            return [self._get(v) for v in value]
        if not isinstance(value, Tensor):
            return value
        if id(value) in self.shadows:
            shadow = self.shadows[id(value)]
            if shadow is None:
                raise NotDerivableError("the step reads weight_ih or bias, which have made net before it begins")
            return shadow
        # A tensor that is not computed from the step's: a constant of the cell.
        made = np.empty(tuple(value.shape), object)
        made[...] = np.frompyfunc(self.graph.const, 1, 1)(value.detach().double().numpy())
        return made

    def each(self, operation: str | Callable, *operands) -> np.ndarray:
        """An operation of the graph on every entry."""
        for operand in operands:
            if isinstance(operand, _Matrix):
                raise NotDerivableError(f"{operand.name} is a matrix, which only a product (recur) may use")
        operate = operation if callable(operation) else lambda *nodes: self.graph(operation, *nodes)
        done = {}

        def entry(*nodes):
            ids = tuple(node.id for node in nodes)
            if ids not in done:
                done[ids] = operate(*nodes)
            return done[ids]

        arrays = [a if isinstance(a, np.ndarray) else np.array(self.graph.const(a), object) for a in operands]
        return np.asarray(np.frompyfunc(entry, len(arrays), 1)(*arrays), object)

    def product(self, factor: np.ndarray, matrix: _Matrix) -> np.ndarray:
        """(R, B, n) times the matrix as torch.bmm gets it, (R, n, m)."""
        if not isinstance(matrix, _Matrix) or not isinstance(factor, np.ndarray):
            raise NotDerivableError(
                "a product of two tensors of the step has no compiled form; only parameters multiply"
            )
        rows = matrix.last - matrix.first if matrix.transposed else matrix.width
        number = len(self.products)
        # As bmm sees it: h @ W^T is W h.
        self.products.append(
            TracedProduct(matrix.name, matrix.first, matrix.last, not matrix.transposed, list(factor[0, 0]), rows)
        )
        return _lanes(self.graph, [self.graph.leaf(f"rec{number}", k) for k in range(rows)], factor.shape[:2])


def _called() -> str | None:
    """The function of torch.nn.functional that the step has called, where it is in one."""
    frame, found = sys._getframe(1), None
    while frame is not None:
        if frame.f_code.co_filename == torch.nn.functional.__file__:
            found = frame.f_code.co_name
        frame = frame.f_back
    return found


# Rules: what an operation of torch does to shadows --------------------------------------------------------------


def _elementwise(operation: str) -> Callable:
    return lambda tracer, *operands: tracer.each(operation, *operands)


def _composed(operation: str) -> Callable:
    """A composition of the graph; what is no array is an option of it."""

    def rule(tracer, *operands, **options):
        arrays = [a for a in operands if isinstance(a, np.ndarray | _Matrix)]
        rest = operands[len(arrays) :]
        made = getattr(tracer.graph, operation)
        return tracer.each(lambda *nodes: made(*nodes, *rest, **options), *arrays)

    return rule


def _scaled(tracer, b, alpha):
    return b if alpha == 1 else tracer.each("mul", b, alpha)


def _compared(operation: str, swapped: bool = False, negated: bool = False) -> Callable:
    def rule(tracer, a, b):
        out = tracer.each(operation, b, a) if swapped else tracer.each(operation, a, b)
        return tracer.each("not", out) if negated else out

    return rule


def _array_only(function: Callable) -> Callable:
    def rule(tracer, a, *rest, **options):
        if isinstance(a, _Matrix):
            raise NotDerivableError(f"{a.name} is a matrix, which only a product (recur) may use, whole or by rows")
        return function(a, *rest, **options)

    return rule


def _slice(tracer, a, dim=0, start=None, end=None, step=1):
    if isinstance(a, _Matrix):
        if dim not in (-2, 1) or step != 1 or a.transposed:
            raise NotDerivableError(f"{a.name}: only whole rows of a matrix can be taken")
        first, last, _ = slice(start, end).indices(a.last - a.first)
        return _Matrix(a.name, a.first + first, a.first + last, a.width)
    index = [slice(None)] * a.ndim
    index[dim] = slice(start, end, step)
    return a[tuple(index)]


def _split(tracer, a, sizes, dim=0):
    length = a.last - a.first if isinstance(a, _Matrix) else a.shape[dim]
    sizes = [min(sizes, length - at) for at in range(0, length, sizes)] if isinstance(sizes, int) else sizes
    ends = np.cumsum(sizes)
    return [_slice(tracer, a, dim, int(end - size), int(end)) for size, end in zip(sizes, ends, strict=True)]


def _transpose(tracer, a, i, j):
    if not isinstance(a, _Matrix):
        return np.swapaxes(a, i, j)
    if {i % 3, j % 3} != {1, 2}:
        raise NotDerivableError(f"{a.name}: only its rows and columns can change places")
    return _Matrix(a.name, a.first, a.last, a.width, not a.transposed)


def _expand(a, shape, implicit=False):
    known = (1,) * (len(shape) - a.ndim) + a.shape
    return np.broadcast_to(a, [n if size == -1 else size for size, n in zip(shape, known, strict=True)])


def _reduced(operation: str) -> Callable:
    def rule(tracer, a, dims=None, keepdim=False, dtype=None):
        if isinstance(a, _Matrix):
            return tracer.each(operation, a)
        dims = range(a.ndim) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        for dim in sorted((d % a.ndim for d in dims), reverse=True):
            out, *parts = (np.asarray(np.take(a, i, axis=dim), object) for i in range(a.shape[dim]))
            for part in parts:
                out = tracer.each(operation, out, part)
            a = np.expand_dims(out, dim) if keepdim else out
        return a

    return rule


def _mean(tracer, a, dims=None, keepdim=False, dtype=None):
    total = _reduced("add")(tracer, a, dims, keepdim)
    return tracer.each("mul", total, total.size / a.size)


def _cast(tracer, a, dtype=None):
    if dtype is not None and not dtype.is_floating_point and dtype != torch.bool:
        raise NotDerivableError(f"a conversion to {dtype} has no compiled form")
    if isinstance(a, np.ndarray) and dtype is not None and dtype.is_floating_point:
        return tracer.each(lambda n: tracer.graph("where", n, 1.0, 0.0) if _is_condition(n) else n, a)
    return a


def _is_condition(node: Node) -> bool:
    return node.op in ("gt", "ge", "eq", "and", "or", "not")


def _filled(number: float | None, like: bool) -> Callable:
    def rule(tracer, first, *rest, dtype=None, **_):
        # like: a tensor whose shape is taken; otherwise a shape, after a tensor in new_zeros and its kind.
        shape = first.shape if like else first if isinstance(first, list) else rest[0]
        value = rest[-1] if number is None else number
        return np.full(shape, tracer.graph.const(value), object)

    return rule


def _power(tracer, a, exponent):
    if not isinstance(exponent, int | float):
        raise NotDerivableError("pow with an exponent that is no constant has no compiled form")
    return tracer.each(lambda node: tracer.graph.power(node, exponent), a)


def _gelu(tracer, a, approximate="none"):
    if approximate != "tanh":
        raise NotDerivableError("gelu has no compiled form; its form with approximate='tanh' has one")
    cubed = tracer.each("mul", a, tracer.each("mul", a, a))
    inner = tracer.each("mul", (2 / np.pi) ** 0.5, tracer.each("add", a, tracer.each("mul", 0.044715, cubed)))
    return tracer.each("mul", tracer.each("mul", 0.5, a), tracer.each("add", 1.0, tracer.each("tanh", inner)))


def _times(operation: str) -> Callable:
    """a times an operation of it, as in silu."""
    return lambda tracer, a: tracer.each("mul", a, tracer.each(getattr(tracer.graph, operation), a))


def _mish(tracer, a):
    return tracer.each("mul", a, tracer.each("tanh", tracer.each(tracer.graph.softplus, a)))


_RULES: dict[str, Callable] = {
    # Shapes.
    "slice": _slice,
    "split": _split,
    "split_with_sizes": _split,
    "transpose": _transpose,
    "select": _array_only(lambda a, dim, i: np.take(a, i, axis=dim)),
    "unbind": _array_only(lambda a, dim=0: list(np.moveaxis(a, dim, 0))),
    "view": _array_only(lambda a, shape: a.reshape(shape)),
    "_unsafe_view": _array_only(lambda a, shape: a.reshape(shape)),
    "reshape": _array_only(lambda a, shape: a.reshape(shape)),
    "unsqueeze": _array_only(lambda a, dim: np.expand_dims(a, dim if dim >= 0 else dim + a.ndim + 1)),
    "squeeze": _array_only(lambda a, dim=None: np.squeeze(a, None if dim is None else tuple(np.atleast_1d(dim)))),
    "permute": _array_only(lambda a, dims: np.transpose(a, dims)),
    "expand": _array_only(_expand),
    "repeat": _array_only(lambda a, repeats: np.tile(a, repeats)),
    "flip": _array_only(lambda a, dims: np.flip(a, dims)),
    "roll": _array_only(lambda a, shifts, dims: np.roll(a, shifts, dims)),
    "cat": lambda tracer, arrays, dim=0: np.concatenate(arrays, axis=dim),
    "stack": lambda tracer, arrays, dim=0: np.stack(arrays, axis=dim),
    "clone": lambda tracer, a: a,
    "alias": lambda tracer, a: a,
    "lift_fresh": lambda tracer, a: a,
    "detach": lambda tracer, a: a if isinstance(a, _Matrix) else tracer.each("detach", a),
    "_to_copy": _cast,
    "zeros_like": _filled(0.0, like=True),
    "ones_like": _filled(1.0, like=True),
    "full_like": _filled(None, like=True),
    "zeros": _filled(0.0, like=False),
    "ones": _filled(1.0, like=False),
    "full": _filled(None, like=False),
    "new_zeros": _filled(0.0, like=False),
    "new_ones": _filled(1.0, like=False),
    "new_full": _filled(None, like=False),
    "scalar_tensor": lambda tracer, value, dtype=None: np.array(tracer.graph.const(value), object),
    # Arithmetic.
    "add": lambda tracer, a, b, alpha=1: tracer.each("add", a, _scaled(tracer, b, alpha)),
    "sub": lambda tracer, a, b, alpha=1: tracer.each("sub", a, _scaled(tracer, b, alpha)),
    "rsub": lambda tracer, a, b, alpha=1: tracer.each("sub", b, _scaled(tracer, a, alpha)),
    "mul": _elementwise("mul"),
    "div": _elementwise("div"),
    "neg": _elementwise("neg"),
    "reciprocal": lambda tracer, a: tracer.each("div", 1.0, a),
    "square": lambda tracer, a: tracer.each("mul", a, a),
    "pow": _power,
    "lerp": lambda tracer, a, b, w: tracer.each("add", a, tracer.each("mul", w, tracer.each("sub", b, a))),
    "addcmul": lambda tracer, a, b, c, value=1: tracer.each("add", a, _scaled(tracer, tracer.each("mul", b, c), value)),
    "addcdiv": lambda tracer, a, b, c, value=1: tracer.each("add", a, _scaled(tracer, tracer.each("div", b, c), value)),
    "sum": _reduced("add"),
    "prod": _reduced("mul"),
    "mean": _mean,
    # Functions.
    **{name: _elementwise(name) for name in ("tanh", "exp", "log", "log1p", "sqrt", "sin", "cos")},
    "rsqrt": lambda tracer, a: tracer.each("div", 1.0, tracer.each("sqrt", a)),
    "expm1": lambda tracer, a: tracer.each("sub", tracer.each("exp", a), 1.0),
    **{
        name: _composed(name)
        for name in (
            *("sigmoid", "maximum", "minimum", "clamp", "hardtanh", "relu", "leaky_relu", "abs", "sign", "softplus"),
            *("hardsigmoid", "hardswish", "elu"),
        )
    },
    "sgn": _composed("sign"),
    "clamp_min": lambda tracer, a, low: tracer.each(lambda n: tracer.graph.clamp(n, low), a),
    "clamp_max": lambda tracer, a, high: tracer.each(lambda n: tracer.graph.clamp(n, None, high), a),
    "log_sigmoid_forward": lambda tracer, a: [_composed("log_sigmoid")(tracer, a), None],
    "silu": _times("sigmoid"),
    "mish": _mish,
    "gelu": _gelu,
    # Conditions.
    "where": _elementwise("where"),
    "masked_fill": lambda tracer, a, mask, value: tracer.each("where", mask, value, a),
    "gt": _compared("gt"),
    "ge": _compared("ge"),
    "lt": _compared("gt", swapped=True),
    "le": _compared("ge", swapped=True),
    "eq": _compared("eq"),
    "ne": _compared("eq", negated=True),
    "logical_and": _elementwise("and"),
    "logical_or": _elementwise("or"),
    "logical_not": _elementwise("not"),
    "bitwise_and": _elementwise("and"),
    "bitwise_or": _elementwise("or"),
    "bitwise_not": _elementwise("not"),
    # Products.
    "bmm": lambda tracer, a, b: tracer.product(a, b),
}

_RANDOM = (
    *("dropout", "alpha_dropout", "feature_alpha_dropout", "bernoulli", "bernoulli_", "rand", "rand_like", "randn"),
    *("randn_like", "randint", "normal_", "uniform_", "normal", "rrelu", "gumbel_softmax", "native_dropout"),
)
_COUPLED = ("batch_norm", "instance_norm", "native_batch_norm")
_DATA_DEPENDENT = ("_local_scalar_dense", "is_nonzero", "item", "nonzero", "any", "all", "equal")
_REASONS = {
    **dict.fromkeys(_RANDOM, " (a random step)"),
    **dict.fromkeys(_COUPLED, " (it couples the sequences of a batch)"),
    **dict.fromkeys(_DATA_DEPENDENT, " (control flow that depends on data)"),
}
