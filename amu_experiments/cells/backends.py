"""How a layer runs: a compiled scan as an operation of torch, and a torch scan that has first derivatives only."""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def compiled(scans, x_RTBI: Tensor, state: Sequence[Tensor], lengths_RB: Tensor | None, parameters: Sequence[Tensor]):
    """y (R, T, B, A) and the last state (R, B, S), by compiled scans (scans/drivers.py)."""
    R, T, B, _ = x_RTBI.shape
    lengths = torch.full((R, B), T, device=x_RTBI.device) if lengths_RB is None else lengths_RB.long()
    layer = BlockLayer if scans.blocks else SequenceLayer
    y, last_RB1S, *_ = FusedScan.apply(layer(scans), lengths, x_RTBI, torch.cat(tuple(state), dim=-1), *parameters)
    return layer.by_time(y), last_RB1S[:, :, 0]


def first_derivatives(unroll: Callable, inputs: Sequence[Tensor]):
    """The result of `unroll`, y and a state computed from these inputs, without second derivatives."""
    y_RTBA, last = unroll()
    outputs = (y_RTBA, *last)
    y_RTBA, *last = FirstDerivative.apply(len(outputs), *outputs, *inputs)
    return y_RTBA, tuple(last)


class SequenceLayer:
    """Scans of one sequence after another, with tensors as arguments. Outputs y are (R, B, T, A)."""

    def __init__(self, scans):
        self.scans = scans

    @staticmethod
    def by_time(y_RBTA: Tensor) -> Tensor:
        return y_RBTA.transpose(1, 2)

    def outputs(self, x_RTBI: Tensor) -> Tensor:
        R, T, B, _ = x_RTBI.shape
        return _zeros(R, B, T, self.scans.recurrence.outputs)

    def forward(self, flat, lengths_RB, x_RTBI, state_RBS):
        """y, the last state (R, B, 1, S), and for the adjoint all states (R, B, T + 1, S) and the tape."""
        (R, T, B, _), S = x_RTBI.shape, state_RBS.shape[-1]
        states = _zeros(R, B, T + 1, S)
        states[:, :, 0] = state_RBS
        tape, y = x_RTBI.new_empty(R, B, T, self.scans.recurrence.tape), self.outputs(x_RTBI)
        scan(self.scans.forward, flat, _by_sequence(x_RTBI), lengths_RB.contiguous(), states, tape, y)
        last = states.gather(2, lengths_RB.view(R, B, 1, 1).expand(-1, -1, 1, S))
        return y, last, states, tape

    def backward(self, flat, lengths_RB, kept, dy_RBTA, dlast_RBS, x_RTBI):
        """Gradients of the parameters (R, P), of x and of the first state."""
        states, tape = kept
        dstate = dlast_RBS.clone(memory_format=torch.contiguous_format)
        x = _by_sequence(x_RTBI)
        # A fixed number of groups, so that the sums come out the same whatever the number of threads.
        gradients = _zeros(x.shape[0], min(x.shape[1], 8), flat.shape[1])
        dx = _zeros(*x.shape)
        # The adjoint only reads the tape, so a second backward over a retained graph is right, too.
        dy = dy_RBTA.contiguous()
        scan(self.scans.backward, flat, x, lengths_RB.contiguous(), states, tape, dy, dstate, gradients, dx)
        return _sum_of_groups(gradients), dx.transpose(1, 2), dstate


class BlockLayer:
    """Scans of blocks of sequences, with tensors as arguments. Outputs y are (R, T, B, A)."""

    def __init__(self, scans):
        self.scans = scans

    @staticmethod
    def by_time(y_RTBA: Tensor) -> Tensor:
        return y_RTBA

    def outputs(self, x_RTBI: Tensor) -> Tensor:
        return _zeros(*x_RTBI.shape[:3], self.scans.recurrence.outputs)

    def forward(self, flat, lengths_RB, x_RTBI, state_RBS):
        """y, the last state (R, B, 1, S), and for the adjoint blocks of inputs, states and tape."""
        r, (R, T, B, I) = self.scans.recurrence, x_RTBI.shape
        C = -(-B // self.scans.lanes)

        def blocks(steps, rows):
            # An odd number of rows in memory, see scans/blocks.py.
            return x_RTBI.new_empty(R, C, steps, rows | 1, self.scans.lanes)

        xs, states, tape, ys = blocks(T, I), blocks(T + 1, r.state), blocks(T, r.tape), blocks(T, r.outputs)
        y, last = x_RTBI.new_empty(R, T, B, r.outputs), x_RTBI.new_empty(R, B, 1, r.state)
        x, first = x_RTBI.contiguous(), state_RBS.contiguous()
        scan(self.scans.forward, flat, x, lengths_RB.contiguous(), first, xs, states, tape, ys, y, last[:, :, 0])
        return y, last, xs, states, tape

    def backward(self, flat, lengths_RB, kept, dy_RTBA, dlast_RBS, x_RTBI):
        """Gradients of the parameters (R, P), of x and of the first state."""
        xs, states, tape = kept
        R, T, B, I = x_RTBI.shape
        gradients = _zeros(R, self.scans.groups_of(B), flat.shape[1])
        dx, dfirst = x_RTBI.new_empty(R, T, B, I), torch.empty_like(dlast_RBS, memory_format=torch.contiguous_format)
        dy, dlast = dy_RTBA.contiguous(), dlast_RBS.contiguous()
        scan(self.scans.backward, flat, lengths_RB.contiguous(), xs, states, tape, dy, dlast, gradients, dx, dfirst)
        return _sum_of_groups(gradients), dx, dfirst


class FusedScan(torch.autograd.Function):
    """A compiled scan as an operation of torch: from lengths, x, state and parameters to the results of `layer`."""

    @staticmethod
    def forward(layer, lengths_RB, x_RTBI, state_RBS, *parameters):
        return layer.forward(_flat(parameters), lengths_RB, x_RTBI, state_RBS)

    @staticmethod
    def setup_context(ctx, inputs, output):
        layer, lengths_RB, x_RTBI, state_RBS, *parameters = inputs
        _, _, *kept = output
        ctx.layer, ctx.kept = layer, len(kept)
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)  # the kept tensors are large
        ctx.save_for_backward(lengths_RB, *kept, x_RTBI, state_RBS, *parameters)

    @staticmethod
    def backward(ctx, dy, dlast_RB1S, *_):
        lengths_RB, *saved = ctx.saved_tensors
        kept, (x_RTBI, state_RBS, *parameters) = saved[: ctx.kept], saved[ctx.kept :]
        if dy is None:
            dy = ctx.layer.outputs(x_RTBI)
        if dlast_RB1S is None:
            dlast_RB1S = torch.zeros_like(state_RBS).unsqueeze(2)
        # Without a graph of the gradients, the plain function is enough, and calling it is faster.
        adjoint = FusedAdjoint.apply if torch.is_grad_enabled() else FusedAdjoint.forward
        gradients = adjoint(ctx.layer, ctx.kept, lengths_RB, *kept, dy, dlast_RB1S, x_RTBI, state_RBS, *parameters)
        return None, None, *gradients

    @staticmethod
    def vmap(*_):
        raise not_compiled("does not run under torch.func.vmap")

    @staticmethod
    def jvp(*_):
        raise not_compiled("has no forward-mode derivatives", _FULL)


FusedScan.forward.__signature__ = inspect.signature(FusedScan.forward)  # torch asks for it at each call


class FusedAdjoint(torch.autograd.Function):
    """The adjoint of a FusedScan: the gradients of x, state and parameters.

    It is a separate operation, and all that it depends on is an input. So a second derivative reaches its backward,
    which raises an error. With torch's once_differentiable, the gradients would be constants if dy and dlast need no
    gradient, and nothing would be raised.
    """

    @staticmethod
    def forward(layer, count, lengths_RB, *tensors):
        kept, (dy, dlast_RB1S, x_RTBI, _, *parameters) = tensors[:count], tensors[count:]
        summed, dx, dstate = layer.backward(_flat(parameters), lengths_RB, kept, dy, dlast_RB1S.squeeze(2), x_RTBI)
        pieces = summed.split([p.shape[1:].numel() for p in parameters], dim=1)
        return dx, dstate, *(piece.reshape(p.shape) for piece, p in zip(pieces, parameters, strict=True))

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *_):
        raise not_compiled("has no second derivatives", _FULL)

    @staticmethod
    def vmap(*_):
        raise not_compiled("does not run under torch.func.vmap")

    @staticmethod
    def jvp(*_):
        raise not_compiled("has no second derivatives", _FULL)


class FirstDerivative(torch.autograd.Function):
    """The first `count` tensors, unchanged, with first derivatives and no higher ones.

    The other tensors are the inputs from which the first ones were computed. A gradient is linear in the error that
    enters here, so every second derivative passes through this operation's backward.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(count, *tensors):
        # Copies: users may change them in place, which autograd forbids for views that an operation returns.
        return tuple(tensor.clone() for tensor in tensors[:count])

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.count, *tensors = inputs
        ctx.save_for_backward(*tensors[ctx.count :])

    @staticmethod
    def backward(ctx, *errors):
        if torch.is_grad_enabled():  # a second derivative may follow
            errors = NoDerivative.apply(ctx.count, *errors, *ctx.saved_tensors)
        return None, *errors, *(None for _ in ctx.saved_tensors)

    @staticmethod
    def jvp(*_):
        raise _no_truncated("forward-mode derivatives")


class NoDerivative(FirstDerivative):
    """The first `count` tensors, unchanged; a derivative raises an error."""

    @staticmethod
    def backward(ctx, *_):
        raise _no_truncated("second derivatives")


_FULL = ', gradient="full" if the cell has this option'


def not_compiled(what: str, also: str = "") -> RuntimeError:
    return RuntimeError(f'a compiled cell {what}: make the layer with backend="torch"{also}')


def _no_truncated(what: str) -> RuntimeError:
    return RuntimeError(f'a truncated gradient has no {what}: make the layer with gradient="full", backend="torch"')


# Memory between compiled scans comes from numpy. A large operation of torch wakes torch's own threads, which then wait
# in a loop for a while and keep the processors from the threads of the scans.


def _flat(parameters: Sequence[Tensor]) -> Tensor:
    """Stacked parameters side by side, (R, P)."""
    return torch.from_numpy(np.concatenate([p.numpy().reshape(len(p), -1) for p in _in_memory(parameters)], axis=1))


def _zeros(*shape: int) -> Tensor:
    return torch.from_numpy(np.zeros(shape, np.float32))


def _sum_of_groups(gradients_RGP: Tensor) -> Tensor:
    """The sum over groups, in their order."""
    return torch.from_numpy(functools.reduce(np.add, gradients_RGP.numpy().swapaxes(0, 1)))


def _by_sequence(values_RTBX: Tensor) -> Tensor:
    """(R, T, B, X) as contiguous (R, B, T, X)."""
    return values_RTBX.transpose(1, 2).contiguous()


def scan(drive: Callable, *tensors: Tensor) -> None:
    """Call a driver of compiled scans, which reads and writes the memory of these tensors."""
    given = _in_memory(tensors)
    if "torch._dynamo" in sys.modules:
        # dynamo would trace the calls of numpy, too, and free arrays that the machine code still uses.
        drive = torch.compiler.disable(drive)
    drive(*given)


def _in_memory(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Plain tensors with the same memory; an error if one has none, like the stand-ins that torch traces with."""
    try:
        return list(map(_with_memory, tensors))
    except (RuntimeError, TypeError) as error:
        raise not_compiled(f"does not run on {' and '.join({type(t).__name__ for t in tensors})} objects") from error


def _with_memory(tensor: Tensor) -> Tensor:
    """A plain tensor with the values of this one; RuntimeError or TypeError if this one has no memory on the CPU."""
    if type(tensor) is Tensor and tensor.is_cpu and not tensor.is_neg():
        return tensor if tensor.data_ptr() else tensor.detach().clone()  # some tensors of zeros have no memory
    return torch.from_numpy(tensor.detach().resolve_neg().numpy())
