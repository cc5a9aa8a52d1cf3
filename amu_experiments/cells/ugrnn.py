"""The update gate RNN (Collins, Sohl-Dickstein & Sussillo 2017, "Capacity and trainability in recurrent neural
networks")."""

import torch

from amu_experiments.cells.cell import Cell, recur


class UGRNN(Cell):
    """Update gate g and candidate c, rows of the weights in this order, net = W x(t) + b + U h(t-1):

        h(t) = sigmoid(net_g) * h(t-1) + (1 - sigmoid(net_g)) * tanh(net_c), which is the output

    Args:
        forget_bias: added to the gate's initial bias, so that memory is kept at the start of training. The paper tunes
            it; it is 1 in TensorFlow's UGRNNCell.
        See Cell for the others, and for shapes.
    """

    def __init__(self, input_size, hidden_size, *, forget_bias: float = 0.0, **common):
        self.forget_bias = forget_bias
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size):
        rows = 2 * hidden_size
        return {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size), "bias": (rows,)}

    def initial_values(self, rng):
        values = super().initial_values(rng)
        values["bias"][: self.hidden_size] += self.forget_bias
        return values

    def step(self, net_RBK, state):
        (h,) = state
        net_g, net_c = (net_RBK + recur(h, self.weight_hh)).chunk(2, dim=-1)
        g = torch.sigmoid(net_g)
        h = g * h + (1 - g) * torch.tanh(net_c)
        return h, (h,)
