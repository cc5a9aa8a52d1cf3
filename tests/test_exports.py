"""amu-export: each format, opened again by its own tool, has every trial, every evaluation and the stored numbers."""

import struct
import sys
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from handmade import write

from amu_experiments.exports.command import FORMATS, main
from amu_experiments.library import load_results

STARTED = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC).timestamp()
"""When the stacks of handmade.py started."""


@pytest.fixture
def runs(tmp_path):
    """Five trials: two solved, two not, one diverged."""
    root = tmp_path / "runs"
    write(root, "lstm", [300, 500, None], training={"learning_rate": 0.1, "clip_norm": None})
    write(root, "amu", [700, "diverged"], model={"bias": "auto"}, training={"clip_norm": 1.0})
    return root


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def export(kind, runs, out, *more) -> int:
    return main([kind, "--results-dir", str(runs), "--out", str(out), *more])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_are_read_again_by_pandas(kind, runs, out, capsys):
    assert export(kind, runs, out) == 0
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}[kind]
    trials, history = (read(out / f"{name}.{kind}") for name in ("trials", "history"))
    stored = load_results(runs)
    assert list(trials) == list(stored.trials)
    assert trials["training.clip_norm"].tolist()[:2] == [1.0, 1.0]
    assert trials["training.clip_norm"].isna().sum() == 3
    own = list(stored[0].trials)
    for name in own:
        assert trials[name].astype(object).where(trials[name].notna(), None).tolist() == (
            stored.trials[name].astype(object).where(stored.trials[name].notna(), None).tolist()
        )
    assert len(history) == len(stored.history)
    assert history["mean_error"].tolist() == stored.history["mean_error"].tolist()
    joined = history.merge(trials, on=["task", "model", "identity", "trial"], validate="many_to_one")
    assert len(joined) == len(history)
    assert f"{out / f'history.{kind}'}: {len(history):,} rows" in capsys.readouterr().out


def test_tensorboard_reads_every_curve(runs, out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert export("tensorboard", runs, out) == 0
    assert export("tensorboard", runs, out) == 0  # replaces the first
    results = load_results(runs)
    for result in results:
        for trial in result.trials.itertuples():
            place = out / "tensorboard" / result.task / result.model / result.identity / f"trial-{trial.trial}"
            events = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
            own = result.history[result.history["trial"] == trial.trial]
            if len(own):
                curve = events.Scalars("validation/mean_error")
                assert [each.step for each in curve] == own["sequences"].tolist()
                assert [each.value for each in curve] == pytest.approx(own["mean_error"].tolist())
                assert [each.wall_time for each in curve] == (STARTED + own["seconds"]).tolist()
                assert len(events.Scalars("train/gradient_norm")) == len(own)
                (last,) = events.Scalars("test/loss") if trial.status != "diverged" else (None,)
                assert last is None or last.value == pytest.approx(trial.test_loss)
            hparams = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
            assert b"training.learning_rate" in hparams
    assert len(list((out / "tensorboard").rglob("*tfevents*"))) == 5 + 1


def test_checksums_are_those_of_tensorboards_own_writer():
    import io

    from tensorboard.summary.writer.record_writer import RecordWriter

    from amu_experiments.exports.tensorboard import masked_checksums

    rng = np.random.default_rng(0)
    records = [rng.bytes(size) for size in (1, 8, 8, 200, 3)]
    for record, checksum in zip(records, masked_checksums(records), strict=True):
        file = io.BytesIO()
        RecordWriter(file).write(record)
        assert file.getvalue() == (
            struct.pack("<Q", len(record)) + masked_checksums([struct.pack("<Q", len(record))])[0] + record + checksum
        )


@pytest.mark.filterwarnings("ignore")  # of MLflow's own code
def test_mlflow_finds_every_run(runs, out):
    from mlflow.tracking import MlflowClient

    assert export("mlflow", runs, out) == 0
    assert export("mlflow", runs, out, "--where", "model == lstm") == 0  # replaces three of them
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("two_sequence")
    found = client.search_runs([experiment.experiment_id], max_results=100)
    results = load_results(runs)
    assert len(found) == len(results.trials) == 5
    by_trial = {(run.data.params["identity"], int(run.data.params["trial"])): run for run in found}
    for result in results:
        for trial in result.trials.itertuples():
            run = by_trial[result.identity, trial.trial]
            assert run.data.params["training.max_sequences"] == "1000"
            assert run.data.tags["status"] == trial.status
            assert run.info.status == ("FAILED" if trial.status == "diverged" else "FINISHED")
            assert run.info.start_time == 1000 * STARTED
            own = result.history[result.history["trial"] == trial.trial]
            curve = client.get_metric_history(run.info.run_id, "validation/mean_error")
            assert sorted((each.step, each.value) for each in curve) == list(
                zip(own["sequences"], own["mean_error"], strict=True)
            )
            if trial.status != "diverged":
                assert run.data.metrics["test/loss"] == trial.test_loss
    best = client.search_runs([experiment.experiment_id], "metrics.`test/mean_error` < 0.1 and params.model = 'lstm'")
    assert len(best) == 2


def test_nothing_to_export_and_wrong_commands_are_one_line(runs, out, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, status, words in (
        (["csv", "--results-dir", str(tmp_path / "none")], 1, f"amu-export: {tmp_path / 'none'}: no such folder\n"),
        (
            ["csv", "--results-dir", str(tmp_path / "empty")],
            1,
            f"amu-export: no finished runs in {tmp_path / 'empty'}\n",
        ),
        (
            ["csv", "--results-dir", str(runs), "--where", "model == rnn"],
            1,
            f"amu-export: no finished runs in {runs} with model == rnn\n",
        ),
    ):
        assert main([*arguments, "--out", str(out)]) == status
        assert capsys.readouterr().err == words
    for arguments in (["excel"], ["csv", "--results-dir", str(runs), "--where", "lstm"]):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--out", str(out)])
        assert ended.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()
    out.write_text("")
    assert export("csv", runs, out) == 1
    assert capsys.readouterr().err == f"amu-export: {out}: File exists\n"


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_tool_that_is_not_installed_is_named_with_its_extra(kind, runs, out, monkeypatch, capsys):
    assert kind in FORMATS
    monkeypatch.setitem(sys.modules, kind, None)
    for name in [name for name in sys.modules if name.startswith((f"{kind}.", f"amu_experiments.exports.{kind}"))]:
        monkeypatch.delitem(sys.modules, name)
    assert export(kind, runs, out) == 1
    assert f'pip install "amu-experiments[{kind}]"' in capsys.readouterr().err


def test_a_damaged_run_is_left_out_and_named(runs, out, capsys):
    broken = next(runs.glob("*/lstm/*/config.yaml"))
    broken.write_text("{")
    assert export("csv", runs, out) == 0
    assert f"Left out: {broken}: holds no configuration" in capsys.readouterr().out
    assert set(pd.read_csv(out / "trials.csv")["model"]) == {"amu"}
