"""The contract of a recurrent cell: stacked parameters, initial values and the plain torch unrolling.

Axis letters, used as suffixes of tensor names: R trials, T time, B sequences of a batch, I input features,
A units (a cell's output features), K net inputs (rows of the weight matrices: neurons, or gates).
"""

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as dropped
from torch.nn.functional import pad

from amu_experiments.cells import arrangement, torch_names
from amu_experiments.cells.arguments import CellType, described, option_names, signature_of
from amu_experiments.cells.backends import compiled, first_derivatives, not_compiled
from amu_experiments.cells.contract import CellError, initial_values_of, is_counting, shapes_of
from amu_experiments.options import BY_TYPE, Positive, Rule, options_of, whole

State = tuple[Tensor, ...]

Flag = Annotated[bool, BY_TYPE[bool]]
Share = Annotated[float, Rule(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)]


class Cell(nn.Module, metaclass=CellType):
    """A recurrent layer, or several, for a stack of trials, none of which sees another.

    Called as `output, state = cell(x, state=None, lengths=None)`, with L = num_layers, times 2 if bidirectional:

    x: (R, T, B, I); made with `trials=None`, as in torch.nn.LSTM: (T, B, I), or (B, T, I) with batch_first, or one
        sequence (T, I), or a PackedSequence.
    state: the cell's state tensors, in a tuple if there are several; None for zeros. With `trials=None` each is
        (L, B, width), or (L, width) for one sequence; else (R, B, width), or (R, L, B, width) if L is above 1.
    lengths: (R, B) integers, or (B,) where `trials` is None; a sequence's outputs after its length are zero, and
        the state that comes back is that of its own last step. None: all T steps count.
    output: x with A, or 2 A if bidirectional, in the place of I.

    Parameters have the names of `shapes` with the layer's number: weight_ih_l0, weight_ih_l0_reverse, weight_ih_l1.
    They are (R, ...); with `trials=None` they have no first axis. In `step`, self.weight_hh is the layer's own
    parameter and always (R, ...); outside, layer.weight_hh is that of the first layer. A layer above the first has
    another input_size, so an __init__ must not compute anything from it.

    For LSTM, GRU and RNN, load_state_dict also takes a state_dict of the class of that name in torch.nn, and
    torch_state_dict() gives one.

    Input, state and parameters have one dtype and one device; under torch.autocast the layer computes in the dtype
    of its parameters.

    Derivatives: the torch backend has all those of torch, if the gradient is full. The compiled backend has first
    derivatives by backward(), torch.autograd.grad and torch.func.grad. Second derivatives, torch.func.vmap and
    forward mode raise a RuntimeError there. A truncated gradient has first derivatives only, in both backends.

    A subclass names its states, gives `shapes` and writes `step`, the recurrence itself; `detach` in a step cuts an
    error flow. A vector of parameters is (R, A) where a state is (R, B, A), so write self.v.unsqueeze(1) * h. The
    compiled scans are derived from `step` (scans/derive.py); `backend="auto"` prefers them on a CPU. A step that has no
    compiled form, such as a random one, runs in torch, after a warning that names the reason. A mistake in a subclass
    is a CellError when a layer is made (contract.py).

    Args, those up to bidirectional in the order of torch.nn.LSTM, the others by name only:
        input_size: I.
        hidden_size: A.
        num_layers: each layer reads the outputs of the one below.
        bias: False: all parameters whose names begin with "bias" are zero and not trained.
        batch_first: batches before time, where `trials` is None.
        dropout: probability that an output of a layer, except the last, is zero in training; needs `trials=None`.
        bidirectional: each layer has a second recurrence, which reads the sequences from their ends.
        trials: R, or None for a layer in the call convention of torch.nn.LSTM.
        backend: "torch", "fused" or "auto".
        initial_range: weights start uniform in +-initial_range / sqrt(fan), see `fan`.
        device, dtype: of the parameters.
    """

    states: ClassVar[tuple[str, ...]] = ("h",)
    readout_bias: bool = True
    """Whether the output units of a network with this cell have a bias."""
    torch_name: ClassVar[str] = ""
    """The class of torch.nn that computes the same, if there is one."""
    gradient: str = "full"
    """Or "truncated", where the cell cuts paths of the error: then second derivatives and forward mode are refused."""

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        cls.__signature__ = signature_of(cls, Cell)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: Annotated[int, whole(1, 1000)] = 1,
        bias: Flag = True,
        batch_first: Flag = False,
        dropout: Share = 0.0,
        bidirectional: Flag = False,
        *,
        trials: int | None = None,
        backend: str = "auto",
        initial_range: Positive = 1.0,
        device=None,
        dtype: torch.dtype | None = None,
        **options,
    ):
        super().__init__()
        for name, size in {"input_size": input_size, "hidden_size": hidden_size, "trials": trials}.items():
            if name == "trials" and size is None:
                continue
            if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1:
                raise ValueError(f"{name}={size!r}: must be a whole number, 1 or more")
        if backend not in ("auto", "fused", "torch"):
            raise ValueError(f"backend={backend!r}: must be one of auto, fused, torch")
        if trials is not None and dropout:
            raise ValueError(f"dropout={dropout}: must be 0 with trials={trials}, where trials share no random numbers")
        if dropout and num_layers == 1:
            warnings.warn(f"dropout={dropout} does nothing with num_layers=1: it acts between layers", stacklevel=3)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.biased = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.trials = trials
        self.backend = backend
        self.initial_range = initial_range
        self.options = options
        self._scans: dict = {}
        self._names = tuple(shapes_of(self))
        leading = () if trials is None else (trials,)
        for layer in self._layers():
            for name, shape in layer.shapes(layer.input_size, hidden_size, **options).items():
                if bias or not name.startswith("bias"):
                    parameter = torch.empty(*leading, *shape, device=device, dtype=dtype)
                    setattr(self, name + layer.suffix, nn.Parameter(parameter))
        if not is_counting() and not any(p.is_meta for p in self.parameters()):
            self.reset_parameters()

    # What a subclass writes -------------------------------------------------------------------------------------

    @classmethod
    def shapes(cls, input_size: int, hidden_size: int, **options) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter of one trial; weight_ih (K, I) and bias (K,) are required.

        The bias may be shorter: then only the first rows have one.
        """
        raise CellError(f"{cls.__name__} must define shapes()")

    def step(self, net_RBK: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step, from the input's share of the net inputs, W x(t) + b: (output (R, B, A), new state)."""
        raise CellError(f"{type(self).__name__} must define step()")

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
        """hidden_size must be a multiple of this; options: the cell's arguments, without its sizes."""
        return 1

    @classmethod
    def annotations(cls) -> dict[str, Any]:
        """The annotation of every option."""
        return options_of(cls, "__init__", "shapes")

    @classmethod
    def option_names(cls) -> list[str] | None:
        """The names of the options; None if the cell takes arbitrary ones."""
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
        """Draw each trial's initial values from its own generator, layer by layer."""
        with torch.no_grad():
            for trial, rng in enumerate(generators):
                for layer in self._layers():
                    for name, value in initial_values_of(layer, rng).items():
                        parameter = getattr(self, name + layer.suffix, None)
                        if parameter is not None:
                            own = parameter if self.trials is None else parameter[trial]
                            own.copy_(torch.from_numpy(value))

    def ordered_parameters(self) -> list[nn.Parameter]:
        """The parameters (R, ...), layer by layer, each in the order of `shapes`."""
        return list(self.parameters())

    def torch_state_dict(self) -> dict[str, Tensor]:
        """The state_dict of torch.nn's layer with the same outputs; TypeError if torch.nn has none."""
        return torch_names.to_torch(self)

    def flatten_parameters(self) -> None:
        """Nothing; torch.nn's layers have this method, and programs call it."""

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        torch_names.from_torch(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    # Layers -----------------------------------------------------------------------------------------------------

    def _layers(self) -> Iterator["Cell"]:
        """This cell in the sizes of each layer and direction, in turn, without parameters."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        for number in range(self.num_layers):
            size = self.hidden_size * len(directions) if number else self.input_size
            for reverse in directions:
                # Not copy.copy, which torch.compile does not follow.
                layer = object.__new__(type(self))
                own = {"_parameters": {}, "input_size": size, "suffix": f"_l{number}{reverse}"}
                layer.__dict__.update({**self.__dict__, **own})
                yield layer

    def _with_parameters(self, layer: "Cell") -> "Cell":
        """The layer with its parameters as `step` sees them, each (R, ...)."""
        for name in self._names:
            if self.biased or not name.startswith("bias"):
                tensor = getattr(self, name + layer.suffix)
            else:
                weight = getattr(self, f"weight_ih{layer.suffix}")
                shape = self.shapes(layer.input_size, self.hidden_size, **self.options)[name]
                tensor = weight.new_zeros(*([] if self.trials is None else weight.shape[:1]), *shape)
            layer.__dict__[name] = tensor.unsqueeze(0) if self.trials is None else tensor
        return layer

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "Cell":
        """A copy whose parameters, as `step` sees them, are these tensors (R, ...)."""
        layer = copy.copy(self)
        layer.__dict__["_parameters"] = {}
        layer.__dict__.update(tensors)
        return layer

    def __getattr__(self, name: str):
        """The first layer's parameters (R, ...) under the names of `shapes`."""
        if name not in self.__dict__.get("_names", ()):
            return super().__getattr__(name)
        parameter = super().__getattr__(f"{name}_l0")
        return parameter.unsqueeze(0) if self.trials is None else parameter

    # The call ---------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor | nn.utils.rnn.PackedSequence, state=None, lengths: Tensor | None = None):
        layers = list(map(self._with_parameters, self._layers()))
        own = {name + layer.suffix: getattr(layer, name) for layer in layers for name in self._names}
        call = arrangement.Call(self, own, x, lengths)
        y_RTBA, states, new = call.x_RTBI, call.states(state), []
        with call.without_autocast:
            for first in range(0, len(layers), 1 + self.bidirectional):
                if first and self.dropout and self.training:
                    y_RTBA = call.within_sequences(y_RTBA, lambda values: dropped(values, self.dropout))
                outputs = []
                for place, layer in enumerate(layers[first : first + 1 + self.bidirectional]):
                    x_RTBI = call.turned(y_RTBA) if place else y_RTBA
                    y, last = layer.scan(x_RTBI, states[first + place], call.lengths_RB)
                    outputs.append(call.turned(y) if place else y)
                    new.append(last)
                y_RTBA = torch.cat(outputs, dim=-1) if self.bidirectional else outputs[0]
        return call.output(y_RTBA), call.last(new)

    def scan(self, x_RTBI: Tensor, state: State, lengths_RB: Tensor | None) -> tuple[Tensor, State]:
        """All time steps on stacked tensors, by the backend asked for."""
        fused = x_RTBI.device.type == "cpu" and x_RTBI.dtype == torch.float32
        scans = self.fused_scans("layer", x_RTBI.shape[2]) if fused else None
        parameters = [getattr(self, name) for name in self._names]
        if scans is not None:
            y_RTBA, last_RBS = compiled(scans, x_RTBI, state, lengths_RB, parameters)
            # Slices: users may change them in place, which autograd forbids for the results of split.
            last, end = [], 0
            for size in self.state_sizes():
                last.append(last_RBS[..., end : end + size])
                end += size
            return y_RTBA, tuple(last)
        if self.gradient == "truncated":
            return first_derivatives(lambda: self.unroll(x_RTBI, state, lengths_RB), (x_RTBI, *state, *parameters))
        return self.unroll(x_RTBI, state, lengths_RB)

    def fused_scans(self, purpose: str, batch_size: int):
        """The compiled drivers of this cell for batches of this size; None: use torch. purpose: see `drivers.scans`."""
        if self.backend == "torch" or (purpose != "layer" and self.several):
            return None
        if torch.compiler.is_compiling():
            if self.backend == "auto" and torch.compiler.is_exporting():
                return None
            # torch.compile runs the rest in Python; with fullgraph=True, it raises an error with this text.
            torch._dynamo.graph_break(str(not_compiled("is no part of a graph of torch.compile")))
        from amu_experiments.scans import drivers

        # Layers share this dictionary.
        key = purpose, self.input_size, drivers.lanes_of(batch_size)
        if key not in self._scans:
            try:
                from amu_experiments.scans.derive import derive

                self._scans[key] = drivers.scans(derive(self), purpose, batch_size)
            except Exception as error:
                # Whatever the error, torch computes the same without compiling, only slower.
                if self.backend == "fused":
                    raise
                warnings.warn(
                    f"The {type(self).__name__} cell cannot be compiled here ({' '.join(str(error).split())[:200]}); "
                    "it runs in torch, many times slower.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                self._scans[key] = None
        return self._scans[key]

    @property
    def several(self) -> bool:
        """Whether there is more than one layer or direction."""
        return self.num_layers > 1 or self.bidirectional

    def __getstate__(self):
        # Compiled functions belong to the process: a copy makes its own.
        return self.__dict__ | {"_scans": {}}

    def unroll(self, x_RTBI: Tensor, state: State, lengths_RB: Tensor | None) -> tuple[Tensor, State]:
        """The recurrence written out step by step, under autograd: the specification of every other scan."""
        R, T, B, _ = x_RTBI.shape
        outputs = []
        for t in range(T):
            # One product for each step: the rounding of one product for all T would depend on the amount of padding.
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
        return described(self)


def recur(h_RBH: Tensor, weight_hh: Tensor) -> Tensor:
    """U h(t-1) for every trial: (R, B, H) and (R, K, H) to (R, B, K).

    A step may have any number of such products: with the state or with anything computed from it, and with whole
    parameters, their rows (U[:, first:last]) or their transpose.
    """
    if weight_hh.dim() != 3:
        raise ValueError(
            f"recur(h, U): U is {tuple(weight_hh.shape)}: must be a matrix for each trial, (R, K, H); "
            "a vector u multiplies as u.unsqueeze(1) * h"
        )
    return torch.bmm(h_RBH, weight_hh.transpose(1, 2))
