"""The vanilla recurrent network (Elman 1990), as torch.nn.RNN computes it."""

import torch

from amu_experiments.cells.cell import Cell, recur


class RNN(Cell):
    """h(t) = tanh(W x(t) + b + U h(t-1)); the output is h(t).

    One bias, where torch.nn.RNN keeps two that only ever act as their sum. See Cell for arguments and shapes.
    """

    torch_name = "RNN"

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
