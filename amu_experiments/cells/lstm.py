"""The LSTM with forget gate (Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000), as in torch.nn."""

from typing import Annotated

import numpy as np
import torch

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.options import Rule

LongestLag = Annotated[int, Rule(int, "0, or a whole number from 3 to 1000000000", lambda n: n == 0 or 3 <= n <= 10**9)]


class LSTM(Cell):
    """Input gate i, forget gate f, candidate g and output gate o, rows of the weights in this order:

        i, f, o = sigmoid(net), g = tanh(net), net = W x(t) + b + U h(t-1)
        c(t) = f * c(t-1) + i * g
        h(t) = o * tanh(c(t)), which is the output

    One bias, where torch.nn.LSTM keeps two that only ever act as their sum.

    Args:
        forget_bias: added to the forget gate's initial bias, so that memory is kept at the start of training
            (Gers, Schmidhuber & Cummins 2000; Jozefowicz, Zaremba & Sutskever 2015 recommend 1).
        longest_lag: T_max of the chrono initialisation (Tallec & Ollivier 2018); 0: none. The forget gate's bias starts
            as log(u), u uniform from 1 to T_max - 1, and the input gate's bias as -log(u). So memories last up to about
            T_max steps. forget_bias must be 0.
        See Cell for the others, and for shapes.
    """

    states = ("h", "c")
    torch_name = "LSTM"

    def __init__(self, input_size, hidden_size, *, forget_bias: float = 0.0, longest_lag: LongestLag = 0, **common):
        if longest_lag and forget_bias:
            raise ValueError(f"longest_lag={longest_lag}, forget_bias={forget_bias}: one of them must be 0")
        self.forget_bias = forget_bias
        self.longest_lag = longest_lag
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size):
        rows = 4 * hidden_size
        return {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size), "bias": (rows,)}

    def initial_values(self, rng):
        values = super().initial_values(rng)
        A, bias = self.hidden_size, values["bias"]
        bias[A : 2 * A] += self.forget_bias
        if self.longest_lag:
            bias[A : 2 * A] = chrono_bias(rng, A, self.longest_lag)
            bias[:A] = -bias[A : 2 * A]
        return values

    def step(self, net_RBK, state):
        h, c = state
        net_i, net_f, net_g, net_o = (net_RBK + recur(h, self.weight_hh)).chunk(4, dim=-1)
        i, f, o = torch.sigmoid(net_i), torch.sigmoid(net_f), torch.sigmoid(net_o)
        g = torch.tanh(net_g)
        c = f * c + i * g
        h = o * torch.tanh(c)
        return h, (h, c)


def chrono_bias(rng: np.random.Generator, units: int, longest_lag: int) -> np.ndarray:
    """Biases (units,) of gates that keep memories for 1 to longest_lag - 1 steps (Tallec & Ollivier 2018)."""
    return np.log(rng.uniform(1, longest_lag - 1, units)).astype(np.float32)
