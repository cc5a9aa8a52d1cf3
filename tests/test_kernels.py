"""The fused scans against the plain torch form, and what holds for every trial whatever surrounds it."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir

from amu_experiments import AMU, GRU, LSTM, RNN
from amu_experiments.cells.cell import Cell, recur
from amu_experiments.cells.lstm97 import LSTM97
from amu_experiments.learning import Optimizer, learn
from amu_experiments.network import Network
from amu_experiments.scans import drivers, functions
from amu_experiments.scans.drivers import portable_machine
from amu_experiments.scans.jobs import Driver, Jobs
from amu_experiments.scans.kernels import SequenceDriver
from amu_experiments.scans.machine import Machine
from amu_experiments.scans.threads import set_threads
from amu_experiments.scans.vectorised import namespace
from amu_experiments.tasks.task import Sequences

FUNCTIONS = ("tanh", "exp", "log", "log1p", "sin", "cos")


class Products(Cell):
    """Products of every kind: with the old state, the new one and another factor, by rows and transposed, added to the
    net inputs and not; and functions of every kind."""

    states = ("h", "c")

    @classmethod
    def shapes(cls, input_size, hidden_size):
        A = hidden_size
        return {"weight_ih": (2 * A, input_size), "weight_hh": (3 * A, A), "bias": (A,), "weight_v": (A, A), "v": (A,)}

    def step(self, net_RBK, state):
        h, c = state
        A = self.hidden_size
        net_a, net_b = net_RBK.chunk(2, dim=-1)
        a = torch.sin(net_a + recur(h, self.weight_hh[:, :A])) + torch.relu(net_a)
        c = torch.cos(a) * c + F.softplus(net_b + recur(a * c, self.weight_hh[:, A : 2 * A])).log()
        b = torch.tanh(recur(c, self.weight_v) - recur(c, self.weight_v.transpose(1, 2)) * self.v.unsqueeze(1))
        h = b * torch.exp(-(a**2)) + torch.maximum(a, recur(h.detach(), self.weight_hh[:, 2 * A :])) / 4
        return h, (h, c)


# Sizes are compiled in, so only these are tried; everything else varies from example to example.
COMPILED = {
    "amu": (AMU, 2, 3, {}),
    "amu, one unit": (AMU, 1, 1, {"neurons_per_unit": 2, "output": "memory", "writers": "tanh"}),
    "amu, full": (AMU, 5, 5, {"gradient": "full", "output": "linear", "neurons_per_unit": 4}),
    "lstm": (LSTM, 3, 5, {}),
    "gru": (GRU, 1, 3, {}),
    "rnn, one unit": (RNN, 2, 1, {}),
    "lstm97": (LSTM97, 2, 4, {"block_size": 2, "biases": "gates"}),
    "products": (Products, 2, 3, {}),
}


def close(ours, theirs):
    """Equal to 1e-5 of the largest entry of all, in float32: a sum that happens to cancel keeps its terms' error."""
    scale = max(float(t.detach().abs().max()) for t in theirs if t.numel())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * scale)


def outputs_and_gradients(cell, x, state, lengths, batch_first):
    x = x.clone().requires_grad_()
    state = [s.clone().requires_grad_() for s in state]
    cell.batch_first = batch_first
    cell.zero_grad()
    y, last = cell(x, state, lengths)
    seen = [y, *((last,) if isinstance(last, torch.Tensor) else last)]
    weights = torch.Generator().manual_seed(0)
    sum((torch.randn(t.shape, generator=weights) * t).sum() for t in seen).backward()
    # Torch gives no gradient to a state whose error is cut; a compiled scan gives zeros.
    into_state = [torch.zeros_like(s) if s.grad is None else s.grad for s in state]
    return seen + [x.grad, *into_state, *(p.grad for p in cell.parameters())]


@pytest.mark.parametrize("name", COMPILED)
def test_fused_equals_torch(name):
    cell_type, inputs, units, options = COMPILED[name]

    @settings(max_examples=25, deadline=None)
    @given(
        trials=st.none() | st.integers(1, 3),
        steps=st.integers(1, 9),
        batch=st.integers(1, 9) | st.sampled_from([15, 16, 17, 37]),
        unequal=st.booleans(),
        batch_first=st.booleans(),
        spread=st.sampled_from([0.3, 1.0]),
        seed=st.integers(0, 1000),
    )
    def check(trials, steps, batch, unequal, batch_first, spread, seed):
        torch.manual_seed(seed)
        fused = cell_type(inputs, units, trials=trials, backend="fused", initial_range=spread, **options)
        plain = cell_type(inputs, units, trials=trials, backend="torch", **options)
        plain.load_state_dict(fused.state_dict())
        R = trials or 1
        shape = (R, steps, batch) if trials else (batch, steps) if batch_first else (steps, batch)
        x = torch.randn(*shape, inputs)
        state = [0.5 * torch.randn(R, batch, size) for size in plain.state_sizes()]
        lengths = torch.randint(1, steps + 1, (R, batch)) if unequal else None
        both = (outputs_and_gradients(c, x, state, lengths, batch_first and not trials) for c in (fused, plain))
        close(*both)

    check()


@pytest.fixture(scope="module", params=["one number", "a vector"])
def compiled(request):
    """The functions of functions.py as code on one number, as in scans of sequences, or on a vector, as in blocks."""
    module, arguments, lanes = ir.Module("functions"), ("x", "y"), 1 if request.param == "one number" else 16
    for name in FUNCTIONS:
        code = SequenceDriver(module, name, arguments) if lanes == 1 else Driver(module, name, arguments, lanes)
        x, y = (code.numbers(address).wide(lanes) for address in (code.given.x, code.given.y))
        function = namespace(code, functions)[name]
        for i in code.loop(code.begin, code.end):
            y[i * lanes] = function(x[i * lanes])
        code.done()
    machine = portable_machine() if lanes == 1 else Machine()
    jobs = Jobs(machine.compile(f"functions on {request.param}", lambda: module), dict.fromkeys(FUNCTIONS, arguments))

    def call(name, x):
        whole = np.resize(x, -(-len(x) // lanes) * lanes).astype(np.float32)
        y = np.empty_like(whole)
        jobs.run(name, {"x": whole, "y": y}, len(whole) // lanes, 0, 0)
        return y[: len(x)]

    return call


def test_tanh_is_within_a_millionth(compiled):
    x = np.concatenate([np.linspace(-20, 20, 400_001), [1e-30, -1e-30, np.inf, -np.inf]]).astype(np.float32)
    assert np.abs(compiled("tanh", x) - np.tanh(x.astype(np.float64))).max() < 1e-6


def test_exp_and_log_are_those_of_double_precision_to_the_last_digits(compiled):
    x = np.linspace(-86, 88, 20_001).astype(np.float32)
    assert np.abs(compiled("exp", x) / np.exp(x.astype(np.float64)) - 1).max() < 1.2e-7
    # Around 1, where the logarithm itself is small, the relative error counts all the same.
    for x in (np.exp(np.linspace(-80, 80, 20_001)), np.linspace(0.9, 1.1, 20_000)):
        x = x.astype(np.float32)
        x = x[x != 1]
        assert np.abs(compiled("log", x) / np.log(x.astype(np.float64)) - 1).max() < 3e-7


def test_sine_cosine_and_log1p_are_those_of_double_precision_to_the_last_digits(compiled):
    x = np.concatenate([np.linspace(-20, 20, 20_001), np.linspace(-1e6, 1e6, 20_001)]).astype(np.float32)
    for name in ("sin", "cos"):
        assert np.abs(compiled(name, x) - getattr(np, name)(x.astype(np.float64))).max() < 1.2e-7
        assert np.isnan(compiled(name, [np.inf]))
    x = np.concatenate([np.logspace(-30, 30, 20_001), -np.logspace(-30, -1, 20_001)]).astype(np.float32)
    assert np.abs(compiled("log1p", x) / np.log1p(x.astype(np.float64)) - 1).max() < 4e-7


def test_a_value_that_is_not_a_number_is_not_hidden(compiled):
    for name in FUNCTIONS:
        assert np.isnan(compiled(name, [np.nan]))


def test_where_compiling_fails_torch_takes_over_with_one_warning(monkeypatch):
    def broken(*_):
        raise OSError("no compiler here")

    monkeypatch.setattr(drivers, "scans", broken)
    cell = RNN(2, 3)
    with pytest.warns(RuntimeWarning, match="no compiler here"):
        first, _ = cell(torch.ones(4, 1, 2))
    second, _ = cell(torch.ones(4, 1, 2))  # a second warning would be an error here
    assert torch.equal(first, second)
    with pytest.raises(OSError, match="no compiler here"):
        RNN(2, 3, backend="fused")(torch.ones(4, 1, 2))


def test_a_layer_with_compiled_scans_can_be_copied():
    cell = RNN(2, 1, backend="fused")
    x = torch.randn(3, 1, 2)
    torch.testing.assert_close(copy.deepcopy(cell)(x)[0], cell(x)[0])


# A whole training step ------------------------------------------------------------------------------------------


class Answers:
    """The part of a task that learning needs."""

    def __init__(self, answer="last", loss="squared_error", squash="linear"):
        self.answer, self.loss, self.squash = answer, loss, squash


def made_network(backend, trials, outputs=2, cell_type=AMU, **options):
    inputs, units = (2, 3) if cell_type is AMU else (3, 5)
    cell = cell_type(inputs, units, trials=len(trials), backend=backend, **options)
    network = Network(cell, outputs)
    network.initialise(trials)
    return network


def made_sequences(trials, count, task, inputs=2, outputs=2, steps=7):
    each = []
    for trial in trials:
        rng = np.random.default_rng(trial)
        lengths = rng.integers(1, steps + 1, count)
        x = rng.standard_normal((count, steps, inputs), dtype=np.float32)
        targets = rng.random((count, steps if task.answer == "every" else 1, outputs), dtype=np.float32)
        if task.loss == "cross_entropy":
            targets = np.eye(outputs, dtype=np.float32)[targets.argmax(-1)]
        if task.loss == "binary_cross_entropy":
            targets = targets.round()
        each.append((x, lengths, targets))
    return Sequences(*(np.stack(arrays) for arrays in zip(*each, strict=True)))


def made_optimizer(network, kind="adam", rate=0.01, clip=1.0):
    return Optimizer(kind, rate, 0.5, clip, torch.zeros(network.flat.shape[0], 2 * network.flat.shape[1]))


ANSWERS = {
    "last linear": Answers(),
    "every logistic": Answers("every", squash="logistic"),
    "every softmax": Answers("every", "cross_entropy", "softmax"),
}


@pytest.mark.parametrize("bias", [0, 100])
@pytest.mark.parametrize("batch", [1, 36])
def test_the_compiled_binary_cross_entropy_equals_torch(batch, bias):
    task, trials, seen = Answers("every", "binary_cross_entropy", "logistic"), [0, 1], []
    for backend in ("fused", "torch"):
        network = made_network(backend, trials)
        network.readout_bias.data += torch.tensor([bias, -bias])
        optimizer = made_optimizer(network, "sgd", clip=0.5)
        learned = learn(network, optimizer, task, made_sequences(trials, 36, task), batch)
        assert learned.updates.tolist() == [36 // batch] * 2
        seen.append([network.flat, *map(torch.from_numpy, vars(learned).values())])
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("kind", ["adam", "rmsprop", "sgd"])
@pytest.mark.parametrize("batch", [1, 3, 12, 36])
def test_compiled_learning_equals_torch(answers, kind, batch):
    learning_equals_torch(ANSWERS[answers], kind, batch)


def learning_equals_torch(task, kind, batch):
    trials = [0, 1, 2]
    seen = []
    for backend in ("fused", "torch"):
        network = made_network(backend, trials)
        optimizer = made_optimizer(network, kind, clip=0.5)
        sequences = made_sequences(trials, 36, task)
        learned = learn(network, optimizer, task, sequences, batch)
        predicted = network.predict(sequences, task.answer == "every")
        if task.answer == "every":
            predicted *= (np.arange(7) < sequences.lengths[..., None])[..., None]
        seen.append(
            [
                network.flat,
                optimizer.moments,
                *map(torch.from_numpy, vars(learned).values()),
                torch.from_numpy(predicted),
            ]
        )
    for ours, theirs in zip(*seen, strict=True):
        # RMSprop and Adam divide by the root of a small mean square, which enlarges the last digit's difference.
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["adam", "rmsprop", "sgd"])
def test_optimizers_are_those_of_torch(kind):
    torch.manual_seed(0)
    start, gradients = torch.randn(2, 5), torch.randn(20, 2, 5)
    reference = torch.nn.Parameter(start.clone())
    theirs = {
        "adam": lambda p: torch.optim.Adam(p, lr=0.02),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.02, momentum=0.9),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    }[kind]([reference])
    ours = Optimizer(kind, 0.02, 0.9, float("inf"), torch.zeros(2, 10))
    for gradient in gradients:
        ours.updates += 1
        ours.step(start, gradient)
        reference.grad = gradient
        theirs.step()
    torch.testing.assert_close(start, reference.data)


def test_a_trial_is_the_same_to_the_bit_whatever_surrounds_it():
    task = Answers()
    results = []
    for trials, threads in (([7], 1), ([3, 7], 2), (list(range(10)), 2), (list(range(10)), 1)):
        set_threads(threads)
        network = made_network("fused", trials)
        optimizer = made_optimizer(network)
        learned = learn(network, optimizer, task, made_sequences(trials, 60, task), 2)
        predicted = network.predict(made_sequences(trials, 60, task), False)
        place = trials.index(7)
        results.append([a[place].tobytes() for a in (network.flat.numpy(), learned.losses, learned.norms, predicted)])
    set_threads(None)
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_a_trial_that_diverges_stops_and_leaves_its_neighbours_alone(backend):
    task, trials = Answers(), [0, 1, 2]
    sequences = made_sequences(trials, 20, task)
    calm = made_network(backend, trials)
    # In torch all stop with the update in which one diverges, and the others go on without it.
    seen = 20 if backend == "fused" else 6
    learn(calm, made_optimizer(calm), task, sequences.take(np.s_[:, :seen]), 1)
    sequences.targets[1, 5] = np.inf
    network = made_network(backend, trials)
    learned = learn(network, made_optimizer(network), task, sequences, 1)
    assert learned.losses.shape == (3, seen)
    assert learned.updates.tolist() == [seen, 5, seen]
    assert network.flat.isfinite().all()
    assert torch.equal(network.flat[[0, 2]], calm.flat[[0, 2]])


@pytest.mark.parametrize("backend", ["fused", "torch"])
@pytest.mark.parametrize("clip", [20.0, float("inf")])
def test_gradients_are_clipped_trial_by_trial(backend, clip):
    """One step of plain gradient descent moves a trial by rate * min(norm, clip)."""
    task, trials = Answers(), [0, 1, 2]
    network = made_network(backend, trials)
    before = network.flat.clone()
    sequences = made_sequences(trials, 1, task)
    sequences.targets[0] *= 1000
    sequences.targets[1:] /= 1000
    optimizer = Optimizer("sgd", 0.1, 0.0, clip, torch.zeros(3, 2 * before.shape[1]))
    learned = learn(network, optimizer, task, sequences, 1)
    moved = (network.flat - before).norm(dim=1)
    expected = 0.1 * torch.from_numpy(learned.norms[:, 0]).clamp(max=clip)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)
    assert learned.norms[0, 0] > 20 > learned.norms[1, 0]


def test_trials_leave_a_network_by_dropping_their_rows():
    network = made_network("torch", [0, 1, 2])
    sequences = made_sequences([0, 1, 2], 4, Answers())
    whole = network.predict(sequences, False)
    network.load_flat(network.flat[[2, 0]].clone())
    part = Sequences(sequences.inputs[[2, 0]], sequences.lengths[[2, 0]], sequences.targets[[2, 0]])
    np.testing.assert_allclose(network.predict(part, False), whole[[2, 0]], rtol=1e-6)
    assert network.cell.weight_ih.shape[0] == 2


def test_compiled_code_takes_subnormal_numbers_as_zero_and_its_caller_does_not():
    """They would make it many times slower where gradients vanish."""
    layer = RNN(1, 1)
    for parameter in layer.parameters():
        torch.nn.init.constant_(parameter, 1e-30)
    torch.nn.init.zeros_(layer.bias_l0)
    output, _ = layer(torch.full((1, 1, 1), 1e-10))
    assert output.item() == 0
    assert np.float32(1e-30) * np.float32(1e-10) > 0
