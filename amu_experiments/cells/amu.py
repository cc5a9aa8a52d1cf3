"""The auxiliary memory unit: a memory neuron beside the output neuron (Wang, Zhang, Guo & Yi 2018).

Only the abstract of the paper is public. The recurrence follows the public reimplementation in WilliamRo/tframe
(nets/rnn_cells/amu.py). Every admissible reading of the abstract is an option here.
"""

from typing import Annotated, Literal

import torch
from torch import Tensor

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.options import Added, whole


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

    Other readings change these equations as follows. output_in_product=false: the product is over n = 1 .. N-1.
    writers="gated": the first factor is tanh(net_n), the others are logistic(net_n), and so are their h_n.
    memory_seen_by="all": V_n s(t-1), V_n a full matrix, in the place of v_n * s(t-1), and V_n^T e_n in that of
    v_n * e_n. output_sees="new": net_0(t) sees s(t) in the place of s(t-1); so eps(t) contains v_0 * e_0(t), too.

    `output, (h, s) = layer(x)`, with h (R, B, K) and s (R, B, A). Parameters of a trial: weight_ih W (K, I),
    weight_hh U (K, K), over all neurons, weight_mh v (K), from a unit's memory to its own neurons, or V (K, A), from
    all memories to all neurons, bias b (K). Rows are neuron-major: row n*A + a is neuron n of unit a.

    Args:
        neurons_per_unit: N.
        gradient: "truncated" cuts every path of the error but the memory's own; "full" is back-propagation
            through time.
        output: what is emitted: "neuron" (h_0), "linear" (net_0, the same neuron without squashing) or "memory"
            (s(t), after the update).
        output_in_product: whether the output neuron is a factor of the product that is added to the memory.
        memory_seen_by: the neurons that see a memory: those of its own "unit", or "all".
        output_sees: the memory that the output neuron sees: the "old" one, s(t-1), or the "new" one, s(t). The new one
            needs output_in_product=false.
        writers: the squashing of the factors: "tanh" for each, or "gated": tanh for the first, logistic for the others.
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
        memory_seen_by: Annotated[Literal["unit", "all"], Added("unit")] = "unit",
        output_sees: Annotated[Literal["old", "new"], Added("old")] = "old",
        writers: Annotated[Literal["tanh", "gated"], Added("tanh")] = "tanh",
        **common,
    ):
        if output == "auto":
            raise ValueError("output=auto: only a network's answers settle it; a layer takes neuron, linear or memory")
        if neurons_per_unit < 2 and not output_in_product:
            raise ValueError(f"neurons_per_unit={neurons_per_unit}: must be 2 or more with output_in_product=false")
        if output_sees == "new" and output_in_product:
            raise ValueError("output_sees=new: needs output_in_product=false, for the product makes the new memory")
        if writers == "gated" and neurons_per_unit - (not output_in_product) < 2:
            raise ValueError(
                f"writers=gated: needs two writing neurons, and neurons_per_unit={neurons_per_unit} with "
                f"output_in_product={'true' if output_in_product else 'false'} gives one"
            )
        self.neurons_per_unit = neurons_per_unit
        self.gradient = gradient
        self.output = output
        self.output_in_product = output_in_product
        self.memory_seen_by = memory_seen_by
        self.output_sees = output_sees
        self.writers = writers
        self.first_factor = 0 if output_in_product else 1
        sizes = {"neurons_per_unit": neurons_per_unit, "memory_seen_by": memory_seen_by}
        super().__init__(input_size, hidden_size, **sizes, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size, neurons_per_unit=3, memory_seen_by="unit"):
        rows = neurons_per_unit * hidden_size
        return {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, rows),
            "bias": (rows,),
            "weight_mh": (rows, hidden_size) if memory_seen_by == "all" else (rows,),
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
        A = self.hidden_size
        if self.gradient == "full":
            rest = net_RBK + recur(h, self.weight_hh)
            net = inner = rest + self.seen(s)
        else:
            # Equal numbers, and two ways back for the error: a neuron that is emitted passes its own on to the memory
            # that it saw; a factor of what is added to the memory passes none.
            rest = net_RBK + recur(h.detach(), self.weight_hh)
            net, inner = rest + self.seen(s), rest + self.seen(s.detach())
        first = self.first_factor * A
        factors = self.squashed(inner[..., first:])
        s = s + factors.unflatten(-1, (-1, A)).prod(dim=-2)
        if self.output_sees == "new":
            net = torch.cat([rest[..., :A] + self.seen(s, A), net[..., A:]], dim=-1)
        # One node where one error flows back, so that it is computed once.
        written = factors if self.gradient == "full" else self.squashed(net[..., first:])
        h = torch.cat([torch.tanh(net[..., :first]), written], dim=-1)
        y = {"neuron": h, "linear": net, "memory": s}[self.output][..., :A]
        return y, (h, s)

    def seen(self, s: Tensor, rows: int | None = None) -> Tensor:
        """What the first `rows` neurons, or all, see of the memories s (R, B, A): (R, B, rows)."""
        weight = self.weight_mh[:, :rows]
        if self.memory_seen_by == "all":
            return recur(s, weight)
        return weight.unsqueeze(1) * s.repeat(1, 1, weight.shape[1] // self.hidden_size)

    def squashed(self, net: Tensor) -> Tensor:
        """The factors, of the same shape, from their net inputs (R, B, factors * A)."""
        if self.writers == "tanh":
            return torch.tanh(net)
        A = self.hidden_size
        return torch.cat([torch.tanh(net[..., :A]), torch.sigmoid(net[..., A:])], dim=-1)
