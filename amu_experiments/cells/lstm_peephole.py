"""The LSTM with peephole connections (Gers & Schmidhuber 2000, "Recurrent nets that time and count")."""

import torch

from amu_experiments.cells.cell import Cell, recur


class PeepholeLSTM(Cell):
    """An LSTM whose gates see its cells; net and the rows of the weights as in LSTM, `peepholes` p_i, p_f and p_o:

        i, f = sigmoid(net + p * c(t-1)), g = tanh(net_g)
        c(t) = f * c(t-1) + i * g
        o    = sigmoid(net_o + p_o * c(t))
        h(t) = o * tanh(c(t)), which is the output

    Args:
        forget_bias: added to the forget gate's initial bias.
        See Cell for the others, and for shapes.
    """

    states = ("h", "c")

    def __init__(self, input_size, hidden_size, *, forget_bias: float = 0.0, **common):
        self.forget_bias = forget_bias
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size):
        A = hidden_size
        return {"weight_ih": (4 * A, input_size), "weight_hh": (4 * A, A), "bias": (4 * A,), "peepholes": (3 * A,)}

    def initial_values(self, rng):
        values = super().initial_values(rng)
        values["bias"][self.hidden_size : 2 * self.hidden_size] += self.forget_bias
        return values

    def step(self, net_RBK, state):
        h, c = state
        net_i, net_f, net_g, net_o = (net_RBK + recur(h, self.weight_hh)).chunk(4, dim=-1)
        p_i, p_f, p_o = self.peepholes.unsqueeze(1).chunk(3, dim=-1)
        i, f = torch.sigmoid(net_i + p_i * c), torch.sigmoid(net_f + p_f * c)
        g = torch.tanh(net_g)
        c = f * c + i * g
        o = torch.sigmoid(net_o + p_o * c)
        h = o * torch.tanh(c)
        return h, (h, c)
