"""The minimal GRU (Feng, Tung, Ahmed, Bengio & Hajimirsadeghi 2024, "Were RNNs all we needed?")."""

import torch

from amu_experiments.cells.cell import Cell


class MinGRU(Cell):
    """Update gate z and candidate c, which see no past, rows of the weights in this order:

        z    = sigmoid(W_z x(t) + b_z)
        h(t) = (1 - z) * h(t-1) + z * (W_c x(t) + b_c), which is the output

    The paper computes all steps in parallel; here they come one after another.

    Args:
        positive: the candidate is g(W_c x(t) + b_c), g(a) = a + 1/2 for a >= 0 and sigmoid(a) below, as in the paper's
            computation with logarithms.
        initial_range: a multiple of 1 / sqrt(I), as in torch.nn.Linear.
        See Cell for the others, and for shapes.
    """

    def __init__(self, input_size, hidden_size, *, positive: bool = False, **common):
        self.positive = positive
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size):
        rows = 2 * hidden_size
        return {"weight_ih": (rows, input_size), "bias": (rows,)}

    def fan(self):
        return self.input_size

    def step(self, net_RBK, state):
        (h,) = state
        net_z, c = net_RBK.chunk(2, dim=-1)
        if self.positive:
            c = torch.where(c >= 0, c + 0.5, torch.sigmoid(c))
        z = torch.sigmoid(net_z)
        h = (1 - z) * h + z * c
        return h, (h,)
