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

    def __init__(self, input_size, hidden_size, forget_bias=0.0, **common):
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
        net_i, net_f, net_g, net_o = (net_RBK + recur(h, self.weight_hh)).chunk(4, dim=-1)
        i, f, o = torch.sigmoid(net_i), torch.sigmoid(net_f), torch.sigmoid(net_o)
        g = torch.tanh(net_g)
        c = f * c + i * g
        h = o * torch.tanh(c)
        return h, (h, c)
