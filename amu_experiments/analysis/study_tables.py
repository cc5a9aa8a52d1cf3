"""The tables of studies in a report's folder: the readings of the unit, tuning and speed."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from amu_experiments.analysis.tables import Table
from amu_experiments.analysis.text import cell_text, printable
from amu_experiments.files import UnusableError, read_table, read_text

LONGEST_CAPTION = 5000
"""Longest caption in characters; a longer one loses its middle."""

STUDIES = (
    (
        "readings",
        "Readings of the unit",
        "The abstract leaves parts of the unit open. Each reading was tried on several tasks with equal budgets.",
        "readings*.csv",
    ),
    (
        "tuning",
        "Tuning",
        "Every configuration that was tried for each cell, on trials that no comparison uses.",
        "tuning/*.csv",
    ),
    ("speed", "Speed", "Measured by scripts/benchmark.py.", "speed.csv"),
)
"""Name, title and description of each study, and its files in the report's folder."""


@dataclass(frozen=True)
class Study:
    """The tables of a study. `id` is its anchor on the page, `words` describes it in one or two sentences."""

    id: str
    title: str
    words: str
    tables: list[Table]


def read_studies(folder: Path, left_out: list[UnusableError | OSError]) -> list[Study]:
    """The studies with tables in the report's folder; `left_out` receives an error for each unusable file."""
    found = [(*words, _read_tables(folder / pattern, left_out)) for *words, pattern in STUDIES]
    return [Study(*words, tables) for *words, tables in found if tables]


def _read_tables(pattern: Path, left_out: list[UnusableError | OSError]) -> list[Table]:
    """The tables of the files that match. <experiment>-<model>.csv of all models are one table, with a column model."""
    parts: dict[str, dict[str, pd.DataFrame]] = {}
    for path in _paths(pattern, left_out):
        try:
            table = read_table(path, numbers=False)
            if table.empty:
                raise UnusableError(path, "has no rows")
        except (UnusableError, OSError) as error:
            left_out.append(error)
            continue
        name, _, model = path.stem.partition("-")
        parts.setdefault(name, {})[model] = table
    tables = []
    for name, by_model in parts.items():
        frames = [table.assign(model=model) if model else table for model, table in by_model.items()]
        numbers = pd.concat(frames, ignore_index=True).infer_objects()
        if "model" in numbers:
            numbers = numbers[["model", *numbers.columns.drop("model")]]
        text = pd.DataFrame({key: [cell_text(value) for value in numbers[key]] for key in numbers}, dtype=object)
        caption = _caption(pattern.parent / f"{name}.json", left_out)
        caption = caption or f"From {name}{'-*' if any(by_model) else ''}.csv."
        tables.append(Table(printable(name), printable(caption, LONGEST_CAPTION), numbers, text))
    return tables


def _paths(pattern: Path, left_out: list[UnusableError | OSError]) -> list[Path]:
    """The paths in a folder whose names match the pattern, sorted. `read_table` reports a path that is not a file."""
    try:
        return sorted(path for path in pattern.parent.iterdir() if path.match(pattern.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        left_out.append(error)
        return []


def _caption(path: Path, left_out: list[UnusableError | OSError]) -> str | None:
    """The caption that a study wrote next to its table, as JSON: {"caption": "..."}; None without a usable one."""
    if not os.path.lexists(path):
        return None
    try:
        stored = json.loads(read_text(path))
        if isinstance(stored, dict) and isinstance(stored.get("caption"), str):
            return stored["caption"]
        left_out.append(UnusableError(path, "has no caption"))
    except (UnusableError, OSError) as error:
        left_out.append(error)
    except (ValueError, RecursionError):
        left_out.append(UnusableError(path, "is not JSON"))
    return None
