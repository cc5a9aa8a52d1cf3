"""Any recurrent torch module, such as torch.nn.LSTMCell, as the cell of a network, in plain torch."""

import functools
import inspect
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from amu_experiments.cells.initial import seeded
from amu_experiments.options import ConfigurationError, options_of

SEQUENCES = 3
"""Sequences in the calls that find a module's state; batches of one would hide a state that has no batch axis."""


class ModuleCell(nn.Module):
    """A module for each of R trials, with parameters (R, ...) drawn by the module's own initialisation.

    The class is made as CLASS(I, A, **options), and called as cell(input, state) with an input (B, I). It returns the
    new state, or (output, new state). A state is a tensor (B, ...) or a tuple of such tensors. Before the first step it
    is None, or zeros (B, A) for a module that cannot take None: one tensor, or two. The output is (B, A); without
    one, the first tensor of the state is the output.

    All trials are computed together by torch.vmap if that gives the same numbers, and one after another otherwise. A
    parameter without requires_grad is not trained. The initial values are a function of a trial's generator alone.

    Raises ConfigurationError, which names the class, if the class cannot be made or called in this way, or if a trial
    would not depend on its seed alone.
    """

    kind: ClassVar[type[nn.Module]]
    name: ClassVar[str]
    readout_bias = True

    def __init__(
        self, input_size: int, hidden_size: int, *, trials: int = 1, backend: str = "auto", **options: Any
    ) -> None:
        super().__init__()
        if backend == "fused":
            raise ConfigurationError(f"backend=fused: {self.name} has no compiled form; use torch or auto")
        self.input_size, self.hidden_size, self.trials, self.options = input_size, hidden_size, trials, options
        module = self._made(0)
        self._module = (module,)  # in a tuple, so that torch does not add its parameters to this layer
        self._first, self._has_output = self._find_state(module)
        self._check_repeatable()
        self.stacked = nn.ParameterList(p.detach().expand(trials, *p.shape).clone() for p in module.parameters())
        self._vectorised = self._find_vectorised()

    # For a network ----------------------------------------------------------------------------------------------

    @classmethod
    def annotations(cls) -> dict[str, Any]:
        return options_of(cls.kind, "__init__")

    @classmethod
    def option_names(cls) -> list[str] | None:
        """The arguments of the class after the two sizes; None if it takes arbitrary ones."""
        arguments = list(inspect.signature(cls.kind).parameters.values())
        if any(argument.kind == argument.VAR_KEYWORD for argument in arguments):
            return None
        return [argument.name for argument in arguments[2:] if argument.kind != argument.VAR_POSITIONAL]

    @classmethod
    def unit_step(cls, **options: Any) -> int:
        return 1

    @classmethod
    def count(cls, input_size: int, hidden_size: int, **options: Any) -> int:
        """Parameters of one trial."""
        return sum(p.numel() for p in cls._make(input_size, hidden_size, options, 0).parameters())

    def ordered_parameters(self) -> list[nn.Parameter]:
        return list(self.stacked)

    def names(self) -> list[str]:
        """The module's own names of the parameters, in the order of `ordered_parameters`."""
        return [name for name, _ in self._module[0].named_parameters()]

    def readout_range(self) -> float:
        return 1 / np.sqrt(self.hidden_size)

    def fused_scans(self, purpose: str, batch_size: int) -> None:
        """There is no compiled form."""

    def initialise(self, generators: Sequence[np.random.Generator]) -> None:
        """Draw each trial's initial values, with a seed from its own generator."""
        with torch.no_grad():
            for trial, rng in enumerate(generators):
                drawn = self._made(int(rng.integers(2**63))).parameters()
                for stacked, parameter in zip(self.stacked, drawn, strict=True):
                    stacked[trial] = parameter

    def forward(self, x_RTBI: Tensor, state: Any, lengths_RB: Tensor) -> tuple[Tensor, Any]:
        """Outputs (R, T, B, A), zero after a sequence's length, and the last state; state: None, or a last state."""
        return self._outputs(x_RTBI, state, lengths_RB, self._vectorised)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, trials={self.trials}, options={self.options}"

    # Calls of the module ----------------------------------------------------------------------------------------

    def _outputs(self, x_RTBI: Tensor, state: Any, lengths_RB: Tensor, vectorised: bool) -> tuple[Tensor, Any]:
        (module,) = self._module
        named = zip(module.named_parameters(), self.stacked, strict=True)
        parameters = {name: new if own.requires_grad else new.detach() for (name, own), new in named}
        buffers = {name: buffer.to(x_RTBI.device) for name, buffer in module.named_buffers()}

        def outputs(parameters: dict[str, Tensor], x_TBI: Tensor, state: Any, lengths_B: Tensor) -> tuple[Tensor, Any]:
            return self._unroll(parameters | buffers, x_TBI, state, lengths_B)

        if vectorised:
            axes = (0, 0, None if state is None else 0, 0)
            return torch.vmap(outputs, axes)(parameters, x_RTBI, state, lengths_RB)
        trials = [{name: p[r] for name, p in parameters.items()} for r in range(len(x_RTBI))]
        states = [None] * len(trials) if state is None else state
        made = [outputs(*each) for each in zip(trials, x_RTBI, states, lengths_RB, strict=True)]
        return torch.stack([y_TBA for y_TBA, _ in made]), [last for _, last in made]

    def _unroll(self, tensors: dict[str, Tensor], x_TBI: Tensor, state: Any, lengths_B: Tensor) -> tuple[Tensor, Any]:
        """One trial's outputs (T, B, A) and last state; state: None at the start of a sequence."""
        (module,) = self._module
        outputs = []
        for t, x_BI in enumerate(x_TBI.unbind()):
            first, running = state is None, t < lengths_B
            if first:
                state = self._first_state(x_BI.new_zeros(x_BI.shape[0], self.hidden_size))
            y, new = _parts(functional_call(module, tensors, (x_BI, state)), self._has_output)
            outputs.append(_where(running, y, 0.0))
            # Where a sequence has ended its state stays, so that padding cannot make it infinite.
            state = new if first else _held(running, new, state)
        return torch.stack(outputs), state

    def _first_state(self, zeros: Tensor) -> Tensor | tuple[Tensor, ...] | None:
        return (None, zeros, (zeros, zeros))[self._first]

    # Checks of the module ---------------------------------------------------------------------------------------

    def _made(self, seed: int) -> nn.Module:
        return self._make(self.input_size, self.hidden_size, self.options, seed)

    @classmethod
    def _make(cls, input_size: int, hidden_size: int, options: dict, seed: int) -> nn.Module:
        try:
            with seeded(seed):
                return cls.kind(input_size, hidden_size, **options).float()
        except Exception as error:  # the class is the user's, and may raise any
            given = "".join(f", {name}={value!r}" for name, value in options.items())
            raise cls._refusal(
                f"{cls.kind.__name__}({input_size}, {hidden_size}{given}) raises {_text(error)}"
            ) from error

    @classmethod
    def _refusal(cls, text: str) -> ConfigurationError:
        return ConfigurationError(f"model.cell: {cls.name}: {text}")

    def _find_state(self, module: nn.Module) -> tuple[int, bool]:
        """The index of the module's initial state in `_first_state`, and whether the module returns an output."""
        x, zeros = self._input(), torch.zeros(SEQUENCES, self.hidden_size)
        reasons = []
        for place, first in enumerate((None, zeros, (zeros, zeros))):
            try:
                result = module(x, first)
            except Exception as error:
                reasons.append(f"a call with an input of shape {tuple(x.shape)} raises {_text(error)}")
                continue
            for has_output in (False, True):
                if not _is_state(result, has_output):
                    continue
                y, state = _parts(result, has_output)
                try:
                    again = module(x, state)
                except Exception as error:
                    reasons.append(f"a call with the state that it returned raises {_text(error)}")
                    continue
                if _shapes(again) != _shapes(result):
                    continue
                if tuple(y.shape) == (SEQUENCES, self.hidden_size):
                    return place, has_output
                wanted = (SEQUENCES, self.hidden_size)
                reasons.insert(0, f"its output has shape {tuple(y.shape)}: must be {wanted}, a number for each unit")
            reasons.append(
                f"for an input of shape {tuple(x.shape)} it returns {_shapes(result)}: must be a state, tensors of "
                f"shape ({SEQUENCES}, ...), or (output, state)"
            )
        # If zeros fail, too, an error about None does not help, so any other reason comes first.
        reason = next((reason for reason in reasons if "NoneType" not in reason), reasons[0])
        raise self._refusal(reason + self._hint())

    def _hint(self) -> str:
        cell = f"{self.kind.__name__}Cell"
        module = self.name.rpartition(".")[0]
        found = hasattr(inspect.getmodule(self.kind), cell)
        return f" (did you mean {module}.{cell}?)" if found else ""

    def _input(self) -> Tensor:
        return torch.linspace(-1, 1, SEQUENCES * self.input_size).view(SEQUENCES, self.input_size)

    def _check_repeatable(self) -> None:
        """ConfigurationError if a call does not depend on parameters, input and state alone."""
        module, other = self._made(0), self._made(1)
        for (name, buffer), theirs in zip(module.named_buffers(), other.buffers(), strict=True):
            if not torch.equal(buffer, theirs):
                raise self._refusal(f"buffer {name} is random; make it a parameter with requires_grad=False")
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        x, first = self._input(), self._first_state(torch.zeros(SEQUENCES, self.hidden_size))
        first_y, second_y = (_parts(module(x, first), self._has_output)[0] for _ in range(2))
        if changed := [name for name, buffer in module.named_buffers() if not torch.equal(buffer, before[name])]:
            raise self._refusal(f"a call changes buffer {changed[0]}, as batch normalisation does")
        if not torch.equal(first_y, second_y):
            raise self._refusal("two equal calls differ: it is random, as with dropout, or remembers calls")

    def _find_vectorised(self) -> bool:
        """Whether torch.vmap over the trials gives the same outputs and gradients as a loop."""
        R = len(self.stacked[0]) if len(self.stacked) else 1
        x_RTBI = self._input().expand(R, 2, -1, -1)
        lengths_RB = torch.tensor([1, *[2] * (SEQUENCES - 1)]).expand(R, -1)
        try:
            wanted = self._with_gradients(x_RTBI, lengths_RB, vectorised=False)
        except Exception as error:
            raise self._refusal(f"its gradient raises {_text(error)}") from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # torch warns of operations that it does one by one anyway
                found = self._with_gradients(x_RTBI, lengths_RB, vectorised=True)
        except Exception:  # whatever the reason, the loop over trials works
            return False
        return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(wanted, found, strict=True))

    def _with_gradients(self, x_RTBI: Tensor, lengths_RB: Tensor, vectorised: bool) -> list[Tensor]:
        y_RTBA, _ = self._outputs(x_RTBI, None, lengths_RB, vectorised)
        if not y_RTBA.requires_grad:
            return [y_RTBA]
        return [y_RTBA, *torch.autograd.grad(y_RTBA.sum(), list(self.stacked), materialize_grads=True)]


@functools.cache
def module_cell(kind: type[nn.Module], name: str) -> type[ModuleCell]:
    """The cell of a class of torch modules; `name` is MODULE.CLASS, for messages."""
    return type(kind.__name__, (ModuleCell,), {"kind": kind, "name": name})


def _is_state(result: Any, has_output: bool) -> bool:
    """Whether a call's result can be a new state, or (output, new state)."""
    if has_output:
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Tensor)):
            return False
        result = result[1]
    tensors = result if isinstance(result, tuple) else (result,)
    return bool(tensors) and all(isinstance(s, Tensor) and s.shape[:1] == (SEQUENCES,) for s in tensors)


def _parts(result: Any, has_output: bool) -> tuple[Tensor, Any]:
    """Output and new state of a call's result."""
    if has_output:
        return result
    return (result[0] if isinstance(result, tuple) else result), result


def _held(running_B: Tensor, new: Any, old: Any) -> Any:
    """The new state of the sequences that are running, the old state of the others."""
    if isinstance(new, tuple):
        return tuple(_where(running_B, n, o) for n, o in zip(new, old, strict=True))
    return _where(running_B, new, old)


def _where(running_B: Tensor, a: Tensor, b: Tensor | float) -> Tensor:
    return torch.where(running_B.view(-1, *[1] * (a.dim() - 1)), a, b)


def _shapes(result: Any) -> Any:
    """A call's result with the shape of each tensor in its place."""
    if isinstance(result, Tensor):
        return tuple(result.shape)
    return tuple(map(_shapes, result)) if isinstance(result, tuple) else type(result).__name__


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
