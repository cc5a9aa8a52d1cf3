"""MLflow: one SQLite file with a run for each trial, an experiment for each task.

MLflow creates the file and its tables. The rows are inserted in bulk: through MLflow's client, a run takes many
transactions, and thousands of trials would take minutes.
"""

import hashlib
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from mlflow.tracking import MlflowClient

from amu_experiments.exports.metrics import Trial, trials_in
from amu_experiments.library import Results

LONGEST = 6000
"""Longest value of a setting in characters, MLflow's limit."""

CACHE = 200_000
"""KiB of RAM for SQLite's pages: the rows of one trial lie all over the index of metrics."""

STATUSES = {"finished": "FINISHED", "solved": "FINISHED", "diverged": "FAILED"}

COLUMNS = {
    "runs": "run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, "
    "source_version, lifecycle_stage, artifact_uri, experiment_id",
    "params": "run_uuid, key, value",
    "tags": "run_uuid, key, value",
    "metrics": "run_uuid, key, value, is_nan, timestamp, step",
    "latest_metrics": "run_uuid, key, value, is_nan, timestamp, step",
}
"""Columns of MLflow's tables; a run is inserted before the rows that refer to it."""


def write_mlflow(results: Results, out: Path) -> list[str]:
    """Write mlflow.db; returns how to open it. A second export replaces the runs of the same trials."""
    path = (out / "mlflow.db").resolve()
    uri = f"sqlite:///{quote(str(path))}"
    client = MlflowClient(tracking_uri=uri)
    experiments = {}
    for task in sorted({result.task for result in results}):
        found = client.get_experiment_by_name(task)
        artifacts = (out / "mlflow-artifacts" / task).resolve().as_uri()
        experiments[task] = found.experiment_id if found else client.create_experiment(task, artifacts)
    trials, count = 0, 0
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"PRAGMA cache_size = -{CACHE}")
        for trial in trials_in(results):
            run = run_id(trial)
            for table in reversed(COLUMNS):
                database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run,))
            for table, rows in _rows(trial, run, int(experiments[trial.result.task]), out):
                places = ", ".join("?" for _ in COLUMNS[table].split(","))
                database.executemany(f"INSERT INTO {table} ({COLUMNS[table]}) VALUES ({places})", rows)
            trials, count = trials + 1, count + len(trial.curves)
    return [f"{path}: {trials:,} trials, {count:,} evaluations", f"Open with mlflow ui --backend-store-uri {uri}"]


def run_id(trial: Trial) -> str:
    """MLflow's name of a run, 32 hexadecimal digits, the same for the same trial."""
    return hashlib.sha256(trial.name.encode()).hexdigest()[:32]


def _rows(trial: Trial, run: str, experiment: int, out: Path) -> Iterator[tuple[str, list[tuple]]]:
    """The rows of a trial for each table."""
    start = round(1000 * trial.started)
    end = start + round(1000 * trial.seconds)
    name = f"{trial.result.model} {trial.result.identity} trial {trial.number}"
    artifacts = (out / "mlflow-artifacts" / trial.result.task / run / "artifacts").resolve().as_uri()
    status = STATUSES[trial.status]
    yield "runs", [(run, name, "LOCAL", "amu-run", "", "", status, start, end, "", "active", artifacts, experiment)]
    yield "params", [(run, key, str(value)[:LONGEST]) for key, value in trial.settings.items() if value != ""]
    tags = {"mlflow.runName": name, "status": trial.status, "folder": str(trial.result.folder)}
    yield "tags", [(run, key, value) for key, value in tags.items()]
    metrics = [
        (run, key, *_number(value), start + round(1000 * seconds), int(sequences))
        for sequences, seconds, *values in trial.curves.tolist()
        for key, value in zip(trial.curve_names, values, strict=True)
    ]
    metrics += [(run, key, *_number(value), end, trial.sequences) for key, value in trial.final.items()]
    yield "metrics", metrics
    yield "latest_metrics", list({row[1]: row for row in metrics}.values())


def _number(value: float) -> tuple[float, bool]:
    """A number as MLflow stores it: 0 and true for NaN, the largest number for an infinity."""
    if math.isnan(value):
        return 0.0, True
    return math.copysign(min(abs(value), 1.7976931348623157e308), value), False
