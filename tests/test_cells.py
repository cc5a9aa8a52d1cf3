"""The cells' plain torch form against torch.nn, autograd, finite differences and the equations."""

import copy
import inspect
import pickle

import numpy as np
import pytest
import torch

from amu_experiments import AMU, GRU, LSTM, RNN
from amu_experiments.cells import cell_class
from amu_experiments.cells.lstm97 import LSTM97

CELLS = (AMU, LSTM, GRU, RNN, LSTM97)


def in_double(cell):
    return cell.double().requires_grad_(True)


def gradients_of(loss, tensors):
    return torch.autograd.grad(loss, tensors)


# Against torch.nn -----------------------------------------------------------------------------------------------


def copied(cell, reference):
    """Give torch's layer the weights of ours."""
    reference.load_state_dict(cell.torch_state_dict())
    return reference


@pytest.mark.parametrize("cell_type", [LSTM, GRU, RNN])
@pytest.mark.parametrize("batch_first", [False, True])
def test_agrees_with_torch_nn_in_outputs_states_and_all_gradients(cell_type, batch_first):
    torch.manual_seed(1)
    cell = in_double(cell_type(3, 5, batch_first=batch_first))
    reference = copied(cell, getattr(torch.nn, cell_type.__name__)(3, 5, batch_first=batch_first).double())
    x = torch.randn(4, 7, 3, dtype=torch.double, requires_grad=True)
    batch = 4 if batch_first else 7
    states = [torch.randn(1, batch, 5, dtype=torch.double, requires_grad=True) for _ in cell.states]
    given = states[0] if len(states) == 1 else tuple(states)

    seen = []
    for layer in (cell, reference):
        y, last = layer(x, given)
        last = (last,) if isinstance(last, torch.Tensor) else last
        weights = [torch.linspace(-1, 1, t.numel(), dtype=torch.double).view(t.shape) for t in (y, *last)]
        loss = sum((t * w).sum() for t, w in zip((y, *last), weights, strict=True))
        names = (
            ["weight_ih_l0", "weight_hh_l0", "bias_l0"]
            if layer is cell
            else ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"]
        )
        parameters = [getattr(layer, name) for name in names]
        seen.append([y, *last, *gradients_of(loss, [x, *states, *parameters])])
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours.reshape(theirs.shape), theirs, rtol=1e-10, atol=1e-12)


def test_the_second_bias_of_the_gru_has_the_gradient_that_torch_gives_it():
    torch.manual_seed(2)
    cell = in_double(GRU(2, 3))
    reference = copied(cell, torch.nn.GRU(2, 3).double())
    x = torch.randn(6, 4, 2, dtype=torch.double)
    cell(x)[0].pow(2).sum().backward()
    reference(x)[0].pow(2).sum().backward()
    torch.testing.assert_close(cell.bias_hn_l0.grad, reference.bias_hh_l0.grad[-3:])


# The auxiliary memory unit --------------------------------------------------------------------------------------


TFRAME = {"output_in_product": True, "writers": "tanh"}
"""The public reimplementation, WilliamRo/tframe: every neuron writes to the memory."""


def test_one_unit_by_hand():
    cell = AMU(1, 1, neurons_per_unit=2, gradient="full", backend="torch", **TFRAME)
    with torch.no_grad():
        cell.weight_ih[0] = torch.tensor([[0.5], [-1.0]])
        cell.weight_hh[0] = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
        cell.weight_mh[0] = torch.tensor([2.0, -3.0])
        cell.bias[0] = torch.tensor([0.05, 0.06])
    y, (h, s) = cell(torch.tensor([[1.0], [2.0]]))
    first = np.tanh([0.5 * 1 + 0.05, -1.0 * 1 + 0.06])
    memory = first[0] * first[1]
    second = np.tanh(
        [
            0.5 * 2 + 0.1 * first[0] + 0.2 * first[1] + 2.0 * memory + 0.05,
            -1.0 * 2 + 0.3 * first[0] + 0.4 * first[1] - 3.0 * memory + 0.06,
        ]
    )
    assert y.flatten().tolist() == pytest.approx([first[0], second[0]])
    assert h.flatten().tolist() == pytest.approx(second)
    assert s.item() == pytest.approx(memory + second[0] * second[1])


def test_rows_are_neuron_major():
    cell = AMU(1, 2, neurons_per_unit=3, backend="torch", **TFRAME)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        # Neurons 0, 1 and 2 of unit 1 are rows 1, 3 and 5.
        for row, value in ((1, 0.5), (3, 0.6), (5, 0.7)):
            cell.bias[0, row] = value
    _, (_, s) = cell(torch.zeros(1, 1))
    assert s[0].tolist() == pytest.approx([0.0, np.tanh(0.5) * np.tanh(0.6) * np.tanh(0.7)])


@pytest.mark.parametrize(("output", "index"), [("neuron", 0), ("linear", 0), ("memory", 1)])
def test_what_is_emitted(output, index):
    torch.manual_seed(3)
    cell = AMU(2, 3, output=output, backend="torch")
    y, state = cell(torch.randn(5, 4, 2))
    last = y[-1] if output != "linear" else torch.tanh(y[-1])
    torch.testing.assert_close(last, state[index][0, :, :3])


def test_the_output_neuron_can_be_left_out_of_the_product():
    cell = AMU(1, 1, neurons_per_unit=2, output_in_product=False, writers="tanh", backend="torch")
    _, (h, s) = cell(torch.tensor([[0.7]]))
    assert s.item() == pytest.approx(h[0, 1].item())


READINGS = [
    {
        "neurons_per_unit": neurons,
        "output_in_product": in_product,
        "memory_seen_by": seen_by,
        "output_sees": sees,
        "writers": writers,
    }
    for neurons, in_product in [(1, True), (3, True), (2, False), (4, False)]
    for seen_by in ("unit", "all")
    for sees in (("old",) if in_product else ("old", "new"))
    for writers in (("tanh",) if neurons - (not in_product) < 2 else ("tanh", "gated"))
]
"""Of what the paper's abstract leaves open."""


def named(options):
    return " ".join(map(str, options.values()))


def by_the_sums(cell, x, state, dy, dlast):
    """Outputs, last state, and the truncated gradient of sum(dy * y) + sum(dlast * last), from the docstring's sums.

    The gradient is that of x, of the first memory, and of W, U, b and V.
    """
    A, N, T = cell.hidden_size, cell.neurons_per_unit, x.shape[1]
    W, U, b = (p.detach().unflatten(1, (N, A)) for p in (cell.weight_ih, cell.weight_hh, cell.bias))
    v = cell.weight_mh.detach().unflatten(1, (N, A))
    V = torch.diag_embed(v) if cell.memory_seen_by == "unit" else v
    first = 0 if cell.output_in_product else 1
    gates = [n > first and cell.writers == "gated" for n in range(N)]
    h, s, sees, nets = [state[0]], [state[1]], [], []
    for t in range(T):
        net = [x[:, t] @ W[:, n].mT + h[-1] @ U[:, n].mT + b[:, n].unsqueeze(1) for n in range(N)]
        memory = [s[-1]] * N
        net[first:] = [net[n] + memory[n] @ V[:, n].mT for n in range(first, N)]
        f = [torch.sigmoid(net[n]) if gates[n] else torch.tanh(net[n]) for n in range(N)]
        s.append(s[-1] + torch.stack(f[first:]).prod(dim=0))
        if first:
            memory[0] = s[-1] if cell.output_sees == "new" else s[-2]
            net[0] = net[0] + memory[0] @ V[:, 0].mT
            f[0] = torch.tanh(net[0])
        h.append(torch.cat(f, -1))
        sees.append(memory)
        nets.append(net[0])
    y = {"neuron": [each[..., :A] for each in h[1:]], "linear": nets, "memory": s[1:]}[cell.output]
    gradients = [torch.zeros_like(tensor) for tensor in (x, W, U, b, V)]
    dx, dW, dU, db, dV = gradients
    eps = dlast[1]
    for t in reversed(range(T)):
        f = h[t + 1].split(A, dim=-1)
        slope = [f[n] * (1 - f[n]) if gates[n] else 1 - f[n] ** 2 for n in range(N)]
        e = [slope[n] * dlast[0].split(A, dim=-1)[n] * (t == T - 1) for n in range(N)]
        if cell.output == "memory":
            eps = eps + dy[:, t]
        else:
            e[0] = e[0] + dy[:, t] * (slope[0] if cell.output == "neuron" else 1)
        passed = [e[n] @ V[:, n] for n in range(N)]
        if cell.output_sees == "new":
            eps = eps + passed.pop(0)
        for n in range(N):
            others = [f[m] for m in range(first, N) if m != n]
            product = torch.stack(others).prod(dim=0) if others else 1
            delta = e[n] + (eps * product * slope[n] if n >= first else 0)
            dx[:, t] += delta @ W[:, n]
            dW[:, n] += delta.mT @ x[:, t]
            dU[:, n] += delta.mT @ h[t]
            dV[:, n] += delta.mT @ sees[t][n]
            db[:, n] += delta.sum(dim=1)
        eps = eps + sum(passed)
    dV = dV.diagonal(dim1=-2, dim2=-1) if cell.memory_seen_by == "unit" else dV
    return torch.stack(y, 1), h[-1], s[-1], dx, eps, *(each.flatten(1, 2) for each in (dW, dU, db, dV))


@pytest.mark.parametrize("output", ["neuron", "linear", "memory"])
@pytest.mark.parametrize("options", READINGS, ids=named)
def test_truncated_gradient_is_that_of_the_sums(output, options):
    torch.manual_seed(4)
    cell = in_double(AMU(2, 3, output=output, trials=2, initial_range=2.0, **options))
    x = torch.randn(2, 6, 4, 2, dtype=torch.double, requires_grad=True)
    state = [torch.randn(2, 4, size, dtype=torch.double, requires_grad=True) for size in cell.state_sizes()]
    y, (h, s) = cell(x, state)
    errors = [torch.randn(t.shape, dtype=torch.double) for t in (y, h, s)]
    loss = sum((error * t).sum() for error, t in zip(errors, (y, h, s), strict=True))
    asked = [x, state[1], cell.weight_ih, cell.weight_hh, cell.bias, cell.weight_mh]
    ours = [y, h, s, *gradients_of(loss, asked)]
    theirs = by_the_sums(cell, x.detach(), [each.detach() for each in state], errors[0], errors[1:])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("output", ["neuron", "linear", "memory"])
@pytest.mark.parametrize("options", READINGS, ids=named)
def test_full_gradient_against_finite_differences(output, options):
    torch.manual_seed(5)
    cell = in_double(AMU(2, 2, gradient="full", output=output, initial_range=2.0, **options))
    x = torch.randn(3, 1, 2, dtype=torch.double, requires_grad=True)
    names = [name for name, _ in cell.named_parameters()]

    def outputs(x, *parameters):
        y, (h, s) = torch.func.functional_call(cell, dict(zip(names, parameters, strict=True)), (x,))
        return y, h, s

    assert torch.autograd.gradcheck(outputs, (x, *cell.parameters()), fast_mode=True)


def test_the_readings_differ_in_what_they_compute():
    torch.manual_seed(6)
    outputs = []
    for options in READINGS:
        if options["neurons_per_unit"] == 4:
            cell = AMU(2, 3, backend="torch", **options)
            with torch.no_grad():
                for parameter in cell.parameters():
                    parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view(parameter.shape))
            outputs.append(cell(torch.ones(5, 1, 2))[0])
    assert len(outputs) == 8
    assert len({tuple(output.flatten().tolist()) for output in outputs}) == 8


def test_all_memories_through_diagonal_matrices_are_each_units_own():
    torch.manual_seed(7)
    own = AMU(2, 3, backend="torch")
    shared = AMU(2, 3, memory_seen_by="all", backend="torch")
    matrices = torch.diag_embed(own.weight_mh_l0.unflatten(0, (3, 3))).flatten(0, 1)
    shared.load_state_dict(own.state_dict() | {"weight_mh_l0": matrices})
    x = torch.randn(6, 4, 2)
    torch.testing.assert_close(own(x), shared(x))


def test_with_gated_writers_the_first_decides_the_sign_and_the_others_only_how_much():
    torch.manual_seed(0)
    cell = AMU(2, 3, writers="gated", output_in_product=True, neurons_per_unit=3, backend="torch")
    _, (h, s) = cell(10 * torch.randn(1, 5, 2))
    first, *others = h[0].split(3, dim=-1)
    assert all(other.min() > 0 and other.max() < 1 for other in others)
    torch.testing.assert_close(s[0], first * others[0] * others[1])


def test_a_memory_is_seen_by_all_neurons_or_by_those_of_its_unit():
    torch.manual_seed(0)
    for seen_by, reached in (("unit", 1), ("all", 3)):
        cell = AMU(2, 3, memory_seen_by=seen_by, backend="torch")
        h, s = torch.zeros(1, 1, 9), torch.zeros(1, 1, 3)
        changed = s.clone()
        changed[..., 0] = 1.0
        x = torch.ones(1, 1, 2)
        differs = cell(x, (h, changed))[1][0] != cell(x, (h, s))[1][0]
        assert differs.view(3, 3).sum(-1).tolist() == [reached] * 3


def test_the_output_neuron_sees_the_memory_before_or_after_the_update():
    torch.manual_seed(0)
    for sees, gradient in (("old", False), ("new", True)):
        cell = AMU(2, 1, neurons_per_unit=2, writers="tanh", output_sees=sees, backend="torch")
        y, _ = cell(torch.ones(1, 1, 2))
        # Whether what is written in this step reaches the output of this step.
        assert bool(torch.autograd.grad(y.sum(), cell.bias_l0)[0][1] != 0) == gradient


def test_a_factor_of_what_is_written_cannot_see_what_is_written():
    with pytest.raises(ValueError, match="output_sees=new: needs output_in_product=false"):
        AMU(2, 3, output_sees="new", output_in_product=True)


@pytest.mark.parametrize("gradient", ["truncated", "full"])
def test_error_along_the_truncated_memory_neither_vanishes_nor_grows(gradient):
    """An error at the last step reaches s(0) through v alone, whatever the lag; with the full gradient it changes."""
    torch.manual_seed(6)
    cell = AMU(1, 4, gradient=gradient, backend="torch")
    cell.weight_mh.data.mul_(0.1)
    norms = []
    for steps in (1, 10, 300):
        s = torch.zeros(1, 1, 4, requires_grad=True)
        y, _ = cell(0.1 * torch.randn(steps, 1, 1), (torch.zeros(1, 1, 12), s))
        (grad,) = torch.autograd.grad(y[-1].sum(), s)
        slope = 1 - y[-1].detach() ** 2
        norms.append((grad / (cell.weight_mh[:, :4] * slope)).flatten().detach())
    constant = all(torch.allclose(norm, torch.ones(4), rtol=1e-4) for norm in norms)
    assert constant == (gradient == "truncated")


def test_layers_can_be_stacked_and_error_reaches_the_lower_one():
    torch.manual_seed(7)
    lower, upper = AMU(2, 3, backend="torch"), AMU(3, 2, backend="torch")
    upper(lower(torch.randn(5, 1, 2))[0])[0].sum().backward()
    assert lower.weight_ih_l0.grad.abs().sum() > 0


# Counts and initial values --------------------------------------------------------------------------------------


def test_parameter_count_of_the_reimplementation():
    """WilliamRo/tframe counts 10225 for 30 units of 3 neurons, 13 inputs and 25 classes, readout included."""
    assert AMU.count(13, 30, neurons_per_unit=3) + 25 * (30 + 1) == 10225


@pytest.mark.parametrize(("cell_type", "gates"), [(LSTM, 4), (GRU, 3), (RNN, 1)])
def test_parameter_counts_are_those_of_torch_less_the_second_bias(cell_type, gates):
    reference = getattr(torch.nn, cell_type.__name__)(7, 11)
    count = sum(p.numel() for p in reference.parameters())
    second_bias = gates * 11 - (11 if cell_type is GRU else 0)
    assert cell_type.count(7, 11) == count - second_bias


@pytest.mark.parametrize("cell_type", CELLS)
def test_initial_values_fill_their_range(cell_type):
    torch.manual_seed(8)
    cell = cell_type(10, 40, initial_range=2.0)
    bound = 2 / np.sqrt({AMU: 120, LSTM97: 1}.get(cell_type, 40))
    assert 0.98 * bound < cell.weight_hh.abs().max() <= bound


def test_forget_bias_is_added_to_the_forget_gate_alone():
    plain, biased = (LSTM(2, 3, forget_bias=b).initial_values(np.random.default_rng(0))["bias"] for b in (0.0, 1.5))
    assert (biased - plain).tolist() == pytest.approx([0] * 3 + [1.5] * 3 + [0] * 6)


# Calling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell_type", CELLS)
def test_a_stack_is_its_trials_side_by_side(cell_type):
    torch.manual_seed(9)
    stack = cell_type(2, 3, trials=3, backend="torch")
    x = torch.randn(3, 5, 4, 2)
    y, _ = stack(x)
    for trial in range(3):
        single = cell_type(2, 3, backend="torch")
        single.load_state_dict({name: value[trial] for name, value in stack.state_dict().items()})
        torch.testing.assert_close(single(x[trial])[0], y[trial])


@pytest.mark.parametrize("cell_type", CELLS)
def test_batch_first_and_single_sequences_are_the_same_computation(cell_type):
    torch.manual_seed(10)
    cell = cell_type(2, 3, backend="torch")
    x = torch.randn(6, 4, 2)
    y, state = cell(x)
    single, single_state = cell(x[:, 1])
    torch.testing.assert_close(single, y[:, 1])
    cell.batch_first = True
    torch.testing.assert_close(cell(x.transpose(0, 1))[0], y.transpose(0, 1))
    if isinstance(state, torch.Tensor):
        state, single_state = (state,), (single_state,)
    for whole, one in zip(state, single_state, strict=True):
        assert whole.shape[:2] == (1, 4)
        torch.testing.assert_close(one, whole[:, 1])


@pytest.mark.parametrize("cell_type", CELLS)
def test_a_state_carries_a_sequence_on(cell_type):
    torch.manual_seed(11)
    cell = cell_type(2, 3, backend="torch")
    x = torch.randn(6, 4, 2)
    whole, _ = cell(x)
    first, state = cell(x[:2])
    rest, _ = cell(x[2:], state)
    torch.testing.assert_close(torch.cat([first, rest]), whole)


@pytest.mark.parametrize("cell_type", CELLS)
@pytest.mark.parametrize("gradient", ["truncated", "full"])
def test_padding_changes_nothing(cell_type, gradient):
    """With lengths, each sequence gives what it gives alone: outputs, last state and weight gradients."""
    torch.manual_seed(12)
    cell = AMU(2, 3, gradient=gradient, backend="torch") if cell_type is AMU else cell_type(2, 3, backend="torch")
    lengths, x = torch.tensor([1, 6, 3]), torch.randn(6, 3, 2)
    y, state = cell(x, lengths=lengths)
    state = (state,) if isinstance(state, torch.Tensor) else state
    together = gradients_of(y.pow(2).sum() + sum(s.pow(3).sum() for s in state), list(cell.parameters()))
    alone = [torch.zeros_like(p) for p in cell.parameters()]
    for b, length in enumerate(lengths):
        y_b, state_b = cell(x[:length, b])
        state_b = (state_b,) if isinstance(state_b, torch.Tensor) else state_b
        torch.testing.assert_close(y[:length, b], y_b)
        assert (y[length:, b] == 0).all()
        for whole, one in zip(state, state_b, strict=True):
            torch.testing.assert_close(whole[:, b], one)
        loss = y_b.pow(2).sum() + sum(s.pow(3).sum() for s in state_b)
        for total, g in zip(alone, gradients_of(loss, list(cell.parameters())), strict=True):
            total += g
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AMU(2, 0), "hidden_size=0: must be a whole number, 1 or more"),
        (lambda: AMU("2", 3), "input_size='2': must be a whole number, 1 or more"),
        (lambda: AMU(2, 3, trials=0), "trials=0: must be a whole number, 1 or more"),
        (lambda: AMU(2, 3, 0), "num_layers=0: must be a whole number from 1 to 1000"),
        (lambda: RNN(2, 3, 1, "relu"), "bias=relu: must be true or false"),
        (lambda: RNN(2, 3, bidirectional=2), "bidirectional=2: must be true or false"),
        (lambda: RNN(2, 3, 2, dropout=1.5), "dropout=1.5: must be a number from 0 to 1"),
        (lambda: RNN(2, 3, 2, dropout=0.5, trials=2), "dropout=0.5: must be 0 with trials=2"),
        (lambda: LSTM(2, 3, 2, bidirectional=True)(torch.zeros(4, 5, 2), (torch.zeros(1, 5, 3),) * 2), r"\(4, 5, 3\)"),
        (lambda: AMU(2, 3, gradient="half"), "truncated, full"),
        (lambda: AMU(2, 3, output="gate"), "neuron, linear, memory"),
        (lambda: GRU(2, 3, initial_range=0), "initial_range=0: must be a number above 0"),
        (lambda: RNN(2, 3, initial_range=float("inf")), "initial_range=inf: must be a number above 0"),
        (lambda: AMU(2, 3, neurons_per_unit=1, output_in_product=False), "neurons_per_unit=1"),
        (lambda: LSTM(2, 3, backend="fast"), "auto, fused, torch"),
        (lambda: LSTM(2, 3)(torch.zeros(4, 5, 3)), r"\(4, 5, 3\)"),
        (lambda: LSTM(2, 3)(torch.zeros(0, 5, 2)), "at least one step"),
        (lambda: LSTM(2, 3)(torch.zeros(4, 5, 2), (torch.zeros(1, 5, 4),) * 2), "h, c"),
        (lambda: LSTM(2, 3)(torch.zeros(4, 2), (torch.zeros(1, 4),) * 2), r"h, c of \[\(1, 3\), \(1, 3\)\]"),
        (lambda: LSTM(2, 3)(torch.zeros(4, 1, 2), lengths=[5]), "between 1 and the 4 steps"),
        (lambda: LSTM(2, 3)(torch.zeros(4, 1, 2), lengths=[0]), "between 1 and the 4 steps"),
        (lambda: LSTM(2, 3)(torch.zeros(4, 5, 2), lengths=[4]), r"shape \(1,\): must be integers of shape \(5,\)"),
        (
            lambda: LSTM(2, 3, trials=2)(torch.zeros(2, 4, 5, 2), lengths=torch.ones(5, 2, dtype=int)),
            r"shape \(5, 2\): must be integers of shape \(2, 5\)",
        ),
        (lambda: cell_class("lstn"), "amu, .*, gru, .*, lstm, lstm97, .*, rnn"),
    ],
)
def test_wrong_calls_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: LSTM(3, 4, 1, True, False, 0, False, 0),
            "8 positional arguments.* input_size, hidden_size, .* and bidirectional only.* by name: forget_bias=, ",
        ),
        (
            lambda: AMU(3, 4, 1, True, False, 0, False, "full"),
            "by name: neurons_per_unit=, gradient=, output=, output_in_product=, memory_seen_by=, output_sees=, ",
        ),
        (lambda: LSTM(3, 4, 2, num_layers=2), "LSTM was given num_layers twice, by place and by name"),
        (lambda: LSTM(3, 4, proj_size=2), "LSTM has no option proj_size; its options are num_layers, bias, "),
        (lambda: GRU(3, 4, layers=2, nonlinearity="relu"), "no option layers, nonlinearity"),
        (lambda: LSTM97(3, 4, forget_bias=1.0), "no option forget_bias; its options are num_layers, .*, block_size, "),
        (lambda: AMU(3, 4).torch_state_dict(), "AMU: torch.nn has no such layer; it has LSTM, GRU and RNN"),
        (lambda: RNN(3, 4, trials=2).torch_state_dict(), "trials=2: must be None"),
    ],
)
def test_options_that_a_layer_does_not_take_are_named(make, words):
    with pytest.raises(TypeError, match=words):
        make()


def test_a_signature_gives_the_arguments_of_torch_nn_first_and_all_others_by_name():
    theirs = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"]
    ours = ["trials", "backend", "initial_range", "device", "dtype"]
    assert list(inspect.signature(GRU).parameters) == [*theirs, *ours]
    assert list(inspect.signature(LSTM).parameters) == [*theirs, "forget_bias", "longest_lag", *ours]
    kinds = [argument.kind for argument in inspect.signature(LSTM).parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 7 + [inspect.Parameter.KEYWORD_ONLY] * 7


def test_cells_of_ones_own_may_take_other_arguments():
    class Square(GRU):
        def __init__(self, size):
            super().__init__(size, size)

    class Deep(RNN):
        @classmethod
        def shapes(cls, input_size, hidden_size, depth=1):
            return super().shapes(input_size, hidden_size)

    class Biased(RNN):
        def __init__(self, input_size, hidden_size, *, dropout=0.5, **common):
            super().__init__(input_size, hidden_size, **common)

    class Two(RNN):
        def __init__(self, input_size, hidden_size):
            super().__init__(input_size, hidden_size, num_layers=2)

    assert Square(3).weight_hh_l0.shape == (9, 3)
    assert repr(Deep(2, 3, depth=2, trials=4)) == "Deep(2, 3, trials=4, depth=2)"
    with pytest.raises(TypeError, match="Deep has no option width; its options are num_layers, .*, depth"):
        Deep(2, 3, width=2)
    with pytest.raises(TypeError, match="takes input_size, hidden_size, num_layers, bias and batch_first only"):
        Biased(2, 3, 1, True, False, 0.1)
    assert Two(2, 3).weight_ih_l1.shape == (3, 3)


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (LSTM(3, 4), "LSTM(3, 4)"),
        (LSTM(3, 4, forget_bias=1.0, batch_first=True), "LSTM(3, 4, batch_first=True, forget_bias=1.0)"),
        (
            GRU(3, 4, 2, False, dropout=0.1, bidirectional=True, dtype=torch.double),
            "GRU(3, 4, num_layers=2, bias=False, dropout=0.1, bidirectional=True)",
        ),
        (AMU(3, 4, neurons_per_unit=4), "AMU(3, 4, neurons_per_unit=4)"),
        (AMU(3, 4, output_in_product=True), "AMU(3, 4, output_in_product=True)"),
        (LSTM97(3, 4, biases="gates", output_bias=[-1.0, -2.0]), "LSTM97(3, 4, biases='gates')"),
        (GRU(3, 4, trials=2, backend="torch"), "GRU(3, 4, trials=2, backend='torch')"),
    ],
)
def test_a_layer_is_shown_with_its_sizes_and_the_options_that_differ_from_their_defaults(cell, shown):
    assert repr(cell) == shown


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([torch.zeros(4, 2), torch.zeros(3, 2)], "a list: .*`lengths`.*pad_sequence"),
        (np.zeros((4, 2, 2), np.float32), "a ndarray: must be a tensor .torch.from_numpy"),
        (torch.nested.nested_tensor([torch.zeros(4, 2)] * 2, layout=torch.jagged), "a nested tensor: .*padded"),
        (torch.zeros(4, 2, 2).to_sparse(), "a torch.sparse_coo tensor: "),
        (None, "a NoneType: must be a tensor"),
    ],
)
def test_an_input_that_is_no_tensor_is_told_what_to_be_instead(x, words):
    with pytest.raises(TypeError, match=words):
        LSTM(2, 3)(x)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([4.0, 2.7], r"lengths of dtype torch.float32: must be integers of shape \(2,\)"),
        ([True, True], "lengths of dtype torch.bool: must be integers"),
        (torch.tensor([4.0, 2.0]), "lengths of dtype torch.float32: must be integers"),
        (np.array([4.0, 2.0]), "lengths of dtype torch.float64: must be integers"),
        ("ab", "lengths is a str: must be integers"),
        ([[4], [2, 3]], "lengths is a list: must be integers"),
    ],
)
def test_lengths_are_integers(lengths, words):
    with pytest.raises(TypeError, match=words):
        RNN(2, 3, backend="torch")(torch.zeros(4, 2, 2), lengths=lengths)


def test_lengths_of_every_integer_type_are_the_same():
    cell, x = RNN(2, 3, backend="torch"), torch.randn(4, 2, 2)
    expected = cell(x, lengths=torch.tensor([4, 2]))[0]
    for lengths in ([4, 2], (4, 2), np.array([4, 2], np.uint8), torch.tensor([4, 2], dtype=torch.int16), [[4, 2]]):
        assert torch.equal(cell(x, lengths=lengths)[0], expected)
    assert torch.equal(cell(x[:, 1], lengths=2)[0], expected[:, 1])
    assert torch.equal(cell(x[:, 1], lengths=[2])[0], expected[:, 1])


def test_a_state_is_made_of_tensors():
    for state in (np.zeros((1, 1, 3)), (torch.zeros(1, 1, 3), None), {"h": torch.zeros(1, 1, 3)}):
        with pytest.raises(TypeError, match="must be the tensors h, c"):
            LSTM(2, 3)(torch.zeros(4, 1, 2), state)


# Dtypes and devices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell_type", CELLS)
@pytest.mark.parametrize("dtype", [torch.double, torch.half, torch.bfloat16])
def test_output_and_state_have_the_dtype_of_input_and_parameters(cell_type, dtype):
    torch.manual_seed(13)
    cell, x = cell_type(2, 3).to(dtype), torch.randn(4, 2, 2)
    y, state = cell(x.to(dtype))
    assert {t.dtype for t in (y, *(state if isinstance(state, tuple) else (state,)))} == {dtype}
    coarse = torch.finfo(dtype).eps
    torch.testing.assert_close(cell.double()(x.double())[0], y.double(), rtol=10 * coarse, atol=10 * coarse)


@pytest.mark.parametrize("cell_type", CELLS)
def test_input_state_and_parameters_must_have_one_dtype(cell_type):
    cell, x = cell_type(2, 3), torch.zeros(4, 1, 2)
    zeros = [torch.zeros(1, 1, size) for size in cell.state_sizes()]
    with pytest.raises(ValueError, match=r"input is torch.float64, but the layer's weight_ih_l0 is torch.float32"):
        cell(x.double())
    with pytest.raises(ValueError, match=r"input is torch.int64, but the layer's weight_ih_l0 is torch.float32"):
        cell(x.long())
    last = cell.states[-1]
    with pytest.raises(ValueError, match=rf"state {last} is torch.float64, but the layer's weight_ih_l0 is "):
        cell(x, [*zeros[:-1], zeros[-1].double()])
    cell.double()
    with pytest.raises(ValueError, match=r"input is torch.float32, but the layer's weight_ih_l0 is torch.float64"):
        cell(x)
    cell.float().bias_l0.data = cell.bias_l0.data.double()
    with pytest.raises(ValueError, match=r"input is torch.float32, but the layer's bias_l0 is torch.float64"):
        cell(x)


@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_under_autocast_a_layer_computes_in_the_dtype_of_its_parameters(backend):
    cell, x = AMU(2, 3, backend=backend), torch.randn(4, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = cell(x)
        assert torch.equal(cell(x.bfloat16())[0], cell(x.bfloat16().float())[0])
        y.sum().backward()
    assert torch.equal(y, cell(x)[0])
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="input is torch.int64"):
        cell(x.long())


@pytest.mark.parametrize("cell_type", CELLS)
def test_a_layer_can_be_made_without_storage_and_be_moved(cell_type):
    with torch.device("meta"):
        cell = cell_type(2, 3)
        assert all(p.is_meta for p in cell.parameters())
        assert cell(torch.zeros(4, 1, 2), lengths=[3])[0].is_meta
    with pytest.raises(ValueError, match="input is on cpu, but the layer's weight_ih_l0 is on meta"):
        cell(torch.zeros(4, 1, 2))
    cell.to_empty(device="cpu")
    torch.manual_seed(14)
    cell.reset_parameters()
    torch.manual_seed(14)
    assert all(map(torch.equal, cell.parameters(), cell_type(2, 3).parameters()))


@pytest.mark.parametrize("setting", [torch.device("meta"), torch.float64])
def test_a_compiled_cell_does_not_depend_on_default_device_and_dtype(setting):
    cell, x = AMU(2, 3, backend="fused"), torch.randn(4, 1, 2, requires_grad=True)

    def results():
        y, (h, s) = cell(x)
        return y, h, s, *gradients_of(y.sum(), [x, *cell.parameters()])

    expected = results()
    if isinstance(setting, torch.device):
        with setting:
            found = results()
    else:
        torch.set_default_dtype(setting)
        try:
            found = results()
        finally:
            torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("cell_type", CELLS)
def test_layers_are_copied_pickled_and_loaded(cell_type):
    cell, x = cell_type(2, 3, batch_first=True, backend="torch"), torch.randn(2, 4, 2)
    other = cell_type(2, 3, batch_first=True, backend="torch")
    other.load_state_dict(cell.state_dict())
    for same in (other, copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert repr(same) == repr(cell)
        assert torch.equal(same(x)[0], cell(x)[0])


# Derivatives ----------------------------------------------------------------------------------------------------

# Sizes that test_kernels compiles, too.
COMPILED = {
    "amu": lambda **options: AMU(2, 3, **options),
    "lstm": lambda **options: LSTM(3, 5, **options),
    "gru": lambda **options: GRU(1, 3, **options),
    "rnn": lambda **options: RNN(2, 1, **options),
    "lstm97": lambda **options: LSTM97(2, 4, block_size=2, biases="gates", **options),
}
FULL = {
    "amu": lambda: AMU(2, 2, gradient="full", backend="torch"),
    "lstm": lambda: LSTM(2, 2, backend="torch"),
    "gru": lambda: GRU(2, 2, backend="torch"),
    "rnn": lambda: RNN(2, 2, backend="torch"),
    "lstm97": lambda: LSTM97(2, 2, gradient="full", backend="torch"),
}


def refused_second_derivatives(cell, words):
    """Check that no derivative of any first derivative is taken, where this is not constant."""
    x = torch.randn(3, 2, cell.input_size, requires_grad=True)
    state = [torch.randn(1, 2, size, requires_grad=True) for size in cell.state_sizes()]
    variables = [x, *state, *cell.parameters()]
    y, last = cell(x, state)
    outputs = [y, *(last if isinstance(last, tuple) else (last,))]
    firsts = torch.autograd.grad(
        sum(t.sum() for t in outputs), variables, create_graph=True, allow_unused=True, materialize_grads=True
    )
    for first in firsts:
        if first.grad_fn is None:
            assert cell.gradient == "truncated"
            assert not first.any()  # what a truncated gradient cuts
            continue
        with pytest.raises(RuntimeError, match=words):
            first.pow(2).sum().backward(retain_graph=True)
        for variable in variables:
            with pytest.raises(RuntimeError, match=words):
                torch.autograd.grad(first.pow(2).sum(), variable, retain_graph=True)


@pytest.mark.parametrize("name", COMPILED)
def test_second_derivatives_of_a_compiled_cell_are_refused(name):
    refused_second_derivatives(COMPILED[name](backend="fused"), 'no second derivatives: .* backend="torch"')


@pytest.mark.parametrize("name", ["amu", "lstm97"])
def test_second_derivatives_of_a_truncated_gradient_are_refused(name):
    refused_second_derivatives(COMPILED[name](backend="torch"), 'no second derivatives: .* gradient="full"')


@pytest.mark.parametrize("name", FULL)
def test_second_derivatives_against_finite_differences(name):
    torch.manual_seed(15)
    cell = in_double(FULL[name]())
    x = torch.randn(3, 2, 2, dtype=torch.double, requires_grad=True)
    state = [torch.randn(1, 2, size, dtype=torch.double, requires_grad=True) for size in cell.state_sizes()]
    names, count = [name for name, _ in cell.named_parameters()], len(state)

    def outputs(x, *others):
        state, parameters = others[:count], dict(zip(names, others[count:], strict=True))
        y, last = torch.func.functional_call(cell, parameters, (x, state, torch.tensor([3, 2])))
        return y, *(last if isinstance(last, tuple) else (last,))

    assert torch.autograd.gradgradcheck(outputs, (x, *state, *cell.parameters()), fast_mode=True)


@pytest.mark.parametrize("name", COMPILED)
def test_a_penalty_on_what_needs_no_second_derivative_is_the_same_in_both_backends(name):
    """create_graph alone does no harm: the first derivatives are used as numbers, or summed with others."""
    torch.manual_seed(16)
    fused = COMPILED[name](backend="fused")
    plain = COMPILED[name](backend="torch")
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(3, 2, fused.input_size, requires_grad=True)
    seen = []
    for cell in (fused, plain):
        y, _ = cell(x)
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        seen.append(gradients_of((y * g.detach().sum()).sum(), list(cell.parameters())))
    torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # within torch
@pytest.mark.parametrize("name", COMPILED)
def test_function_transforms_of_a_compiled_cell_are_right_or_name_the_backend(name):
    cell = COMPILED[name](backend="fused")
    x = torch.randn(3, 2, cell.input_size, requires_grad=True)

    def total(x):
        return cell(x)[0].pow(2).sum()

    assert torch.equal(torch.func.grad(total)(x), *gradients_of(total(x), [x]))
    for transform in (
        lambda: torch.func.vmap(total)(x[None]),
        lambda: torch.func.jvp(total, (x,), (x,)),
        lambda: torch.func.jacrev(lambda x: cell(x)[0])(x),
        lambda: torch.func.jacfwd(total)(x),
        lambda: torch.func.hessian(total)(x),
        lambda: torch.func.grad(lambda x: torch.func.grad(total)(x).sum())(x),
        lambda: torch.autograd.functional.jacobian(lambda x: cell(x)[0], x, vectorize=True),
        lambda: torch.export.export(cell, (x.detach(),)),
    ):
        with pytest.raises(RuntimeError, match='a compiled cell .*: make the layer with backend="torch"'):
            transform()
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match='backend="torch"'):
        cell(torch.autograd.forward_ad.make_dual(x, x))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # within torch
@pytest.mark.parametrize("name", COMPILED)
def test_function_transforms_in_torch(name):
    """vmap and grad for every gradient, over inputs and over parameters; forward mode for a full one."""
    torch.manual_seed(17)
    cell = COMPILED[name](backend="torch")
    xs = torch.randn(2, 3, 2, cell.input_size)
    parameters = {name: value.detach() for name, value in cell.named_parameters()}

    def total(parameters, x):
        return torch.func.functional_call(cell, parameters, (x,))[0].pow(2).sum()

    found = torch.func.vmap(torch.func.grad(total), (None, 0))(parameters, xs)
    stacked = {name: torch.stack([value, value]) for name, value in parameters.items()}
    over_both = torch.func.vmap(torch.func.grad(total))(stacked, xs)
    for i, x in enumerate(xs):
        expected = gradients_of(cell(x)[0].pow(2).sum(), list(cell.parameters()))
        for name, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(found[name][i], gradient)
            torch.testing.assert_close(over_both[name][i], gradient)
    jacobian = torch.autograd.functional.jacobian
    slow, fast = (jacobian(lambda x: cell(x)[0], xs[0], vectorize=vectorize) for vectorize in (False, True))
    torch.testing.assert_close(fast, slow)
    if cell.gradient == "truncated":
        with pytest.raises(RuntimeError, match='no forward-mode derivatives: .* gradient="full"'):
            torch.func.jvp(lambda x: cell(x)[0], (xs[0],), (xs[1],))
    else:
        _, tangent = torch.func.jvp(lambda x: cell(x)[0], (xs[0],), (xs[1],))
        torch.testing.assert_close(tangent, (slow * xs[1]).sum(dim=(-3, -2, -1)))


@pytest.mark.filterwarnings("ignore")  # those that torch.compile has of itself
@pytest.mark.parametrize(("backend", "batch"), [("fused", 2), ("fused", 8), ("torch", 2)])  # 8: in blocks
def test_torch_compile_leaves_outputs_and_gradients_as_they_are(backend, batch):
    torch.manual_seed(18)
    cell = AMU(2, 3, backend=backend)
    x = torch.randn(3, batch, 2, requires_grad=True)
    results = []
    for call in (cell, torch.compile(cell, backend="eager")):
        y, (h, s) = call(x)
        results.append([y, h, s, *gradients_of(y.pow(2).sum() + s.sum(), [x, *cell.parameters()])])
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore")
def test_torch_compile_of_a_whole_graph_names_the_backend():
    whole = {"backend": "eager", "fullgraph": True}
    with pytest.raises(RuntimeError, match='make the layer with backend="torch"'):
        torch.compile(RNN(2, 1, backend="fused"), **whole)(torch.zeros(2, 1, 2))
    cell, x = RNN(2, 1, backend="torch"), torch.randn(2, 1, 2)
    assert torch.equal(torch.compile(cell, **whole)(x)[0], cell(x)[0])


@pytest.mark.parametrize("name", COMPILED)
def test_what_a_compiled_cell_returns_may_be_changed_in_place(name):
    cell = COMPILED[name](backend="fused")
    x = torch.randn(3, 2, cell.input_size)
    y, last = cell(x)
    for tensor in (y, *(last if isinstance(last, tuple) else (last,))):
        tensor.mul_(0)
    (y.sum() + sum(s.sum() for s in last)).backward()
    assert all(not p.grad.any() for p in cell.parameters())
