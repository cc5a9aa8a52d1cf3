"""amu-report on a small store written by hand: what it writes, says and leaves out."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from handmade import MADE, write

from amu_experiments.analysis import report
from amu_experiments.analysis.report import main, write_report
from amu_experiments.files import partial_path


@pytest.fixture
def store(tmp_path):
    root = tmp_path / "runs"
    write(root, "amu", [300, 400, None])
    write(root, "lstm", [700, None, None])
    return root


def write_judged(root: Path) -> None:
    """Adds ten trials of the paper's AMU and of the LSTM, on which findings about claims rest."""
    ends = [300 + 10 * trial for trial in range(10)]
    write(root, "amu", ends, model={"gradient": "truncated"}, training={"optimizer": "adam"})
    write(root, "lstm", ends, training={"optimizer": "adam"})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_report_has_tables_figures_and_a_page_that_shows_them(store, tmp_path):
    out = tmp_path / "report"
    lines = write_report(store, out)
    name = "two_sequence-noise_free-T100-N3"
    tables = [f"{name}-{kind}" for kind in ("criteria", "metrics", "published")]
    assert names(out / "tables") == sorted(f"{table}.{kind}" for table in tables for kind in ("csv", "md", "tex"))
    figures = [f"{name}-{kind}" for kind in ("mean_error", "solved")]
    assert names(out / "figures") == [f"{figure}.{kind}" for figure in figures for kind in ("pdf", "png")]
    page = (out / "report.md").read_text()
    assert all((out / "tables" / f"{table}.md").read_text() in page for table in tables)
    assert all(f"](figures/{figure}.png)" in page for figure in figures)
    assert "variant noise_free, T 100, N 3" in page
    assert lines[-1] == f"Tables and figures: {out / 'index.html'}, and as Markdown in {out / 'report.md'}"


def test_claims_are_reported_only_if_runs_bear_on_them(store, tmp_path):
    out = tmp_path / "report"

    def said() -> tuple[str, ...]:
        lines = write_report(store, out)
        return "\n".join(lines), *((out / page).read_text() for page in ("report.md", "index.html"))

    for text in said():
        assert re.findall(r"[^\n]*(?:claim|verdict<|missing)[^\n]*", text.replace(str(out), "").lower()) == []
    assert not list((out / "tables").glob("claims*"))
    write_judged(store)
    lines, markdown, page = said()
    assert "\ngeneration      Not run.\n" in lines
    assert lines.splitlines()[-1].startswith("Claims, tables and figures: ")
    assert all((out / "tables" / f"{name}.md").read_text() in markdown for name in ("claims", "claims-findings"))
    assert 'id="claim-generation"' in page


def test_every_row_is_tested_against_the_row_that_a_user_names(store, tmp_path, capsys):
    out, name = tmp_path / "out", "two_sequence-noise_free-T100-N3-criteria.csv"
    options = ["--results-dir", str(store), "--out", str(out), "--only", "tables"]

    def tested() -> list[str]:
        table = pd.read_csv(out / "tables" / name)
        return table.loc[table["p_holm"].notna(), "model"].unique().tolist()

    assert main(options) == 0
    assert tested() == ["lstm"]
    assert main([*options, "--reference", "lstm"]) == 0
    assert tested() == ["amu"]
    write(store, "lstm", [800, None], model={"note": "x"})
    assert main([*options, "--reference", "lstm (note=x)"]) == 0
    assert tested() == ["amu", "lstm"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gru", "no row is named gru; possible are amu; lstm (note=x); lstm (note=y)"),
        (
            "lstm",
            "lstm names several rows of two_sequence-noise_free-T100-N3: lstm (note=x); lstm (note=y); "
            "give the label of one, in quotes, or leave rows out with --where",
        ),
    ],
)
def test_a_reference_that_is_unknown_or_ambiguous_is_refused_with_the_possible_rows(tmp_path, capsys, name, why):
    root = tmp_path / "runs"
    for cell, model, ends in (("amu", {}, [300]), ("lstm", {"note": "x"}, [400]), ("lstm", {"note": "y"}, [500])):
        write(root, cell, ends, model=model)
    assert main(["--results-dir", str(root), "--out", str(tmp_path / "out"), "--reference", name]) == 1
    told = capsys.readouterr()
    assert told.err == f"amu-report: --reference: {why}\n"
    assert not (tmp_path / "out").exists()


def test_the_same_store_gives_the_same_report_however_many_processes_draw(store, tmp_path, monkeypatch):
    write(store, "amu", [300, 400, None], task={"T": 200})
    monkeypatch.setattr(report, "FEW", 1)
    for processes, out in enumerate(("one", "two"), start=1):
        write_report(store, tmp_path / out, processes=processes)
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 25
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


def beside(lines: list[str]) -> list[str]:
    known = ("two_sequence-", "two_sequence/", "Left out: ", "Not finished: ")
    return [line for line in lines if line.startswith(known) and ": " in line]


@pytest.mark.parametrize("damage", ["{", "[]", "\0\1", "", None])
def test_a_provenance_that_is_none_is_named_and_every_trial_reported(store, tmp_path, damage):
    stack = next(store.glob("two_sequence/amu/*/trials-0-2"))
    begun = stack.with_name("trials-3-4")
    for folder in (stack, begun, stack.with_name("trials-x")):
        folder.mkdir(exist_ok=True)
        path = folder / "provenance.json"
        path.unlink(missing_ok=True)
        if damage is None:
            path.mkdir()
        else:
            path.write_text(damage)
    lines = write_report(store, tmp_path / "out", parts=["tables"])
    assert beside(lines) == [
        f"Left out: {stack.with_name('trials-x')}: is not named like a stack, trials-FIRST-LAST",
        f"Left out: {stack / 'provenance.json'}: {'is a folder' if damage is None else 'holds no provenance'}",
        f"Not finished: {begun}",
    ]
    (table,) = (tmp_path / "out").rglob("*-criteria.csv")
    assert pd.read_csv(table).groupby("model")["trials"].first().sum() == 6


def test_a_task_whose_results_all_lack_something_is_no_reason_to_stop(tmp_path, capsys):
    root = tmp_path / "runs"
    for cell, lacking in (("amu", "loss"), ("lstm", "accuracy"), ("gru", "mean_error")):
        path = write(root, cell, [300]).folder / "trials-0-0" / "trials.csv"
        pd.read_csv(path).drop(columns=f"test_{lacking}").to_csv(path, index=False)
    assert main(["--results-dir", str(root), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"amu-report: no finished runs in {root}")
    assert [line.rpartition(": ")[2] for line in told[1:]] == [
        f"trials.csv has no test_{name}, unlike the results beside it" for name in ("loss", "mean_error", "accuracy")
    ]


def test_rows_with_different_trials_are_told(store, tmp_path):
    write(store, "gru", [300] * 3, first=7)
    write(store, "rnn", [300] * 3)
    lines = beside(write_report(store, tmp_path / "out"))
    name = "two_sequence-noise_free-T100-N3"
    assert lines == [f"{name}: rows have different trials: 0-2 of rnn, amu, lstm; 7-9 of gru"]
    for page in ("report.md", "index.html"):
        assert lines[0] in (tmp_path / "out" / page).read_text()


def test_a_row_with_fewer_trials_is_told_with_the_stack_that_was_left_out(store, tmp_path):
    folder = write(store, "lstm", [300, 400], first=3).folder
    write(store, "amu", [300, 400], first=3)
    assert beside(write_report(store, tmp_path / "out", parts=["tables"])) == []
    (folder / "trials-3-4" / "history.csv").write_text("")
    assert beside(write_report(store, tmp_path / "out", parts=["tables"])) == [
        f"Left out: {folder / 'trials-3-4'}: history.csv cannot be read (EmptyDataError)",
        "two_sequence-noise_free-T100-N3: rows have different trials: 0-4 of amu; 0-2 of lstm",
        "two_sequence-noise_free-T100-N3: lstm has 3 trials, another row 5: left out trials-3-4",
    ]


def test_a_trial_without_history_is_told_and_is_not_in_the_curves(store, tmp_path):
    folder = write(store, "gru", [300, "diverged", 500, 600]).folder
    path = folder / "trials-0-3" / "history.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(("1,", "2,", "3,"))))
    lines = beside(write_report(store, tmp_path / "out"))
    assert lines[1:] == ["two_sequence-noise_free-T100-N3: gru has no history of trial 2-3: not in its curves"]
    for path in store.glob("two_sequence/*/*/trials-*/history.csv"):
        path.write_text(path.read_text().splitlines()[0] + "\n")
    assert len(beside(write_report(store, tmp_path / "out"))) == 1 + 3


@pytest.mark.filterwarnings("error")
def test_configurations_that_mix_numerics_are_told(store, tmp_path):
    for first, numerics in ((3, None), (4, (2, "x86-64-v3")), (5, (2, "x86-64-v3")), (6, (2, "x86-64-v4"))):
        folder = write(store, "amu", [300], first=first).folder
        made = MADE | {"command": ""}
        if numerics:
            made |= {"numerics": dict(zip(("version", "instructions"), numerics, strict=True))}
        (folder / f"trials-{first}-{first}" / "provenance.json").write_text(json.dumps(made))
    lines = [line for line in write_report(store, tmp_path / "out", parts=["tables"]) if "numerics" in line]
    assert lines == [
        f"two_sequence/amu/{folder.name} mixes numerics: "
        "not recorded in trials-0-2, trials-3-3; "
        "instructions x86-64-v3, version 2 in trials-4-4, trials-5-5; "
        "instructions x86-64-v4, version 2 in trials-6-6"
    ]


TEXT = "$a$ \\input{x} ~^%&#_|<script>\n\x07/../" + "z" * 300


@pytest.mark.filterwarnings("error")
def test_texts_of_any_kind_stop_no_figure_and_lead_no_file_astray(tmp_path):
    root, out = tmp_path / "runs", tmp_path / "deep" / "out"
    criterion = TEXT.replace("\n", " ").replace("\x07", "")
    for key, note in (("variant", TEXT), ("form", "$")):
        task = {"note": note, key: TEXT, "criteria": {criterion: {TEXT: TEXT}}}
        for own in (note, "other"):
            write(root, "amu", [300, None], task=task, model={"note": own}, training={"stop": criterion})
    for path in root.glob("*/*/*/trials-*/trials.csv"):
        table = pd.read_csv(path).rename(columns={"st1_sequences": f"{criterion}_sequences"})
        table.to_csv(path, index=False)
    (out / "tables").mkdir(parents=True)
    for name in ("two_sequence-", "two_sequence-$a$ "):
        for part in ("tables", "figures"):
            (out / part / name).mkdir(parents=True)
    write_report(root, out)
    assert names(tmp_path) == ["deep", "runs"]
    assert names(tmp_path / "deep") == ["out"]
    assert len(list((out / "figures").glob("*.png"))) == 2 * len(list((out / "tables").glob("*-criteria.md"))) == 4
    assert all(len(path.name) < 200 for path in out.rglob("*"))


def test_what_a_killed_report_left_is_removed_by_the_next(store, tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = [partial_path(tmp_path / "out" / place / "x.csv", gone.pid) for place in (".", "tables", "figures")]
    others = [tmp_path / "out" / name for name in ("tables/.x.part", "mine.part")]
    others.append(partial_path(tmp_path / "out" / "notes" / "x", gone.pid))
    for path in (*left, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_report(store, tmp_path / "out", parts=["tables"])
    assert [path.exists() for path in (*left, *others)] == [False] * 3 + [True] * 3


def test_a_folder_or_a_file_in_the_way_is_told_in_one_line(store, tmp_path, capsys):
    out = tmp_path / "out"
    table = out / "tables" / "two_sequence-noise_free-T100-N3-metrics.md"
    table.mkdir(parents=True)
    options = ["--results-dir", str(store), "--out", str(out), "--only"]
    assert main([*options, "tables"]) == 1
    (out / "figures").touch()
    assert main([*options, "figures"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"amu-report: {table}: Is a directory",
        f"amu-report: {out / 'figures'}: File exists",
    ]


def test_a_terminal_without_the_letters_of_a_name_gets_others(tmp_path):
    root = tmp_path / "\udcff"
    write(root, "amu", [300], model={"note": "ä"})
    write(root, "amu", [300], model={"note": "ö"})
    code = "import sys; from amu_experiments.analysis.report import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--results-dir", str(root), "--out", str(root), "--only", "tables"]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"amu (note=\\xe4)" in done.stdout


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
