"""The contract of a recurrent cell: stacked parameters, initial values and the plain torch unrolling.

Axis letters, used as suffixes of tensor names: R trials, T time, B sequences of a batch, I input features,
A units (a cell's output features), K net inputs (rows of the weight matrices: neurons, or gates).
"""

import math
import warnings
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

State = tuple[Tensor, ...]


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

    A subclass names its states, gives `shapes` and writes `step`, the recurrence itself; `detach` in a step cuts an
    error flow. The compiled scans are derived from `step` (scans/derive.py); `backend="auto"` prefers them on a CPU. A
    step that has no compiled form, such as a random one, runs in torch, after a warning that names the reason.

    Args:
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

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        trials: int | None = None,
        batch_first: bool = False,
        backend: str = "auto",
        initial_range: float = 1.0,
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
    def settled(cls, options: dict, squash: str) -> dict:
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
        seeds = torch.randint(2**62, (self.trials or 1,)).tolist()
        self.initialise([np.random.default_rng(seed) for seed in seeds])

    def initialise(self, generators: Sequence[np.random.Generator]) -> None:
        """Draw each trial's initial values from its own generator."""
        with torch.no_grad():
            for trial, rng in enumerate(generators):
                for name, value in self.initial_values(rng).items():
                    getattr(self, name)[trial] = torch.from_numpy(value)

    # The call ---------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, state=None, lengths: Tensor | None = None):
        single = self.trials is None and x.dim() == 2
        x_RTBI = self._arrange(x, single)
        R, T, B, _ = x_RTBI.shape
        if T == 0 or B == 0:
            raise ValueError(f"input of shape {tuple(x.shape)}: needs at least one step and one sequence")
        state = self._arrange_state(state, R, B, x, single)
        if lengths is not None:
            lengths = torch.as_tensor(lengths, device=x.device).reshape(R, B)
            if int(lengths.min()) < 1 or int(lengths.max()) > T:
                raise ValueError(f"lengths must lie between 1 and the {T} steps of the input")
        y_RTBA, state = self.scan(x_RTBI, state, lengths)
        if self.trials is None:
            y_RTBA = y_RTBA[0]
            if single:
                y_RTBA, state = y_RTBA[:, 0], tuple(s[:, 0] for s in state)
            elif self.batch_first:
                y_RTBA = y_RTBA.transpose(0, 1)
        return y_RTBA, state if len(state) > 1 else state[0]

    def scan(self, x_RTBI: Tensor, state: State, lengths_RB: Tensor | None) -> tuple[Tensor, State]:
        """All time steps on stacked tensors, by the backend asked for."""
        scans = self.fused_scans() if x_RTBI.device.type == "cpu" and x_RTBI.dtype == torch.float32 else None
        if scans is None:
            return self.unroll(x_RTBI, state, lengths_RB)
        R, T, B, _ = x_RTBI.shape
        lengths = torch.full((R, B), T) if lengths_RB is None else lengths_RB
        parameters = [getattr(self, name) for name in self.shapes(1, 1, **self.options)]
        y_RTBA, last = FusedScan.apply(scans, lengths, x_RTBI, torch.cat(state, dim=-1), *parameters)
        return y_RTBA, last.split(self.state_sizes(), dim=-1)

    def fused_scans(self, purpose: str = "layer"):
        """The compiled drivers of this cell (kernels.Scans) for "layer" or "training"; None: use torch."""
        if self.backend == "torch":
            return None
        if purpose not in self._scans:
            try:
                from amu_experiments.cells import kernels
                from amu_experiments.scans.derive import derive

                self._scans[purpose] = kernels.scans(derive(self), purpose)
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
        return self._scans[purpose]

    def __getstate__(self):
        # Compiled functions belong to the process: a copy makes its own.
        return self.__dict__ | {"_scans": {}}

    def unroll(self, x_RTBI: Tensor, state: State, lengths_RB: Tensor | None) -> tuple[Tensor, State]:
        """The recurrence written out step by step, under autograd: the specification of every other scan."""
        R, T, B, _ = x_RTBI.shape
        net_RTBK = self.input_net(x_RTBI)
        outputs = []
        for t in range(T):
            y_RBA, new = self.step(net_RTBK[:, t], state)
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

    def _arrange(self, x: Tensor, single: bool) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"input of type {type(x).__name__}: must be a tensor (unequal lengths: pad, give `lengths`)"
            )
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

    def _arrange_state(self, state, R: int, B: int, x: Tensor, single: bool) -> State:
        if state is None:
            return tuple(x.new_zeros(R, B, size) for size in self.state_sizes())
        state = (state,) if isinstance(state, Tensor) else tuple(state)
        if single:
            state = tuple(s.unsqueeze(1) for s in state)
        wanted = [(R, B, size) for size in self.state_sizes()]
        if [tuple(s.shape) for s in state] != wanted:
            raise ValueError(
                f"state of shapes {[tuple(s.shape) for s in state]}: must be {', '.join(self.states)} of {wanted}"
            )
        return state


class FusedScan(torch.autograd.Function):
    """A compiled scan as an operation of torch: (y, last state) from x, the first state and the parameters."""

    @staticmethod
    def forward(ctx, scans, lengths_RB, x_RTBI, state_RBS, *parameters):
        R, T, B, _ = x_RTBI.shape
        A = scans.outputs
        flat = torch.cat([p.detach().flatten(1) for p in parameters], dim=1)
        x = x_RTBI.detach().transpose(1, 2).contiguous()
        lengths = lengths_RB.to(torch.int64).contiguous()
        states = torch.zeros(R, B, T + 1, state_RBS.shape[-1])
        states[:, :, 0] = state_RBS
        tape = torch.empty(R, B, T, scans.tape)
        y = torch.zeros(R, B, T, A)
        scans.forward(*[t.numpy() for t in (flat, x, lengths, states, tape, y)])
        last = states.gather(2, lengths.view(R, B, 1, 1).expand(-1, -1, 1, states.shape[-1]))[:, :, 0]
        ctx.scans = scans
        ctx.shapes = [p.shape for p in parameters]
        ctx.save_for_backward(flat, x, lengths, states, tape)
        return y.transpose(1, 2), last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy_RTBA, dlast_RBS):
        flat, x, lengths, states, tape = ctx.saved_tensors
        R, B = lengths.shape
        dy = dy_RTBA.transpose(1, 2).contiguous()
        dstate = dlast_RBS.clone(memory_format=torch.contiguous_format)
        # A fixed number of groups, so that the sums come out the same whatever the number of threads.
        gradients = torch.zeros(R, min(B, 8), flat.shape[1])
        dx = torch.zeros_like(x)
        # The tape is the adjoint's to read only, so a second backward over a retained graph is right, too.
        ctx.scans.backward(*[t.numpy() for t in (flat, x, lengths, states, tape, dy, dstate, gradients, dx)])
        pieces = gradients.sum(dim=1).split([shape[1:].numel() for shape in ctx.shapes], dim=1)
        shaped = [piece.reshape(shape) for piece, shape in zip(pieces, ctx.shapes, strict=True)]
        return None, None, dx.transpose(1, 2), dstate, *shaped


def recur(h_RBH: Tensor, weight_hh: Tensor) -> Tensor:
    """U h(t-1) for every trial: (R, B, H) and (R, K, H) to (R, B, K).

    A step may have any number of such products: with the state or with anything computed from it, and with whole
    parameters, their rows (U[:, first:last]) or their transpose.
    """
    return torch.bmm(h_RBH, weight_hh.transpose(1, 2))
