"""JANET, an LSTM with a forget gate alone (van der Westhuizen & Lasenby 2018, "The unreasonable effectiveness of the
forget gate")."""

import torch

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.cells.lstm import LongestLag, chrono_bias


class JANET(Cell):
    """Forget gate and candidate, rows of the weights in this order, net = W x(t) + b + U c(t-1):

        c(t) = sigmoid(net_f) * c(t-1) + (1 - sigmoid(net_f - beta)) * tanh(net_c), which is the output

    Args:
        beta: above 0, more of the candidate is added than of the memory is forgotten; 1 in the paper.
        longest_lag: T_max of the chrono initialisation, with which the paper trains; 0: the bias is random like the
            weights. See LSTM.
        See Cell for the others, and for shapes.
    """

    states = ("c",)

    def __init__(self, input_size, hidden_size, *, beta: float = 1.0, longest_lag: LongestLag = 0, **common):
        self.beta = beta
        self.longest_lag = longest_lag
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size):
        rows = 2 * hidden_size
        return {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size), "bias": (rows,)}

    def initial_values(self, rng):
        values = super().initial_values(rng)
        if self.longest_lag:
            values["bias"][: self.hidden_size] = chrono_bias(rng, self.hidden_size, self.longest_lag)
            values["bias"][self.hidden_size :] = 0
        return values

    def step(self, net_RBK, state):
        (c,) = state
        net_f, net_c = (net_RBK + recur(c, self.weight_hh)).chunk(2, dim=-1)
        c = torch.sigmoid(net_f) * c + (1 - torch.sigmoid(net_f - self.beta)) * torch.tanh(net_c)
        return c, (c,)
