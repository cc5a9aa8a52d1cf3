"""The auxiliary memory unit: a memory neuron beside the output neuron (Wang, Zhang, Guo & Yi 2018).

Only the abstract of the paper is public. The recurrence follows the public reimplementation in WilliamRo/tframe
(nets/rnn_cells/amu.py); what nobody outside can settle is an option here.
"""

from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from amu_experiments.cells.cell import Cell, State, input_net, recur
from amu_experiments.options import whole


class AMU(Cell):
    """A units of N neurons and one memory neuron s each; K = N * A net inputs.

        net_n(t) = W_n x(t) + U_n h(t-1) + v_n * s(t-1) + b_n      n = 0 .. N-1, each of size A
        h_n(t)   = tanh(net_n(t))
        s(t)     = s(t-1) + prod_n h_n(t)                          no gate, no decay
        y(t)     = h_0(t)                                          the output neuron

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
        return self.step_with(self.weight_hh, self.weight_mh, net_RBK, state)

    def step_with(self, weight_hh: Tensor, weight_mh: Tensor, net_RBK: Tensor, state: State) -> tuple[Tensor, State]:
        """`step` with these weights."""
        h, s = state
        seen = s.repeat(1, 1, self.neurons_per_unit)
        net = net_RBK + recur(h, weight_hh) + weight_mh.unsqueeze(1) * seen
        h = torch.tanh(net)
        s = s + self.by_neuron(h)[..., self.first_factor :, :].prod(dim=-2)
        y = {"neuron": h, "linear": net, "memory": s}[self.output][..., : self.hidden_size]
        return y, (h, s)

    def by_neuron(self, h: Tensor) -> Tensor:
        """(..., K) as (..., N, A)."""
        return h.reshape(*h.shape[:-1], self.neurons_per_unit, self.hidden_size)

    def unroll(self, x_RTBI, state, lengths_RB):
        if self.gradient == "full":
            return super().unroll(x_RTBI, state, lengths_RB)
        y, h, s, _, _ = TruncatedScan.apply(
            self, lengths_RB, x_RTBI, *state, self.weight_ih, self.weight_hh, self.bias, self.weight_mh
        )
        return y, (h, s)

    def fused(self):
        from amu_experiments.cells.kernels import Recurrence, compiled, f32, tanh

        A, N, first = self.hidden_size, self.neurons_per_unit, self.first_factor
        K = N * A
        emits_neuron, emits_memory = self.output == "neuron", self.output == "memory"
        truncated = self.gradient == "truncated"

        @compiled
        def step(net, rec, v, old, new, tape, y):
            for n in range(N):
                for a in range(A):
                    net[n * A + a] += v[n * A + a] * old[K + a]
            for k in range(K):
                new[k] = tanh(net[k])
            for a in range(A):
                product = f32(1.0)
                for n in range(first, N):
                    product *= new[n * A + a]
                new[K + a] = old[K + a] + product
            for a in range(A):
                y[a] = new[K + a] if emits_memory else new[a] if emits_neuron else net[a]

        @compiled
        def adjoint(dy, dstate, v, old, new, tape, dnet, drec, dv):
            for a in range(A):
                eps = dstate[K + a] + (dy[a] if emits_memory else f32(0.0))
                carried = f32(0.0)
                for n in range(N):
                    k = n * A + a
                    slope = f32(1.0) - new[k] * new[k]
                    e = dstate[k] * slope
                    if n == 0 and not emits_memory:
                        e += dy[a] * slope if emits_neuron else dy[a]
                    others = eps if n >= first else f32(0.0)
                    for m in range(first, N):
                        if m != n:
                            others *= new[m * A + a]
                    delta = e + others * slope
                    carried += v[k] * (e if truncated else delta)
                    dnet[k] = delta
                    dv[k] += delta * old[K + a]
                    dstate[k] = f32(0.0)
                dstate[K + a] = eps + carried

        return Recurrence(
            name="amu",
            step=step,
            adjoint=adjoint,
            inputs=self.input_size,
            rows=K,
            recurrent=K,
            state=K + A,
            tape=0,
            outputs=A,
            extra=K,
            recurrent_error=not truncated,
            constants=(N, first, self.output, truncated),
        )


class TruncatedScan(torch.autograd.Function):
    """The AMU's scan with its truncated gradient, in parallel over time.

    With e_n(t) the error that enters at neuron n from outside times the derivative there (through the output, for
    n = 0, and through the state h that is returned, at the last step), and errors given to the memory from outside
    added where they enter:

        eps(t)     = sum over t' > t of sum_n v_n * e_n(t')          constant error flow along the memory
        delta_n(t) = e_n(t) + eps(t) * prod_{m != n} h_m(t) * tanh'(net_n(t))
        dW = sum delta(t) x(t)^T, dU = sum delta(t) h(t-1)^T, dv = sum delta(t) * s(t-1), db = sum delta(t)

    Error to the input, W^T delta(t), is kept, so that layers can be stacked; error to an earlier h is cut.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(cell, lengths_RB, x_RTBI, h_RBK, s_RBA, weight_ih, weight_hh, bias, weight_mh):
        net_RTBK = input_net(x_RTBI, weight_ih, bias)
        states, outputs = [(h_RBK, s_RBA)], []
        for t in range(x_RTBI.shape[1]):
            y, new = cell.step_with(weight_hh, weight_mh, net_RTBK[:, t], states[-1])
            if lengths_RB is not None:
                running = (t < lengths_RB).unsqueeze(-1)
                y = torch.where(running, y, 0.0)
                new = tuple(torch.where(running, n, o) for n, o in zip(new, states[-1], strict=True))
            states.append(new)
            outputs.append(y)
        h = torch.stack([h for h, _ in states], 1)
        s = torch.stack([s for _, s in states], 1)
        return torch.stack(outputs, 1), *states[-1], h, s

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.cell, lengths_RB, x_RTBI, _, _, weight_ih, weight_hh, _, weight_mh = inputs
        *_, h, s = output
        ctx.mark_non_differentiable(h, s)
        ctx.save_for_backward(lengths_RB, x_RTBI, h, s, weight_ih, weight_hh, weight_mh)

    @staticmethod
    def backward(ctx, dy_RTBA, dh_RBK, ds_RBA, *_):
        lengths, x, h, s, weight_ih, weight_hh, weight_mh = ctx.saved_tensors
        cell = ctx.cell
        R, T, B, A = dy_RTBA.shape
        steps = torch.arange(T, device=x.device).view(1, T, 1, 1)
        last = (torch.full((R, B), T, device=x.device) if lengths is None else lengths) - 1
        at_last, running = steps == last.view(R, 1, B, 1), steps <= last.view(R, 1, B, 1)
        new_h, old_h, old_s = h[:, 1:], h[:, :-1], s[:, :-1]
        slope = 1 - new_h**2

        dy_RTBA = dy_RTBA * running
        e = at_last * dh_RBK.unsqueeze(1) * slope
        into_memory = at_last * ds_RBA.unsqueeze(1)
        if cell.output == "memory":
            into_memory = into_memory + dy_RTBA
        else:
            into_neuron = dy_RTBA * slope[..., :A] if cell.output == "neuron" else dy_RTBA
            e = e + pad(into_neuron, (0, e.shape[-1] - A))
        carried = cell.by_neuron(weight_mh.view(R, 1, 1, -1) * e).sum(dim=-2)

        def sum_from(v):
            return v.flip(1).cumsum(1).flip(1)

        eps = sum_from(into_memory) + sum_from(carried) - carried
        h_RTBNA = cell.by_neuron(new_h)
        others = torch.zeros_like(h_RTBNA)
        for n in range(cell.first_factor, cell.neurons_per_unit):
            factors = [m for m in range(cell.first_factor, cell.neurons_per_unit) if m != n]
            others[..., n, :] = h_RTBNA[..., factors, :].prod(dim=-2)
        delta = (e + (eps.unsqueeze(-2) * others).reshape(slope.shape) * slope) * running

        TB = T * B
        d = delta.reshape(R, TB, -1)
        seen = old_s.repeat(1, 1, 1, cell.neurons_per_unit)
        return (
            None,
            None,
            torch.bmm(d, weight_ih).view(x.shape),
            torch.zeros_like(dh_RBK),
            eps[:, 0] + carried[:, 0],
            torch.bmm(d.transpose(1, 2), x.reshape(R, TB, -1)),
            torch.bmm(d.transpose(1, 2), old_h.reshape(R, TB, -1)),
            d.sum(dim=1),
            (delta * seen).sum(dim=(1, 2)),
        )
