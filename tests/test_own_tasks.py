"""A mistake in a user's own task is one line with its place in the file, before anything is written."""

import sys

import pytest

from amu_experiments.cli import main

COUNT = '''
"""Count the ones in a string of bits."""

import numpy as np

from amu_experiments.tasks.task import Sequences, Task


class Count(Task):
    input_size = 1
    output_size = 1
    metrics = ("error",)

    def draw(self, rng, count, split):
        lengths = rng.integers(2, 6, count)
        bits = rng.integers(0, 2, (count, 5)) * (np.arange(5) < lengths[:, None])
        ones = bits.sum(axis=1)
        return Sequences(bits[..., None].astype(np.float32), lengths, ones[:, None, None].astype(np.float32))

    def measure(self, outputs, sequences):
        return {"error": float(np.abs(outputs - sequences.targets).mean())}
'''
"""The mean error of the answers is its metric."""


@pytest.fixture
def count(tmp_path, monkeypatch):
    """Trains a short run of the task, in an empty folder, after replacing one text in its file; the exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "my/conf/task").mkdir(parents=True)
    (tmp_path / "my/conf/task/count.yaml").write_text("# @package _global_\ntask: {problem: own_count.Count}\n")

    def train(old: str = "", new: str = "", *words: str) -> int:
        assert old in COUNT
        (tmp_path / "own_count.py").write_text(COUNT.replace(old, new, 1))
        sys.modules.pop("own_count", None)
        words = words or ("--config-dir=my/conf",)
        return main([*words, "task=count", "model=rnn", "model.units=2", "trials=2", "training.max_sequences=20"])

    yield train
    sys.modules.pop("own_count", None)


def test_a_task_without_mistakes_is_trained(count):
    assert count() == 0


SETS = "return {'train': 1, 'validation': 2}\n\n    def draw("

MISTAKES = [
    ("ones[:, None, None]", "ones[:, None]", "draw() for train: targets are (3, 1): must be (3, 1, 1) with answer"),
    ("bits[..., None]", "bits", "draw() for train: inputs are (3, 5): must be (sequences, steps, 1), as input_size"),
    ("lengths, ones", "lengths * 0, ones", "lengths are from 0 to 0: must be from 1 to 5, the steps of the inputs"),
    ("lengths, ones", "lengths / 2, ones", "lengths are (3,) of float64: must be (3,) and whole numbers"),
    ("        ones = ", "        ones = np.nan * ", "draw() for train: targets must be finite real numbers"),
    ("return Sequences(", "return tuple(", "draw(): TypeError: "),
    ("return Sequences(bits", "return (bits", "draw() for train: tuple must be Sequences(inputs, lengths, targets)"),
    ("rng.integers(2, 6, count)", "rng.integer(2)", "draw(): AttributeError: "),
    ('{"error"', '{"err"', "measure() returns err: must have error, as `metrics` says"),
    ("np.abs(outputs", "np.abs(output", "measure(): NameError: name 'output' is not defined"),
    (
        "    def draw(",
        f"    def sets(self, rng):\n        {SETS}",
        "sets() must return a dict with train, validation, ",
    ),
    (
        'metrics = ("error",)',
        'metrics = ("error",)\n    loss = "binary_cross_entropy"',
        "must be from 0 to 1 with binary_",
    ),
]


@pytest.mark.parametrize(("old", "new", "words"), MISTAKES)
def test_a_mistake_in_a_task_is_one_line(count, tmp_path, capsys, old, new, words):
    assert count(old, new) == 2
    said = capsys.readouterr().err
    assert said.startswith("amu-run: task.problem=own_count.Count: ")
    assert words in said
    assert said.count("\n") == 1
    assert f"{tmp_path / 'own_count.py'}, line " in said
    assert not (tmp_path / "results").exists()


def test_a_forgotten_folder_of_ones_own_is_named(count, capsys):
    assert count("", "", "seed=1") == 2
    line = "amu-run: task=count: no such task; amu-run --help lists them (it is in my/conf: add --config-dir my/conf)\n"
    assert capsys.readouterr().err == line
