"""The antisymmetric RNN (Chang, Chen, Haber & Chi 2019, "AntisymmetricRNN: a dynamical system view")."""

from typing import Annotated

import numpy as np
import torch

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.options import Positive, Rule

NOT_NEGATIVE = Rule(float, "a number from 0 on", lambda value: value >= 0)


class AntisymmetricRNN(Cell):
    """Gated Euler steps of a stable system, M = U - U^T - gamma * identity; rows of weight_ih for gate and candidate:

        h(t) = h(t-1) + epsilon * sigmoid(M h(t-1) + W_z x(t) + b_z) * tanh(M h(t-1) + W_h x(t) + b_h)

    Args:
        epsilon: step size.
        gamma: diffusion, which keeps the system stable.
        gated: whether there is a gate (section 4.2 of the paper).
        See Cell for the others, and for shapes. As published, U starts normal with variance 1 / A, W with 1 / I, and
        b at zero; `initial_range` scales the deviations.
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        *,
        epsilon: Positive = 0.01,
        gamma: Annotated[float, NOT_NEGATIVE] = 0.01,
        gated: bool = True,
        **common,
    ):
        self.epsilon, self.gamma, self.gated = epsilon, gamma, gated
        super().__init__(input_size, hidden_size, gated=gated, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size, gated=True):
        rows = (2 if gated else 1) * hidden_size
        return {"weight_ih": (rows, input_size), "weight_hh": (hidden_size, hidden_size), "bias": (rows,)}

    def initial_values(self, rng):
        shapes = self.shapes(self.input_size, self.hidden_size, **self.options)
        return {
            name: np.zeros(shape, np.float32)
            if name == "bias"
            else (self.initial_range * rng.normal(0, 1 / np.sqrt(shape[1]), shape)).astype(np.float32)
            for name, shape in shapes.items()
        }

    def step(self, net_RBK, state):
        (h,) = state
        turned = recur(h, self.weight_hh) - recur(h, self.weight_hh.transpose(1, 2)) - self.gamma * h
        if self.gated:
            net_z, net_h = net_RBK.chunk(2, dim=-1)
            change = torch.sigmoid(net_z + turned) * torch.tanh(net_h + turned)
        else:
            change = torch.tanh(net_RBK + turned)
        h = h + self.epsilon * change
        return h, (h,)
