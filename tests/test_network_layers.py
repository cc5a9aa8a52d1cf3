"""Networks of several layers: they compute what torch.nn computes, and are trained and stored like others."""

import numpy as np
import pytest
import torch
from torch import nn

from amu_experiments import store
from amu_experiments.cli import main
from amu_experiments.config import identity
from amu_experiments.network import build, count_parameters, match_units
from amu_experiments.overrides import load
from amu_experiments.plan import Run, prepare
from amu_experiments.stack import Stack
from amu_experiments.tasks import make_task

SMALL = ("task=adding", "task.T=10", "training.max_sequences=40", "training.evaluate_every=20")


def test_a_network_of_two_layers_is_that_of_torch():
    config = load(*SMALL, "model=lstm", "model.units=4", "model.layers=2")
    task = make_task(config["task"], [0, 1])
    network = build(config["model"], task, "torch", "cpu")
    reference = nn.LSTM(2, 4, num_layers=2)
    own = sum(p.numel() for p in reference.parameters()) - 2 * 16 + 4 + 1
    assert network.flat.shape == (2, own)
    assert count_parameters(config["model"], task, 4) == own
    data = task.validation()
    outputs = network.predict(data, every=False)
    x = torch.from_numpy(data.inputs).transpose(1, 2)
    for trial in (0, 1):
        single = {name: value[trial] for name, value in network.cell.state_dict().items()}
        layer = type(network.cell)(2, 4, 2, backend="torch")
        layer.load_state_dict(single)
        reference.load_state_dict(layer.torch_state_dict())
        y, _ = reference(x[trial])
        net = y[data.lengths[trial] - 1, torch.arange(y.shape[1])] @ network.readout_weight[trial].T
        wanted = (net + network.readout_bias[trial]).detach().numpy()
        np.testing.assert_allclose(outputs[trial, :, 0], wanted, atol=1e-5)


def test_the_number_of_units_counts_every_layer():
    # RNN: A (2 + A) + A, then A (A + A) + A for each further layer, and a readout of A + 1.
    task = make_task(load(*SMALL)["task"], [0])
    for layers, wanted, units in ((1, 24, 3), (2, 51, 3), (2, 500, 12), (3, 75, 3)):
        model = {"cell": "rnn", "parameters": wanted, "units": None, "layers": layers}
        assert match_units(model, task) == units


def test_learning_with_compiled_layers_is_learning_in_torch():
    stacks = []
    for backend in ("auto", "torch"):
        config = load(*SMALL, "model=rnn", "model.units=1", "model.layers=3", f"backend={backend}")
        stacks.append(Stack(Run(config, None, [0, 1])))
        stacks[-1].learn(40)
    fused, plain = (stack.network for stack in stacks)
    assert (fused.backend, plain.backend) == ("torch", "torch")
    torch.testing.assert_close(fused.flat, plain.flat, rtol=1e-4, atol=1e-5)
    assert not torch.equal(fused.flat, build(config["model"], stacks[0].task, "torch", "cpu").flat)


def test_a_run_of_two_layers_says_where_it_trains_and_is_stored_beside_that_of_one(tmp_path, capsys):
    line = "model.layers=2: training runs in torch, with compiled layers if the cell has a compiled form."
    two, results = ["model.layers=2"], {}
    for words in (["trials=2"], ["trials=2", "model.layers=1"], ["trials=2", *two], ["trials=3", *two]):
        assert main([*SMALL, "model=rnn", "model.units=1", f"results_dir={tmp_path}", *words]) == 0
        assert capsys.readouterr().out.count(line) == ("model.layers=2" in words)
        results = {result.config["model"].get("layers"): result for result in store.read_results(tmp_path)}
    assert set(results) == {None, 2}
    assert results[2].trials["trial"].tolist() == [0, 1, 2]
    assert results[2].trials["parameters"].tolist() == [1 * 2 + 1 + 1 + 1 + 1 + 1 + 2] * 3


def test_one_layer_is_no_part_of_an_identity():
    config = prepare(load(*SMALL, "model=gru", "backend=torch")).config
    one, two = ({**config, "model": {**config["model"], "layers": layers}} for layers in (1, 2))
    assert identity(one) == identity(config) != identity(two)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["model=gru", "model.layers=0"], "model.layers=0: must be a whole number from 1 to 100"),
        (["model=gru", "model.layers=2", "backend=fused"], "backend=fused: trains one layer only, and model.layers=2"),
        (["model.cell=torch.nn.GRUCell", "model.layers=2"], "model.layers=2: must be 1; torch.nn.GRUCell is no "),
    ],
)
def test_layers_that_cannot_be_trained_are_named(words, error, capsys):
    assert main([*SMALL, *words]) == 2
    line = capsys.readouterr().err
    assert error in line
    assert line.count("\n") == 1
