"""CSV and Parquet: trials.* with a row for each trial and all settings, history.* with a row for each evaluation."""

from pathlib import Path

import pandas as pd

from amu_experiments.files import write_bytes
from amu_experiments.library import Results

IDENTIFYING = ("task", "model", "identity", "trial")
"""Columns of both tables; they join a row of the history with its trial and its settings."""


def write_csv(results: Results, out: Path) -> list[str]:
    """Write trials.csv and history.csv; returns how to open them."""
    return [
        *_write(results, out, "csv", lambda table: table.to_csv(index=False).encode()),
        f'Open with pandas.read_csv("{out / "trials.csv"}").',
    ]


def write_parquet(results: Results, out: Path) -> list[str]:
    """Write trials.parquet and history.parquet, with fastparquet or pyarrow; returns how to open them.

    A column with values of several types, such as numbers and words, becomes text.
    """
    return [
        *_write(results, out, "parquet", lambda table: _of_one_type(table).to_parquet(None, index=False)),
        f'Open with pandas.read_parquet("{out / "trials.parquet"}").',
    ]


def _write(results: Results, out: Path, suffix: str, convert) -> list[str]:
    trials = results.trials
    history = pd.concat(
        [result.history.assign(task=result.task, model=result.model, identity=result.identity) for result in results],
        ignore_index=True,
    )
    history = history[[*IDENTIFYING, *(name for name in history if name not in IDENTIFYING)]]
    lines = []
    for name, table in (("trials", trials), ("history", history)):
        path = out / f"{name}.{suffix}"
        write_bytes(path, convert(table))
        lines.append(f"{path}: {len(table):,} rows")
    return lines


def _of_one_type(table: pd.DataFrame) -> pd.DataFrame:
    """The table with text in each column of mixed types; missing values stay missing."""
    mixed = [name for name in table if table[name].dtype == object]
    return table.assign(**{name: table[name].map(str, na_action="ignore").astype("str") for name in mixed})
