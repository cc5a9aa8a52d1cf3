"""Coupled oscillatory RNN (Rusch & Mishra 2021, "Coupled oscillatory recurrent neural network (coRNN)")."""

import torch

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.options import Positive


class CoRNN(Cell):
    """Oscillators y with velocities z, driven by the input and damped; weight_hh acts on y and z side by side:

        z(t) = z(t-1) + dt * (tanh(W x(t) + U (y(t-1), z(t-1)) + b) - gamma * y(t-1) - epsilon * z(t-1))
        y(t) = y(t-1) + dt * z(t), which is the output

    Args:
        dt: time step. The defaults of all three are those of the authors' code for sequential MNIST; tune them.
        gamma: squared frequency of the oscillators.
        epsilon: damping.
        initial_range: a multiple of 1 / sqrt(I + 2 A), as in that code.
        See Cell for the others, and for shapes.
    """

    states = ("y", "z")

    def __init__(
        self, input_size, hidden_size, *, dt: Positive = 0.042, gamma: Positive = 2.7, epsilon: Positive = 4.7, **common
    ):
        self.dt, self.gamma, self.epsilon = dt, gamma, epsilon
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size):
        A = hidden_size
        return {"weight_ih": (A, input_size), "weight_hh": (A, 2 * A), "bias": (A,)}

    def fan(self):
        return self.input_size + 2 * self.hidden_size

    def step(self, net_RBK, state):
        y, z = state
        force = torch.tanh(net_RBK + recur(torch.cat([y, z], dim=-1), self.weight_hh))
        z = z + self.dt * (force - self.gamma * y - self.epsilon * z)
        y = y + self.dt * z
        return y, (y, z)
