"""The minimal RNN (Chen 2017, "MinimalRNN: toward more interpretable and trainable recurrent neural networks")."""

import torch

from amu_experiments.cells.cell import Cell, recur


class MinimalRNN(Cell):
    """The input is encoded as z. A gate u sees z and the past, and 1 - u lets z in; `weight_zu` is V:

        z    = tanh(W x(t) + b)
        u    = sigmoid(U h(t-1) + V z + bias_u)
        h(t) = u * h(t-1) + (1 - u) * z, which is the output

    The paper leaves the encoder open, and has this one in its experiments. See Cell for arguments and shapes.
    """

    @classmethod
    def shapes(cls, input_size, hidden_size):
        A = hidden_size
        return {
            "weight_ih": (A, input_size),
            "weight_hh": (A, A),
            "bias": (A,),
            "weight_zu": (A, A),
            "bias_u": (A,),
        }

    def step(self, net_RBK, state):
        (h,) = state
        z = torch.tanh(net_RBK)
        u = torch.sigmoid(recur(h, self.weight_hh) + recur(z, self.weight_zu) + self.bias_u.unsqueeze(1))
        h = u * h + (1 - u) * z
        return h, (h,)
