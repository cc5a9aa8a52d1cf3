"""The Python interface gives what the store has, to the bit, and the README's program runs as it stands there."""

import doctest
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from handmade import write

import amu_experiments
from amu_experiments import library, load_network, load_results, run, store
from amu_experiments.analysis.report import write_report
from amu_experiments.cli import main
from amu_experiments.console import LOGGER
from amu_experiments.files import UnusableError
from amu_experiments.options import ConfigurationError

README = (Path(__file__).parents[1] / "README.md").read_text()

SMALL = {"training.max_sequences": 60, "training.evaluate_every": 20, "training.stop": None}
ADDING = ("task=adding", "task.T=8", "task.validation_size=16", "task.test_size=16")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def as_written(value: float) -> str:
    """A number as the tables of the store have it."""
    return f"{value:.7g}"


def rows(stack: Path, name: str) -> pd.DataFrame:
    """A table of a stack as text, without the time that training took."""
    return pd.read_csv(stack / name, dtype=str).drop(columns="seconds")


def test_the_examples_of_the_docstrings():
    failed, tried = doctest.testmod(library)
    assert (failed, tried > 5) == (0, True)


def test_the_program_of_the_readme(folder):
    code = re.search(r"^## From Python\n.*?```python\n(.*?)^```$", README, re.M | re.S)[1]
    assert len([line for line in code.splitlines() if line]) <= 15
    names = {}
    exec(code.replace("20_000", "600").replace("1000", "200"), names)
    network, outputs, test, results = (names[name] for name in ("network", "outputs", "test", "results"))
    assert set(results.trials["model"]) == {"lstm", "gru"}
    assert len(results.trials) == 20
    assert outputs.shape == test.targets.shape
    assert network.cell.weight_hh_l0.shape[1] == results[0].config["model"]["units"]
    assert (folder / "adding.png").exists()


def test_optuna_tunes_and_a_study_started_again_trains_nothing_twice():
    code = re.search(r"^```python\n(import optuna\n.*?)^```$", README, re.M | re.S)[1]
    small = code.replace("20_000", "60").replace("1000}", "20}").replace("n_trials=20", "n_trials=3")
    studies = []
    for _ in range(2):
        names = {}
        exec(small, names)
        studies.append(names["study"])
        stored = load_results()
    values = [[trial.value for trial in study.trials] for study in studies]
    assert values[0] == values[1]
    rates = [trial.params["training.learning_rate"] for trial in studies[0].trials]
    assert sorted(result.config["training"]["learning_rate"] for result in stored) == sorted(rates)
    medians = stored.trials.groupby("training.learning_rate")["loss"].median()
    assert studies[0].best_value == medians.min()
    assert set(stored.trials["trial"]) == set(range(1000, 1005))


def test_the_same_run_as_the_command(folder):
    """The same rows, weights and identity; provenance states the command."""
    small = [f"{key}={'null' if value is None else value}" for key, value in SMALL.items()]
    assert main([*ADDING, "model=gru", *small, "trials=2", "results_dir=typed"]) == 0
    (result,) = run(*ADDING, "model=gru", trials=2, results_dir=folder / "called", **SMALL)
    (typed,) = store.read_results("typed")
    assert result.identity == typed.identity
    assert (result.stacks[0] / "weights.npz").read_bytes() == (typed.stacks[0] / "weights.npz").read_bytes()
    for name in ("trials.csv", "history.csv"):
        pd.testing.assert_frame_equal(rows(result.stacks[0], name), rows(typed.stacks[0], name))
    command = store.read_provenances([result], [])[0][2]["command"]
    assert command.startswith("amu-run task=adding task.T=8")
    assert command.endswith("training.max_sequences=60 training.evaluate_every=20 training.stop=null")


def test_a_run_prints_nothing_and_trains_only_what_is_missing(capfd, caplog, monkeypatch):
    # A command in this process may have given the root logger a handler whose output is gone.
    monkeypatch.setattr(logging.root, "handlers", [caplog.handler])
    caplog.set_level(logging.INFO, LOGGER)
    run(*ADDING, "model=rnn", trials=3, **SMALL)
    results = run(*ADDING, "model=rnn", trials=2, **SMALL)
    assert results.trials["trial"].tolist() == [0, 1]
    assert caplog.messages[-1:] == ["All 2 requested trials already exist: nothing to train."]
    assert capfd.readouterr() == ("", "")
    run(*ADDING, "model=rnn", trials=1, seed=7, progress=True, **SMALL)
    out, bar = capfd.readouterr()
    assert out == ""
    assert "adding rnn" in bar
    assert "60/60" in bar


def test_a_sweep_gives_a_configuration_for_each_combination_and_tables_of_all():
    results = run(*ADDING, "model=amu,lstm", sweep=True, trials=2, **SMALL, **{"model.units": 3})
    assert [result.model for result in results] == ["amu", "lstm"]
    trials, history = results.trials, results.history
    assert len(trials) == 4
    assert len(history) == 4 * 3
    assert trials["task.T"].tolist() == [8] * 4
    assert trials["model.gradient"].isna().tolist() == [False, False, True, True]
    assert list(trials.columns[:3]) == list(history.columns[:3]) == ["task", "model", "identity"]
    stored = pd.concat([result.trials for result in results], ignore_index=True)
    pd.testing.assert_frame_equal(trials[stored.columns], stored)
    again = load_results(where="model == lstm")
    assert [result.identity for result in again] == [results[1].identity]
    assert len(results[:1]) == 1


def test_mistakes_stop_a_run_before_it_starts(folder):
    for wrong, words in (
        (("task=adding", "model=lstmm"), "did you mean lstm"),
        (("task=adding", "model=lstm,gru"), "several values"),
        (("task=adding", "model.unitz=3"), "did you mean"),
        (("task=adding", "launcher=local"), "launcher=local: only amu-run -m starts jobs through a launcher"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            run(*wrong)
    with pytest.raises(ConfigurationError, match="config_dir=nowhere: no such folder"):
        run("task=adding", config_dir="nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_results("nowhere")
    assert list(folder.iterdir()) == []


def test_what_cannot_be_read_is_warned_about(folder):
    write(folder / "runs", "lstm", [500, None])
    broken = write(folder / "runs", "gru", [600]).folder
    (broken / "config.yaml").write_text("{")
    with pytest.warns(RuntimeWarning, match=r"Left out: .*config.yaml: holds no configuration"):
        results = load_results("runs")
    assert [result.model for result in results] == ["lstm"]
    assert len(load_results("runs/two_sequence/lstm")) == 0
    assert load_results("runs/two_sequence/lstm").trials.empty


# A stored network -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        (*ADDING, "model=amu"),
        ("task=embedded_reber", "task.strings=16", "model=lstm97"),  # answers at every step, strings of any length
        ("task=japanese_vowels", "model=gru", "model.parameters=200"),  # softmax, sequences of unequal lengths
        (*ADDING, "model=lstm", "backend=torch"),
    ],
)
def test_a_stored_network_is_the_one_that_was_tested(settings):
    results = run(*settings, trials=2, **SMALL)
    weights = store.read_weights(results[0].folder)
    for trial in (0, 1):
        network = load_network(results, trial)
        readout = [p.detach().numpy().flatten() for name, p in network.named_parameters() if name.startswith("readout")]
        cell = [p.detach().numpy().flatten() for p in network.cell.parameters()]
        assert np.concatenate([*cell, *readout]).tobytes() == weights[trial].tobytes()
        row = results.trials.loc[trial]
        measured = {f"test_{name}": value for name, value in network.measure(network.data("test")).items()}
        measured |= network.measure(network.data("validation"))
        for name, value in measured.items():
            if "backend=torch" in settings:
                assert value == pytest.approx(row[name], rel=1e-5)
            else:
                assert as_written(value) == as_written(row[name]), name


def test_a_confusion_matrix_has_the_names_of_the_classes(folder):
    """Its rows count the test series of each class, and its diagonal those answered right."""
    names = np.array(["No. 1", "true", "Ü", "null"])
    classes = {"train": np.repeat(names, 4), "test": np.repeat(names, [1, 2, 3, 4])}
    rng = np.random.default_rng(0)
    series = {f"x_{part}": rng.normal(size=(len(y), 6, 1)) for part, y in classes.items()}
    np.savez(folder / "odd.npz", **series, **{f"y_{part}": y for part, y in classes.items()})
    (result,) = run("task=time_series", "task.path=odd.npz", "model=gru", "backend=torch", trials=1, **SMALL)
    network = load_network(result, 0)
    confusion = network.confusion(network.data("test"))
    assert list(confusion.index) == list(confusion.columns) == sorted(names, key=str.lower)
    assert confusion.sum(axis=1).to_dict() == dict(zip(names, [1, 2, 3, 4], strict=True))
    assert np.trace(confusion) / 10 == pytest.approx(result.trials["test_accuracy"][0])
    # The report's table has the same numbers.
    write_report("results/runs", "report", parts=["tables"])
    (path,) = Path("report/tables").glob("*-confusion.csv")
    table = pd.read_csv(path, keep_default_na=False).set_index(["true_class", "answered_class"])["answers"]
    assert table.to_dict() == confusion.stack()[lambda count: count > 0].to_dict()


def test_a_task_without_classes_has_no_confusion_matrix():
    network = load_network(run(*ADDING, "model=lstm", trials=1, **SMALL), 0)
    with pytest.raises(ValueError, match="the task has no classes"):
        network.confusion(network.data("test"))


def test_outputs_in_torch_have_derivatives_and_equal_those_predicted():
    results = run("task=embedded_reber", "task.strings=16", "model=amu", trials=1, **SMALL)
    network = load_network(results, 0)
    few = network.data("train").take(np.s_[:5]).trimmed()
    inputs = torch.from_numpy(few.inputs).requires_grad_()
    outputs = network(inputs, torch.from_numpy(few.lengths))
    inside = np.arange(outputs.shape[1]) < few.lengths[:, None]
    np.testing.assert_allclose(outputs.detach().numpy()[inside], network.predict(few)[inside], atol=1e-5)
    assert (network.predict(few)[~inside] == 0).all()
    outputs[0, few.lengths[0] - 1, 0].backward()
    assert inputs.grad[0].abs().sum() > 0
    assert network.cell.weight_ih_l0.grad.shape == network.cell.weight_ih_l0.shape
    assert network(inputs).shape == outputs.shape


def test_a_changed_parameter_changes_predictions():
    results = run(*ADDING, "model=lstm", trials=1, **SMALL)
    network = load_network(results[0], 0)
    test = network.data("test")
    with torch.no_grad():
        network.readout_weight.zero_()
        network.readout_bias.fill_(0.25)
    assert (network.predict(test) == 0.25).all()
    assert (network(torch.from_numpy(test.inputs)) == 0.25).all()


def test_a_torch_module_as_a_cell_keeps_its_names():
    results = run(*ADDING, "model.cell=torch.nn.GRUCell", "model.units=3", trials=1, **SMALL)
    names = [name for name, _ in load_network(results, 0).named_parameters() if name.startswith("cell.")]
    assert names == ["cell.weight_ih", "cell.weight_hh", "cell.bias_ih", "cell.bias_hh"]


def test_a_network_that_is_not_stored_is_an_error(folder):
    one = write(folder / "runs", "lstm", [500, None])
    write(folder / "runs", "gru", [600])
    with pytest.raises(ValueError, match=r"trial=2: .* has no such trial; it has 0, 1"):
        load_network(one, 2)
    with pytest.raises(ValueError, match="there are 2 configurations"):
        load_network(load_results("runs"), 0)
    with pytest.raises(UnusableError, match="weights.npz is not there"):
        load_network(one, 0)


# Imports --------------------------------------------------------------------------------------------------------------


def test_every_name_of_the_package_is_there():
    assert {name for name in amu_experiments.__all__ if callable(getattr(amu_experiments, name))} == set(
        amu_experiments.__all__
    )


USED_BEFORE = """
import sys
from amu_experiments import load_results, run
assert "torch" not in sys.modules
import torch
torch.zeros(2) + 1
run("task=adding", "model=rnn", "task.T=8", "training.max_sequences=20", "training.evaluate_every=20", trials=1)
print(len(load_results()))
"""


def test_torch_is_imported_late_and_warned_about_if_it_was_used_before():
    done = subprocess.run(
        [sys.executable, "-c", USED_BEFORE],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"
    assert ("torch was used before amu_experiments" in done.stderr) == (library.numerics.portable_name() == "x86-64-v3")
