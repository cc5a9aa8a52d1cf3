"""The folder of results: which trials are missing, who trains them, and every file verified before it is used."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from amu_experiments import files, leases, stack_files, store
from amu_experiments.analysis.report import write_report

OLD = Path(__file__).parent / "old_store"

CONFIG = {
    "task": {"problem": "adding", "T": 100},
    "model": {"cell": "amu", "units": 3},
    "training": {"learning_rate": 0.01, "max_sequences": 20, "evaluate_every": 10, "checkpoint_minutes": 5},
}


@pytest.fixture
def folder(tmp_path):
    return store.folder_of(CONFIG | {"results_dir": tmp_path})


def leased(folder, trials):
    """What is to be trained of these trials, and elsewhere, as numbers."""
    with leases.acquire(folder, CONFIG, trials) as lease:
        return lease.trials, [path.name for path in lease.elsewhere]


def finish(folder, trials, mark=0.0):
    with leases.acquire(folder, CONFIG, trials) as lease:
        # An overlap comes about where an interrupted stack is finished after its trials were trained in others.
        stack = stack_files.stack_folder(folder, lease.trials if lease.trials == trials else trials)
        stack.mkdir(exist_ok=True)
        row = {"status": "finished", "sequences": 20, "seconds": 1.5, "parameters": 2, "mark": mark}
        table = pd.DataFrame({"trial": trials, **row})
        history = pd.DataFrame({"trial": np.repeat(trials, 2), "sequences": [10, 20] * len(trials), "seconds": 1.0})
        history["loss"] = mark
        stack_files.finish_stack(stack, history, table, np.array(trials), np.full((len(trials), 2), mark, np.float32))
    return stack


def interrupt(folder, trials):
    with leases.acquire(folder, CONFIG, trials):
        stack_files.write_checkpoint(stack_files.stack_folder(folder, trials), b"half way")
    return stack_files.stack_folder(folder, trials)


# What is missing ----------------------------------------------------------------------------------------------------


def test_missing_trials_come_in_stacks_of_consecutive_numbers(folder):
    finish(folder, [2, 3])
    finish(folder, [6])
    assert store.missing_stacks(folder, range(9)) == [[0, 1], [4, 5], [7, 8]]
    assert store.missing_stacks(folder, [2, 3, 6]) == []


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


def test_an_interrupted_stack_comes_back_as_it_was(folder):
    finish(folder, [0, 1])
    interrupt(folder, [3, 4])
    assert store.missing_stacks(folder, range(7)) == [[2], [3, 4], [5, 6]]
    # Asked for less, it is left alone: only whole can it go on.
    assert store.missing_stacks(folder, range(4)) == [[2, 3]]


def test_a_stack_without_checkpoint_starts_anew(folder):
    assert leased(folder, [0, 1]) == ([0, 1], [])
    assert store.missing_stacks(folder, range(3)) == [[0, 1, 2]]


def test_overlapping_stacks_count_each_trial_once(folder, tmp_path):
    finish(folder, [0, 1], mark=1.0)
    finish(folder, [1, 2], mark=2.0)
    (result,) = store.read_results(tmp_path)
    assert result.trials["trial"].tolist() == [0, 1, 2]
    assert result.trials["mark"].tolist() == [1.0, 1.0, 2.0]
    assert result.history.groupby("trial")["loss"].unique().map(list).tolist() == [[1.0], [1.0], [2.0]]
    assert {trial: row[0] for trial, row in store.read_weights(folder).items()} == {0: 1.0, 1: 1.0, 2: 2.0}
    assert (result.task, result.model, result.identity) == ("adding", "amu", folder.name)


def test_a_configuration_is_kept_without_what_cannot_change_a_trial(folder, tmp_path):
    finish(folder, [0])
    (result,) = store.read_results(tmp_path)
    assert set(result.config) == {"schema_version", "task", "model", "training"}
    assert result.config["training"] == {"learning_rate": 0.01, "max_sequences": 20, "evaluate_every": 10}


def test_a_result_is_shown_in_one_line(folder, tmp_path):
    finish(folder, [0, 1])
    (result,) = store.read_results(tmp_path)
    assert repr(result) == f"Result(adding/amu/{folder.name}: 2 trials)"


def test_a_folder_with_nothing_finished_is_no_result(folder, tmp_path):
    assert leased(folder, [0]) == ([0], [])
    assert store.read_results(tmp_path) == []


# Who trains what ----------------------------------------------------------------------------------------------------


def test_what_one_has_claimed_is_elsewhere_for_others_and_the_rest_is_theirs(folder):
    with leases.acquire(folder, CONFIG, range(3)) as lease:
        assert lease.trials == [0, 1, 2]
        assert leased(folder, range(5)) == ([3, 4], ["trials-0-2"])
        assert leased(folder, [1]) == ([], ["trials-0-2"])
        assert leased(folder, [7, 8]) == ([7, 8], [])
    # Left without having finished: free again.
    assert leased(folder, range(3)) == ([0, 1, 2], [])


def test_nobody_else_goes_on_from_the_checkpoint_of_a_stack_in_training(folder):
    interrupt(folder, [0, 1])
    with leases.acquire(folder, CONFIG, range(4)) as lease:
        assert lease.trials == [0, 1]
        assert leased(folder, range(4)) == ([2, 3], ["trials-0-1"])


def test_what_killed_processes_left_is_removed_and_what_is_in_use_is_not(folder):
    finished, idle = finish(folder, [0]), interrupt(folder, [2])
    (finished / "checkpoint.pt").touch()
    gone = subprocess.Popen(["true"])
    gone.wait()
    for place in (folder, finished, idle):
        files.partial_path(place / "x", gone.pid).touch()
    with leases.acquire(folder, CONFIG, [4]):
        files.partial_path(folder / "trials-4-4" / "x", os.getpid()).touch()
        leased(folder, [0])
        assert [path.parent.name for path in folder.rglob(".*.part")] == ["trials-4-4"]
    assert not (finished / "checkpoint.pt").exists()
    assert (idle / "checkpoint.pt").exists()


def test_a_stack_is_unfinished_until_its_trials_are_finished_in_whatever_stack(folder, tmp_path):
    with leases.acquire(folder, CONFIG, range(4)) as lease:
        killed = stack_files.stack_folder(folder, lease.trials)  # before its first checkpoint
    assert store.unfinished(tmp_path) == [killed]
    finish(folder, [0, 1])
    assert store.unfinished(tmp_path) == [killed]
    finish(folder, [2, 3, 4])
    assert store.unfinished(tmp_path) == []
    interrupt(folder, [7, 8])
    (folder / f"trials-9-{10**30}").mkdir()
    assert [path.name for path in store.unfinished(tmp_path)] == ["trials-7-8", f"trials-9-{10**30}"]


def test_partial_files_of_processes_that_are_gone_and_old_ones_are_removed_and_no_others(tmp_path, monkeypatch):
    gone = subprocess.Popen(["true"])
    gone.wait()
    here = [files.partial_path(tmp_path / "a.csv", process) for process in (gone.pid, os.getpid(), 10**9)]
    monkeypatch.setattr(files, "machine", lambda: "other-0123abcd")
    there = [files.partial_path(tmp_path / name, gone.pid) for name in ("young", "old", "link", "folder")]
    monkeypatch.undo()
    earlier = [tmp_path / f".{name}.csv.{gone.pid}.part" for name in ("young", "old")]  # by a release without machines
    others = [tmp_path / name for name in (".part", "d.part", f"{here[0].name}2", ".f.csv.word.part")]
    for path in (*here, *there[:2], *earlier, *others):
        path.touch()
    there[2].symlink_to(tmp_path / "d.part")
    there[3].mkdir()
    for path in (there[1], there[3], earlier[1], *others):
        os.utime(path, (0, 0))
    files.remove_partial([tmp_path, tmp_path / "nowhere", tmp_path / "d.part"])
    kept = [here[1], there[0], there[2], there[3], earlier[0], *others]
    assert set(tmp_path.iterdir()) == set(kept)


# Files --------------------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path, monkeypatch):
    files.write_text(tmp_path / "kept", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device: '.*/kept'"):
        files.write_text(tmp_path / "kept", "new")
    assert (tmp_path / "kept").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def edit(path):
    """Change one byte, in the middle, for another one of its kind."""
    data = bytearray(path.read_bytes())
    places = [place for place, byte in enumerate(data) if chr(byte) in "012345678"]
    data[places[len(places) // 2]] += 1
    path.write_bytes(data)


def remove(path):
    path.unlink()


@pytest.mark.parametrize("harm", [cut, edit, remove])
@pytest.mark.parametrize("name", ["history.csv", "weights.npz", "trials.csv"])
def test_a_stack_with_a_damaged_file_counts_for_nothing_and_is_set_aside(folder, tmp_path, name, harm):
    harmed = finish(folder, [0, 1], mark=1.25)
    finish(folder, [2], mark=2.5)
    harm(harmed / name)
    assert store.finished_trials(folder) == {2}
    left_out = []
    (result,) = store.read_results(tmp_path, left_out)
    assert result.trials["trial"].tolist() == [2]
    assert set(store.read_weights(folder)) == {2}
    if (name, harm) == ("trials.csv", remove):  # then the stack is one that was not finished
        assert left_out == []
        return
    why = "is gone" if harm is remove else "does not match its checksum"
    assert [str(error) for error in left_out] == [f"{harmed}: {name} {why}"]
    with pytest.raises(files.UnusableError, match=name):
        store.read_results(tmp_path)
    before = {path.name: path.read_bytes() for path in harmed.iterdir()}
    with leases.acquire(folder, CONFIG, range(3)) as lease:
        assert lease.trials == [0, 1]
        assert lease.set_aside == [f"{left_out[0]}; set aside as damaged-trials-0-1"]
    assert {path.name: path.read_bytes() for path in (folder / "damaged-trials-0-1").iterdir()} == before


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"trials.csv": "0"}', "[" * 100_000, '{"../x": "0"}'])
def test_checksums_are_damaged_too(folder, text):
    (finish(folder, [0]) / "sums.json").write_text(text)
    assert store.finished_trials(folder) == set()


def test_what_is_damaged_again_is_set_aside_beside_the_first(folder):
    for _ in range(3):
        edit(finish(folder, [0]) / "trials.csv")
    leased(folder, [0])
    names = sorted(path.name for path in folder.glob("damaged-*"))
    assert names == ["damaged-2-trials-0-0", "damaged-3-trials-0-0", "damaged-trials-0-0"]


def other_value(path):
    path.write_text(path.read_text().replace("0.01", "0.02"))


def other_schema(path):
    path.write_text(path.read_text().replace("schema_version: 1", "schema_version: 7"))


def other_kind(path):
    path.write_text("[]")


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (cut, "not the configuration of|holds no configuration"),
        (other_value, "not the configuration of"),
        (other_kind, "holds no configuration"),
        (remove, "is not there"),
        (other_schema, "made with schema version 7, this is 1"),
    ],
)
def test_a_configuration_that_is_not_that_of_its_folder_is_not_believed_and_written_anew(folder, tmp_path, harm, why):
    finish(folder, [0])
    written = (folder / "config.yaml").read_text()
    harm(folder / "config.yaml")
    with pytest.raises(files.UnusableError, match=f"config.yaml: ({why})"):
        store.read_results(tmp_path)
    # The trials have checksums of their own, and stand in the folder of what was asked for.
    assert leased(folder, [0]) == ([], [])
    assert (folder / "config.yaml").read_text() == written
    assert store.read_results(tmp_path)[0].trials["trial"].tolist() == [0]
    assert (folder / "damaged-config.yaml").exists() == (harm is not remove)


def test_a_checkpoint_is_read_as_it_was_written_or_not_at_all(folder):
    stack = interrupt(folder, [0])
    assert stack_files.read_checkpoint(stack) == b"half way"
    edited = (stack / "checkpoint.pt").read_bytes().replace(b"half", b"calf")
    (stack / "checkpoint.pt").write_bytes(edited)
    with pytest.raises(ValueError, match="does not match its checksum"):
        stack_files.read_checkpoint(stack)


def test_what_belongs_to_another_configuration_is_not_believed(folder, tmp_path):
    """Copied into a folder, or with the folder: whatever it says is true, but of something else."""
    other = CONFIG | {"training": CONFIG["training"] | {"learning_rate": 0.02}}
    its = store.folder_of(other | {"results_dir": tmp_path})
    with leases.acquire(its, other, [7]):
        stack_files.write_checkpoint(stack_files.stack_folder(its, [7]), b"half way")
    shutil.copytree(finish(folder, [0]), its / "trials-0-0")
    shutil.copytree(its / "trials-7-7", folder / "trials-7-7")
    with pytest.raises(ValueError, match=f"does not match its checksum for {folder.name}"):
        stack_files.read_checkpoint(folder / "trials-7-7")
    assert store.finished_trials(its) == set()
    shutil.copytree(folder.parent, tmp_path / "adding" / "lstm")
    left_out = []
    assert [result.model for result in store.read_results(tmp_path, left_out)] == ["amu"]
    assert [str(error).removeprefix(str(tmp_path / "adding")) for error in left_out] == [
        f"/amu/{its.name}/trials-0-0: belongs to the configuration {folder.name}",
        f"/lstm/{folder.name}/config.yaml: not the configuration of adding/lstm/{folder.name}",
        f"/lstm/{its.name}/trials-0-0: belongs to the configuration {folder.name}",
        f"/lstm/{its.name}/config.yaml: not the configuration of adding/lstm/{its.name}",
    ]
    with leases.acquire(its, other, [0]) as lease:
        assert lease.trials == [0]
        assert len(lease.set_aside) == 1


@pytest.mark.parametrize("name", ["trials.csv", "history.csv", "sums.json", "config.yaml"])
def test_a_folder_in_a_files_place_is_damage_that_leaves_the_rest_as_it_is(folder, tmp_path, name):
    harmed, sound = finish(folder, [0, 1]), finish(folder, [2])
    path = (folder if name == "config.yaml" else harmed) / name
    path.unlink()
    path.mkdir()
    left_out = []
    results = store.read_results(tmp_path, left_out)
    assert [result.trials["trial"].tolist() for result in results] == ([] if name == "config.yaml" else [[2]])
    assert len(left_out) == 1
    with leases.acquire(folder, CONFIG, range(3)) as lease:
        assert lease.trials == ([] if name == "config.yaml" else [0, 1])
        assert len(lease.set_aside) == 1
    assert (sound / "trials.csv").exists()


def test_what_is_called_a_stack_and_is_none_is_told_and_in_nobodys_way(folder, tmp_path):
    stack = finish(folder, [0])
    shutil.copytree(stack, folder / "trials-0-0 (copy)")
    shutil.copytree(stack, folder / f"trials-0-{10**15}")
    (folder / "trials-1-1").symlink_to(tmp_path / "nowhere")
    (folder / "trials-2-2").write_text("")
    left_out = []
    (result,) = store.read_results(tmp_path, left_out)
    assert result.trials["trial"].tolist() == [0]
    assert [str(error).removeprefix(f"{folder}/") for error in left_out] == [
        "trials-0-0 (copy): is not named like a stack, trials-FIRST-LAST",
        "trials-1-1: is not a folder",
        "trials-2-2: is not a folder",
        f"trials-0-{10**15}: trials.csv does not hold the trials that the folder is named after",
    ]
    with leases.acquire(folder, CONFIG, range(3)) as lease:
        assert lease.trials == [1, 2]
        assert len(lease.set_aside) == 3


def test_what_may_not_be_read_is_left_out_by_reports_and_not_set_aside(folder, tmp_path, monkeypatch):
    hidden = finish(folder, [0])
    finish(folder, [1])
    read_bytes = Path.read_bytes

    def forbidden(path):
        if path.parent == hidden:
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    left_out = []
    (result,) = store.read_results(tmp_path, left_out)
    assert result.trials["trial"].tolist() == [1]
    assert [type(error) for error in left_out] == [PermissionError]
    with pytest.raises(PermissionError), leases.acquire(folder, CONFIG, [0]):
        pass
    assert hidden.exists()


def test_a_folder_that_may_not_be_looked_into_is_told(folder, tmp_path, monkeypatch):
    finish(folder, [0])
    iterdir = Path.iterdir

    def forbidden(path):
        if path == folder.parent:
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", forbidden)
    left_out = []
    assert store.read_results(tmp_path, left_out) == []
    assert [error.filename for error in left_out] == [str(folder.parent)]


# Old stores ---------------------------------------------------------------------------------------------------------


def test_a_store_from_before_checksums_is_read_and_one_of_an_earlier_schema_refused_by_name(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    before = {path: path.read_bytes() for path in OLD.rglob("*") if path.is_file()}
    left_out = []
    (result,) = store.read_results(OLD, left_out)
    assert (result.model, result.trials["trial"].tolist(), len(result.history)) == ("gru", [0, 1], 6)
    assert [str(error) for error in left_out] == [
        f"{OLD}/adding/lstm/521c2c90d452/config.yaml: made with schema version 0, this is 1"
    ]
    lines = write_report(OLD, tmp_path / "out", parts=["tables"])
    assert f"Left out: {left_out[0]}" in lines
    assert before == {path: path.read_bytes() for path in OLD.rglob("*") if path.is_file()}


@pytest.mark.parametrize("text", ["", "trial\n0\n", "\0", 'trial,sequences\n0,"', "trial,sequences\n0,abc\n"])
def test_a_stack_from_before_checksums_must_be_legible(folder, text):
    stack = finish(folder, [0])
    (stack / "sums.json").unlink()
    assert store.finished_trials(folder) == {0}
    (stack / "history.csv").write_text(text)
    assert store.finished_trials(folder) == set()


def test_a_stack_from_before_checksums_must_have_the_trials_that_it_is_named_after(folder):
    stack = finish(folder, [0, 1])
    (stack / "sums.json").unlink()
    lines = (stack / "trials.csv").read_text().splitlines()
    (stack / "trials.csv").write_text("\n".join(lines[:-1]))
    assert store.finished_trials(folder) == set()


def edited(name, column, value):
    """A change of one value in a table of a stack."""

    def edit(stack):
        table = pd.read_csv(stack / name, dtype=str)
        table.loc[0, column] = value
        table.to_csv(stack / name, index=False)

    return edit


def rewritten(name, change):
    def edit(stack):
        (stack / name).write_bytes(change((stack / name).read_bytes()))

    return edit


ODD = [
    (edited("trials.csv", "sequences", "inf"), "sequences must be whole numbers of 1 or more"),
    (edited("trials.csv", "sequences", "-20"), "sequences must be whole numbers of 1 or more"),
    (edited("trials.csv", "sequences", ""), "sequences must be whole numbers of 1 or more"),
    (edited("trials.csv", "parameters", "0.5"), "parameters must be whole numbers of 1 or more"),
    (edited("trials.csv", "parameters", "3"), "different numbers of parameters"),
    (edited("trials.csv", "seconds", "-1"), "seconds must be numbers of 0 or more"),
    (edited("trials.csv", "status", "fine"), "a status other than finished, solved, diverged"),
    (edited("trials.csv", "status", ""), "rows without status"),
    (edited("trials.csv", "trial", "1"), "does not hold the trials"),
    (edited("trials.csv", "mark", "True"), "not numbers in mark"),
    (edited("trials.csv", "st1_sequences", "21"), "whole numbers from 1 to the sequences of the trial"),
    (edited("trials.csv", "st1_sequences", "inf"), "whole numbers from 1 to the sequences of the trial"),
    (edited("history.csv", "trial", "7"), "other trials"),
    (edited("history.csv", "trial", ""), "other trials"),
    (edited("history.csv", "sequences", "20"), "an evaluation twice"),
    (edited("history.csv", "sequences", "-10"), "sequences must be whole numbers of 1 or more"),
    (edited("history.csv", "seconds", "inf"), "seconds must be numbers of 0 or more"),
    (rewritten("trials.csv", lambda data: data.replace(b"\n", b"\n9,").removesuffix(b"9,")), "more values"),
    (rewritten("trials.csv", lambda data: data[:-1]), "trials.csv is cut off"),
    (rewritten("history.csv", lambda data: data[:-1]), "history.csv is cut off"),
    (rewritten("history.csv", lambda data: data.replace(b"loss", b"gain")), "history.csv has no loss"),
    (rewritten("weights.npz", lambda data: b"PK"), "weights.npz cannot be read"),
]
"""Changes to a stack that leave it legible, and what is said of each."""


@pytest.mark.parametrize(("change", "why"), ODD)
@pytest.mark.parametrize("sealed", [False, True])
def test_a_stack_with_values_that_no_training_gives_is_left_out_and_named(folder, tmp_path, change, why, sealed):
    stack = finish(folder, [0, 1])
    table = pd.read_csv(stack / "trials.csv").assign(st1_sequences=[10, None])
    table.to_csv(stack / "trials.csv", index=False)
    (stack / "sums.json").unlink()
    assert store.finished_trials(folder) == {0, 1}
    change(stack)
    if sealed:
        # Of a file whose checksum fits, its metrics and its weights are not looked at.
        if "whole numbers" in why or "weights" in why:
            return
        names = ("history.csv", "trials.csv", "weights.npz")
        stack_files.write_stack(stack, {name: (stack / name).read_bytes() for name in names})
    left_out = []
    assert store.read_results(tmp_path, left_out) == []
    (error,) = left_out
    assert error.path == stack
    assert why in str(error)
    with leases.acquire(folder, CONFIG, [0, 1]) as lease:
        assert lease.trials == [0, 1]


def test_a_history_without_rows_is_read(folder, tmp_path):
    stack = finish(folder, [0])
    (stack / "sums.json").unlink()
    (stack / "history.csv").write_text("trial,sequences,seconds,loss\n")
    (result,) = store.read_results(tmp_path)
    assert len(result.history) == 0


def test_stacks_with_other_columns_than_most_are_left_out_and_columns_of_few_not_shown(folder, tmp_path):
    for trial in range(4):
        finish(folder, [trial])
    for trial, name in ((1, "lacking"), (3, "more")):
        stack = folder / f"trials-{trial}-{trial}"
        (stack / "sums.json").unlink()
        table = pd.read_csv(stack / "trials.csv")
        table = table.drop(columns="mark") if name == "lacking" else table.assign(more=1.0)
        table.to_csv(stack / "trials.csv", index=False)
    left_out = []
    (result,) = store.read_results(tmp_path, left_out)
    assert result.trials["trial"].tolist() == [0, 2, 3]
    assert "more" not in result.trials
    assert [str(error).removeprefix(f"{folder}/") for error in left_out] == [
        "trials-1-1: trials.csv has no mark, unlike the results beside it",
        "trials-3-3: trials.csv has more, unlike the results beside it: not shown",
    ]


@pytest.mark.parametrize("target", ["nowhere", "trials.csv", "/dev/zero"])
def test_a_link_that_leads_to_no_file_is_damage(folder, tmp_path, target):
    stack = finish(folder, [0])
    for name in ("trials.csv", "sums.json"):
        (stack / name).unlink()
        (stack / name).symlink_to(target)
    left_out = []
    assert store.read_results(tmp_path, left_out) == []
    assert [error.path for error in left_out] == [stack]


ANCHORS = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"training": {"max_sequences": "many", "evaluate_every": 10}}, "training.max_sequences=many: must be"),
        ({"training": {"max_sequences": 20, "evaluate_every": 0}}, "training.evaluate_every=0: must be a whole number"),
        ({"training": {"max_sequences": 20}}, "training.evaluate_every=None: must be a whole number"),
        ({"model": {"cell": "amu", "units": -3}}, "model.units=-3: must be a whole number"),
        ({"task": {"problem": "adding", 7: 8}}, "a key that is not text"),
        ({"task": {"problem": "adding", "a": json.loads('{"a":' * 40 + "1" + "}" * 40)}}, "more than 20 levels"),
    ],
)
def test_a_configuration_with_values_that_none_has_is_left_out_and_named(tmp_path, values, why):
    folder = store.folder_of(CONFIG | values | {"results_dir": tmp_path})
    stack = finish(folder, [0])
    path = stack.parent / "config.yaml"
    path.write_text(yaml.safe_dump({"schema_version": 1} | {"training": {}} | CONFIG | values, sort_keys=False))
    config = yaml.safe_load(path.read_text())
    config["training"].pop("checkpoint_minutes", None)
    path.write_text(yaml.safe_dump(config))
    left_out = []
    assert store.read_results(tmp_path, left_out) == []
    assert [error.path for error in left_out] == [path]
    assert why in str(left_out[0])


def test_a_configuration_that_would_unfold_to_a_huge_one_is_refused_at_once(folder, tmp_path):
    path = finish(folder, [0]).parent / "config.yaml"
    path.write_text(ANCHORS + path.read_text())
    left_out = []
    assert store.read_results(tmp_path, left_out) == []
    assert [str(error) for error in left_out] == [f"{path}: holds no configuration"]


def test_a_file_in_place_of_a_configuration_is_named_and_other_files_are_nobodys(folder, tmp_path):
    finish(folder, [0])
    (folder.parent / "0123456789ab").touch()
    for place in (tmp_path, folder.parent, folder.parent.parent):
        (place / "notes.txt").touch()
    left_out = []
    assert len(store.read_results(tmp_path, left_out)) == 1
    assert [str(error) for error in left_out] == [f"{folder.parent / '0123456789ab'}: is not a folder"]


MADE = {"started": "", "command": "", "python": "", "machine": "", "packages": {"numpy": "2"}, "commit": None}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "\0", "[" * 100_000, "{}", json.dumps(MADE | {"packages": []}), json.dumps(MADE | {"commit": 1})],
)
def test_a_provenance_that_is_none_is_named_and_its_trials_are_kept(folder, tmp_path, text):
    made = {7: text, 8: json.dumps(MADE), 9: json.dumps(MADE | {"numerics": {"version": 2}})}
    for trial, content in made.items():
        (finish(folder, [trial]) / "provenance.json").write_text(content)
    left_out = []
    (result,) = store.read_results(tmp_path)
    found = store.read_provenances([result], left_out)
    assert [made for _, _, made in found] == [None, MADE, MADE | {"numerics": {"version": 2}}]
    assert [str(error) for error in left_out] == [f"{folder / 'trials-7-7' / 'provenance.json'}: holds no provenance"]


def test_checksums_are_those_that_sha256sum_gives(folder):
    stack = finish(folder, [0])
    sums = json.loads((stack / "sums.json").read_text())
    assert set(sums) == {"identity", "history.csv", "trials.csv", "weights.npz"}
    (stack / "weights.npz").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    sums["weights.npz"] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (stack / "sums.json").write_text(json.dumps(sums))
    assert store.finished_trials(folder) == {0}


def test_the_old_store_has_a_configuration_of_every_kind():
    versions = {path: yaml.safe_load(path.read_text())["schema_version"] for path in OLD.rglob("config.yaml")}
    assert sorted(versions.values()) == [0, 1]
    assert not list(OLD.rglob("sums.json"))
