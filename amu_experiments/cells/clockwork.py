"""The clockwork RNN (Koutnik, Greff, Gomez & Schmidhuber 2014, "A clockwork RNN")."""

from typing import Annotated

import numpy as np
import torch

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.options import whole


class ClockworkRNN(Cell):
    """Modules of equally many units; module i = 0, 1, ... is active every 2^i steps, at t = 0, 2^i, 2 * 2^i, ...:

        h_i(t) = tanh(W_i x(t) + b_i + sum over j >= i of U_ij h_j(t-1)) if active, else h_i(t-1)

    A module sees itself and the slower ones. `weight_hh_<i>` is U_ij for j = i, i + 1, ..., side by side. The state
    `phase` has the steps since each module was active; 0 means that it is active now. The output is h.

    Args:
        modules: their number, at most 16; hidden_size must be a multiple.
        See Cell for the others, and for shapes. Weights start normal with deviation 0.1 times initial_range, biases
        too.
    """

    states = ("h", "phase")

    def __init__(self, input_size, hidden_size, **common):
        modules = common.setdefault("modules", 4)
        if hidden_size % modules:
            raise ValueError(f"hidden_size={hidden_size}: must be a multiple of modules={modules}")
        self.periods = [2**i for i in range(modules)]
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size, modules: Annotated[int, whole(1, 16)] = 4):
        size = hidden_size // modules
        recurrent = {f"weight_hh_{i}": (size, hidden_size - i * size) for i in range(modules)}
        return {"weight_ih": (hidden_size, input_size), "bias": (hidden_size,), **recurrent}

    @classmethod
    def unit_step(cls, modules=4, **_):
        return modules

    def state_sizes(self):
        return self.hidden_size, len(self.periods)

    def initial_values(self, rng):
        shapes = self.shapes(self.input_size, self.hidden_size, **self.options)
        return {
            name: (0.1 * self.initial_range * rng.standard_normal(shape)).astype(np.float32)
            for name, shape in shapes.items()
        }

    def step(self, net_RBK, state):
        h, phase = state
        size = self.hidden_size // len(self.periods)
        seen = [recur(h[..., i * size :], getattr(self, f"weight_hh_{i}")) for i in range(len(self.periods))]
        active = phase.repeat_interleave(size, dim=-1) < 0.5
        h = torch.where(active, torch.tanh(net_RBK + torch.cat(seen, dim=-1)), h)
        counted = [
            torch.where(now + 1.5 > period, 0.0, now + 1)
            for now, period in zip(phase.split(1, dim=-1), self.periods, strict=True)
        ]
        return h, (h, torch.cat(counted, dim=-1))
