"""Confusion matrices in the store and in reports."""

import numpy as np
import pandas as pd
import pytest
from handmade import write

from amu_experiments.analysis.comparison import compare
from amu_experiments.analysis.confusions import MOST_PAIRS, confusion_table
from amu_experiments.confusion import confusion_counts
from amu_experiments.files import UnusableError
from amu_experiments.stack_files import read_confusion
from amu_experiments.store import read_confusions, read_results
from amu_experiments.studies.export import export
from amu_experiments.tasks.task import Sequences

ODD = ["null", "", "NA", "a, b", 'say "x"', "1.0"]
"""Names of classes that a CSV reader may take for something else."""


def keep(stack, rows):
    pd.DataFrame(rows, columns=["trial", "true_class", "answered_class", "answers"]).to_csv(
        stack / "confusion.csv", index=False
    )


def made(root, cell, rows, first=0, trials=2):
    result = write(root, cell, [300] * trials, first=first)
    keep(result.folder / f"trials-{first}-{first + trials - 1}", rows)
    return result


def test_steps_after_the_end_of_a_sequence_do_not_count():
    targets = np.eye(2, dtype=np.float32)[[[0, 1, 1], [1, 0, 0]]]
    answered = np.eye(2, dtype=np.float32)[[[0, 0, 0], [1, 1, 1]]]
    sequences = Sequences(np.zeros((2, 3, 1), np.float32), np.array([3, 1]), targets)
    assert confusion_counts(sequences, answered).tolist() == [[1, 0], [2, 1]]


def test_steps_without_a_true_class_do_not_count():
    targets = np.array([[[1, 0], [0, 0]]], np.float32)
    sequences = Sequences(np.zeros((1, 2, 1), np.float32), np.array([2]), targets)
    assert confusion_counts(sequences, np.ones((1, 2, 2))).tolist() == [[1, 0], [0, 0]]


def test_names_of_classes_are_read_as_they_were_written(tmp_path):
    result = made(tmp_path, "lstm", [(0, name, name, 3) for name in ODD])
    (stack,) = result.stacks
    assert read_confusion(stack)["true_class"].tolist() == ODD


def test_the_matrices_of_all_trials_are_summed(tmp_path):
    made(tmp_path, "lstm", [(0, "cat", "cat", 3), (0, "cat", "dog", 1), (0, "dog", "dog", 4), (1, "cat", "cat", 4)])
    # A second stack with one trial of the first: the trial counts once.
    made(tmp_path, "lstm", [(1, "cat", "cat", 4), (2, "dog", "cat", 4)], first=1)
    (comparison,) = compare(read_results(tmp_path), [])
    table = confusion_table(comparison, read_confusions(comparison.results, []))
    counts = table.numbers.set_index(["true_class", "answered_class"])["answers"].to_dict()
    assert counts == {("cat", "cat"): 7, ("cat", "dog"): 1, ("dog", "cat"): 4, ("dog", "dog"): 4}
    assert table.numbers["trials"].unique().tolist() == [3]
    assert table.text.set_index("true class").loc["cat"].tolist() == ["lstm", "3", "87.5", "12.5"]
    assert table.text.set_index("true class").loc["dog"].tolist() == ["lstm", "3", "50.0", "50.0"]


def test_of_many_classes_the_most_frequent_confusions_are_listed(tmp_path):
    names = [f"class {number:02}" for number in range(20)]
    rows = [(0, name, name, 90) for name in names]
    rows += [(0, name, names[0], 10 + number) for number, name in enumerate(names) if number]
    made(tmp_path, "lstm", rows)
    made(tmp_path, "gru", [(0, name, name, 1) for name in names])  # has none
    (comparison,) = compare(read_results(tmp_path), [])
    table = confusion_table(comparison, read_confusions(comparison.results, []))
    assert table.text["true class"].tolist() == [*names[: -MOST_PAIRS - 1 : -1], "none confused"]
    assert set(table.text["answer"]) == {names[0], ""}
    assert table.text["%"].iloc[0] == "24.4"  # 29 of 119
    assert len(table.numbers) == len(rows) + len(names)


def test_rows_without_matrices_have_no_part_in_the_table(tmp_path):
    write(tmp_path, "gru", [300])
    (comparison,) = compare(read_results(tmp_path), [])
    assert confusion_table(comparison, read_confusions(comparison.results, [])) is None
    made(tmp_path, "lstm", [(0, "cat", "cat", 3)])
    (comparison,) = compare(read_results(tmp_path), [])
    assert confusion_table(comparison, read_confusions(comparison.results, [])).numbers["model"].tolist() == ["lstm"]


def test_the_copy_for_git_has_them(tmp_path):
    (stack,) = made(tmp_path / "runs", "lstm", [(0, "cat", "dog", 3)]).stacks
    export(tmp_path / "runs", tmp_path / "copy")
    (copied,) = (tmp_path / "copy").rglob("confusion.csv")
    assert copied.read_bytes() == (stack / "confusion.csv").read_bytes()
    assert "confusion.csv" in (copied.parent / "sums.json").read_text()


@pytest.mark.parametrize(
    "rows",
    [
        [(7, "cat", "cat", 3)],
        [(0, "cat", "cat", 3), (0, "cat", "cat", 4)],
        [(0, "cat", "cat", 0)],
        [(0, "cat", "cat", 1.5)],
        [(0, "cat", "cat", None)],
        [(0, "cat", "cat", "many")],
    ],
    ids=["another stack's trial", "a cell twice", "none", "half an answer", "no number", "a word"],
)
def test_matrices_that_no_test_gives_are_refused(tmp_path, rows):
    result = made(tmp_path, "lstm", rows)
    with pytest.raises(UnusableError, match=r"confusion\.csv"):
        read_confusion(result.stacks[0])
    left_out = []
    assert read_confusions([result], left_out) == {}
    assert len(left_out) == 1


def test_percentages_neither_hide_a_mistake_nor_make_one(tmp_path):
    made(tmp_path, "lstm", [(0, "cat", "cat", 9999), (0, "cat", "dog", 1), (0, "dog", "dog", 5)])
    (comparison,) = compare(read_results(tmp_path), [])
    text = confusion_table(comparison, read_confusions(comparison.results, [])).text
    assert text[["as cat", "as dog"]].to_numpy().tolist() == [[">99.9", "<0.1"], ["", "100.0"]]


def test_classes_are_in_their_natural_order_and_none_is_lost(tmp_path):
    names = ["2", "10", "1", "a b", "a  b"]
    made(tmp_path, "lstm", [(0, name, name, 3) for name in names])
    (comparison,) = compare(read_results(tmp_path), [])
    text = confusion_table(comparison, read_confusions(comparison.results, [])).text
    assert list(text)[3:6] == ["as 1", "as 2", "as 10"]
    assert len(set(text)) == 3 + len(names)
