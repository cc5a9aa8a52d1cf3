"""Reads the tables flow, trials and traces that amu_experiments.studies.mechanism writes."""

import os
from pathlib import Path

import pandas as pd

from amu_experiments.analysis.comparison import Comparison
from amu_experiments.files import UnusableError, read_table

PHASES = {"start": "at the start of training", "trained": "after training"}

FLOWS = {"full": "derivative", "truncated": "truncated flow"}
"""The kinds of error flow in words, by their names in the tables."""


def read_mechanism(folder: Path, left_out: list[UnusableError | OSError] | None = None) -> dict[str, pd.DataFrame]:
    """The tables flow, trials and traces of a folder, by name; an empty dict if the folder has none of them.

    Args:
        folder: the folder of the compressed CSV files.
        left_out: receives an error for each unusable table; if any is unusable, all are left out.

    Raises:
        UnusableError, OSError: a table is unusable, and `left_out` is not given.
    """
    paths = {name: folder / f"{name}.csv.gz" for name in _COLUMNS}
    if not any(map(os.path.lexists, paths.values())):
        return {}
    tables = {}
    for name, path in paths.items():
        try:
            tables[name] = _read(path, *_COLUMNS[name])
        except (UnusableError, OSError) as error:
            if left_out is None:
                raise
            left_out.append(error)
    return tables if len(tables) == len(paths) else {}


_ROW = ("task", "model", "identity")

_COLUMNS = {
    "flow": ((*_ROW, "phase", "flow"), ("lag",), ("relative_low", "relative_median", "relative_high")),
    "trials": ((*_ROW, "phase", "flow", "quantity"), ("trial",), ("value",)),
    "traces": (_ROW, ("trial", "sequence", "step", "unit"), ("memory", "output")),
}
"""For each table, its columns of text, of whole numbers and of other numbers."""


def _read(path: Path, texts: tuple[str, ...], whole: tuple[str, ...], numbers: tuple[str, ...]) -> pd.DataFrame:
    table = read_table(path, (*texts, *whole, *numbers), texts)
    for name in whole:
        if not (table[name].between(0, 2**53) & (table[name] % 1 == 0)).all():
            raise UnusableError(path, f"has values that are not whole numbers in {name}")
    return table.astype(dict.fromkeys(whole, int))


def of_row(table: pd.DataFrame, comparison: Comparison, row: int) -> pd.DataFrame:
    """A row's part of a table of the mechanism."""
    result = comparison.results[row]
    own = (table["task"] == result.task) & (table["model"] == result.model) & (table["identity"] == result.identity)
    return table[own]
