"""The gated recurrent unit as first published (Cho et al. 2014): the reset gate acts before the product."""

import torch

from amu_experiments.cells.cell import Cell, recur


class GRU2014(Cell):
    """Reset gate r, update gate z and candidate n, rows of the weights in this order:

        r, z = sigmoid(W x(t) + b + U h(t-1))
        n    = tanh(W_n x(t) + b_n + U_n (r * h(t-1)))
        h(t) = (1 - z) * n + z * h(t-1), which is the output

    The form of torch.nn.GRU, with r * (U_n h(t-1)), is the cell `gru`. See Cell for arguments and shapes.
    """

    @classmethod
    def shapes(cls, input_size, hidden_size):
        rows = 3 * hidden_size
        return {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size), "bias": (rows,)}

    def step(self, net_RBK, state):
        (h,) = state
        gates = [2 * self.hidden_size, self.hidden_size]
        net_rz, net_n = net_RBK.split(gates, dim=-1)
        weight_rz, weight_n = self.weight_hh.split(gates, dim=1)
        r, z = torch.sigmoid(net_rz + recur(h, weight_rz)).chunk(2, dim=-1)
        n = torch.tanh(net_n + recur(r * h, weight_n))
        h = (1 - z) * n + z * h
        return h, (h,)
