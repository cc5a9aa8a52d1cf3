"""Classes of torch modules as cells: the same protocol, data and readout as for the cells of the package."""

import math
import shlex
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from amu_experiments import store
from amu_experiments.cells import cell_class
from amu_experiments.cli import main
from amu_experiments.network import build, match_units
from amu_experiments.overrides import load
from amu_experiments.plan import Run
from amu_experiments.stack import Stack
from amu_experiments.tasks import make_task
from amu_experiments.training import run

SOURCE = '''
import torch
from torch import nn


class Leaky(nn.Module):
    """Needs a state, and returns an output and a state."""

    def __init__(self, inputs, units, leak: float = 0.5, power: int = 1):
        super().__init__()
        self.leak = leak
        self.register_buffer("one", torch.ones(1))
        self.weight = nn.Parameter(torch.randn(units, inputs))
        self.fixed = nn.Parameter(torch.randn(units, units) / units**0.5, requires_grad=False)

    def forward(self, x, h):
        h = (self.one - self.leak) * h + self.leak * torch.tanh(x @ self.weight.T + h @ self.fixed.T)
        return 2 * h, h


class Branching(nn.Module):
    """Its Python depends on its data."""

    def __init__(self, inputs, units):
        super().__init__()
        self.cell = nn.Linear(inputs + units, units)

    def forward(self, x, state=None):
        h = x.new_zeros(len(x), self.cell.out_features) if state is None else state[0]
        h = torch.tanh(self.cell(torch.cat([x, h], 1)))
        return (h * 2 if h.sum() > 0 else h,)


class Wrong(nn.Module):
    def __init__(self, inputs, units, fault: str = "none"):
        super().__init__()
        self.fault = fault
        if fault == "made":
            raise RuntimeError("not today")
        if fault == "random buffer":
            self.register_buffer("mask", torch.rand(units))
        self.register_buffer("count", torch.zeros(1))
        self.cell = nn.GRUCell(inputs, units)
        self.wide = nn.Linear(units, units + 1)

    def forward(self, x, h=None):
        if self.fault == "called":
            return x @ self.nothing
        h = self.cell(x, h)
        if self.fault == "random":
            return nn.functional.dropout(h)
        if self.fault == "counts":
            self.count += 1
        if self.fault == "wide":
            return self.wide(h), h
        return h[:1] if self.fault == "one sequence" else "h" if self.fault == "text" else h


class NoModule:
    pass
'''


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """The classes in the current folder."""
    (tmp_path / "own_modules.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("own_modules", None)


def adding(trials=(0,)):
    return make_task(load("task=adding", "task.T=10")["task"], trials)


def network(cell, trials=(0, 1), units=4, **options):
    return build({"cell": cell, "units": units, **options}, adding(trials), "auto", "cpu")


def outputs(cell, x_RTBI, lengths_RB):
    return cell(x_RTBI, None, lengths_RB)[0].detach()


def batch(R=2, T=6, B=3):
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.standard_normal((R, T, B, 2)), dtype=torch.float32)
    return x, torch.tensor([[6, 3, 1], [2, 6, 5]])[:R]


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_a_cell_of_torch_gives_the_outputs_of_ours_with_equal_weights(name):
    theirs = network(f"torch.nn.{name.upper()}Cell").cell
    ours = cell_class(name)(2, 4, trials=2, backend="torch")
    ih, hh, bias_ih, bias_hh = theirs.ordered_parameters()
    with torch.no_grad():
        ours.weight_ih.copy_(ih)
        ours.weight_hh.copy_(hh)
        ours.bias.copy_(bias_ih)
        if name == "gru":
            ours.bias[:, :8] += bias_hh[:, :8]
            ours.bias_hn.copy_(bias_hh[:, 8:])
        else:
            ours.bias.add_(bias_hh)
    x, lengths = batch()
    torch.testing.assert_close(outputs(theirs, x, lengths), outputs(ours, x, lengths))


@pytest.mark.parametrize(
    "cell", ["torch.nn.LSTMCell", "torchrecurrent.MGUCell", "own_modules.Leaky", "own_modules.Branching"]
)
def test_a_trial_depends_on_its_seed_alone(cell):
    x, lengths = batch()
    torch.manual_seed(1)
    both = network(cell)
    torch.manual_seed(2)
    second = network(cell, [1])
    torch.testing.assert_close(both.flat[1:], second.flat, rtol=0, atol=0)
    assert not torch.equal(both.flat[0], both.flat[1])
    torch.testing.assert_close(outputs(both.cell, x, lengths)[1:], outputs(second.cell, x[1:], lengths[1:]))
    kept = torch.rand(1)
    torch.manual_seed(2)
    assert torch.equal(torch.rand(1), kept)


def test_initial_values_are_the_modules_own():
    """Glorot's range for each matrix, and biases of zero, in torchrecurrent."""
    ih, hh, *biases = network("torchrecurrent.MGUCell", range(20), 30).cell.ordered_parameters()
    for matrix in (ih, hh):
        bound = math.sqrt(6 / sum(matrix.shape[1:]))
        assert 0.99 * bound < matrix.abs().max() <= bound
    assert all((bias == 0).all() for bias in biases)


def test_a_parameter_without_a_gradient_is_not_trained():
    config = load("task=adding", "model.cell=own_modules.Leaky", "trials=2", "task.T=10", "model.units=3")
    stack = Stack(Run(config, None, [0, 1]))
    before = stack.network.flat.clone()
    stack.learn(40)
    changed = (stack.network.flat != before).all(dim=0).tolist()
    assert changed == [True] * 6 + [False] * 9 + [True] * 4


def test_the_number_of_units_is_the_one_that_comes_nearest_to_the_number_of_parameters():
    # 4 A (2 + A) + 8 A, and a readout of A + 1: 89 for 3, 133 for 4 and 185 for 5 units.
    for parameters, units in ((1, 1), (110, 3), (112, 4), (159, 4), (160, 5), (10_000, 48)):
        assert match_units({"cell": "torch.nn.LSTMCell", "parameters": parameters}, adding()) == units
    # A (2 + A), and a readout of A + 1.
    assert match_units({"cell": "own_modules.Leaky", "parameters": 28 + 1}, adding()) == 4


def test_runs_are_trained_and_resumed_like_any_other(tmp_path, capsys):
    sizes = ["training.max_sequences=40", "training.evaluate_every=20", "task.T=10"]
    for words in (
        ["model.cell=torch.nn.GRUCell", "model.bias=false"],
        ["model.cell=own_modules.Leaky", "model.leak=0.25"],
        ["model.cell=own_modules.Leaky"],
    ):
        assert main(["task=adding", *words, "trials=2", *sizes]) == 0
    results = {(r.model, r.config["model"].get("leak")): r for r in store.read_results(tmp_path / "results" / "runs")}
    assert set(results) == {("gru_cell", None), ("leaky", 0.25), ("leaky", None)}
    assert results["gru_cell", None].config["model"] == {"cell": "torch.nn.GRUCell", "units": 5, "bias": False}
    assert not results["leaky", None].trials.equals(results["leaky", 0.25].trials)
    more = run(load("task=adding", "model.cell=own_modules.Leaky", "trials=3", *sizes))
    first = more.trials[more.trials["trial"] < 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, results["leaky", None].trials)


def test_a_class_in_a_file_of_the_user_and_in_a_sweep(tmp_path, capsys):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "leaky.yaml").write_text("cell: own_modules.Leaky\nleak: 0.5\n")
    sizes = ["training.max_sequences=20", "training.evaluate_every=20", "trials=1", "task.T=10"]
    assert main(["--config-dir", "conf", "task=adding", "model=leaky", "model.leak=0.75", *sizes]) == 0
    sweep = ["-m", "task=adding", "model.cell=own_modules.Leaky,torch.nn.RNNCell", *sizes]
    assert main([*sweep, "hydra/launcher=basic"]) == 0
    assert "~" not in capsys.readouterr().out
    models = sorted(result.model for result in store.read_results(tmp_path / "results" / "runs"))
    assert models == ["leaky", "leaky", "rnn_cell"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("nosuch.Cell", "model.cell: nosuch.Cell: no module nosuch, neither installed nor in the current "),
        ("torch.nn.LSTMcell", "module torch.nn has no class LSTMcell (did you mean torch.nn.LSTMCell?)"),
        ("own_modules.NoModule", "NoModule is not a subclass of amu_experiments.cells.cell.Cell or torch.nn."),
        ("torch.nn.LSTM", "torch.nn.LSTM: for an input of shape (3, 2) it returns ((3, 1), ((1, 1), (1, 1)))"),
        ("torchrecurrent.MGU", "(did you mean torchrecurrent.MGUCell?)"),
        ("torch.nn.Linear", "torch.nn.Linear: a call with an input of shape (3, 2) raises TypeError: "),
        ("torch.nn.ReLU", "torch.nn.ReLU: ReLU(2, 1) raises TypeError: "),
        ("torch.nn.GRUCell model.gate=1", "model.gate is not an option of torch.nn.GRUCell, which has bias"),
        ("torch.nn.GRUCell model.bias=1", "model.bias=1: must be true or false"),
        ("torch.nn.GRUCell model.initial_range=1", "model.initial_range is not an option of torch.nn.GRUCell"),
        ("torch.nn.GRUCell backend=fused", "backend=fused: torch.nn.GRUCell has no compiled form; use torch"),
        ("torch.nn.GRUCell model=gru", "model.cell=torch.nn.GRUCell: must be gru here (model=NAME chooses"),
        ("amu,torch.nn.GRUCell", "model.cell=amu: is no MODULE.CLASS; write model=NAME instead"),
        ("own_modules.Leaky model.leak=a", "model.leak=a: must be a number"),
        ("own_modules.Wrong model.fault=made", "Wrong(2, 1, fault='made') raises RuntimeError: not today"),
        ("own_modules.Wrong model.fault=called", "raises AttributeError: 'Wrong' object has no attribute 'noth"),
        ("own_modules.Wrong 'model.fault=random buffer'", "buffer mask is random; make it a parameter with "),
        ("own_modules.Wrong model.fault=random", "two equal calls differ: it is random, as with dropout, or "),
        ("own_modules.Wrong model.fault=counts", "a call changes buffer count, as batch normalisation does"),
        ("own_modules.Wrong model.fault=wide", "its output has shape (3, 2): must be (3, 1)"),
        ("own_modules.Wrong 'model.fault=one sequence'", "it returns (1, 1): must be a state, tensors of shape"),
        ("own_modules.Wrong model.fault=text", "it returns str: must be a state, tensors of shape (3, ...)"),
    ],
)
def test_a_mistake_is_an_error_in_one_line(words, error, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    cell, *others = shlex.split(words)
    assert main([*["-m"] * ("," in cell), "task=adding", "trials=1", f"model.cell={cell}", *others]) in (1, 2)
    line = capsys.readouterr().err
    assert error in line
    assert line.startswith("amu-run: ")
    assert line.count("\n") == 1
    assert len(line) <= 300
    if "backend" not in words:
        assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == before
