"""The gated recurrent unit (Cho et al. 2014), in the form of torch.nn.GRU."""

import torch

from amu_experiments.cells.cell import Cell, recur


class GRU(Cell):
    """Reset gate r, update gate z and candidate n, rows of the weights in this order:

        r, z = sigmoid(W x(t) + b + U h(t-1))
        n    = tanh(W_n x(t) + b_n + r * (U_n h(t-1) + bias_hn))
        h(t) = (1 - z) * n + z * h(t-1), which is the output

    As in torch.nn.GRU the reset gate acts after the recurrent product, which gives the candidate a second bias.
    See Cell for arguments and shapes.
    """

    @classmethod
    def shapes(cls, input_size, hidden_size):
        rows = 3 * hidden_size
        return {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, hidden_size),
            "bias": (rows,),
            "bias_hn": (hidden_size,),
        }

    def step(self, net_RBK, state):
        (h,) = state
        net_r, net_z, net_n = net_RBK.chunk(3, dim=-1)
        rec_r, rec_z, rec_n = recur(h, self.weight_hh).chunk(3, dim=-1)
        r = torch.sigmoid(net_r + rec_r)
        z = torch.sigmoid(net_z + rec_z)
        n = torch.tanh(net_n + r * (rec_n + self.bias_hn.unsqueeze(1)))
        h = (1 - z) * n + z * h
        return h, (h,)

    def fused(self):
        from amu_experiments.cells.kernels import Recurrence, compiled, f32, sigmoid, tanh

        A = self.hidden_size

        @compiled
        def step(net, rec, bias_hn, old, new, tape, y):
            for k in range(2 * A):
                tape[k] = sigmoid(net[k] + rec[k])
            for a in range(A):
                tape[3 * A + a] = rec[2 * A + a] + bias_hn[a]
            for a in range(A):
                tape[2 * A + a] = tanh(net[2 * A + a] + tape[a] * tape[3 * A + a])
            for a in range(A):
                z = tape[A + a]
                h = (f32(1.0) - z) * tape[2 * A + a] + z * old[a]
                new[a] = h
                y[a] = h

        @compiled
        def adjoint(dy, dstate, bias_hn, old, new, tape, dnet, drec, dbias_hn):
            one = f32(1.0)
            for a in range(A):
                r, z, n, rec_n = tape[a], tape[A + a], tape[2 * A + a], tape[3 * A + a]
                dh = dstate[a] + dy[a]
                dnet_n = dh * (one - z) * (one - n * n)
                dnet[a] = dnet_n * rec_n * r * (one - r)
                dnet[A + a] = dh * (old[a] - n) * z * (one - z)
                dnet[2 * A + a] = dnet_n
                drec[a] = dnet[a]
                drec[A + a] = dnet[A + a]
                drec[2 * A + a] = dnet_n * r
                dbias_hn[a] += dnet_n * r
                dstate[a] = dh * z

        return Recurrence(
            name="gru",
            step=step,
            adjoint=adjoint,
            inputs=self.input_size,
            rows=3 * A,
            recurrent=A,
            state=A,
            tape=4 * A,
            outputs=A,
            extra=A,
            splits=True,
        )
