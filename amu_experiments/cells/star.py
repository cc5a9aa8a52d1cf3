"""The stackable recurrent cell STAR (Turkoglu, D'Aronco, Wegner & Schindler 2021, "Gating revisited: deep multi-layer
RNNs that can be trained")."""

import numpy as np
import torch

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.cells.initial import orthogonal
from amu_experiments.cells.lstm import LongestLag, chrono_bias


class STAR(Cell):
    """Gate k and candidate z, which sees no past, rows of weight_ih in this order:

        k    = sigmoid(W_k x(t) + b_k + U h(t-1))
        h(t) = tanh((1 - k) * h(t-1) + k * tanh(W_z x(t) + b_z)), which is the output

    Args:
        longest_lag: T_max of the chrono initialisation, as in the authors' code: b_k starts as -log(u), u uniform from
            1 to T_max - 1, because 1 - k keeps the memory. 0: b_k starts at -1, as in that code without T_max.
        See Cell for the others, and for shapes. As in that code, weights start orthogonal, here times initial_range,
        and b_z at 0. The equations are those of the paper: the code also has the shift of JANET's gate.
    """

    def __init__(self, input_size, hidden_size, *, longest_lag: LongestLag = 0, **common):
        self.longest_lag = longest_lag
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size):
        A = hidden_size
        return {"weight_ih": (2 * A, input_size), "weight_hh": (A, A), "bias": (2 * A,)}

    def initial_values(self, rng):
        A, I = self.hidden_size, self.input_size
        gate = -chrono_bias(rng, A, self.longest_lag) if self.longest_lag else -np.ones(A, np.float32)
        return {
            "weight_ih": self.initial_range * np.concatenate([orthogonal(rng, A, I), orthogonal(rng, A, I)]),
            "weight_hh": self.initial_range * orthogonal(rng, A, A),
            "bias": np.concatenate([gate, np.zeros(A, np.float32)]),
        }

    def step(self, net_RBK, state):
        (h,) = state
        net_k, net_z = net_RBK.chunk(2, dim=-1)
        k = torch.sigmoid(net_k + recur(h, self.weight_hh))
        h = torch.tanh((1 - k) * h + k * torch.tanh(net_z))
        return h, (h,)
