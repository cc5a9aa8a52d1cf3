"""Trials as experiment trackers show them: name, settings, and metrics such as validation/loss."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from amu_experiments.files import UnusableError
from amu_experiments.library import Results
from amu_experiments.selection import settings_of
from amu_experiments.stack_files import read_provenance, trials_of
from amu_experiments.store import Result

NOT_METRICS = ("trial", "status", "sequences", "seconds", "parameters")


class Trial(NamedTuple):
    """A trial with its metrics during and after training.

    started: seconds since 1970, 0 if unknown. curves: (E, 2 + C) of E evaluations: sequences, seconds, then a column
    for each of `curve_names`. final: metrics after training that are numbers.
    """

    result: Result
    number: int
    status: str
    sequences: int
    seconds: float
    started: float
    curve_names: list[str]
    curves: np.ndarray
    final: dict[str, float]

    @property
    def name(self) -> str:
        return f"{self.result.task}/{self.result.model}/{self.result.identity}/trial-{self.number}"

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration as one level, and the number of the trial."""
        return settings_of(self.result) | {"trial": self.number}


def trials_in(results: Results) -> Iterator[Trial]:
    """Every trial, in the order of the store."""
    for result in results:
        started = _start_times(result)
        history, names = result.history, _metrics(result.history)
        values = history[["sequences", "seconds", *names]].to_numpy(float)
        ends = np.searchsorted(history["trial"], result.trials["trial"].to_numpy(), side="right")
        starts = np.searchsorted(history["trial"], result.trials["trial"].to_numpy(), side="left")
        final_names = _metrics(result.trials)
        rows = zip(result.trials.to_dict("records"), starts, ends, strict=True)
        for row, start, end in rows:
            final = {_shown(name, "final"): float(row[name]) for name in final_names if not pd.isna(row[name])}
            yield Trial(
                result,
                row["trial"],
                row["status"],
                row["sequences"],
                row["seconds"],
                started.get(row["trial"], 0.0),
                [_shown(name, "validation") for name in names],
                values[start:end],
                final | {"final/parameters": float(row["parameters"])},
            )


def _metrics(table: pd.DataFrame) -> list[str]:
    return [name for name in table if name not in NOT_METRICS]


def _shown(name: str, data: str) -> str:
    """A metric with its data: train_loss becomes train/loss; gradients are those of training."""
    if name == "gradient_norm":
        return "train/gradient_norm"
    first, _, rest = name.partition("_")
    return f"{first}/{rest}" if first in ("train", "test") and rest else f"{data}/{name}"


def _start_times(result: Result) -> dict[int, float]:
    """For each trial, the time at which its stack started, as its provenance states it."""
    started = {}
    for stack in result.stacks:
        try:
            time = datetime.strptime(read_provenance(stack)["started"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
        except (UnusableError, ValueError):  # no provenance: the start time is unknown, 0
            continue
        started |= {trial: time for trial in trials_of(stack) if trial not in started}
    return started
