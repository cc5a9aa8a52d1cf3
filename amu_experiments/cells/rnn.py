"""The vanilla recurrent network (Elman 1990), as torch.nn.RNN computes it."""

import torch

from amu_experiments.cells.cell import Cell, recur


class RNN(Cell):
    """h(t) = tanh(W x(t) + b + U h(t-1)); the output is h(t).

    One bias, where torch.nn.RNN keeps two that only ever act as their sum. See Cell for arguments and shapes.
    """

    @classmethod
    def shapes(cls, input_size, hidden_size):
        return {
            "weight_ih": (hidden_size, input_size),
            "weight_hh": (hidden_size, hidden_size),
            "bias": (hidden_size,),
        }

    def step(self, net_RBK, state):
        (h,) = state
        h = torch.tanh(net_RBK + recur(h, self.weight_hh))
        return h, (h,)

    def fused(self):
        from amu_experiments.cells.kernels import Recurrence, compiled, f32, tanh

        A = self.hidden_size

        @compiled
        def step(net, rec, extra, old, new, tape, y):
            for a in range(A):
                new[a] = tanh(net[a])
                y[a] = new[a]

        @compiled
        def adjoint(dy, dstate, extra, old, new, tape, dnet, drec, dextra):
            for a in range(A):
                dnet[a] = (dstate[a] + dy[a]) * (f32(1.0) - new[a] * new[a])
                dstate[a] = f32(0.0)

        return Recurrence(
            name="rnn",
            step=step,
            adjoint=adjoint,
            inputs=self.input_size,
            rows=A,
            recurrent=A,
            state=A,
            tape=0,
            outputs=A,
        )
