"""The chaos free network (Laurent & von Brecht 2017, "A recurrent neural network without chaos")."""

import torch

from amu_experiments.cells.cell import Cell, recur


class CFN(Cell):
    """Forget gate f and input gate i, which have biases, and the input term W_c x(t); rows of weight_ih in this order:

        f, i = sigmoid(W x(t) + b + U h(t-1))
        h(t) = f * tanh(h(t-1)) + i * tanh(W_c x(t)), which is the output

    Args:
        initial_range: weights start uniform in +-initial_range, 0.07 in the paper; the biases start at 1 for f, which
            keeps memories, and at -1 for i.
        See Cell for the others, and for shapes.
    """

    @classmethod
    def shapes(cls, input_size, hidden_size):
        gates = 2 * hidden_size
        return {"weight_ih": (3 * hidden_size, input_size), "weight_hh": (gates, hidden_size), "bias": (gates,)}

    def fan(self):
        return 1  # the range is absolute

    def initial_values(self, rng):
        values = super().initial_values(rng)
        values["bias"][: self.hidden_size], values["bias"][self.hidden_size :] = 1, -1
        return values

    def step(self, net_RBK, state):
        (h,) = state
        net, net_c = net_RBK.split([2 * self.hidden_size, self.hidden_size], dim=-1)
        f, i = torch.sigmoid(net + recur(h, self.weight_hh)).chunk(2, dim=-1)
        h = f * torch.tanh(h) + i * torch.tanh(net_c)
        return h, (h,)
