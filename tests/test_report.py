"""amu-report on a small store written by hand: what it writes, says and leaves out."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from handmade import write

from amu_experiments.analysis import report
from amu_experiments.analysis.report import main, write_report


@pytest.fixture
def store(tmp_path):
    root = tmp_path / "runs"
    write(root, "amu", [300, 400, None])
    write(root, "lstm", [700, None, None])
    return root


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_report_has_tables_figures_and_a_page_that_shows_them(store, tmp_path):
    out = tmp_path / "report"
    lines = write_report(store, out)
    name = "two_sequence-noise_free-T100-N3"
    tables = ["claims", "claims-findings", *(f"{name}-{kind}" for kind in ("criteria", "metrics", "published"))]
    assert names(out / "tables") == sorted(f"{table}.{kind}" for table in tables for kind in ("csv", "md", "tex"))
    figures = [f"{name}-{kind}" for kind in ("mean_error", "solved")]
    assert names(out / "figures") == [f"{figure}.{kind}" for figure in figures for kind in ("pdf", "png")]
    page = (out / "report.md").read_text()
    assert all((out / "tables" / f"{table}.md").read_text() in page for table in tables)
    assert all(f"](figures/{figure}.png)" in page for figure in figures)
    assert "variant noise_free, T 100, N 3" in page
    assert lines[-1].endswith(f"{out / 'index.html'}, and as Markdown in {out / 'report.md'}")
    assert "generation      undecided" in lines


def test_the_same_store_gives_the_same_report_however_many_processes_draw(store, tmp_path, monkeypatch):
    write(store, "amu", [300, 400, None], task={"T": 200})
    monkeypatch.setattr(report, "FEW", 1)
    for processes, out in enumerate(("one", "two"), start=1):
        write_report(store, tmp_path / out, processes=processes)
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 31
    for path in files:
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


@pytest.mark.parametrize("made", [True, False])
def test_an_empty_or_missing_store_is_told_in_one_line(tmp_path, capsys, made):
    runs = tmp_path / "runs"
    if made:
        runs.mkdir()
    assert main(["--results-dir", str(runs), "--out", str(tmp_path / "out")]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"amu-report: no finished runs in {runs}; train some first, such as amu-run task=adding\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [["--foo"], ["here"], ["--task"], ["--only", "nothing"]])
def test_a_wrong_command_gets_one_line(wrong, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(wrong)
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_was_not_run_is_told_with_those_that_were(store, tmp_path, capsys):
    options = ["--results-dir", str(store), "--out", str(tmp_path / "out"), "--only", "tables", "--task"]
    assert main([*options, "adding"]) == 1
    assert "no runs of the task adding" in capsys.readouterr().err
    assert main([*options, "two_sequence"]) == 0
    assert "two_sequence-noise_free-T100-N3-criteria" in capsys.readouterr().out


def test_runs_that_cannot_be_used_are_left_out_and_told(store, tmp_path):
    damaged = write(store, "gru", [300]).folder
    (damaged / "trials-0-0" / "trials.csv").write_text("")
    incomplete = write(store, "own_cell", [300]).folder
    (incomplete / "trials-0-0" / "trials.csv").write_text("trial\n0\n")
    other = write(store, "rnn", [300]).folder
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("version: 1", "version: 0"))
    empty = write(store, "zero", [300]).folder
    (empty / "config.yaml").write_text("")
    lines = [line for line in write_report(store, tmp_path / "out") if line.startswith("Left out:")]
    assert lines == [
        f"Left out: {damaged}/trials-0-0: trials.csv cannot be read (EmptyDataError)",
        f"Left out: {incomplete}/trials-0-0: trials.csv has no parameters, seconds, sequences, status",
        f"Left out: {other}/config.yaml: made with schema version 0, this is 1",
        f"Left out: {empty}/config.yaml: holds no configuration",
    ]
    assert all(line in (tmp_path / "out" / "report.md").read_text() for line in lines)


def test_runs_that_are_not_finished_are_told_and_in_no_table(store, tmp_path):
    running = write(store, "gru", [300]).folder
    (running / "trials-0-0" / "trials.csv").unlink()
    lines = write_report(store, tmp_path / "out", parts=["tables"])
    assert [line for line in lines if "gru" in line] == [f"Not finished: {running / 'trials-0-0'}"]


@pytest.mark.parametrize("half", ["tables", "figures"])
def test_each_script_writes_its_half(store, tmp_path, monkeypatch, half):
    script = str(Path(__file__).parents[1] / "scripts" / f"make_{half}.py")
    monkeypatch.setattr(sys, "argv", [script, "--results-dir", str(store), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    assert end.value.code == 0
    assert names(tmp_path / "out") == [half]


def test_the_analysis_needs_no_torch():
    code = "import sys, amu_experiments.analysis.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
