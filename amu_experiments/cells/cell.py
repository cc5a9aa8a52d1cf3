"""The contract of a recurrent cell: stacked parameters, initial values and the plain torch unrolling.

Axis letters, used as suffixes of tensor names: R trials, T time, B sequences of a batch, I input features,
A units (a cell's output features), K net inputs (rows of the weight matrices: neurons, or gates).
"""

import inspect
import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from amu_experiments.cells.arguments import check_names, option_names, signature_of
from amu_experiments.cells.backends import compiled, first_derivatives, not_compiled
from amu_experiments.options import Positive, check_arguments, options_of

State = tuple[Tensor, ...]

_AUTOCAST_DTYPES = {torch.float32, torch.float16, torch.bfloat16}

_PADDED = "must be a tensor of padded sequences, with their lengths in `lengths`"
_INPUT_HINTS = {
    nn.utils.rnn.PackedSequence: f"{_PADDED} (torch.nn.utils.rnn.pad_packed_sequence gives both)",
    list: f"{_PADDED} (torch.nn.utils.rnn.pad_sequence makes it of a list of tensors)",
    tuple: f"{_PADDED} (torch.nn.utils.rnn.pad_sequence makes it of a list of tensors)",
    np.ndarray: "must be a tensor (torch.from_numpy makes it of an array)",
}


class Cell(nn.Module):
    """A recurrent layer for a stack of trials, none of which sees another.

    Called as `output, state = cell(x, state=None, lengths=None)`:

    x: (R, T, B, I); made with `trials=None`, (T, B, I) as in torch.nn.LSTM, or (B, T, I) with batch_first,
        or one sequence (T, I).
    state: the cell's state tensors, each (R, B, width), R being 1 where `trials` is None (and (1, width) for one
        sequence), in a tuple if there are several; None for zeros.
    lengths: (R, B) integers, or (B,) where `trials` is None; a sequence's outputs after its length are zero, and
        the state that comes back is that of its own last step. None: all T steps count.
    output: x with A in the place of I.

    Input, state and parameters have one dtype and one device; under torch.autocast the layer computes in the dtype
    of its parameters.

    Derivatives: the torch backend has all those of torch, if the gradient is full. The compiled backend has first
    derivatives by backward(), torch.autograd.grad and torch.func.grad. Second derivatives, torch.func.vmap and
    forward mode raise a RuntimeError there. A truncated gradient has first derivatives only, in both backends.

    A subclass names its states, gives `shapes` and writes `step`, the recurrence itself; `detach` in a step cuts an
    error flow. The compiled scans are derived from `step` (scans/derive.py); `backend="auto"` prefers them on a CPU. A
    step that has no compiled form, such as a random one, runs in torch, after a warning that names the reason.

    Args (all but the first two by name only):
        input_size: I.
        hidden_size: A.
        trials: R, or None for a layer in the call convention of torch.nn.LSTM.
        batch_first: batches before time, where `trials` is None.
        backend: "torch", "fused" or "auto".
        initial_range: weights start uniform in +-initial_range / sqrt(fan), see `fan`.
    """

    states: ClassVar[tuple[str, ...]] = ("h",)
    readout_bias: bool = True
    """Whether the output units of a network with this cell have a bias."""
    gradient: str = "full"
    """Or "truncated", where the cell cuts paths of the error: then second derivatives and forward mode are refused."""

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        cls.__signature__ = signature_of(cls, Cell)

    def __new__(cls, *arguments, **options):
        # Checked here, before a subclass's own __init__ uses the options or passes them on.
        check_names(cls, arguments, options)
        check_arguments(cls, ("__init__", "shapes"), options)
        return super().__new__(cls)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        trials: int | None = None,
        batch_first: bool = False,
        backend: str = "auto",
        initial_range: Positive = 1.0,
        **options,
    ):
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"input_size={input_size}, hidden_size={hidden_size}: each must be at least 1")
        if backend not in ("auto", "fused", "torch"):
            raise ValueError(f"backend={backend!r}: must be one of auto, fused, torch")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.trials = trials
        self.batch_first = batch_first
        self.backend = backend
        self.initial_range = initial_range
        self.options = options
        self._scans: dict = {}
        for name, shape in self.shapes(input_size, hidden_size, **options).items():
            setattr(self, name, nn.Parameter(torch.empty(trials or 1, *shape)))
        if not any(p.is_meta for p in self.parameters()):
            self.reset_parameters()

    # What a subclass writes -------------------------------------------------------------------------------------

    @classmethod
    def shapes(cls, input_size: int, hidden_size: int, **options) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter of one trial: weight_ih (K, I), weight_hh, bias (K,), then others.

        Where only the first rows have a bias, it is that long.
        """
        raise TypeError(f"{cls.__name__} must define shapes()")

    def step(self, net_RBK: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step, from the input's share of the net inputs, W x(t) + b: (output (R, B, A), new state)."""
        raise TypeError(f"{type(self).__name__} must define step()")

    @classmethod
    def resolved(cls, options: dict, squash: str) -> dict:
        """The cell's configured options with those that depend on how the network answers ("linear": numbers;
        "logistic", "softmax": probabilities) put in place."""
        return options

    def state_sizes(self) -> tuple[int, ...]:
        """The width of each state tensor."""
        return (self.hidden_size,) * len(self.states)

    def fan(self) -> int:
        """The initial range is a multiple of 1 / sqrt(fan); torch.nn's convention by default."""
        return self.hidden_size

    def readout_range(self) -> float:
        """Output units that read this cell start uniform in +- this; as in torch.nn.Linear by default."""
        return 1 / np.sqrt(self.hidden_size)

    def bias_rows(self) -> Tensor:
        """The bias of every net input, (R, K)."""
        without = self.weight_ih.shape[1] - self.bias.shape[1]
        return pad(self.bias, (0, without)) if without else self.bias

    @classmethod
    def unit_step(cls, **options) -> int:
        """hidden_size must be a multiple of this; options: whatever the cell is made with beside its sizes."""
        return 1

    @classmethod
    def annotations(cls) -> dict[str, Any]:
        """The annotation of every option."""
        return options_of(cls, "__init__", "shapes")

    @classmethod
    def option_names(cls) -> list[str] | None:
        """The options, from the arguments that the cell takes; None if it takes any option."""
        return option_names(cls, Cell)

    # Parameters -------------------------------------------------------------------------------------------------

    @classmethod
    def count(cls, input_size: int, hidden_size: int, **options) -> int:
        """Parameters of one trial."""
        return sum(math.prod(shape) for shape in cls.shapes(input_size, hidden_size, **options).values())

    def initial_values(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One trial's initial parameters, uniform in +-initial_range / sqrt(fan)."""
        bound = self.initial_range / np.sqrt(self.fan())
        shapes = self.shapes(self.input_size, self.hidden_size, **self.options)
        return {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}

    def reset_parameters(self) -> None:
        """Draw new initial values; torch.manual_seed decides which."""
        seeds = torch.randint(2**62, (self.trials or 1,), device="cpu").tolist()
        self.initialise([np.random.default_rng(seed) for seed in seeds])

    def initialise(self, generators: Sequence[np.random.Generator]) -> None:
        """Draw each trial's initial values from its own generator."""
        with torch.no_grad():
            for trial, rng in enumerate(generators):
                for name, value in self.initial_values(rng).items():
                    getattr(self, name)[trial] = torch.from_numpy(value)

    # The call ---------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, state=None, lengths: Tensor | None = None):
        x_RTBI = self._arrange(x)
        single = self.trials is None and x.dim() == 2
        R, T, B, _ = x_RTBI.shape
        if T == 0 or B == 0:
            raise ValueError(f"input of shape {tuple(x.shape)}: needs at least one step and one sequence")
        if state is None:
            state = tuple(x_RTBI.new_zeros(R, B, size) for size in self.state_sizes())
        else:
            state = self._arrange_state(state, R, B, single)
        lengths_RB = None if lengths is None else self._arrange_lengths(lengths, R, T, B, single).to(x.device)
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            x_RTBI, *state = map(self._without_autocast, (x_RTBI, *state))
            state, without_autocast = tuple(state), torch.autocast(kind, enabled=False)
        else:
            without_autocast = nullcontext()
        self._check_places({"input": x_RTBI} | {f"state {n}": s for n, s in zip(self.states, state, strict=True)})
        with without_autocast:
            y_RTBA, state = self.scan(x_RTBI, state, lengths_RB)
        if self.trials is None:
            y_RTBA = y_RTBA[0]
            if single:
                y_RTBA, state = y_RTBA[:, 0], tuple(s[:, 0] for s in state)
            elif self.batch_first:
                y_RTBA = y_RTBA.transpose(0, 1)
        return y_RTBA, state if len(state) > 1 else state[0]

    def scan(self, x_RTBI: Tensor, state: State, lengths_RB: Tensor | None) -> tuple[Tensor, State]:
        """All time steps on stacked tensors, by the backend asked for."""
        fused = x_RTBI.device.type == "cpu" and x_RTBI.dtype == torch.float32
        scans = self.fused_scans("layer", x_RTBI.shape[2]) if fused else None
        parameters = self.ordered_parameters()
        if scans is not None:
            y_RTBA, last_RBS = compiled(scans, x_RTBI, state, lengths_RB, parameters)
            # Slices, for they may be changed in place, unlike what split gives.
            ends, sizes = np.cumsum(self.state_sizes()), self.state_sizes()
            return y_RTBA, tuple(last_RBS[..., end - size : end] for end, size in zip(ends, sizes, strict=True))
        if self.gradient == "truncated":
            return first_derivatives(lambda: self.unroll(x_RTBI, state, lengths_RB), (x_RTBI, *state, *parameters))
        return self.unroll(x_RTBI, state, lengths_RB)

    def fused_scans(self, purpose: str, batch_size: int):
        """The compiled drivers of this cell for batches of this size; None: use torch. purpose: see `drivers.scans`."""
        if self.backend == "torch":
            return None
        if torch.compiler.is_compiling():
            # torch.compile leaves what follows to Python; with fullgraph=True its error gives this reason.
            torch._dynamo.graph_break(str(not_compiled("is no part of a graph of torch.compile")))
        from amu_experiments.scans import drivers

        key = purpose, drivers.lanes_of(batch_size)
        if key not in self._scans:
            try:
                from amu_experiments.scans.derive import derive

                self._scans[key] = drivers.scans(derive(self), purpose, batch_size)
            except Exception as error:
                # Whatever keeps a machine from compiling, torch can do the same, slower.
                if self.backend == "fused":
                    raise
                warnings.warn(
                    f"The {type(self).__name__} cell cannot be compiled here ({' '.join(str(error).split())[:200]}); "
                    "it runs in torch, many times slower.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                self.backend = "torch"
                return None
        return self._scans[key]

    def __getstate__(self):
        # Compiled functions belong to the process: a copy makes its own.
        return self.__dict__ | {"_scans": {}}

    def unroll(self, x_RTBI: Tensor, state: State, lengths_RB: Tensor | None) -> tuple[Tensor, State]:
        """The recurrence written out step by step, under autograd: the specification of every other scan."""
        R, T, B, _ = x_RTBI.shape
        outputs = []
        for t in range(T):
            # Step by step: the size of one product for all T, of which some are padding, would decide its roundings.
            net_RTBK = self.input_net(x_RTBI[:, t : t + 1].clone(memory_format=torch.contiguous_format))
            y_RBA, new = self.step(net_RTBK[:, 0], state)
            if lengths_RB is not None:
                running = (t < lengths_RB).unsqueeze(-1)
                y_RBA = torch.where(running, y_RBA, 0.0)
                new = tuple(torch.where(running, n, s) for n, s in zip(new, state, strict=True))
            outputs.append(y_RBA)
            state = new
        return torch.stack(outputs, 1), state

    def input_net(self, x_RTBI: Tensor) -> Tensor:
        """W x(t) + b for all steps at once, (R, T, B, K)."""
        R, T, B, _ = x_RTBI.shape
        net = torch.baddbmm(self.bias_rows().unsqueeze(1), x_RTBI.flatten(1, 2), self.weight_ih.transpose(1, 2))
        return net.view(R, T, B, -1)

    def extra_repr(self) -> str:
        """Sizes, and the options that differ from their defaults."""
        defaults = {}
        for name, argument in inspect.signature(type(self)).parameters.items():
            if argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
                defaults[name] = argument.default
        for name in self.options:
            defaults.setdefault(name)
        shown = [str(self.input_size), str(self.hidden_size)]
        for name, default in defaults.items():
            value = getattr(self, name, self.options.get(name, default))
            if name not in ("input_size", "hidden_size") and repr(value) != repr(default):
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)

    def ordered_parameters(self) -> list[nn.Parameter]:
        """The parameters (R, ...) in the order of `shapes`."""
        return [getattr(self, name) for name in self._parameter_names()]

    def _parameter_names(self) -> tuple[str, ...]:
        return tuple(self.shapes(1, 1, **self.options))

    def _arrange(self, x: Tensor) -> Tensor:
        """The input as (R, T, B, I)."""
        if not isinstance(x, Tensor):
            raise TypeError(f"input is a {type(x).__name__}: {_INPUT_HINTS.get(type(x), _PADDED)}")
        if x.is_nested or x.layout != torch.strided:
            raise TypeError(f"input is a {'nested tensor' if x.is_nested else f'{x.layout} tensor'}: {_PADDED}")
        single = self.trials is None and x.dim() == 2
        dims = 4 if self.trials is not None else 2 if single else 3
        if x.dim() != dims or x.shape[-1] != self.input_size or (dims == 4 and x.shape[0] != self.trials):
            form = "(B, T, I)" if self.batch_first else "(T, B, I)"
            wanted = f"{form} or (T, I)" if self.trials is None else f"(R={self.trials}, T, B, I)"
            raise ValueError(f"input of shape {tuple(x.shape)}: must be {wanted} with I={self.input_size}")
        if self.trials is not None:
            return x
        if single:
            return x[None, :, None]
        return (x.transpose(0, 1) if self.batch_first else x)[None]

    def _arrange_state(self, state, R: int, B: int, single: bool) -> State:
        """The state tensors as (R, B, width) each."""
        state = (state,) if isinstance(state, Tensor) else state
        if not isinstance(state, (tuple, list)) or not all(isinstance(s, Tensor) for s in state):
            raise TypeError(f"state is a {type(state).__name__}: must be the tensors {', '.join(self.states)} or None")
        wanted = [(R, size) if single else (R, B, size) for size in self.state_sizes()]
        if [tuple(s.shape) for s in state] != wanted:
            raise ValueError(
                f"state of shapes {[tuple(s.shape) for s in state]}: must be {', '.join(self.states)} of {wanted}"
            )
        return tuple(s.unsqueeze(1) for s in state) if single else tuple(state)

    def _arrange_lengths(self, lengths, R: int, T: int, B: int, single: bool) -> Tensor:
        """The lengths as (R, B) integers."""
        shapes = [(R, B)] if self.trials is not None else [(B,), (R, B)] + [()] * single
        wanted = "integers of shape " + " or ".join(map(str, shapes))
        try:
            given = lengths if isinstance(lengths, Tensor) else torch.tensor(lengths, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"lengths is a {type(lengths).__name__}: must be {wanted}") from error
        if tuple(given.shape) not in shapes:
            raise ValueError(f"lengths of shape {tuple(given.shape)}: must be {wanted}")
        if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
            raise TypeError(f"lengths of dtype {given.dtype}: must be {wanted}")
        given = given.to(torch.int64).reshape(R, B).contiguous()
        if not given.is_meta and (int(given.min()) < 1 or int(given.max()) > T):
            raise ValueError(f"lengths must lie between 1 and the {T} steps of the input")
        return given

    def _without_autocast(self, tensor: Tensor) -> Tensor:
        """In the dtype of the parameters, if both are dtypes that torch.autocast converts between."""
        dtype = self.weight_ih.dtype
        return tensor.to(dtype) if {tensor.dtype, dtype} <= _AUTOCAST_DTYPES else tensor

    def _check_places(self, named: dict[str, Tensor]) -> None:
        """Raise ValueError unless these tensors and all parameters have one dtype and one device."""
        for own in self._parameter_names():
            parameter = getattr(self, own)
            for name, tensor in named.items():
                if tensor.dtype != parameter.dtype:
                    raise ValueError(
                        f"{name} is {tensor.dtype}, but the layer's {own} is {parameter.dtype}: convert it, with "
                        f".to({parameter.dtype}), or the layer"
                    )
                if tensor.device != parameter.device:
                    raise ValueError(
                        f"{name} is on {tensor.device}, but the layer's {own} is on {parameter.device}: move one"
                    )


def recur(h_RBH: Tensor, weight_hh: Tensor) -> Tensor:
    """U h(t-1) for every trial: (R, B, H) and (R, K, H) to (R, B, K).

    A step may have any number of such products: with the state or with anything computed from it, and with whole
    parameters, their rows (U[:, first:last]) or their transpose.
    """
    return torch.bmm(h_RBH, weight_hh.transpose(1, 2))
