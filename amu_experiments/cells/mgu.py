"""The minimal gated unit (Zhou, Wu, Zhang & Zhou 2016, "Minimal gated unit for recurrent neural networks")."""

import torch

from amu_experiments.cells.cell import Cell, recur


class MGU(Cell):
    """Forget gate f and candidate n, rows of the weights in this order; one gate does what the GRU's two do:

        f    = sigmoid(W_f x(t) + U_f h(t-1) + b_f)
        n    = tanh(W_n x(t) + U_n (f * h(t-1)) + b_n)
        h(t) = (1 - f) * h(t-1) + f * n, which is the output

    See Cell for arguments and shapes.
    """

    @classmethod
    def shapes(cls, input_size, hidden_size):
        rows = 2 * hidden_size
        return {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size), "bias": (rows,)}

    def step(self, net_RBK, state):
        (h,) = state
        net_f, net_n = net_RBK.chunk(2, dim=-1)
        weight_f, weight_n = self.weight_hh.chunk(2, dim=1)
        f = torch.sigmoid(net_f + recur(h, weight_f))
        n = torch.tanh(net_n + recur(f * h, weight_n))
        h = (1 - f) * h + f * n
        return h, (h,)
