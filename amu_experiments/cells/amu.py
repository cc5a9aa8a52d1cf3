"""The auxiliary memory unit: a memory neuron beside the output neuron (Wang, Zhang, Guo & Yi 2018).

Only the abstract of the paper is public. The form of the recurrence follows the public reimplementation in
WilliamRo/tframe (nets/rnn_cells/amu.py); an option stands for each choice that the abstract leaves open. The defaults
are the reading that did best in tuning (studies/shipped.py), and not those of the reimplementation, which has
output_in_product=True and writers="tanh".
"""

from typing import Annotated, Literal

import torch
from torch import Tensor

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.options import Added, whole


class AMU(Cell):
    """A layer of A units, each with N neurons and one memory neuron s, so with K = N * A net inputs.

        net_n(t) = W_n x(t) + U_n h(t-1) + V_n s(t-1) + b_n        n = 0 .. N-1, each of size A
        h_n(t)   = f_n(net_n(t))                                   f_n = tanh
        s(t)     = s(t-1) + prod_n h_n(t)                          no gate, no decay
        y(t)     = h_0(t)                                          the output neuron

    A neuron that is a factor of the product is a writing neuron. The abstract leaves open, and options decide: N;
    whether the output neuron is a writing neuron; whether V_n is diagonal or full; whether the output neuron sees
    s(t-1) or s(t); whether the writing neurons after the first are logistic, f_n(x) = 1 / (1 + exp(-x)), and so gate
    what the first one writes; what is emitted.

    Truncated gradient: error flows back in time along the memory alone. With e_n(t) the error that enters at neuron n
    from outside (as output, and as the state h that is returned) times the derivative there, and d(t) the error that
    enters at s(t) from outside:

        eps(t)     = sum over t' > t of sum_n V_n^T e_n(t') + sum over t' >= t of d(t')
        delta_n(t) = e_n(t) + eps(t) * prod_{m != n} h_m(t) * f_n'(net_n(t))
        dW = sum delta(t) x(t)^T, dU = sum delta(t) h(t-1)^T, dV = sum delta(t) s(t-1)^T, db = sum delta(t)

    So a neuron passes an error from outside to the memory that it saw, and in the memory it stays constant (eps). The
    second term of delta, the error of what a neuron wrote, reaches no earlier state. m runs over the writing neurons,
    and the second term is zero for another neuron. An output neuron that sees s(t) passes its error to s(t), and so to
    the writing neurons of the same step: then V_0^T e_0(t) is a part of eps(t), too, and dV_0 = sum delta_0(t) s(t)^T.
    Error to the input, W^T delta(t), is kept, so that layers can be stacked; error to an earlier h is cut.

    `output, (h, s) = layer(x)`, with h (R, B, K) and s (R, B, A). Parameters of a trial: weight_ih W (K, I),
    weight_hh U (K, K), over all neurons, bias b (K), and weight_mh V: (K, A), or its diagonals (K).
    Rows are neuron-major: row n*A + a is neuron n of unit a.

    Args:
        neurons_per_unit: N.
        gradient: "truncated", or "full": back-propagation through time.
        output: what is emitted: "neuron" (h_0), "linear" (net_0, the same neuron without squashing) or "memory"
            (s(t), after the update).
        output_in_product: whether the output neuron is a writing neuron.
        memory_seen_by: "unit": a neuron sees the memory of its own unit, V_n is diagonal; "all": a neuron sees every
            memory, V_n is a full matrix.
        output_sees: the memory that the output neuron sees: "old", s(t-1), or "new", s(t). With "new" it cannot be a
            writing neuron.
        writers: squashing of the writing neurons: "tanh", or "gated": tanh for the first, logistic for the others.
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
        output: Literal["neuron", "linear", "memory"] = "neuron",
        output_in_product: bool = False,
        memory_seen_by: Annotated[Literal["unit", "all"], Added("unit")] = "unit",
        output_sees: Annotated[Literal["old", "new"], Added("old")] = "old",
        writers: Annotated[Literal["tanh", "gated"], Added("tanh")] = "gated",
        **common,
    ):
        if neurons_per_unit < 2 and not output_in_product:
            raise ValueError(f"neurons_per_unit={neurons_per_unit}: must be 2 or more with output_in_product=false")
        if output_sees == "new" and output_in_product:
            raise ValueError("output_sees=new: needs output_in_product=false, because the product makes the new memory")
        if writers == "gated" and neurons_per_unit - (not output_in_product) < 2:
            raise ValueError(
                f"writers=gated: needs two writing neurons, and neurons_per_unit={neurons_per_unit} with "
                f"output_in_product={'true' if output_in_product else 'false'} gives one"
            )
        self.neurons_per_unit = neurons_per_unit
        self.gradient = gradient
        self.output = output
        self.output_in_product = output_in_product
        self.first_factor = 0 if output_in_product else 1
        self.memory_seen_by = memory_seen_by
        self.output_sees = output_sees
        self.writers = writers
        super().__init__(
            input_size, hidden_size, neurons_per_unit=neurons_per_unit, memory_seen_by=memory_seen_by, **common
        )

    @classmethod
    def shapes(cls, input_size, hidden_size, neurons_per_unit=3, memory_seen_by="unit"):
        rows = neurons_per_unit * hidden_size
        return {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, rows),
            "bias": (rows,),
            "weight_mh": (rows,) if memory_seen_by == "unit" else (rows, hidden_size),
        }

    def state_sizes(self):
        return self.fan(), self.hidden_size

    def fan(self):
        return self.neurons_per_unit * self.hidden_size

    def step(self, net_RBK, state):
        h, s = state
        A, K, full = self.hidden_size, self.fan(), self.gradient == "full"
        V = self.weight_mh if self.memory_seen_by == "all" else self.weight_mh.unsqueeze(1)
        rest = net_RBK + recur(h if full else h.detach(), self.weight_hh)
        net = rest + self.seen(s, V, K)
        h = self.squashed(net)
        # Equal values, but with the truncated gradient other errors: h passes its error to the memory that it sees; the
        # factors of the product pass none to it.
        factors = h if full else self.squashed(rest + self.seen(s.detach(), V, K))
        s = s + factors.unflatten(-1, (-1, A))[..., self.first_factor :, :].prod(dim=-2)
        if self.output_sees == "new":
            net = rest[..., :A] + self.seen(s, V, A)
            h = torch.cat([torch.tanh(net), h[..., A:]], dim=-1)
        y = {"neuron": h, "linear": net, "memory": s}[self.output][..., :A]
        return y, (h, s)

    def seen(self, s: Tensor, V: Tensor, rows: int) -> Tensor:
        """The first rows of V s: (R, B, A) to (R, B, rows). V is (R, K, A), or its diagonals (R, 1, K)."""
        if self.memory_seen_by == "all":
            return recur(s, V[:, :rows])
        return V[..., :rows] * s.repeat(1, 1, rows // self.hidden_size)

    def squashed(self, net: Tensor) -> Tensor:
        """Every neuron from its net input, both (R, B, K)."""
        if self.writers == "tanh":
            return torch.tanh(net)
        first_gate = (self.first_factor + 1) * self.hidden_size
        return torch.cat([torch.tanh(net[..., :first_gate]), torch.sigmoid(net[..., first_gate:])], dim=-1)
