"""The LSTM of 1997: the weight counts of the paper, its truncated gradient, its gate biases."""

import numpy as np
import pytest
import torch
from test_kernels import Answers, made_optimizer, made_sequences

from amu_experiments.cells.lstm97 import LSTM97
from amu_experiments.learning import learn, loss_and_error
from amu_experiments.network import Network, count_parameters, match_units, to_torch


class Sizes:
    """The part of a task that counting needs."""

    def __init__(self, inputs, outputs):
        self.input_size, self.output_size = inputs, outputs


def model(units, block_size, biases, **more):
    return {"cell": "lstm97", "units": units, "block_size": block_size, "biases": biases, "output_bias": [], **more}


@pytest.mark.parametrize(
    ("inputs", "outputs", "blocks", "block_size", "biases", "weights"),
    [
        (7, 7, 4, 1, "gates", 264),
        (7, 7, 3, 2, "gates", 276),
        (54, 2, 2, 1, "none", 364),
        (104, 2, 2, 1, "none", 664),
        (1, 1, 3, 1, "hidden", 102),
        (2, 1, 2, 2, "all", 93),
        (8, 4, 2, 2, "all", 156),
        (8, 8, 3, 2, "all", 308),
    ],
)
def test_weight_counts_of_1997(inputs, outputs, blocks, block_size, biases, weights):
    """Hochreiter & Schmidhuber 1997, Table 10; the flat parameters of a network are as many."""
    units = blocks * block_size
    assert count_parameters(model(units, block_size, biases), Sizes(inputs, outputs), units) == weights
    cell = LSTM97(inputs, units, trials=2, block_size=block_size, biases=biases, output_bias=(), backend="torch")
    assert Network(cell, outputs).flat.shape == (2, weights)


def test_matched_units_are_whole_blocks():
    assert match_units(model(None, 2, "gates", parameters=290), Sizes(7, 7)) == 6
    assert match_units(model(None, 1, "gates", parameters=270), Sizes(7, 7)) == 4
    assert match_units(model(None, 3, "gates", parameters=1), Sizes(7, 7)) == 3


def test_a_block_of_two_cells_by_hand():
    cell = LSTM97(1, 2, block_size=2, biases="gates", output_bias=(), backend="torch")
    W, U = [0.5, -0.4, 0.3, -0.6], np.array([[1, 2, 3, 4], [2, 1, 4, 3], [3, 4, 1, 2], [4, 3, 2, 1]]) / 10
    with torch.no_grad():
        cell.weight_ih[0] = torch.tensor(W)[:, None]
        cell.weight_hh[0] = torch.from_numpy(U)
        cell.bias[0] = torch.tensor([-0.1, 0.2])

    def f(x):
        return 1 / (1 + np.exp(-x))

    h, s = np.zeros(4), np.zeros(2)
    for x in (1.0, -2.0):
        net = np.array(W) * x + [-0.1, 0.2, 0, 0] + U @ h
        s = s + f(net[0]) * (4 * f(net[2:]) - 2)
        h = np.array([f(net[0]), f(net[1]), *f(net[1]) * (2 * f(s) - 1)])
    y, (last_h, last_s) = cell(torch.tensor([[1.0], [-2.0]]))
    for ours, by_hand in ((last_h[0], h), (last_s[0], s), (y[-1], h[2:])):
        np.testing.assert_allclose(ours.detach().numpy(), by_hand, rtol=1e-5)


# The gradient ---------------------------------------------------------------------------------------------------


def forward_in_time(cell, network, x_TI, targets_TO):
    """Half the squared error, summed over steps, and its gradient as Hochreiter & Schmidhuber 1997, appendix A.1, have
    it: d s / d w is carried forward (their equation 14), errors come from the step's own outputs (19 to 23)."""
    G, A, size = cell.blocks, cell.hidden_size, cell.block_size
    block = np.arange(A) // size
    W = np.hstack([p.detach().numpy()[0] for p in (cell.weight_ih, cell.weight_hh, cell.bias_rows().unsqueeze(-1))])
    V, v = (p.detach().numpy()[0] for p in (network.readout_weight, network.readout_bias))

    def f(net):
        return 1 / (1 + np.exp(-net))

    h, s = np.zeros(2 * G + A), np.zeros(A)
    ds_cell, ds_gate = np.zeros((2, A, W.shape[1]))
    loss, dW, dV, dv = 0.0, np.zeros_like(W), np.zeros_like(V), np.zeros_like(v)
    for x, target in zip(x_TI, targets_TO, strict=True):
        sources = np.concatenate([x, h, [1.0]])
        net = W @ sources
        gates, q = f(net[: 2 * G]), f(net[2 * G :])
        slopes = gates * (1 - gates)
        of_input, of_output = gates[:G][block], gates[G:][block]
        s = s + of_input * (4 * q - 2)
        ds_cell += np.outer(of_input * 4 * q * (1 - q), sources)
        ds_gate += np.outer(slopes[:G][block] * (4 * q - 2), sources)
        squashed = f(s)
        y = of_output * (2 * squashed - 1)
        out = f(V @ y + v)
        e = out * (1 - out) * (target - out)
        into_y = V.T @ e
        e_s = of_output * 2 * squashed * (1 - squashed) * into_y
        for a in range(A):
            dW[2 * G + a] -= e_s[a] * ds_cell[a]
            dW[block[a]] -= e_s[a] * ds_gate[a]
            dW[G + block[a]] -= slopes[G + block[a]] * (2 * squashed[a] - 1) * into_y[a] * sources
        dV, dv = dV - np.outer(e, y), dv - e
        loss += ((target - out) ** 2).sum() / 2
        h = np.concatenate([gates, y])
    I, K = len(x_TI[0]), 2 * G + A
    flat = [dW[:, :I], dW[:, I : I + K], dW[: cell.bias.shape[1], -1], dV, dv]
    return loss, np.concatenate([part.ravel() for part in flat])


@pytest.mark.parametrize(("units", "block_size"), [(4, 2), (3, 1)])
def test_truncated_gradient_is_that_of_1997(units, block_size):
    torch.manual_seed(0)
    cell = LSTM97(3, units, trials=1, block_size=block_size, biases="all", initial_range=1.0, backend="torch")
    network = Network(cell, 2)
    network.load_flat(torch.randn(network.flat.shape, dtype=torch.double))
    x, targets = torch.randn(1, 12, 1, 3, dtype=torch.double), torch.rand(1, 1, 12, 2, dtype=torch.double)
    lengths = torch.tensor([[12]])
    task = Answers("every", "half_squared_error", "logistic")
    losses, _ = loss_and_error(network(x, lengths, True), targets, lengths, task)
    loss, gradient = forward_in_time(cell, network, x[0, :, 0].numpy(), targets[0, 0].numpy())
    assert losses.item() == pytest.approx(loss)
    ours = network.gradient(losses.sum())[0].numpy()
    np.testing.assert_allclose(ours, gradient, rtol=1e-9, atol=1e-12)


def test_error_along_the_state_neither_vanishes_nor_grows():
    torch.manual_seed(1)
    cell = LSTM97(1, 4, block_size=2, backend="torch", initial_range=0.5)
    s0 = torch.zeros(1, 1, 4, requires_grad=True)
    _, (_, s) = cell(torch.randn(200, 1, 1), (torch.zeros(1, 1, 8), s0))
    (gradient,) = torch.autograd.grad(s.sum(), s0)
    assert gradient.flatten().tolist() == [1.0] * 4


@pytest.mark.parametrize("recurrent", [0.0, 0.5])
def test_truncation_leaves_out_what_goes_back_through_recurrent_weights(recurrent):
    task = Answers("every", "half_squared_error", "logistic")
    _, lengths, targets = to_torch(made_sequences([0], 3, task), "cpu")
    x = torch.randn(1, targets.shape[2], 3, 2, generator=torch.Generator().manual_seed(2))
    gradients = []
    for gradient in ("truncated", "full"):
        cell = LSTM97(2, 4, trials=1, block_size=2, gradient=gradient, backend="torch", initial_range=1.0)
        network = Network(cell, 2)
        network.initialise([0])
        with torch.no_grad():
            cell.weight_hh.fill_(recurrent)
        losses, _ = loss_and_error(network(x, lengths, True), targets, lengths, task)
        gradients.append(network.gradient(losses.sum()))
    assert torch.allclose(*gradients) == (recurrent == 0)


@pytest.mark.parametrize(("biases", "gradient"), [("gates", "full"), ("all", "truncated")])
@pytest.mark.parametrize("answer", ["every", "last"])
def test_compiled_learning_equals_torch(biases, gradient, answer):
    task, trials = Answers(answer, "half_squared_error", "logistic"), [0, 1]
    seen = []
    for backend in ("fused", "torch"):
        # The size that test_kernels.py compiles as well.
        options = {"block_size": 2, "biases": biases, "gradient": gradient, "initial_range": 1.0}
        network = Network(LSTM97(2, 4, trials=2, backend=backend, **options), 2)
        network.initialise(trials)
        sequences = made_sequences(trials, 12, task)
        learned = learn(network, made_optimizer(network, "sgd", 0.5, np.inf), task, sequences, 2)
        predicted = network.predict(sequences, False)
        seen.append([network.flat.numpy(), *vars(learned).values(), predicted])
    for ours, theirs in zip(*seen, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_half_the_squared_error_is_summed_over_steps():
    sequences = made_sequences([0], 3, Answers("every"))
    _, lengths, targets = to_torch(sequences, "cpu")
    net = torch.randn(targets.shape, generator=torch.Generator().manual_seed(0))
    mean, _ = loss_and_error(net, targets, lengths, Answers("every", "squared_error", "logistic"))
    half, _ = loss_and_error(net, targets, lengths, Answers("every", "half_squared_error", "logistic"))
    torch.testing.assert_close(half, mean * lengths / 2)


# Initial values -------------------------------------------------------------------------------------------------


def initial(**options):
    cell = LSTM97(7, 6, block_size=2, backend="torch", initial_range=0.2, **options)
    return cell.initial_values(np.random.default_rng(0))


def test_gate_biases_are_staggered_and_the_others_random():
    values = initial(biases="hidden", output_bias=(-1, -2, -3))
    assert values["bias"][3:6].tolist() == [-1, -2, -3]
    others = np.concatenate([values["bias"][:3], values["bias"][6:], values["weight_hh"].ravel()])
    assert len(set(others)) == others.size
    assert 0.19 < np.abs(others).max() <= 0.2


@pytest.mark.parametrize(
    ("listed", "start"), [([-3], [-3, -3, -3]), ([-2, -4], [-2, -4, -6]), ([-1, -3, -9, -27], [-1, -3, -9])]
)
def test_a_list_of_biases_goes_on_in_its_last_step_and_stops_with_the_blocks(listed, start):
    assert initial(input_bias=listed)["bias"][:3].tolist() == start


def test_output_units_start_in_the_same_range_as_all_weights():
    cell = LSTM97(2, 4, trials=50, biases="all", initial_range=0.2, backend="torch")
    network = Network(cell, 3)
    network.initialise(range(50))
    for parameter in (network.readout_weight, network.readout_bias):
        assert 0.19 < parameter.abs().max() <= 0.2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LSTM97(2, 5, block_size=2), "5 units: must be a multiple of block_size=2"),
        (lambda: LSTM97(2, 4, block_size=0), "block_size=0"),
        (lambda: LSTM97(2, 4, biases="cells"), "none, gates, hidden, all"),
        (lambda: LSTM97(2, 4, gradient="half"), "truncated, full"),
        (lambda: LSTM97(2, 4, biases="none"), "must be empty"),
        (lambda: match_units(model(5, 2, "gates"), Sizes(7, 7)), "model.units=5: must be a multiple of 2"),
    ],
)
def test_wrong_options_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
