"""FastGRNN (Kusupati, Singh, Bhatia, Kumar, Jain & Varma 2018), with full and dense matrices."""

import numpy as np
import torch

from amu_experiments.cells.cell import Cell, recur


class FastGRNN(Cell):
    """Gate z and candidate c share one net input without a bias; zeta and nu are two trained numbers:

        z    = sigmoid(W x(t) + U h(t-1) + b_z)
        c    = tanh(W x(t) + U h(t-1) + b_c)
        h(t) = (sigmoid(zeta) * (1 - z) + sigmoid(nu)) * c + z * h(t-1), which is the output

    As in the authors' code, weights start normal with deviation 0.1, here times initial_range, biases at 1, zeta at 1
    and nu at -4. See Cell for arguments and shapes.
    """

    @classmethod
    def shapes(cls, input_size, hidden_size):
        A = hidden_size
        return {
            "weight_ih": (A, input_size),
            "weight_hh": (A, A),
            "bias": (0,),
            "bias_z": (A,),
            "bias_c": (A,),
            "zeta": (1,),
            "nu": (1,),
        }

    def initial_values(self, rng):
        numbers = {"bias": 0, "bias_z": 1, "bias_c": 1, "zeta": 1, "nu": -4}
        return {
            name: np.full(shape, numbers[name], np.float32)
            if name in numbers
            else (0.1 * self.initial_range * rng.standard_normal(shape)).astype(np.float32)
            for name, shape in self.shapes(self.input_size, self.hidden_size).items()
        }

    def step(self, net_RBK, state):
        (h,) = state
        net = net_RBK + recur(h, self.weight_hh)
        z = torch.sigmoid(net + self.bias_z.unsqueeze(1))
        c = torch.tanh(net + self.bias_c.unsqueeze(1))
        zeta, nu = torch.sigmoid(self.zeta).unsqueeze(1), torch.sigmoid(self.nu).unsqueeze(1)
        h = (zeta * (1 - z) + nu) * c + z * h
        return h, (h,)
