"""Runs a cell's torch `step` once and records which numbers it computes from which.

The step runs on tensors of two trials and three sequences. Every tensor has a shadow, an array of graph nodes; its own
numbers mean nothing. What trial 0 computes for sequence 0 is the step. The step is refused if it reads an entry of
another trial or sequence, or if another trial or sequence reads one of its entries. It is also refused for an operation
without a rule in operations.py. `NotDerivableError` says why.
"""

import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from amu_experiments.scans.graph import Graph, Node, in_order
from amu_experiments.scans.operations import REASONS, RULES, Matrix, NotDerivableError

R, B = 2, 3
"""Trials and sequences of the trace: enough to notice a step that mixes them, or takes one for the other."""

_OPTIONS = ("memory_format", "layout", "device", "pin_memory", "non_blocking")


@dataclass(frozen=True)
class TracedProduct:
    """Product number n of the step: rows of a parameter, times `factor`. Its results are the leaves ("rec<n>", row)."""

    parameter: str
    first: int
    last: int
    transposed: bool
    factor: list[Node]
    rows: int


@dataclass(frozen=True)
class Traced:
    """The step of one trial and one sequence.

    Leaves: ("net", k), ("old", index in the state), (parameter's name, index) and ("rec<n>", row) of product n.

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
    output_shadow = tracer.result(y, "output")
    _check_lanes([*new_shadows, output_shadow, *tracer.factors])
    entries, output = np.concatenate([shadow[0, 0] for shadow in new_shadows]), output_shadow[0, 0]
    roots = [("new", i, node) for i, node in enumerate(entries)] + [("y", i, node) for i, node in enumerate(output)]
    return Traced(graph, roots, tracer.products, _names(tracer, local), rows, place, len(output))


def _parameter(graph: Graph, name: str, shape: tuple[int, ...]):
    if name == "other" or _of_a_sequence(name):
        raise NotDerivableError(f"{name} names a buffer of the compiled step; give this parameter another name")
    if len(shape) == 2:
        return Matrix(name, 0, shape[0], shape[1])
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
    with tracer, torch.enable_grad():
        result = cell.with_tensors(parameters).step(net, state)
    # The frame of a function that has returned keeps its variables.
    return result, tracer.frame.f_locals if tracer.frame else {}


def _names(tracer, local: dict) -> list[tuple[Node, str]]:
    names = []
    for name, tensor in local.items():
        shadow = tracer.shadows.get(id(tensor))
        if isinstance(tensor, Tensor) and isinstance(shadow, np.ndarray) and shadow.ndim == 3:
            names += [(node, name.removesuffix("_RBK")) for node in shadow[0, 0]]
    return names


def _check_lanes(shadows: list[np.ndarray]) -> None:
    """Raise NotDerivableError unless trial 0 and its sequence 0 read nothing of others, nor others of them."""

    def read(r: int, b: int) -> set[str]:
        nodes = in_order([node for shadow in shadows for node in shadow[r, b]])
        return {node.attr[0] for node in nodes if node.op == "leaf"}

    if "other" in read(0, 0) or any(map(_of_a_sequence, read(0, 1))) or read(1, 0) - {"other"}:
        raise NotDerivableError("the step mixes sequences of a batch, or trials")


def _of_a_sequence(buffer: str) -> bool:
    """Whether every sequence has entries of its own in this buffer, unlike in a parameter."""
    return re.fullmatch(r"net|old|rec\d+", buffer) is not None


class _Tracer(TorchDispatchMode):
    """Gives every tensor that the step makes its shadow; `code` is that of the step, `frame` its frame."""

    def __init__(self, graph: Graph, code):
        super().__init__()
        self.graph, self.code = graph, code
        self.frame = None
        self.products: list[TracedProduct] = []
        self.factors: list[np.ndarray] = []  # of the products, for all trials and sequences
        self.shadows: dict[int, np.ndarray | Matrix | None] = {}
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
        rule = RULES.get(name)
        if rule is None:
            called = _called() or name
            raise NotDerivableError(f"{called} has no compiled form{REASONS.get(called, '')}")
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
            if isinstance(operand, Matrix):
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

    def product(self, factor: np.ndarray, matrix: Matrix) -> np.ndarray:
        """(R, B, n) times the matrix as torch.bmm gets it, (R, n, m)."""
        if not isinstance(matrix, Matrix) or not isinstance(factor, np.ndarray):
            raise NotDerivableError(
                "a product of two tensors of the step has no compiled form; only parameters multiply"
            )
        rows = matrix.last - matrix.first if matrix.transposed else matrix.width
        number = len(self.products)
        self.factors.append(factor)
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
