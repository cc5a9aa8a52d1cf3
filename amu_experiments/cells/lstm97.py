"""The LSTM of 1997: memory blocks with input and output gate, no forget gate, and a truncated gradient.

Hochreiter & Schmidhuber 1997, section 4 and appendix A.1; the settings of their experiments are in its Table 10.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.options import whole


class LSTM97(Cell):
    """Blocks j of `block_size` cells c each, which share an input gate and an output gate:

        net(t)     = W x(t) + b + U h(t-1), where h is the output of the whole hidden layer: h = (in, out, y)
        in_j, out_j = f(net),   f(x) = 1 / (1 + exp(-x))
        s_c(t)     = s_c(t-1) + in_j(t) * g(net_c(t)),   g(x) = 4 f(x) - 2
        y_c(t)     = out_j(t) * k(s_c(t)),   k(x) = 2 f(x) - 1 (h in the paper); y is the output

    Truncated gradient: d net(t) / d h(t-1) := 0. Error goes back in time along s alone, where it neither grows nor
    vanishes.

    With G = A / block_size blocks, K = 2 G + A rows: input gates, output gates, cells, those of a block side by side.
    `output, (h, s) = layer(x)`, with h (R, B, K) and s (R, B, A).

    Args:
        hidden_size: A, the number of cells; a multiple of block_size.
        block_size: cells of a block.
        biases: which units have a bias: "none", "gates", "hidden" (gates and cells) or "all" (the output units that
            read this cell, too).
        gradient: "truncated", as in 1997, or "full", back-propagation through time.
        input_bias, output_bias: initial biases of the input and the output gates, block by block, staggered so that
            blocks come into use one after another. If there are more blocks than values, the last difference repeats:
            -1, -2 becomes -1, -2, -3. Empty: random like the weights.
        initial_range: weights, those of the output units included, start uniform in +-initial_range.
        See Cell for the others, and for shapes.
    """

    states = ("h", "s")

    def __init__(
        self,
        input_size,
        hidden_size,
        *,
        block_size: Annotated[int, whole(1, 1000)] = 1,
        biases: Literal["none", "gates", "hidden", "all"] = "hidden",
        gradient: Literal["truncated", "full"] = "truncated",
        input_bias: Sequence[float] = (),
        output_bias: Sequence[float] = (-1.0, -2.0),
        **common,
    ):
        if hidden_size % block_size:
            raise ValueError(f"{hidden_size} units: must be a multiple of block_size={block_size}")
        if biases == "none" and (len(input_bias) or len(output_bias)):
            raise ValueError("biases='none': input_bias and output_bias must be empty, []")
        self.blocks = hidden_size // block_size
        self.block_size = block_size
        self.gradient = gradient
        self.input_bias, self.output_bias = tuple(input_bias), tuple(output_bias)
        self.readout_bias = biases == "all"
        super().__init__(input_size, hidden_size, block_size=block_size, biases=biases, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size, block_size=1, biases="hidden"):
        gates = 2 * (hidden_size // block_size)
        rows = gates + hidden_size
        biased = {"none": 0, "gates": gates}.get(biases, rows)
        return {"weight_ih": (rows, input_size), "weight_hh": (rows, rows), "bias": (biased,)}

    @classmethod
    def unit_step(cls, block_size=1, **_):
        return block_size

    def state_sizes(self):
        return 2 * self.blocks + self.hidden_size, self.hidden_size

    def fan(self):
        return 1  # ranges were absolute in 1997

    def readout_range(self):
        return self.initial_range

    def initial_values(self, rng):
        values = super().initial_values(rng)
        for first, listed in ((0, self.input_bias), (self.blocks, self.output_bias)):
            if len(listed):
                values["bias"][first : first + self.blocks] = staggered(listed, self.blocks)
        return values

    def step(self, net_RBK, state):
        h, s = state
        net = net_RBK + recur(h.detach() if self.gradient == "truncated" else h, self.weight_hh)
        gates, cells = net.split([2 * self.blocks, self.hidden_size], dim=-1)
        gates = torch.sigmoid(gates)
        of_input, of_output = (gate.repeat_interleave(self.block_size, dim=-1) for gate in gates.chunk(2, dim=-1))
        s = s + of_input * 2 * torch.tanh(cells / 2)  # 4 f(x) - 2 = 2 tanh(x / 2)
        y = of_output * torch.tanh(s / 2)
        return y, (torch.cat([gates, y], dim=-1), s)


def staggered(listed: Sequence[float], count: int) -> np.ndarray:
    """`count` numbers (count,) of a list that continues with its last difference: -1, -2 becomes -1, -2, -3."""
    listed = np.asarray(listed, np.float32)
    step = listed[-1] - listed[-2] if len(listed) > 1 else 0
    further = listed[-1] + step * np.arange(1, count - len(listed) + 1, dtype=np.float32)
    return np.concatenate([listed, further])[:count]
