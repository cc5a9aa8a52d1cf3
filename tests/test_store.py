"""The folder of results: which trials are missing, and files that appear whole or not at all."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amu_experiments import store

CONFIG = {
    "results_dir": "runs",
    "task": {"problem": "adding", "T": 100},
    "model": {"cell": "amu", "units": 3},
    "training": {"learning_rate": 0.01, "checkpoint_minutes": 5},
}


def finish(folder, trials, mark=0.0):
    stack = store.start_stack(folder, CONFIG, trials, {})
    table = pd.DataFrame({"trial": trials, "status": "finished", "sequences": 20, "mark": mark})
    history = pd.DataFrame({"trial": np.repeat(trials, 2), "sequences": [10, 20] * len(trials), "loss": mark})
    store.finish_stack(stack, history, table, np.array(trials), np.full((len(trials), 2), mark, np.float32))


def test_missing_trials_come_in_stacks_of_consecutive_numbers(tmp_path):
    finish(tmp_path, [2, 3])
    finish(tmp_path, [6])
    assert store.missing_stacks(tmp_path, range(9)) == [[0, 1], [4, 5], [7, 8]]
    assert store.missing_stacks(tmp_path, [2, 3, 6]) == []


@settings(max_examples=10, deadline=None)
@given(data=st.data(), wanted=st.sets(st.integers(0, 12), min_size=1))
def test_in_whatever_order_and_overlap_trials_are_trained_the_result_is_the_same(data, wanted):
    """Some stacks were trained before, some of them overlapping; then what is missing is trained, in any order."""
    with tempfile.TemporaryDirectory() as name:
        folder, whole = (store.folder_of(CONFIG | {"results_dir": Path(name, part)}) for part in ("parts", "whole"))
        before = data.draw(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=4))
        for first, count in before:
            finish(folder, list(range(first, first + count)), mark=1.0)
        done = store.finished_trials(folder)
        missing = store.missing_stacks(folder, wanted)
        trials = [trial for stack in missing for trial in stack]
        assert sorted(trials) == sorted(wanted - done)
        assert all(stack == list(range(stack[0], stack[-1] + 1)) for stack in missing)
        for stack in data.draw(st.permutations(missing)):
            finish(folder, stack, mark=1.0)
        assert store.missing_stacks(folder, wanted) == []
        for stack in store.missing_stacks(whole, done | wanted):
            finish(whole, stack, mark=1.0)
        ours, theirs = store.read_result(folder), store.read_result(whole)
        pd.testing.assert_frame_equal(ours.trials, theirs.trials)
        pd.testing.assert_frame_equal(ours.history, theirs.history)
        assert store.read_weights(folder).keys() == store.read_weights(whole).keys()


def test_an_interrupted_stack_comes_back_as_it_was(tmp_path):
    finish(tmp_path, [0, 1])
    (store.start_stack(tmp_path, CONFIG, [3, 4], {}) / "checkpoint.pt").touch()
    assert store.missing_stacks(tmp_path, range(7)) == [[2], [3, 4], [5, 6]]
    # Asked for less, it is left alone: only whole can it go on.
    assert store.missing_stacks(tmp_path, range(4)) == [[2, 3]]


def test_a_stack_without_checkpoint_starts_anew(tmp_path):
    store.start_stack(tmp_path, CONFIG, [0, 1], {})
    assert store.missing_stacks(tmp_path, range(3)) == [[0, 1, 2]]


def test_overlapping_stacks_count_each_trial_once(tmp_path):
    folder = tmp_path / "adding" / "amu" / "0123"
    finish(folder, [0, 1], mark=1.0)
    finish(folder, [1, 2], mark=2.0)
    (result,) = store.read_results(tmp_path)
    assert result.trials["trial"].tolist() == [0, 1, 2]
    assert result.trials["mark"].tolist() == [1.0, 1.0, 2.0]
    assert result.history.groupby("trial")["loss"].unique().map(list).tolist() == [[1.0], [1.0], [2.0]]
    assert {trial: row[0] for trial, row in store.read_weights(folder).items()} == {0: 1.0, 1: 1.0, 2: 2.0}
    assert (result.task, result.model, result.identity) == ("adding", "amu", "0123")


def test_a_configuration_is_kept_without_what_cannot_change_a_trial(tmp_path):
    folder = tmp_path / "adding" / "amu" / "0123"
    finish(folder, [0])
    (result,) = store.read_results(tmp_path)
    assert set(result.config) == {"schema_version", "task", "model", "training"}
    assert result.config["training"] == {"learning_rate": 0.01}


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path, monkeypatch):
    store.write_text(tmp_path / "kept", "old")

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        store.write_text(tmp_path / "kept", "new")
    assert (tmp_path / "kept").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_folder_with_nothing_finished_is_no_result(tmp_path):
    store.start_stack(tmp_path / "adding" / "amu" / "0123", CONFIG, [0], {})
    assert store.read_results(tmp_path) == []
