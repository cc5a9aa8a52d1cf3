"""The auxiliary memory unit: a memory neuron beside the output neuron (Wang, Zhang, Guo & Yi 2018).

Only the abstract of the paper is public. The recurrence follows the public reimplementation in WilliamRo/tframe
(nets/rnn_cells/amu.py); what nobody outside can settle is an option here.
"""

from typing import Annotated, Literal

import torch
from torch import Tensor

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.options import whole


class AMU(Cell):
    """A units of N neurons and one memory neuron s each; K = N * A net inputs.

        net_n(t) = W_n x(t) + U_n h(t-1) + v_n * s(t-1) + b_n      n = 0 .. N-1, each of size A
        h_n(t)   = tanh(net_n(t))
        s(t)     = s(t-1) + prod_n h_n(t)                          no gate, no decay
        y(t)     = h_0(t)                                          the output neuron

    Truncated gradient, with e_n(t) the error that enters at neuron n from outside (as output, and as the state h that
    is returned) times the derivative there, and errors given to the memory from outside added where they enter:

        eps(t)     = sum over t' > t of sum_n v_n * e_n(t')          constant error flow along the memory
        delta_n(t) = e_n(t) + eps(t) * prod_{m != n} h_m(t) * tanh'(net_n(t))
        dW = sum delta(t) x(t)^T, dU = sum delta(t) h(t-1)^T, dv = sum delta(t) * s(t-1), db = sum delta(t)

    Error to the input, W^T delta(t), is kept, so that layers can be stacked; error to an earlier h is cut.

    `output, (h, s) = layer(x)`, with h (R, B, K) and s (R, B, A). Parameters of a trial: weight_ih W (K, I),
    weight_hh U (K, K), over all neurons, weight_mh v (K), from a unit's memory to its own neurons, bias b (K).
    Rows are neuron-major: row n*A + a is neuron n of unit a.

    Args:
        neurons_per_unit: N.
        gradient: "truncated" cuts every path of the error but the memory's own; "full" is back-propagation
            through time.
        output: what is emitted: "neuron" (h_0), "linear" (net_0, the same neuron without squashing) or "memory"
            (s(t), after the update).
        output_in_product: whether the output neuron is a factor of the product that is added to the memory.
        initial_range: a multiple of 1 / sqrt(K).
        See Cell for the others, and for shapes.
    """

    states = ("h", "s")

    def __init__(
        self,
        input_size,
        hidden_size,
        *,
        neurons_per_unit: Annotated[int, whole(1, 1000)] = 3,
        gradient: Literal["truncated", "full"] = "truncated",
        output: Literal["auto", "neuron", "linear", "memory"] = "neuron",
        output_in_product: bool = True,
        **common,
    ):
        if output == "auto":
            raise ValueError("output=auto: only a network's answers settle it; a layer takes neuron, linear or memory")
        if neurons_per_unit < 2 and not output_in_product:
            raise ValueError(f"neurons_per_unit={neurons_per_unit}: must be 2 or more with output_in_product=false")
        self.neurons_per_unit = neurons_per_unit
        self.gradient = gradient
        self.output = output
        self.output_in_product = output_in_product
        self.first_factor = 0 if output_in_product else 1
        super().__init__(input_size, hidden_size, neurons_per_unit=neurons_per_unit, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size, neurons_per_unit=3):
        rows = neurons_per_unit * hidden_size
        return {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, rows),
            "bias": (rows,),
            "weight_mh": (rows,),
        }

    @classmethod
    def resolved(cls, options, squash):
        """output="auto": the memory where the answers are numbers, which it can hold unsquashed, else the neuron."""
        if options.get("output") != "auto":
            return options
        return options | {"output": "memory" if squash == "linear" else "neuron"}

    def state_sizes(self):
        return self.fan(), self.hidden_size

    def fan(self):
        return self.neurons_per_unit * self.hidden_size

    def step(self, net_RBK, state):
        h, s = state
        v, seen = self.weight_mh.unsqueeze(1), s.repeat(1, 1, self.neurons_per_unit)
        if self.gradient == "full":
            net = net_RBK + recur(h, self.weight_hh) + v * seen
            h = factors = torch.tanh(net)
        else:
            # Equal numbers, and two ways back for the error: a neuron that is emitted passes its own on to the memory
            # that it saw; a factor of what is added to the memory passes none.
            rest = net_RBK + recur(h.detach(), self.weight_hh)
            net = rest + v * seen
            h, factors = torch.tanh(net), torch.tanh(rest + v * seen.detach())
        s = s + self.by_neuron(factors)[..., self.first_factor :, :].prod(dim=-2)
        y = {"neuron": h, "linear": net, "memory": s}[self.output][..., : self.hidden_size]
        return y, (h, s)

    def by_neuron(self, h: Tensor) -> Tensor:
        """(..., K) as (..., N, A)."""
        return h.reshape(*h.shape[:-1], self.neurons_per_unit, self.hidden_size)
