"""Rules: what each operation of torch that a step may use does to the shadows of its tensors (trace.py)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from amu_experiments.scans.graph import Node


class NotDerivableError(ValueError):
    """The step does something that has no compiled form; the cell runs in torch."""


@dataclass(frozen=True)
class Matrix:
    """Rows of a parameter (K, H), which a step may multiply with a vector and do nothing else with."""

    name: str
    first: int
    last: int
    width: int
    transposed: bool = False


def _elementwise(operation: str) -> Callable:
    return lambda tracer, *operands: tracer.each(operation, *operands)


def _composed(operation: str) -> Callable:
    """A composed operation of Graph, such as sigmoid; operands that are not arrays are its options."""

    def rule(tracer, *operands, **options):
        arrays = [a for a in operands if isinstance(a, np.ndarray | Matrix)]
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
        if isinstance(a, Matrix):
            raise NotDerivableError(f"{a.name} is a matrix, which only a product (recur) may use, whole or by rows")
        return function(a, *rest, **options)

    return rule


def _slice(tracer, a, dim=0, start=None, end=None, step=1):
    if isinstance(a, Matrix):
        if dim not in (-2, 1) or step != 1 or a.transposed:
            raise NotDerivableError(f"{a.name}: only whole rows of a matrix can be taken")
        first, last, _ = slice(start, end).indices(a.last - a.first)
        return Matrix(a.name, a.first + first, a.first + last, a.width)
    index = [slice(None)] * a.ndim
    index[dim] = slice(start, end, step)
    return a[tuple(index)]


def _split(tracer, a, sizes, dim=0):
    length = a.last - a.first if isinstance(a, Matrix) else a.shape[dim]
    sizes = [min(sizes, length - at) for at in range(0, length, sizes)] if isinstance(sizes, int) else sizes
    ends = np.cumsum(sizes)
    return [_slice(tracer, a, dim, int(end - size), int(end)) for size, end in zip(sizes, ends, strict=True)]


def _transpose(tracer, a, i, j):
    if not isinstance(a, Matrix):
        return np.swapaxes(a, i, j)
    if {i % 3, j % 3} != {1, 2}:
        raise NotDerivableError(f"{a.name}: only its rows and columns can change places")
    return Matrix(a.name, a.first, a.last, a.width, not a.transposed)


def _expand(a, shape, implicit=False):
    known = (1,) * (len(shape) - a.ndim) + a.shape
    return np.broadcast_to(a, [n if size == -1 else size for size, n in zip(shape, known, strict=True)])


def _reduced(operation: str) -> Callable:
    def rule(tracer, a, dims=None, keepdim=False, dtype=None):
        if isinstance(a, Matrix):
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
        # like: `first` is a tensor and gives the shape. Otherwise the shape is given: first, or in new_* second.
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


RULES: dict[str, Callable] = {
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
    "detach": lambda tracer, a: a if isinstance(a, Matrix) else tracer.each("detach", a),
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
REASONS = {
    **dict.fromkeys(_RANDOM, " (a random step)"),
    **dict.fromkeys(_COUPLED, " (it couples the sequences of a batch)"),
    **dict.fromkeys(_DATA_DEPENDENT, " (control flow that depends on data)"),
}
