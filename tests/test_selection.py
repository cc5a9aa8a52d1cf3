"""Conditions on settings: which runs they select, and the message for a wrong one."""

import pytest
from handmade import write

from amu_experiments.analysis.report import main
from amu_experiments.options import ConfigurationError
from amu_experiments.selection import select


@pytest.fixture
def results(tmp_path):
    return [
        write(tmp_path, "amu", [300], model={"gradient": "full", "code": "1997", "bias": True}),
        write(tmp_path, "lstm", [300], training={"max_sequences": 50_000, "stop": None}),
        write(tmp_path, "gru", [300], training={"max_sequences": 100_000, "learning_rate": 1e-3}),
    ]


@pytest.mark.parametrize(
    ("where", "models"),
    [
        (["training.max_sequences >= 50000"], ["lstm", "gru"]),
        (["training.max_sequences>=5e4", "training.learning_rate != 0.001"], ["lstm"]),
        (["training.max_sequences < 50_000"], ["amu"]),
        (["model == lstm,gru"], ["lstm", "gru"]),
        (["model != lstm,gru"], ["amu"]),
        (["model = amu"], ["amu"]),
        (["model.gradient == 'full'"], ["amu"]),
        (["model.gradient != full"], []),  # no other run has this key
        (["training.stop == null"], ["lstm"]),
        (["training.stop != null"], ["amu", "gru"]),
        (["model.bias == true"], ["amu"]),
        (["model.bias == 1"], []),
        (["model.code == 1997"], ["amu"]),
        (["model.gradient < 3"], []),
        (["task.criteria.noisy_input.st2.wrong == < 6"], ["amu", "lstm", "gru"]),
        ([], ["amu", "lstm", "gru"]),
    ],
)
def test_the_runs_that_meet_every_condition(results, where, models):
    assert [result.model for result in select(results, where)] == models


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("max_sequences >= 5", r"max_sequences: no run has this key \(did you mean training.max_sequences\?\)"),
        ("training.learning_rat > 0", r"did you mean training.learning_rate\?"),
        ("lstm", "lstm: is not a condition; write KEY, a sign"),
        ("model ==", "model ==: is not a condition"),
        ("model > lstm", "model > lstm: > needs a number"),
    ],
)
def test_a_wrong_condition_is_refused(results, where, words):
    with pytest.raises(ConfigurationError, match=words):
        select(results, [where])


def test_a_report_of_the_selected_runs_alone(results, tmp_path, capsys):
    report = ["--results-dir", str(tmp_path), "--out", str(tmp_path / "out"), "--only", "tables"]
    assert main([*report, "--where", "model == lstm,gru", "--reference", "gru"]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.strip().startswith("st2")]
    assert sorted(row[1] for row in rows) == ["gru", "lstm"]
    for condition, words in (
        ("model > x", "amu-report: --where model > x: > needs a number\n"),
        ("model == rnn", f"amu-report: no runs in {tmp_path} with model == rnn\n"),
    ):
        assert main([*report, "--where", condition]) == 1
        assert capsys.readouterr().err == words
