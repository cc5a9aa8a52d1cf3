"""The independently recurrent network (Li, Li, Cook, Zhu & Gao 2018, "Independently recurrent neural network")."""

import numpy as np
import torch

from amu_experiments.cells.cell import Cell
from amu_experiments.options import Positive


class IndRNN(Cell):
    """h(t) = relu(W x(t) + b + u * h(t-1)), which is the output: a unit sees no past but its own.

    Args:
        recurrent_range: u starts uniform from 0 to this. The paper bounds |u| by 2^(1 / T) for sequences of T steps,
            which is about 1.
        See Cell for the others, and for shapes.
    """

    def __init__(self, input_size, hidden_size, *, recurrent_range: Positive = 1.0, **common):
        self.recurrent_range = recurrent_range
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size):
        return {"weight_ih": (hidden_size, input_size), "bias": (hidden_size,), "weight_hh": (hidden_size,)}

    def initial_values(self, rng):
        values = super().initial_values(rng)
        values["weight_hh"] = rng.uniform(0, self.recurrent_range, self.hidden_size).astype(np.float32)
        return values

    def step(self, net_RBK, state):
        (h,) = state
        h = torch.relu(net_RBK + self.weight_hh.unsqueeze(1) * h)
        return h, (h,)
