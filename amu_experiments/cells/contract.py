"""Checks of a cell's class: its shapes, its initial values and one step. A mistake is an error in one line.

A step is tried on stacked tensors whose numbers of trials R and of sequences B differ from each other, from 1 and from
every width. So torch cannot take one axis for another, which would happen in silence where two axes are equally long.
"""

import copy
import inspect
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from amu_experiments.cells.initial import seeded
from amu_experiments.options import ConfigurationError
from amu_experiments.own_code import in_one_line, place_of

_PRODUCTS = ("bmm", "baddbmm", "matmul", "__matmul__", "mm", "linear", "einsum")


class CellError(ConfigurationError):
    """A mistake in the class of a cell, in one line: the method and, where there is one, the file and line."""

    def __init__(self, message: str):
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


_counting = ContextVar("counting", default=False)


@contextmanager
def counting() -> Iterator[None]:
    """Within, cells are made to count their parameters: no initial values are drawn, and no step is tried."""
    token = _counting.set(True)
    try:
        yield
    finally:
        _counting.reset(token)


def is_counting() -> bool:
    """Whether cells are made within `counting`."""
    return _counting.get()


def shapes_of(cell) -> dict[str, tuple[int, ...]]:
    """The shapes of a cell's parameters; CellError if they break the contract of `Cell.shapes`."""
    kind = type(cell)
    if not isinstance(inspect.getattr_static(kind, "shapes"), classmethod | staticmethod):
        raise CellError(f"shapes() must be a @classmethod{_defined(kind.shapes)}")
    with in_one_line("shapes()", kind.shapes, CellError):
        shapes = kind.shapes(cell.input_size, cell.hidden_size, **cell.options)
    _check_shapes(kind, shapes, cell.input_size)
    # If input_size equals another size, only another input_size reveals a wrong shape.
    other = None
    with suppress(Exception):
        other = kind.shapes(cell.input_size + 1, cell.hidden_size, **cell.options)
    if other is not None:
        _check_shapes(kind, other, cell.input_size + 1)
    return shapes


def initial_values_of(cell, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One trial's initial parameters, each an array of its own in float32; CellError for a wrong name, shape or type.

    They are a function of the generator's state alone, even if the method uses the global generators of torch, numpy
    or Python. The layers of a cell get different random numbers.
    """
    shapes = cell.shapes(cell.input_size, cell.hidden_size, **cell.options)
    where = _defined(cell.initial_values)
    # The seed is drawn from a copy, so that the cell gets the generator unchanged.
    layer = zlib.crc32(getattr(cell, "suffix", "").encode())
    seed = int(copy.deepcopy(rng).integers(2**62)) ^ layer
    with seeded(seed), in_one_line("initial_values()", cell.initial_values, CellError):
        values = cell.initial_values(rng)
        if not isinstance(values, Mapping):
            raise CellError(f"initial_values() returns {_form(values)}: must be a dict of names and arrays{where}")
    if values.keys() != shapes.keys():
        raise CellError(
            f"initial_values() has {', '.join(values)}: must have the names in shapes(), {', '.join(shapes)}{where}"
        )
    arrays = {}
    for name, shape in shapes.items():
        with in_one_line(f"initial_values(): {name}", cell.initial_values, CellError):
            array = np.asarray(values[name])
        if array.shape != tuple(shape):
            raise CellError(f"initial_values(): {name} is {array.shape}: must be {tuple(shape)}{where}")
        if array.dtype.kind not in "biuf":
            raise CellError(f"initial_values(): {name} is an array of {array.dtype}: must be of real numbers{where}")
        # A copy, because torch takes no negative strides and shares the memory of what it takes.
        arrays[name] = np.array(array, np.float32, order="C")
    return arrays


def check_step(cell) -> None:
    """Try one step of a cell; CellError if it fails, returns wrong shapes, or mixes trials.

    A layer with `trials=None` has one trial, so its step may treat the trials together. A step that fails with random
    numbers, because it is defined for some numbers only, is tried with what training starts from. Then it is not
    tested whether it mixes trials.
    """
    first = next(cell.parameters())
    if is_counting() or first.is_meta or torch.compiler.is_compiling():
        return
    _check_states(cell)
    attempt = _Attempt(cell, first)
    try:
        mixes = _mixes_trials(attempt)
    except ConfigurationError:
        with suppress(ConfigurationError):
            attempt.first_step()
            return
        raise
    if mixes:
        raise CellError(f"step() mixes trials: what it computes for one depends on another{_defined(type(cell).step)}")


def _mixes_trials(attempt: "_Attempt") -> bool:
    """Whether other numbers of some trials change what the step computes for the others."""
    made = attempt.step(range(attempt.R))
    if attempt.cell.trials is None:
        return False
    for changed in ({0}, {*range(1, attempt.R)}):
        kept = [r for r in range(attempt.R) if r not in changed]
        seeds = [r + attempt.R if r in changed else r for r in range(attempt.R)]
        if not _equal(made, attempt.step(seeds), kept) and _equal(made, attempt.step(range(attempt.R)), kept):
            return True
    return False


# The shapes -----------------------------------------------------------------------------------------------------------


def _check_shapes(kind: type, shapes: Any, input_size: int) -> None:
    where = _defined(kind.shapes)
    if not isinstance(shapes, Mapping):
        raise CellError(f"shapes() returns {_form(shapes)}: must be a dict of names and shapes{where}")
    for name, shape in shapes.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise CellError(f"shapes(): {name!r} must be a name that Python allows for an attribute{where}")
        if not isinstance(shape, tuple | list):
            raise CellError(f"shapes(): {name} is {shape!r}: must be a tuple, such as (A,) or (A, A){where}")
        if not all(map(_is_size, shape)):
            raise CellError(f"shapes(): {name} is {tuple(shape)}: must be whole numbers, 0 or more{where}")
    for name in ("weight_ih", "bias"):
        if name not in shapes:
            hint = '; write "bias": (0,) for a cell without biases' if name == "bias" else ", (K, input_size)"
            raise CellError(f"shapes() has no {name}{hint}{where}")
    weight, bias = tuple(shapes["weight_ih"]), tuple(shapes["bias"])
    if len(weight) != 2 or weight[1] != input_size:
        raise CellError(
            f"shapes(): weight_ih is {weight} where input_size is {input_size}: must be (K, input_size), "
            f"with K net inputs{where}"
        )
    if len(bias) != 1 or bias[0] > weight[0]:
        raise CellError(
            f"shapes(): bias is {bias}: must be (n,), and n at most {weight[0]}, the number of rows of weight_ih{where}"
        )


def _is_size(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 0


def _check_states(cell) -> None:
    if not isinstance(cell.states, tuple | list) or not all(isinstance(name, str) for name in cell.states):
        raise CellError(f'states = {cell.states!r}: must be a tuple of names, such as ("h",) or ("h", "c")')
    with in_one_line("state_sizes()", cell.state_sizes, CellError):
        sizes = tuple(cell.state_sizes())
    if len(sizes) != len(cell.states):
        raise CellError(
            f"state_sizes() returns {sizes}: must have a width for each of {', '.join(cell.states)}"
            f"{_defined(cell.state_sizes)}"
        )
    if not all(map(_is_size, sizes)):
        raise CellError(f"state_sizes() returns {sizes}: must be whole numbers, 0 or more{_defined(cell.state_sizes)}")


# The step -------------------------------------------------------------------------------------------------------------


class _Attempt:
    """Attempts at a cell's step with tensors on the device and in the dtype of the parameter `like`."""

    def __init__(self, cell, like: Tensor):
        self.cell, self.like = cell, like
        self.shapes = cell.shapes(cell.input_size, cell.hidden_size, **cell.options)
        self.widths = cell.state_sizes()
        taken = {*itertools.chain(*self.shapes.values()), *self.widths, cell.hidden_size}
        self.R, self.B = itertools.islice((n for n in itertools.count(2) if n not in taken), 2)
        K, A = self.shapes["weight_ih"][0], cell.hidden_size
        self.sizes = f"R={self.R}, B={self.B}, K={K}, A={A}"

    def step(self, seeds: Sequence[int]) -> list[Tensor]:
        """Output and new states, from numbers that each trial draws with its own seed."""
        generators = [torch.Generator(device="cpu").manual_seed(seed) for seed in seeds]

        def drawn(*shape: int) -> Tensor:
            numbers = [torch.rand(shape, generator=each, dtype=torch.float32, device="cpu") for each in generators]
            return (torch.stack(numbers) - 0.5).to(self.like)

        tensors = {name: drawn(*shape) for name, shape in self.shapes.items()}
        x_R1BI = drawn(1, self.B, self.cell.input_size)
        return self._called(tensors, x_R1BI, tuple(drawn(self.B, width) for width in self.widths))

    def first_step(self) -> list[Tensor]:
        """The same from initial values and states of zero, as in a sequence's first step in training."""
        trials = [initial_values_of(self.cell, np.random.default_rng(trial)) for trial in range(self.R)]
        tensors = {}
        for name in self.shapes:
            tensors[name] = torch.from_numpy(np.stack([values[name] for values in trials])).to(self.like)
            if name.startswith("bias") and not self.cell.biased:
                tensors[name].zero_()
        numbers = torch.Generator(device="cpu").manual_seed(0)
        x_R1BI = torch.rand((self.R, 1, self.B, self.cell.input_size), generator=numbers, device="cpu") - 0.5
        state = tuple(self.like.new_zeros(self.R, self.B, width) for width in self.widths)
        return self._called(tensors, x_R1BI.to(self.like), state)

    def _called(self, tensors: dict[str, Tensor], x_R1BI: Tensor, state: tuple[Tensor, ...]) -> list[Tensor]:
        tensors = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
        cell, watch = self.cell.with_tensors(tensors), _Watch(tensors)
        if cell.trials is not None:
            cell.trials = self.R
        with seeded(0), torch.enable_grad(), _without_autocast(self.like.device.type):
            with in_one_line("bias_rows()", cell.bias_rows, CellError):
                net_RBK = cell.input_net(x_R1BI)[:, 0]
            try:
                with watch:
                    result = cell.step(net_RBK, state)
            except (ConfigurationError, MemoryError):
                raise
            except Exception as error:
                text = watch.advice() or f"{type(error).__name__}: {error}"
                sizes = f" with {self.sizes}" if watch.failed and not watch.advice() else ""
                raise CellError(f"step(){sizes}: {text}{place_of(error, cell.step)}") from error
        return self._checked(result)

    def _checked(self, result: Any) -> list[Tensor]:
        cell, where = self.cell, _defined(type(self.cell).step)
        names = ", ".join(cell.states) + "," * (len(cell.states) == 1)
        pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Tensor)
        if not pair or not isinstance(result[1], tuple | list) or not all(isinstance(s, Tensor) for s in result[1]):
            raise CellError(
                f"step() returns {_form(result)}: must return output, ({names}), a tensor and a tuple of tensors{where}"
            )
        y, new = result
        if len(new) != len(cell.states):
            raise CellError(f"step() returns {len(new)} new states: must be {len(cell.states)}, ({names}){where}")
        wanted = [("the output", y, cell.hidden_size)]
        wanted += [(f"state {name}", *each) for name, *each in zip(cell.states, new, self.widths, strict=True)]
        for name, tensor, width in wanted:
            if tuple(tensor.shape) != (self.R, self.B, width):
                raise CellError(
                    f"step() with {self.sizes}: {name} is {tuple(tensor.shape)}: "
                    f"must be {(self.R, self.B, width)}{where}"
                )
            if tensor.dtype != self.like.dtype:
                raise CellError(f"step(): {name} is {tensor.dtype}: must be {self.like.dtype}, as its input{where}")
        return [y.detach(), *(tensor.detach() for tensor in new)]


class _Watch(TorchFunctionMode):
    """Records the tensors computed from parameters only, and all tensors given to the first operation that fails."""

    def __init__(self, parameters: Mapping[str, Tensor]):
        super().__init__()
        self.parameters = parameters
        # The tensors are kept, because an id is a tensor's own only as long as the tensor lives.
        self.made = {id(tensor): (name, tensor) for name, tensor in parameters.items()}
        self.failed: list[Tensor] = []
        self.product = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        tensors = list(_tensors((*args, *(kwargs or {}).values())))
        try:
            result = function(*args, **(kwargs or {}))
        except Exception:
            if not self.failed:
                self.failed, self.product = tensors, getattr(function, "__name__", "") in _PRODUCTS
            raise
        if tensors and all(id(tensor) in self.made for tensor in tensors):
            self.made |= {id(tensor): (self.made[id(tensors[0])][0], tensor) for tensor in _tensors([result])}
        return result

    def advice(self) -> str | None:
        """What to write, if an operation on a parameter and on a tensor of sequences failed."""
        if self.product or all(id(tensor) in self.made for tensor in self.failed):
            return None
        for tensor in self.failed:
            name = self.made.get(id(tensor), ("", None))[0]
            right = tensor.dim() > 2 and tensor.shape[1] == 1
            if name and not right and self.parameters[name].dim() == 2:
                return (
                    f"self.{name} has no axis for the sequences of a batch: write self.{name}.unsqueeze(1), "
                    "which is (R, 1, A)"
                )
            if name and not right:
                return f"self.{name} is a matrix: write recur(h, self.{name}) for its product with h"
        return None


def _tensors(values: Iterable) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _equal(some: Sequence[Tensor], others: Sequence[Tensor], trials: list[int]) -> bool:
    """Whether these trials have the same numbers in both."""
    return all(
        torch.allclose(a[trials], b[trials], rtol=1e-4, atol=1e-6, equal_nan=True)
        for a, b in zip(some, others, strict=True)
    )


def _without_autocast(kind: str):
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


# Messages -------------------------------------------------------------------------------------------------------------


def _defined(method: Callable) -> str:
    """In brackets, the file and the first line of a method."""
    return place_of(Exception(), method)


def _form(value: Any) -> str:
    """A result as its types: (Tensor, (Tensor, Tensor))."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_form, value))}{',' * (len(value) == 1)})"
    return type(value).__name__
