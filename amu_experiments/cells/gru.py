"""The gated recurrent unit (Cho et al. 2014), in the form of torch.nn.GRU."""

import torch

from amu_experiments.cells.cell import Cell, recur


class GRU(Cell):
    """Reset gate r, update gate z and candidate n, rows of the weights in this order:

        r, z = sigmoid(W x(t) + b + U h(t-1))
        n    = tanh(W_n x(t) + b_n + r * (U_n h(t-1) + bias_hn))
        h(t) = (1 - z) * n + z * h(t-1), which is the output

    As in torch.nn.GRU the reset gate acts after the recurrent product, which gives the candidate a second bias.
    See Cell for arguments and shapes.
    """

    torch_name = "GRU"

    @classmethod
    def shapes(cls, input_size, hidden_size):
        rows = 3 * hidden_size
        return {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, hidden_size),
            "bias": (rows,),
            "bias_hn": (hidden_size,),
        }

    def step(self, net_RBK, state):
        (h,) = state
        net_r, net_z, net_n = net_RBK.chunk(3, dim=-1)
        rec_r, rec_z, rec_n = recur(h, self.weight_hh).chunk(3, dim=-1)
        r = torch.sigmoid(net_r + rec_r)
        z = torch.sigmoid(net_z + rec_z)
        n = torch.tanh(net_n + r * (rec_n + self.bias_hn.unsqueeze(1)))
        h = (1 - z) * n + z * h
        return h, (h,)
