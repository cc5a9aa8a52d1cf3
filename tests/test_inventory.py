"""amu-run --list and --remove; the version that commands print; version, licence and authors in CITATION.cff."""

import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from handmade import write

from amu_experiments import leases
from amu_experiments.analysis.report import main as report
from amu_experiments.cli import main
from amu_experiments.exports.command import main as export
from amu_experiments.store import read_results

ROOT = Path(__file__).parents[1]


@pytest.fixture
def runs(tmp_path):
    """Two LSTMs that differ in the learning rate, and a GRU with an interrupted stack."""
    root = tmp_path / "runs"
    write(root, "lstm", [300, None], training={"learning_rate": 0.1})
    write(root, "lstm", [300], training={"learning_rate": 0.2})
    gru = write(root, "gru", [500, 600, None])
    (gru.folder / "trials-3-4").mkdir()
    return root


def ask(*words, runs) -> int:
    return main([*words, f"results_dir={runs}"])


def test_the_list_has_each_run_with_its_trials_and_the_settings_that_differ(runs, capsys):
    assert ask("--list", runs=runs) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["task", "model", "identity", "trials", "solved", "unfinished", "settings"]
    shown = {(model, *rest) for _, model, _, *rest in rows[1:]}
    assert shown == {
        ("gru", "3", "2", "2"),
        ("lstm", "2", "1", "0", "training.learning_rate=0.1"),
        ("lstm", "1", "1", "0", "training.learning_rate=0.2"),
    }
    assert ask("--list", "model=lstm", "training.learning_rate>0.1", runs=runs) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_run_that_cannot_be_read_is_listed_apart_from_unfinished_ones(runs, capsys):
    broken = next(runs.glob("*/lstm/*/config.yaml"))
    broken.write_text("{")
    assert ask("--list", runs=runs) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"Left out: {broken}: holds no configuration"
    assert len(out) == 1 + 2 + 1


def test_a_store_inside_another_is_neither_listed_nor_damage(runs, capsys):
    tuned = write(runs / "tuning", "rnn", [300])
    assert ask("--list", runs=runs) == 0
    out = capsys.readouterr().out
    assert "Left out" not in out
    assert "rnn" not in out
    left_out = []
    assert {result.model for result in read_results(runs, left_out)} == {"lstm", "gru"}
    assert left_out == []
    assert ask("--list", runs=runs / "tuning") == 0
    assert tuned.folder.name in capsys.readouterr().out


def test_runs_are_removed_only_with_conditions_and_consent(runs, capsys, monkeypatch):
    before = sorted(runs.rglob("*"))
    assert ask("--remove", runs=runs) == 2
    assert "amu-run: --remove: name the runs" in capsys.readouterr().err
    assert ask("--remove", "model=lstm", runs=runs) == 1
    assert capsys.readouterr().err == (
        "amu-run: Remove 2 runs with 3 trials for ever? There is no terminal to ask; add --yes\n"
    )
    assert ask("--remove", "--yes", "model=rnn", runs=runs) == 0
    assert ask("--list", "modle=lstm", runs=runs) == 2
    assert "did you mean model?" in capsys.readouterr().err
    assert sorted(runs.rglob("*")) == before
    assert ask("--remove", "--yes", "model=lstm", runs=runs) == 0
    assert capsys.readouterr().out.count("Removed: ") == 2
    assert [result.model for result in read_results(runs)] == ["gru"]
    assert not (runs / "two_sequence" / "lstm").exists()


@pytest.mark.parametrize(("answer", "left"), [("n\n", 2), ("\n", 2), ("", 2), ("y\n", 0)])
def test_a_terminal_is_asked(runs, monkeypatch, answer, left, capsys):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert ask("--remove", "model=lstm", runs=runs) == (1 if left else 0)
    assert "Remove 2 runs with 3 trials for ever? [y/N] " in capsys.readouterr().out
    assert len(list(runs.glob("*/lstm/*"))) == left


class Terminal:
    """A standard input at which somebody has typed a line."""

    def __init__(self, line: str):
        self.line = line

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.line


def test_a_run_in_training_is_not_removed(runs, capsys):
    (stack,) = runs.glob("*/gru/*/trials-3-4")
    with leases.locked(stack):
        assert ask("--remove", "--yes", "model=gru", runs=runs) == 1
    assert capsys.readouterr().err == f"amu-run: {stack}: is in training, and was not removed\n"
    (stack / leases.LEASE).write_text('{"machine": "another", "host": "node7", "process": 3}')
    assert ask("--remove", "--yes", "model=gru", runs=runs) == 1
    (stack / leases.LEASE).unlink()
    assert len(read_results(runs)) == 3
    assert ask("--remove", "--yes", "model=gru", runs=runs) == 0


def test_no_process_begins_to_train_in_a_run_that_is_being_removed(runs, monkeypatch):
    remove, leased = shutil.rmtree, []

    def watched(folder):
        leased.append(leases.leased(folder))
        remove(folder)

    monkeypatch.setattr(shutil, "rmtree", watched)
    assert ask("--remove", "--yes", "model=gru", runs=runs) == 0
    assert leased == [True]


def test_a_folder_that_is_not_there_is_an_error(tmp_path, capsys):
    assert main(["--list", f"results_dir={tmp_path / 'none'}"]) == 2
    assert capsys.readouterr().err == f"amu-run: results_dir={tmp_path / 'none'}: no such folder\n"


# Names and versions -----------------------------------------------------------------------------------------------


def test_every_command_has_the_version_of_the_package(capsys):
    number = version("amu-experiments")
    assert main(["--version"]) == 0
    for command in (report, export):
        with pytest.raises(SystemExit, match="0"):
            command(["--version"])
    assert capsys.readouterr().out.splitlines() == [
        f"{name} {number}" for name in ("amu-run", "amu-report", "amu-export")
    ]


def test_the_package_is_a_program():
    done = subprocess.run([sys.executable, "-m", "amu_experiments", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("amu-run ")


def test_the_citation_has_the_version_and_the_licence_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["authors"] == [{"name": author["name"]} for author in project["authors"]]
