"""The IRNN (Le, Jaitly & Hinton 2015, "A simple way to initialize recurrent networks of rectified linear units")."""

import numpy as np
import torch

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.options import Positive


class IRNN(Cell):
    """h(t) = relu(W x(t) + b + U h(t-1)), which is the output; U starts as the identity, b at zero.

    Args:
        input_deviation: W starts normal with this standard deviation; 0.001 in the paper.
        See Cell for the others, and for shapes. `initial_range` changes nothing.
    """

    def __init__(self, input_size, hidden_size, *, input_deviation: Positive = 0.001, **common):
        self.input_deviation = input_deviation
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size):
        A = hidden_size
        return {"weight_ih": (A, input_size), "weight_hh": (A, A), "bias": (A,)}

    def initial_values(self, rng):
        A = self.hidden_size
        return {
            "weight_ih": rng.normal(0, self.input_deviation, (A, self.input_size)).astype(np.float32),
            "weight_hh": np.eye(A, dtype=np.float32),
            "bias": np.zeros(A, np.float32),
        }

    def step(self, net_RBK, state):
        (h,) = state
        h = torch.relu(net_RBK + recur(h, self.weight_hh))
        return h, (h,)
