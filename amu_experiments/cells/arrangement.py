"""A layer's input, state and lengths in the shapes of a scan, and its results in the shapes of a call."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

_AUTOCAST_DTYPES = {torch.float32, torch.float16, torch.bfloat16}

_PADDED = "must be a tensor of padded sequences, with their lengths in `lengths`"
_OF_A_LIST = f"{_PADDED} (torch.nn.utils.rnn.pad_sequence makes it of a list of tensors)"
_INPUT_HINTS = {
    PackedSequence: f"{_PADDED} (torch.nn.utils.rnn.pad_packed_sequence gives both)",
    list: _OF_A_LIST,
    tuple: _OF_A_LIST,
    np.ndarray: "must be a tensor (torch.from_numpy makes it of an array)",
}


class Call:
    """One call of a layer (cell.py has the shapes).

    parameters: the layer's own, by name.
    x_RTBI, lengths_RB: the input, and its lengths or None.
    without_autocast: a context in which scans run in the dtype of the parameters.

    Raises ValueError or TypeError, which names the argument, unless shapes, dtypes and devices fit the layer.
    """

    def __init__(self, cell, parameters: dict[str, Tensor], x: Tensor | PackedSequence, lengths: Tensor | None):
        self.cell = cell
        self.parameters = parameters
        self.packed = x if isinstance(x, PackedSequence) and cell.trials is None else None
        if self.packed is not None:
            if lengths is not None:
                raise TypeError("lengths: must be None for a PackedSequence, which has its own")
            x, lengths = pad_packed_sequence(x)
        self.batch_first = cell.batch_first and self.packed is None
        self.x_RTBI = self._input(x)
        self.single = cell.trials is None and x.dim() == 2
        R, T, B, _ = self.x_RTBI.shape
        if T == 0 or B == 0:
            raise ValueError(f"input of shape {tuple(x.shape)}: needs at least one step and one sequence")
        self.lengths_RB = None if lengths is None else self._lengths(lengths, R, T, B).to(x.device)
        kind = x.device.type
        self.autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        self.without_autocast = torch.autocast(kind, enabled=False) if self.autocast else nullcontext()
        if self.autocast:
            self.x_RTBI = self._converted(self.x_RTBI)
        self._check_place("input", self.x_RTBI)

    def states(self, state) -> list[tuple[Tensor, ...]]:
        """The first state of every layer and direction, tensors (R, B, width) each."""
        cell, (R, _, B, _) = self.cell, self.x_RTBI.shape
        count, sizes = cell.num_layers * (1 + cell.bidirectional), cell.state_sizes()
        if state is None:
            return [tuple(self.x_RTBI.new_zeros(R, B, size) for size in sizes) for _ in range(count)]
        state = (state,) if isinstance(state, Tensor) else state
        if not isinstance(state, (tuple, list)) or not all(isinstance(s, Tensor) for s in state):
            raise TypeError(f"state is a {type(state).__name__}: must be the tensors {', '.join(cell.states)} or None")
        leading = (count,) if cell.trials is None else (R, count) if count > 1 else (R,)
        wanted = [(*leading, size) if self.single else (*leading, B, size) for size in sizes]
        if [tuple(s.shape) for s in state] != wanted:
            raise ValueError(
                f"state of shapes {[tuple(s.shape) for s in state]}: must be {', '.join(cell.states)} of {wanted}"
            )
        if self.single:
            state = [s.unsqueeze(1) for s in state]
        if self.autocast:
            state = [self._converted(s) for s in state]
        for name, tensor in zip(cell.states, state, strict=True):
            self._check_place(f"state {name}", tensor)
        if count == 1:
            return [tuple(state)]
        if cell.trials is None:
            return [tuple(s[place : place + 1] for s in state) for place in range(count)]
        return [tuple(s[:, place] for s in state) for place in range(count)]

    def output(self, y_RTBA: Tensor) -> Tensor | PackedSequence:
        if self.cell.trials is not None:
            return y_RTBA
        y_TBA = y_RTBA.squeeze(0)  # an index would have a slower gradient: zeros, and a copy
        if self.packed is not None:
            return self._packed(y_TBA)
        if self.single:
            return y_TBA[:, 0]
        return y_TBA.transpose(0, 1) if self.batch_first else y_TBA

    def last(self, states: Sequence[tuple[Tensor, ...]]) -> Tensor | tuple[Tensor, ...]:
        """The last state of every layer and direction in the shapes of `state`."""
        if len(states) == 1:
            together = states[0]
        elif self.cell.trials is None:
            together = tuple(torch.cat(each) for each in zip(*states, strict=True))
        else:
            together = tuple(torch.stack(each, dim=1) for each in zip(*states, strict=True))
        if self.single:
            together = tuple(s[:, 0] for s in together)
        return together if len(together) > 1 else together[0]

    def turned(self, values_RTBX: Tensor) -> Tensor:
        """Every sequence from its end to its start; padding stays where it is."""
        if self.lengths_RB is None:
            return values_RTBX.flip(1)
        lengths_R1B = self.lengths_RB.unsqueeze(1)
        steps_1T1 = torch.arange(values_RTBX.shape[1], device=values_RTBX.device).view(1, -1, 1)
        index_RTB = torch.where(steps_1T1 < lengths_R1B, lengths_R1B - 1 - steps_1T1, steps_1T1)
        return values_RTBX.gather(1, index_RTB.unsqueeze(-1).expand_as(values_RTBX))

    def within_sequences(self, y_RTBA: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of a layer's outputs, applied in the memory layout of torch.nn."""
        if self.packed is None:
            return function(y_RTBA.contiguous())
        packed = self._packed(y_RTBA[0])
        padded, _ = pad_packed_sequence(packed._replace(data=function(packed.data)))
        return padded.unsqueeze(0)

    def _packed(self, y_TBA: Tensor) -> PackedSequence:
        packed, lengths_B = self.packed, self.lengths_RB[0].cpu()
        if packed.sorted_indices is not None:
            y_TBA = y_TBA.index_select(1, packed.sorted_indices)
            lengths_B = lengths_B[packed.sorted_indices.cpu()]
        data, batch_sizes = pack_padded_sequence(y_TBA, lengths_B)[:2]
        return PackedSequence(data, batch_sizes, packed.sorted_indices, packed.unsorted_indices)

    def _input(self, x: Tensor) -> Tensor:
        """The input as (R, T, B, I)."""
        if not isinstance(x, Tensor):
            raise TypeError(f"input is a {type(x).__name__}: {_INPUT_HINTS.get(type(x), _PADDED)}")
        if x.is_nested or x.layout != torch.strided:
            raise TypeError(f"input is a {'nested tensor' if x.is_nested else f'{x.layout} tensor'}: {_PADDED}")
        trials, size = self.cell.trials, self.cell.input_size
        single = trials is None and x.dim() == 2
        dims = 4 if trials is not None else 2 if single else 3
        if x.dim() != dims or x.shape[-1] != size or (dims == 4 and x.shape[0] != trials):
            form = "(B, T, I)" if self.batch_first else "(T, B, I)"
            wanted = f"{form} or (T, I)" if trials is None else f"(R={trials}, T, B, I)"
            raise ValueError(f"input of shape {tuple(x.shape)}: must be {wanted} with I={size}")
        if trials is not None:
            return x
        if single:
            return x[None, :, None]
        return (x.transpose(0, 1) if self.batch_first else x)[None]

    def _lengths(self, lengths, R: int, T: int, B: int) -> Tensor:
        """The lengths as (R, B) integers."""
        shapes = [(R, B)] if self.cell.trials is not None else [(B,), (R, B)] + [()] * self.single
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

    def _converted(self, tensor: Tensor) -> Tensor:
        """In the dtype of the parameters, if both are dtypes that torch.autocast converts between."""
        dtype = self.parameters["weight_ih_l0"].dtype
        return tensor.to(dtype) if {tensor.dtype, dtype} <= _AUTOCAST_DTYPES else tensor

    def _check_place(self, name: str, tensor: Tensor) -> None:
        """Raise ValueError unless this tensor and all parameters have one dtype and one device."""
        for own, parameter in self.parameters.items():
            if tensor.dtype != parameter.dtype:
                raise ValueError(
                    f"{name} is {tensor.dtype}, but the layer's {own} is {parameter.dtype}: convert it, with "
                    f".to({parameter.dtype}), or the layer"
                )
            if tensor.device != parameter.device:
                raise ValueError(
                    f"{name} is on {tensor.device}, but the layer's {own} is on {parameter.device}: move one"
                )
