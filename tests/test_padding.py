"""Padding after a sequence's end changes no number, for every cell, backend and task."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels import ANSWERS, made_network, made_optimizer, made_sequences

from amu_experiments import AMU, GRU, LSTM, RNN
from amu_experiments.cells.lstm97 import LSTM97
from amu_experiments.conf_files import choices
from amu_experiments.learning import learn, loss_and_error
from amu_experiments.network import Network, to_torch
from amu_experiments.tasks import make_task
from amu_experiments.tasks.task import Sequences

CELLS = {
    "amu": (AMU, {}),
    "amu, full": (AMU, {"gradient": "full", "output": "memory"}),
    "lstm": (LSTM, {}),
    "gru": (GRU, {}),
    "rnn": (RNN, {}),
    "lstm97": (LSTM97, {"block_size": 1, "biases": "all"}),
}


def padded(sequences: Sequences, more: int, fill: float, every: bool) -> Sequences:
    """The same sequences with `more` further steps of padding, and `fill` in all padding."""
    inputs, targets = (np.pad(a, [(0, 0), (0, 0), (0, more), (0, 0)]) for a in (sequences.inputs, sequences.targets))
    past = np.arange(inputs.shape[2]) >= sequences.lengths[..., None]
    inputs[past] = fill
    if every:
        targets[past] = fill
    return Sequences(inputs, sequences.lengths, targets if every else sequences.targets)


def numbers(network: Network, sequences: Sequences, task) -> list[np.ndarray]:
    """Outputs of answered steps, the loss and error of each sequence, and the gradient."""
    inputs, lengths, targets = to_torch(sequences, "cpu")
    every = task.answer == "every"
    net = network(inputs, lengths, every)
    losses, errors = loss_and_error(net, targets, lengths, task)
    counts = np.arange(net.shape[2]) < sequences.lengths[..., None] if every else np.ones(net.shape[:3], bool)
    gradient = network.gradient(losses.sum())
    return [t.detach().numpy() for t in (net[torch.from_numpy(counts)], losses, errors, gradient)]


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("name", CELLS)
def test_outputs_losses_and_gradients_in_torch_do_not_see_the_padding(name, answers):
    kind, options = CELLS[name]
    network = Network(kind(2, 3, trials=2, backend="torch", **options), 2)
    network.initialise([0, 1])
    task = ANSWERS[answers]

    @settings(max_examples=5, deadline=None)
    @given(more=st.integers(0, 6), fill=st.sampled_from([-1e3, 0.5, 1e6]))
    def check(more, fill):
        sequences, every = made_sequences([0, 1], 4, task), task.answer == "every"
        plain = numbers(network, padded(sequences, 0, 0.0, every), task)
        other = numbers(network, padded(sequences, more, fill, every), task)
        for a, b in zip(plain, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)

    check()


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("batch", [2, 18])
@settings(max_examples=10, deadline=None)
@given(more=st.integers(0, 200), fill=st.sampled_from([-1e3, 0.5, float("nan"), float("inf")]))
def test_compiled_learning_does_not_see_the_padding_to_the_bit(answers, batch, more, fill):
    task, seen = ANSWERS[answers], []
    sequences = made_sequences([0, 1], 36, task)
    for made in (sequences, padded(sequences, more, fill, task.answer == "every")):
        network = made_network("fused", [0, 1])
        learned = learn(network, made_optimizer(network), task, made, batch)
        seen.append([network.flat.numpy(), *vars(learned).values()])
    for a, b in zip(*seen, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def composer(shared_composer):
    with shared_composer.ready():
        yield shared_composer


@pytest.mark.parametrize("name", [name for name in choices("task") if name != "time_series"])
def test_every_task_gives_zeros_after_the_end(name, composer):
    few = ["task.pieces=10"] if name == "chorales" else []  # reading a score takes long
    task = make_task(composer.load([f"task={name}", *few])["task"], [0, 3])
    for sequences in (task.train_batch(240, 20), task.validation(), task.test()):
        steps = sequences.inputs.shape[2]
        assert 1 <= sequences.lengths.min() <= sequences.lengths.max() <= steps
        past = np.arange(steps) >= sequences.lengths[..., None]
        assert not sequences.inputs[past].any()
        assert sequences.targets.shape[2] == (steps if task.answer == "every" else 1)
        if task.answer == "every":
            assert not sequences.targets[past].any()
