"""The cells' plain torch form against torch.nn, autograd, finite differences and the equations."""

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
    """Give torch's layer the weights of ours; our single bias goes into torch's first one."""
    with torch.no_grad():
        reference.weight_ih_l0.copy_(cell.weight_ih[0])
        reference.weight_hh_l0.copy_(cell.weight_hh[0])
        reference.bias_ih_l0.copy_(cell.bias[0])
        reference.bias_hh_l0.zero_()
        if isinstance(cell, GRU):
            reference.bias_hh_l0[-cell.hidden_size :] = cell.bias_hn[0]
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
        names = ["weight_ih", "weight_hh", "bias"] if layer is cell else ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"]
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
    torch.testing.assert_close(cell.bias_hn.grad[0], reference.bias_hh_l0.grad[-3:])


# The auxiliary memory unit --------------------------------------------------------------------------------------


def test_one_unit_by_hand():
    cell = AMU(1, 1, neurons_per_unit=2, gradient="full", backend="torch")
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
    cell = AMU(1, 2, neurons_per_unit=3, backend="torch")
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
    cell = AMU(1, 1, neurons_per_unit=2, output_in_product=False, backend="torch")
    _, (h, s) = cell(torch.tensor([[0.7]]))
    assert s.item() == pytest.approx(h[0, 1].item())


def stop_gradient_form(cell, x, state):
    """Truncation said with detach: nothing flows through h or s into a net input, but for the error that enters at
    a neuron from outside, which sees s through v (held constant) and from there flows along the memory alone."""
    h, s = state
    A, N, v = cell.hidden_size, cell.neurons_per_unit, cell.weight_mh.unsqueeze(1)
    outputs = []
    for x_t in x.unbind(1):
        net = (
            x_t @ cell.weight_ih.transpose(1, 2)
            + h.detach() @ cell.weight_hh.transpose(1, 2)
            + v * s.detach().repeat(1, 1, N)
            + cell.bias.unsqueeze(1)
        )
        seen = net + v.detach() * (s - s.detach()).repeat(1, 1, N)
        factors = torch.tanh(net).unflatten(-1, (N, A))[..., cell.first_factor :, :]
        s = s + factors.prod(dim=-2)
        h = torch.tanh(seen)
        outputs.append({"neuron": h, "linear": seen, "memory": s}[cell.output][..., :A])
    return torch.stack(outputs, 1), h, s


@pytest.mark.parametrize("output", ["neuron", "linear", "memory"])
@pytest.mark.parametrize(("neurons", "in_product"), [(3, True), (2, False), (4, True), (1, True)])
def test_truncated_gradient_is_that_of_the_stop_gradient_form(output, neurons, in_product):
    torch.manual_seed(4)
    cell = in_double(
        AMU(
            2,
            3,
            neurons_per_unit=neurons,
            output=output,
            output_in_product=in_product,
            trials=2,
            initial_range=2.0,
        )
    )
    x = torch.randn(2, 6, 4, 2, dtype=torch.double, requires_grad=True)
    state = [torch.randn(2, 4, size, dtype=torch.double, requires_grad=True) for size in cell.state_sizes()]
    tensors = [x, state[1], *cell.parameters()]
    y, (h, s) = cell(x, state)
    y2, h2, s2 = stop_gradient_form(cell, x, state)
    torch.testing.assert_close((y, h, s), (y2, h2, s2))
    weights = [torch.randn(t.shape, dtype=torch.double) for t in (y, h, s)]

    def loss(*outputs):
        return sum((w * o).sum() for w, o in zip(weights, outputs, strict=True))

    ours, theirs = gradients_of(loss(y, h, s), tensors), gradients_of(loss(y2, h2, s2), tensors)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("output", ["neuron", "linear", "memory"])
@pytest.mark.parametrize("in_product", [True, False])
def test_full_gradient_against_finite_differences(output, in_product):
    torch.manual_seed(5)
    cell = in_double(AMU(2, 2, gradient="full", output=output, output_in_product=in_product, initial_range=2.0))
    x = torch.randn(4, 2, 2, dtype=torch.double, requires_grad=True)
    names = [name for name, _ in cell.named_parameters()]

    def outputs(x, *parameters):
        y, (h, s) = torch.func.functional_call(cell, dict(zip(names, parameters, strict=True)), (x,))
        return y, h, s

    assert torch.autograd.gradcheck(outputs, (x, *cell.parameters()))


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
    assert lower.weight_ih.grad.abs().sum() > 0


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
        single.load_state_dict({name: value[trial : trial + 1] for name, value in stack.state_dict().items()})
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
        (lambda: AMU(2, 0), "hidden_size=0"),
        (lambda: AMU(2, 3, gradient="half"), "truncated, full"),
        (lambda: AMU(2, 3, output="gate"), "neuron, linear, memory"),
        (lambda: AMU(2, 3, neurons_per_unit=1, output_in_product=False), "neurons_per_unit=1"),
        (lambda: LSTM(2, 3, backend="fast"), "auto, fused, torch"),
        (lambda: LSTM(2, 3)(torch.zeros(4, 5, 3)), r"\(4, 5, 3\)"),
        (lambda: LSTM(2, 3)(torch.zeros(0, 5, 2)), "at least one step"),
        (lambda: LSTM(2, 3)(torch.zeros(4, 5, 2), (torch.zeros(1, 5, 4),) * 2), "h, c"),
        (lambda: LSTM(2, 3)(torch.zeros(4, 1, 2), lengths=[5]), "between 1 and the 4 steps"),
        (lambda: cell_class("lstn"), "amu, .*, gru, .*, lstm, lstm97, .*, rnn"),
    ],
)
def test_wrong_calls_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
