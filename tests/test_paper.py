"""The committed outcome: that runs exported for git, and those that are committed, make the tables beside them."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from handmade import write

from amu_experiments.analysis.report import write_report
from amu_experiments.analysis.verdicts import summary
from amu_experiments.files import UnusableError, partial_path
from amu_experiments.stack_files import read_stack
from amu_experiments.store import read_results
from amu_experiments.studies.export import main

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "results" / "paper"


def export(runs: Path, out: Path) -> None:
    main(["--results-dir", str(runs), "--out", str(out)])


def same_tables(one: Path, other: Path) -> None:
    paths = sorted(path.name for path in one.iterdir())
    assert paths == sorted(path.name for path in other.iterdir())
    for name in paths:
        assert (one / name).read_text(encoding="utf-8") == (other / name).read_text(encoding="utf-8"), name


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "runs"
    for cell, ends in (("amu", [5100, 8600, None]), ("lstm", [7100, None, "diverged"])):
        folder = write(root, cell, ends, training={"max_sequences": 10_000}).folder
        np.savez(folder / "trials-0-2" / "weights.npz", trial=np.arange(3), parameters=np.zeros((3, 42), np.float32))
    return root


def test_exported_runs_make_the_same_tables(runs, tmp_path):
    export(runs, tmp_path / "small")
    for store in ("runs", "small"):
        write_report(tmp_path / store, tmp_path / f"of_{store}", parts=["tables"])
    same_tables(tmp_path / "of_runs" / "tables", tmp_path / "of_small" / "tables")


def test_exported_histories_are_short_and_keep_every_end(runs, tmp_path):
    export(runs, tmp_path / "small")
    assert not list((tmp_path / "small").glob("*/*/*/*/weights.npz"))
    for whole, small in zip(read_results(runs), read_results(tmp_path / "small"), strict=True):
        assert len(small.history) < len(whole.history) / 2
        ends = [result.history.groupby("trial").last() for result in (whole, small)]
        pd.testing.assert_frame_equal(*ends, check_dtype=False)


def test_exported_commands_do_not_name_a_folder_of_this_machine(runs, tmp_path):
    for path in runs.glob("*/*/*/trials-*/provenance.json"):
        made = json.loads(path.read_text()) | {"command": "amu-run task=adding results_dir=/home/me/runs trials=3"}
        path.write_text(json.dumps(made))
    export(runs, tmp_path / "small")
    copies = list((tmp_path / "small").glob("*/*/*/trials-*/provenance.json"))
    assert [json.loads(path.read_text())["command"] for path in copies] == ["amu-run task=adding trials=3"] * 2


def test_committed_results_name_no_folder_of_one_machine():
    texts = [path.read_text(encoding="utf-8") for path in PAPER.glob("runs/*/*/*/trials-*/provenance.json")]
    texts += [(PAPER / name).read_text(encoding="utf-8") for name in ("index.html", "report.md")]
    assert len(texts) > 300
    assert not [text for text in texts if "results_dir=/" in text]


def test_a_damaged_history_of_a_copy_is_told(runs, tmp_path):
    export(runs, tmp_path / "small")
    path = next((tmp_path / "small").glob("*/*/*/*/history.csv.gz"))
    _, expected = read_stack(path.parent)
    (path.parent / "history.csv").write_text("trial,sequences,seconds,loss\n0,1,1,123\n")
    _, history = read_stack(path.parent)
    pd.testing.assert_frame_equal(history, expected)  # a file without a checksum is no part of the stack
    (path.parent / "history.csv").unlink()
    assert path.read_bytes()[4:8] == bytes(4)  # no time, so that the same history gives the same file
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UnusableError, match="history.csv.gz does not match its checksum"):
        read_stack(path.parent)
    (path.parent / "sums.json").unlink()
    with pytest.raises(UnusableError, match=r"history.csv.gz cannot be read \(EOFError\)"):
        read_stack(path.parent)
    path.unlink()
    with pytest.raises(UnusableError, match="history.csv is not there"):
        read_stack(path.parent)


def test_exporting_again_changes_nothing_and_strangers_are_told(runs, tmp_path):
    small = tmp_path / "small"
    export(runs, small)
    before = {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    next(small.glob("*/*/*/trials-*")).joinpath("history.csv").write_text("of a version that did not compress it")
    export(runs, small)
    assert before == {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    shutil.rmtree(runs / "two_sequence" / "lstm")
    with pytest.raises(SystemExit, match="remove two_sequence/lstm/[0-9a-f]{12}"):
        export(runs, small)


def test_a_provenance_that_is_none_is_left_out_and_the_trials_exported(runs, tmp_path, capsys):
    one, other = sorted(runs.glob("*/*/*/trials-*/provenance.json"))
    one.unlink()
    other.write_text("{")
    export(runs, tmp_path / "small")
    told = capsys.readouterr().out.splitlines()
    assert sorted(told[:-1]) == [f"Left out: {one}: is not there", f"Left out: {other}: holds no provenance"]
    assert not list((tmp_path / "small").glob("*/*/*/*/provenance.json"))
    assert len(read_results(tmp_path / "small")) == 2


def test_what_cannot_be_exported_is_told_in_one_line(runs, tmp_path):
    stack = next(runs.glob("two_sequence/amu/*/trials-*"))
    (tmp_path / "small" / stack.relative_to(runs) / "history.csv.gz").mkdir(parents=True)
    with pytest.raises(SystemExit, match="studies.export: .*history.csv.gz: Is a directory"):
        export(runs, tmp_path / "small")
    (stack / "history.csv").write_text("")
    with pytest.raises(SystemExit, match=r"studies.export: .*history.csv cannot be read \(EmptyDataError\)"):
        export(runs, tmp_path / "small")


def test_what_a_killed_export_left_is_removed_by_the_next(runs, tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    export(runs, tmp_path / "small")
    for folder in (tmp_path / "small").glob("*/*/*"):
        for place in (folder, folder / "trials-0-2"):
            partial_path(place / "config.yaml", gone.pid).touch()
    export(runs, tmp_path / "small")
    assert not list((tmp_path / "small").rglob("*.part"))


def test_the_committed_tables_are_those_of_the_committed_runs(tmp_path):
    if (PAPER / "mechanism").exists():
        shutil.copytree(PAPER / "mechanism", tmp_path / "mechanism")
    write_report(PAPER / "runs", tmp_path, parts=["tables"])
    made, committed = tmp_path / "tables", PAPER / "tables"
    assert {path.name for path in made.glob("*.csv")} == {path.name for path in committed.glob("*.csv")}
    for table in committed.iterdir():
        assert table.read_text(encoding="utf-8") == (made / table.name).read_text(encoding="utf-8")
    report = (PAPER / "report.md").read_text(encoding="utf-8")
    assert all(table.read_text(encoding="utf-8") in report for table in made.glob("*.md"))
    page = (PAPER / "index.html").read_text(encoding="utf-8")
    assert all(sentence in page for sentence in summary(pd.read_csv(committed / "claims.csv")))
