"""What the README tells a newcomer to write and to type is tried as it stands there."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

import amu_experiments.cells
import amu_experiments.tasks
from amu_experiments import store
from amu_experiments.cli import main
from amu_experiments.overrides import load_all

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text()


def code_after(heading: str) -> str:
    """The fenced block below a line that names a file."""
    return re.search(rf"^`{re.escape(heading)}`\n\n```\w+\n(.*?)^```$", TEXT, re.M | re.S)[1]


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """The README's cell and task, where a checkout would have them."""
    for package in (amu_experiments.cells, amu_experiments.tasks):
        folder = tmp_path / package.__name__.rpartition(".")[2]
        folder.mkdir()
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    for group, name, package in (("model", "ugrnn", "cells"), ("task", "parity", "tasks")):
        (tmp_path / package / f"{name}.py").write_text(code_after(f"amu_experiments/{package}/{name}.py"))
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(code_after(f"conf/{group}/{name}.yaml"))
    yield tmp_path / "conf"
    for name in ("amu_experiments.cells.ugrnn", "amu_experiments.tasks.parity"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("choice", [("task=adding", "task.T=20", "model=ugrnn"), ("task=parity", "model=rnn")])
def test_the_cell_and_the_task_of_the_readme_train(conf, tmp_path, choice):
    least = ("training.max_sequences=40", "training.evaluate_every=20", "trials=2", "backend=torch")
    assert main([f"--config-dir={conf}", *choice, *least, f"results_dir={tmp_path}/runs"]) == 0
    (result,) = store.read_results(tmp_path / "runs")
    assert len(result.trials) == 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("model.initial_range=-1", "model.initial_range=-1: must be a number above 0"),
        ("model.initial_range=0", "model.initial_range=0: must be a number above 0"),
        ("task.T=1", "task.T=1: must be a whole number from 2 to 1000"),
        ("task.T=2.5", "task.T=2.5: must be a whole number from 2 to 1000"),
    ],
)
def test_the_cell_and_the_task_of_the_readme_are_checked_like_any_other(
    conf, tmp_path, monkeypatch, capsys, wrong, words
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main([f"--config-dir={conf}", "task=parity", "model=mgu", wrong]) == 2
    assert capsys.readouterr().err.startswith(f"amu-run: {words}")
    assert sorted(tmp_path.iterdir()) == before


def test_the_task_of_the_readme_is_parity(conf, monkeypatch):
    """The numbers of ones in the strings, counted here, are odd where the target is 1."""
    (config,) = load_all(["task=parity"], config_dir=str(conf))
    parity = amu_experiments.tasks.make_task(config["task"], [0])
    batch = parity.train_batch(0, 50)
    for bits, length, target in zip(batch.inputs[0], batch.lengths[0], batch.targets[0], strict=True):
        assert int(bits[:length].sum()) % 2 == int(target[0, 0])


def commands() -> list[str]:
    typed = re.findall(r"^    (?:pip install \S+ && )?(amu-run .*)$", TEXT, re.M)
    return typed + re.findall(r"`(amu-run (?:task|experiment)=[^`]*)`", TEXT)


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_readme_is_a_valid_one(conf, command):
    words = shlex.split(command, comments=True)[1:]
    sweep = "-m" in words
    configs = load_all([word for word in words if word != "-m"], sweep, config_dir=str(conf))
    assert len(configs) > 1 or not sweep


def test_results_in_the_readme_are_those_of_the_committed_tables(monkeypatch):
    monkeypatch.syspath_prepend(README.parent / "scripts")
    assert importlib.import_module("make_readme").rewritten(TEXT) == TEXT


def test_the_files_that_the_readme_points_to_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (README.parent / target).exists(), target
