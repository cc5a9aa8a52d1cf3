"""Long expressive memory (Rusch, Mishra, Erichson & Mahoney 2022, "Long expressive memory for sequence modeling")."""

from typing import Annotated

import torch

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.options import Rule

UNIT = Rule(float, "a number above 0, and 1 at most", lambda value: 0 < value <= 1)


class LEM(Cell):
    """Two states with learned time steps d1 and d2. The rows of weight_ih are d1, d2, z, y; those of weight_hh are the
    first three, and V is `weight_zy`:

        d1   = dt * sigmoid(W_1 x(t) + U_1 y(t-1) + b_1)
        d2   = dt * sigmoid(W_2 x(t) + U_2 y(t-1) + b_2)
        z(t) = (1 - d1) * z(t-1) + d1 * tanh(W_z x(t) + U_z y(t-1) + b_z)
        y(t) = (1 - d2) * y(t-1) + d2 * tanh(W_y x(t) + V z(t) + b_y), which is the output

    Args:
        dt: the largest time step, above 0 and at most 1; in the authors' code 1 by default, and 0.0242 for the adding
            problem.
        See Cell for the others, and for shapes. Initial values are those of that code.
    """

    states = ("y", "z")

    def __init__(self, input_size, hidden_size, *, dt: Annotated[float, UNIT] = 1.0, **common):
        self.dt = dt
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size):
        A = hidden_size
        return {"weight_ih": (4 * A, input_size), "weight_hh": (3 * A, A), "bias": (4 * A,), "weight_zy": (A, A)}

    def step(self, net_RBK, state):
        y, z = state
        net, net_y = net_RBK.split([3 * self.hidden_size, self.hidden_size], dim=-1)
        net_1, net_2, net_z = (net + recur(y, self.weight_hh)).chunk(3, dim=-1)
        d1, d2 = self.dt * torch.sigmoid(net_1), self.dt * torch.sigmoid(net_2)
        z = (1 - d1) * z + d1 * torch.tanh(net_z)
        y = (1 - d2) * y + d2 * torch.tanh(net_y + recur(z, self.weight_zy))
        return y, (y, z)
