"""The light GRU (Ravanelli, Brakel, Omologo & Bengio 2018, "Light gated recurrent units for speech recognition"),
without its batch normalisation."""

import torch

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.cells.initial import orthogonal


class LiGRU(Cell):
    """Update gate z and candidate c, rows of the weights in this order, net = W x(t) + b + U h(t-1):

        h(t) = sigmoid(net_z) * h(t-1) + (1 - sigmoid(net_z)) * relu(net_c), which is the output

    The paper normalises W x(t) over the sequences of a batch, which would make a sequence's output depend on the
    others. Here a bias takes its place; without normalisation, the candidate can grow without bound.

    U starts orthogonal, as in SpeechBrain, the first author's toolkit. See Cell for arguments and shapes.
    """

    @classmethod
    def shapes(cls, input_size, hidden_size):
        rows = 2 * hidden_size
        return {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size), "bias": (rows,)}

    def initial_values(self, rng):
        return super().initial_values(rng) | {"weight_hh": orthogonal(rng, 2 * self.hidden_size, self.hidden_size)}

    def step(self, net_RBK, state):
        (h,) = state
        net_z, net_c = (net_RBK + recur(h, self.weight_hh)).chunk(2, dim=-1)
        z = torch.sigmoid(net_z)
        h = z * h + (1 - z) * torch.relu(net_c)
        return h, (h,)
