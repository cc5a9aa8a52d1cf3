"""Error flow, conflict of gradients and traces of memories: networks worked out by hand, and a small store."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from handmade import write

from amu_experiments import training
from amu_experiments.cells.amu import AMU
from amu_experiments.cells.cell import Cell, recur
from amu_experiments.cells.lstm import LSTM
from amu_experiments.cells.lstm97 import LSTM97
from amu_experiments.learning import loss_and_error
from amu_experiments.network import Network
from amu_experiments.overrides import load
from amu_experiments.studies.mechanism import Step, conflict, error_flow, main, relative_flow, traces
from amu_experiments.tasks.task import Sequences

LAST = SimpleNamespace(answer="last", loss="squared_error", squash="linear")
EVERY = SimpleNamespace(answer="every", loss="squared_error", squash="linear")


class Linear(Cell):
    """h(t) = w x(t) + b + u h(t-1), put out as it is."""

    @classmethod
    def shapes(cls, input_size, hidden_size):
        return {
            "weight_ih": (hidden_size, input_size),
            "weight_hh": (hidden_size, hidden_size),
            "bias": (hidden_size,),
        }

    def step(self, net_RBK, state):
        h = net_RBK + recur(state[0], self.weight_hh)
        return h, (h,)


def linear(*u: float) -> Network:
    """One unit, w = 1, b = 0, a readout of 1, and a trial for each u."""
    network = Network(Linear(1, 1, trials=len(u), backend="torch"), 1)
    network.load_flat(torch.tensor([[1.0, each, 0.0, 1.0, 0.0] for each in u]).double())
    return network


def sequences(values: list[list[float]], trials: int = 1, answers: str = "last") -> Sequences:
    """Sequences of one input and unequal lengths, the same for every trial, whose targets are zero."""
    lengths = np.array([len(value) for value in values])
    inputs = np.zeros((trials, len(values), lengths.max(), 1), np.float32)
    for b, value in enumerate(values):
        inputs[:, b, : len(value), 0] = value
    targets = np.zeros_like(inputs) if answers == "every" else np.zeros_like(inputs[:, :, :1])
    return Sequences(inputs, np.tile(lengths, (trials, 1)), targets)


def random_network(cell: Cell, outputs: int = 1, trials: int = 2) -> Network:
    network = Network(cell, outputs)
    network.initialise(range(trials))
    network.load_flat(network.flat.double())
    return network


def random_sequences(answers: str = "last", trials: int = 2) -> Sequences:
    rng = np.random.default_rng(0)
    return sequences([list(rng.standard_normal(length)) for length in (7, 5, 7)], trials, answers)


# Error flow


def test_error_in_a_linear_recurrence_is_multiplied_at_each_step():
    flow = error_flow(linear(0.5, 1.0, -2.0), LAST, sequences([[3, 0, 0, 0]], trials=3))
    assert flow.shape == (3, 1, 3)
    for trial, u in enumerate([0.5, 1.0, -2.0]):
        # h(4) = 3 u^3 and L = h(4)^2, so that dL/dh(4 - lag) = 2 h(4) u^lag.
        assert flow[trial, 0] == pytest.approx([abs(2 * 3 * u**3 * u**lag) for lag in (1, 2, 3)])


def test_error_is_counted_back_from_each_sequences_own_end():
    flow = error_flow(linear(0.5), LAST, sequences([[8, 0, 0, 0], [2, 0]]))
    assert flow[0, 1, 0] == pytest.approx(2 * (2 * 0.5) * 0.5)
    assert np.isnan(flow[0, 1, 1:]).all()
    assert not np.isnan(flow[0, 0]).any()


def test_relative_flow_starts_at_one_and_is_none_where_none_reaches_the_last_step():
    norms = np.array([[[2.0, 1.0, np.nan], [0.0, 0.0, 0.0]]])
    assert relative_flow(norms).tolist() == [[[1.0, 0.5, pytest.approx(np.nan, nan_ok=True)], [0.0, 0.0, 0.0]]]


def test_only_the_last_answer_sends_error_back():
    values = [[3, 1, -2, 5], [1, 1]]
    at_every_step = error_flow(linear(0.5), EVERY, sequences(values, answers="every"))
    assert at_every_step == pytest.approx(error_flow(linear(0.5), LAST, sequences(values)), nan_ok=True)


@pytest.mark.parametrize("output", ["neuron", "linear", "memory"])
def test_a_truncated_memory_carries_the_same_error_all_the_way(output):
    network = random_network(AMU(1, 2, trials=2, backend="torch", output=output))
    flow = error_flow(network, LAST, random_sequences(), truncated=True)
    known = ~np.isnan(flow)
    assert known.sum() == 2 * (6 + 4 + 6)
    assert (flow[..., :1] > 0).all()
    assert np.where(known, flow, flow[..., :1]) == pytest.approx(np.broadcast_to(flow[..., :1], flow.shape))


def test_the_truncated_error_is_that_of_the_output_neuron_through_v():
    network = random_network(AMU(1, 1, trials=1, backend="torch"), trials=1)
    few = sequences([[0.3, -0.5, 0.9]])
    flow = error_flow(network, LAST, few, truncated=True)
    _, output = traces(network, few)
    y = output[0, 0, -1, 0]
    readout, bias = network.readout_weight.item(), network.readout_bias.item()
    e = 2 * (readout * y + bias) * readout * (1 - y**2)
    assert flow[0, 0] == pytest.approx([abs(network.cell.weight_mh[0, 0].item() * e)] * 2)


@pytest.mark.parametrize("output", ["neuron", "linear", "memory"])
def test_the_truncated_step_has_the_gradient_of_the_truncated_scan(output):
    network = random_network(AMU(1, 2, trials=2, backend="torch", output=output, output_in_product=output == "memory"))
    x = torch.from_numpy(random_sequences().inputs).transpose(1, 2).double()
    asked = [network.cell.weight_ih, network.cell.weight_hh, network.cell.bias, network.cell.weight_mh]
    factors = torch.linspace(-1, 1, 7, dtype=torch.float64).view(1, 7, 1, 1)
    scan = torch.autograd.grad((network.cell(x)[0] * factors).sum(), asked)
    step, state, outputs = Step(network.cell, truncated=True), tuple(x.new_zeros(2, 3, size) for size in (6, 2)), []
    for t in range(7):
        y, state = step(x[:, t], state)
        outputs.append(y)
    by_step = torch.autograd.grad((torch.stack(outputs, 1) * factors).sum(), asked)
    for one, other in zip(scan, by_step, strict=True):
        torch.testing.assert_close(one, other)


def test_the_1997_memory_has_a_derivative_beside_its_truncated_flow():
    network = random_network(LSTM97(1, 2, trials=2, backend="torch", initial_range=1.0))
    few = random_sequences()
    truncated, full = (error_flow(network, LAST, few, truncated=each) for each in (True, False))
    known = ~np.isnan(truncated)
    assert np.where(known, truncated, truncated[..., :1]) == pytest.approx(
        np.broadcast_to(truncated[..., :1], truncated.shape)
    )
    same = random_network(LSTM97(1, 2, trials=2, backend="torch", initial_range=1.0, gradient="full"))
    assert full == pytest.approx(error_flow(same, LAST, few), nan_ok=True)
    assert (np.abs(full / truncated - 1)[known] > 1e-3).all()
    assert network.cell.gradient == "truncated"


def test_the_derivative_is_the_change_of_the_loss_when_the_state_is_moved():
    """By central differences of the last two steps, in both tensors of the state."""
    network = random_network(LSTM97(1, 2, trials=1, backend="torch", initial_range=1.0), trials=1)
    few = sequences([[0.3, -0.5, 0.9]])
    x = torch.from_numpy(few.inputs).transpose(1, 2).double()
    with torch.no_grad():
        _, (h, s) = network.cell(x[:, :2])
    sizes = (h.shape[-1], s.shape[-1])

    def loss(state):
        y, _ = network.cell(x[:, 2:], tuple(state.view(1, 1, -1).split(sizes, dim=-1)))
        return ((network.readout_weight * y.view(1, 1, -1)).sum() ** 2).item()  # biases="hidden": the readout has none

    state, width = torch.cat([h, s], dim=-1).flatten(), 1e-5
    moves = torch.eye(len(state), dtype=torch.float64) * width
    with torch.no_grad():
        slopes = [(loss(state + move) - loss(state - move)) / (2 * width) for move in moves]
    assert error_flow(network, LAST, few)[0, 0, 0] == pytest.approx(np.linalg.norm(slopes), rel=1e-6)


def test_a_cell_without_a_truncated_gradient_has_no_truncated_flow():
    with pytest.raises(ValueError, match="LSTM has no truncated gradient"):
        error_flow(random_network(LSTM(1, 2, trials=2, backend="torch")), LAST, random_sequences(), truncated=True)


# Conflict


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 1, 1], 0.0), ([1, -1, 4], 1 - 4 / 6), ([3, -1, 0], 1 - 2 / 4), ([2, -1, 3], 1 - 4 / 6), ([0, 0, 5], 0.0)],
)
def test_the_conflict_of_an_input_weight_is_that_of_its_inputs(values, expected):
    # With u = 1 every step's gradient of w is the same error times that step's input.
    measured = conflict(linear(1.0), LAST, sequences([values]))
    assert measured["conflict_weight_ih"] == pytest.approx([expected])
    assert measured["conflict_bias"] == pytest.approx([0.0])


def test_conflict_of_a_recurrence_by_hand():
    # u = -1, x = (1, 0, 0): h = 1, -1, 1; dL/dh = 2 h(3) (1, -1, 1), times x(t), h(t-1) and 1 for w, u and b.
    measured = conflict(linear(-1.0), LAST, sequences([[1, 0, 0]]))
    assert measured["conflict_weight_ih"] == pytest.approx([0.0])
    assert measured["conflict_weight_hh"] == pytest.approx([0.0])
    assert measured["conflict_bias"] == pytest.approx([1 - 1 / 3])
    assert measured["conflict"] == pytest.approx([(1 - 1 / 3) / 3])


def test_conflict_is_averaged_over_sequences_and_weights_without_gradient_left_out():
    values = [[1, -1, 4], [1, 1]]
    measured = conflict(linear(1.0, 1.0), LAST, sequences(values, trials=2))
    assert measured["conflict_weight_ih"] == pytest.approx([(1 - 4 / 6 + 0) / 2] * 2)
    silent = conflict(linear(1.0), LAST, sequences([[0, 0, 0]]))
    assert np.isnan(silent["conflict"]).all()


@pytest.mark.parametrize("gradient", ["full", "truncated"])
@pytest.mark.parametrize("answers", ["last", "every"])
def test_gradients_of_the_steps_sum_up_to_the_gradient(gradient, answers, monkeypatch):
    task = EVERY if answers == "every" else LAST
    network = random_network(AMU(1, 2, trials=2, backend="torch", gradient=gradient))
    few = random_sequences(answers)
    seen = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: seen.append(grad(*a, **k)) or seen[-1])
    conflict(network, task, few, truncated=gradient == "truncated")
    monkeypatch.undo()
    inputs, lengths, targets = (torch.from_numpy(part) for part in (few.inputs, few.lengths, few.targets))
    net = network(inputs.transpose(1, 2).double(), lengths, task.answer == "every")
    losses, _ = loss_and_error(net, targets.double(), lengths, task)
    whole = grad(losses.sum(), network.cell.weight_hh)[0]
    by_step = torch.stack(seen[0][1::4]).sum(dim=0).view(2, 3, 6, 6).sum(dim=1)
    torch.testing.assert_close(whole, by_step)


def test_conflict_does_not_depend_on_how_many_trials_are_looked_at_together(monkeypatch):
    network, few = random_network(LSTM(1, 2, trials=2, backend="torch")), random_sequences()
    together = conflict(network, LAST, few)
    monkeypatch.setattr("amu_experiments.studies.mechanism.NUMBERS_AT_ONCE", 1)
    alone = conflict(network, LAST, few)
    assert all(together[name] == pytest.approx(alone[name]) for name in together)


# Traces


def test_a_memory_driven_by_the_biases_alone_grows_by_their_product():
    network = Network(AMU(1, 1, trials=1, backend="torch", output_in_product=True, writers="tanh"), 1)
    # W, U, b, v of three neurons, then the readout.
    network.load_flat(torch.tensor([[0.0] * 3 + [0.0] * 9 + [0.5, 1.0, -1.0] + [0.0] * 3 + [1.0, 0.0]]).double())
    memory, output = traces(network, sequences([[1, 2, 3, 4]]))
    grown = math.tanh(0.5) * math.tanh(1.0) * math.tanh(-1.0)
    assert memory[0, 0, :, 0] == pytest.approx([grown, 2 * grown, 3 * grown, 4 * grown])
    assert output[0, 0, :, 0] == pytest.approx([math.tanh(0.5)] * 4)


# Stored runs


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the study writes for two runs of three trials that were hardly trained.

    A third run has too many steps, and a fourth is not asked for.
    """
    root = tmp_path_factory.mktemp("mechanism")
    for model, T in {"amu": 12, "lstm97": 12, "rnn": 21, "gru": 12}.items():
        training.run(
            load(
                *("task=two_sequence", f"model={model}", "model.units=2", f"task.T={T}", "trials=3"),
                *("training.max_sequences=20", "task.test_size=8", "backend=torch", f"results_dir={root / 'runs'}"),
            )
        )
    asked = ["--sequences", "5", "--steps", "20", "--where", "model == amu,lstm97,rnn"]
    main(["--results-dir", str(root / "runs"), "--out", str(root / "out"), *asked])
    return {name: pd.read_csv(root / "out" / f"{name}.csv.gz") for name in ("flow", "trials", "traces")}


def test_the_flow_of_stored_runs_is_told_for_every_cell_phase_and_lag(measured):
    flow = measured["flow"]
    assert set(flow["model"]) == {"amu", "lstm97"}
    assert set(flow["phase"]) == {"start", "trained"}
    for model in ("amu", "lstm97"):
        assert set(flow.loc[flow["model"] == model, "flow"]) == {"full", "truncated"}
    assert (flow["trials"] == 3).all()
    assert (flow.groupby(["model", "phase", "flow"])["lag"].min() == 1).all()
    assert (flow.loc[flow["lag"] == 1, "relative_median"] == 1).all()
    assert flow.loc[flow["flow"] == "truncated", "relative_low"].to_numpy() == pytest.approx(1)
    assert (flow.loc[(flow["flow"] == "full") & (flow["lag"] > 1), "relative_median"] != 1).all()


def test_a_condition_on_a_setting_that_no_run_has_is_told(tmp_path):
    write(tmp_path, "amu", [300])
    with pytest.raises(SystemExit, match="mechanism: --where: modl: no run has this key .did you mean model"):
        main(["--results-dir", str(tmp_path), "--out", str(tmp_path / "out"), "--where", "modl == amu"])


def test_conflict_of_stored_runs_is_told_trial_by_trial_for_the_gradient_they_learned_by(measured):
    conflicts = measured["trials"][measured["trials"]["quantity"].eq("conflict")]
    assert (conflicts["flow"] == "truncated").all()
    assert conflicts["value"].between(0, 1).all()
    of_amu = conflicts[(conflicts["model"] == "amu") & (conflicts["phase"] == "start")]
    assert len(of_amu) == 3


def test_only_an_amu_leaves_traces_and_each_ends_with_its_sequence(measured):
    assert set(measured["traces"]["model"]) == {"amu"}
    steps = measured["traces"].groupby(["sequence", "unit"])["step"]
    assert len(steps) == 2 * 2
    assert (steps.count() == steps.max()).all()
    assert steps.max().between(12, 13).all()


def test_traces_are_written_with_five_digits(measured):
    values = measured["traces"]["memory"].to_numpy()
    assert values.tolist() == [float(f"{value:.5g}") for value in values]
