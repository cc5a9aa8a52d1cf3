"""The structurally constrained recurrent network (Mikolov, Joulin, Chopra, Mathieu & Ranzato 2015, "Learning longer
memory in recurrent neural networks")."""

from typing import Annotated

import torch

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.options import PROPER_FRACTION, Count


class SCRN(Cell):
    """Hidden units h and slow context units s; the output is h and s side by side, which the readout reads:

        s(t) = (1 - alpha) * W_s x(t) + alpha * s(t-1)
        h(t) = sigmoid(P s(t) + W_h x(t) + U h(t-1))

    Rows of weight_ih: h, s; `weight_hh` is U and `weight_sh` is P. There are no biases, as in the paper.

    Args:
        alpha: share of s(t-1) in s(t); 0.95 in the paper.
        hidden_per_context: hidden units for each context unit; hidden_size counts both.
        See Cell for the others, and for shapes.
    """

    states = ("h", "s")

    def __init__(self, input_size, hidden_size, *, alpha: Annotated[float, PROPER_FRACTION] = 0.95, **common):
        self.alpha = alpha
        hidden_per_context = common.setdefault("hidden_per_context", 4)
        if hidden_size % (1 + hidden_per_context):
            raise ValueError(f"hidden_size={hidden_size}: must be a multiple of 1 + hidden_per_context")
        self.context = hidden_size // (1 + hidden_per_context)
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size, hidden_per_context: Count = 4):
        context = hidden_size // (1 + hidden_per_context)
        hidden = hidden_size - context
        return {
            "weight_ih": (hidden_size, input_size),
            "weight_hh": (hidden, hidden),
            "bias": (0,),
            "weight_sh": (hidden, context),
        }

    @classmethod
    def unit_step(cls, hidden_per_context=4, **_):
        return 1 + hidden_per_context

    def state_sizes(self):
        return self.hidden_size - self.context, self.context

    def step(self, net_RBK, state):
        h, s = state
        net_h, net_s = net_RBK.split(self.state_sizes(), dim=-1)
        s = (1 - self.alpha) * net_s + self.alpha * s
        h = torch.sigmoid(recur(s, self.weight_sh) + net_h + recur(h, self.weight_hh))
        return torch.cat([h, s], dim=-1), (h, s)
