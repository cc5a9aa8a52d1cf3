"""The LSTM with forget gate (Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000), as in torch.nn."""

import torch

from amu_experiments.cells.cell import Cell, recur


class LSTM(Cell):
    """Input gate i, forget gate f, candidate g and output gate o, rows of the weights in this order:

        i, f, o = sigmoid(net), g = tanh(net), net = W x(t) + b + U h(t-1)
        c(t) = f * c(t-1) + i * g
        h(t) = o * tanh(c(t)), which is the output

    One bias, where torch.nn.LSTM keeps two that only ever act as their sum.

    Args:
        forget_bias: added to the forget gate's initial bias, so that memory is kept at the start of training
            (Gers, Schmidhuber & Cummins 2000; Jozefowicz, Zaremba & Sutskever 2015 recommend 1).
        See Cell for the others, and for shapes.
    """

    states = ("h", "c")

    def __init__(self, input_size, hidden_size, *, forget_bias: float = 0.0, **common):
        self.forget_bias = forget_bias
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size):
        rows = 4 * hidden_size
        return {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size), "bias": (rows,)}

    def initial_values(self, rng):
        values = super().initial_values(rng)
        values["bias"][self.hidden_size : 2 * self.hidden_size] += self.forget_bias
        return values

    def step(self, net_RBK, state):
        h, c = state
        i, f, g, o = (net_RBK + recur(h, self.weight_hh)).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)

    def fused(self):
        from amu_experiments.cells.kernels import Recurrence, compiled, f32, tanh

        A = self.hidden_size

        @compiled
        def step(net, rec, extra, old, new, tape, y):
            # sigmoid(x) = (1 + tanh(x / 2)) / 2: one tanh over all rows is one loop of full vectors.
            for k in range(4 * A):
                tape[k] = tanh(net[k] if k // A == 2 else f32(0.5) * net[k])
            for k in range(4 * A):
                tape[k] = tape[k] if k // A == 2 else f32(0.5) + f32(0.5) * tape[k]
            for a in range(A):
                new[A + a] = tape[A + a] * old[A + a] + tape[a] * tape[2 * A + a]
            for a in range(A):
                tape[4 * A + a] = tanh(new[A + a])
            for a in range(A):
                new[a] = tape[3 * A + a] * tape[4 * A + a]
                y[a] = new[a]

        @compiled
        def adjoint(dy, dstate, extra, old, new, tape, dnet, drec, dextra):
            one = f32(1.0)
            for a in range(A):
                i, f, g, o = tape[a], tape[A + a], tape[2 * A + a], tape[3 * A + a]
                squashed = tape[4 * A + a]
                dh = dstate[a] + dy[a]
                dc = dstate[A + a] + dh * o * (one - squashed * squashed)
                dnet[a] = dc * g * i * (one - i)
                dnet[A + a] = dc * old[A + a] * f * (one - f)
                dnet[2 * A + a] = dc * i * (one - g * g)
                dnet[3 * A + a] = dh * squashed * o * (one - o)
                dstate[a] = f32(0.0)
                dstate[A + a] = dc * f

        return Recurrence(
            name="lstm",
            step=step,
            adjoint=adjoint,
            inputs=self.input_size,
            rows=4 * A,
            recurrent=A,
            state=2 * A,
            tape=5 * A,
            outputs=A,
        )
