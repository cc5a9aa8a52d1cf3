"""Evidence for the rules of claims.py: tests and findings, and the rows of comparisons that they are about."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from amu_experiments.analysis import statistics
from amu_experiments.analysis.cases import MIN_TRIALS, OLDER, Case, Row, fitting, rows_of
from amu_experiments.analysis.comparison import Comparison, higher_is_better
from amu_experiments.analysis.labels import ALIKE, tuned
from amu_experiments.analysis.mechanism_tables import of_row
from amu_experiments.analysis.reading import reading_of
from amu_experiments.analysis.statistics import CONFIDENCE
from amu_experiments.analysis.text import metric_text
from amu_experiments.analysis.verdicts import Finding, Test

MOST = 2 / 3
"""Training succeeds, as some claims say, if the share of solved trials is above this."""


class Results(NamedTuple):
    """All comparisons, and the tables of `read_mechanism`."""

    comparisons: list[Comparison]
    mechanism: dict[str, pd.DataFrame]


class Generated(NamedTuple):
    """An experiment in which networks generate sequences, and how it is judged.

    Args:
        name: the experiment in conf/tuning.yaml.
        settings: the task settings that select its runs.
        metric: the metric on test data that is compared.
        parameters: the number of parameters of its models, if experiments differ in nothing else.
    """

    name: str
    settings: dict
    metric: str
    parameters: int | None = None


# Evidence -------------------------------------------------------------------------------------------------------


def race(of: str, row: Row, other: Row) -> Test:
    """The log-rank test of two rows on sequences to the stop criterion."""
    groups = (*row.times(), *other.times())
    return Test(of, f"{row.text()} against {other.text()}", statistics.logrank(*groups), statistics.faster(*groups))


def duel(experiment: Generated, row: Row, other: Row) -> Test:
    """The Mann-Whitney test of two rows on the metric of an experiment."""
    metric = experiment.metric
    ours, theirs = row.finals(metric), other.finals(metric)
    ahead = statistics.larger(ours, theirs) if higher_is_better(metric) else statistics.larger(theirs, ours)
    medians = [f"{metric_text(np.median(values))} ({each.label})" for values, each in ((ours, row), (theirs, other))]
    text = f"median {medians[0]} against {medians[1]}"
    return Test(f"{experiment.name}, {metric}", text, statistics.mann_whitney(ours, theirs), ahead)


def test_metrics(row: Row) -> list[str]:
    return [metric.removeprefix("test_") for metric in row.comparison.test_metrics]


def share_finding(row: Row) -> Finding:
    _, solved = row.times()
    share = statistics.success(solved)
    says = "supported" if share.low > MOST else "contradicted" if share.high < MOST else "undecided"
    text = f"{solved.sum()}/{len(solved)} solved, {CONFIDENCE:.0%} interval {share.low:.2f} to {share.high:.2f}"
    return Finding(f"{row.comparison.name}, stable: {text} ({row.label})", says)


def per_trial(
    mechanism: dict[str, pd.DataFrame], row: Row, phase: str, quantity: str, flow: str | None = None
) -> np.ndarray:
    """A quantity of the mechanism for every trial of a row, (trials,); `flow` selects one kind of error flow."""
    if not mechanism:
        return np.array([])
    own = of_row(mechanism["trials"], *row)
    own = own[(own["phase"] == phase) & (own["quantity"] == quantity) & ((own["flow"] == flow) | (flow is None))]
    return own["value"].dropna().to_numpy()


def seconds_per_sequence(row: Row) -> float:
    """Seconds per sequence and trial after the first evaluation, when everything is compiled."""
    history = row.comparison.results[row.number].history
    clock = history.groupby("sequences")["seconds"].agg(["max", "count"]).reset_index()
    trained = (clock["sequences"].diff() * clock["count"])[1:].sum()
    return (clock["max"].iloc[-1] - clock["max"].iloc[0]) / trained if trained else np.nan


def other_forms(row: Row) -> list[str]:
    """The AMUs of the same reading and optimizer with full gradient or with another output, in words."""
    reading = reading_of(row.model).emitting()
    return [
        f"{row.comparison.name}: {other.text()}"
        for other in rows_of(row.comparison, "amu", row.optimizer)
        if other != row and reading_of(other.model).emitting() == reading
    ]


# Which rows -----------------------------------------------------------------------------------------------------


def amu_rows(results: Results, settings: dict, case: Case, parameters: int | None = None) -> list[Row]:
    """The AMU's rows of a case in comparisons with these task settings; rows with most trials come first."""
    rows = [row for each in fitting(results.comparisons, [settings]) for row in rows_of(each) if row.case == case]
    return sorted(_of_size(rows, parameters), key=lambda row: -row.trials)


def rows_by_lag(results: Results, settings: dict, case: Case, rivals: tuple[str, ...]) -> dict[int, Row]:
    """The AMU's row of a case for each lag T, with these task settings otherwise; the shortest lag comes first.

    Of several comparisons with the same lag, one with most of these rivals counts, then the one with most trials.
    """
    settings = {key: value for key, value in settings.items() if key != "T"}
    rows = [row for row in amu_rows(results, settings, case) if isinstance(row.comparison.task.get("T"), int)]
    rows.sort(key=lambda row: (row.comparison.task["T"], len(rivals_of(row, rivals)), row.trials))
    return {row.comparison.task["T"]: row for row in rows}


def rivals_of(row: Row, cells: Iterable[str], parameters: int | None = None) -> list[Row]:
    """For each of these cells, the row with most trials in the row's comparison, trained by the same optimizer.

    A cell without a row of at least `MIN_TRIALS` has none.
    """
    found = [_of_size(rows_of(row.comparison, cell, row.optimizer), parameters)[:1] for cell in cells]
    return [other for rows in found for other in rows if other.trials >= MIN_TRIALS]


def _of_size(rows: list[Row], parameters: int | None) -> list[Row]:
    """The rows with about this number of parameters; None: any."""
    return [row for row in rows if parameters is None or 1 / ALIKE < row.parameters / parameters < ALIKE]


def amu_row(
    results: Results, settings: dict, case: Case, rivals: tuple[str, ...] = (), parameters: int | None = None
) -> Row | Finding:
    """The AMU's row of an experiment with these rivals, or a finding that names the missing runs."""
    for row in amu_rows(results, settings, case, parameters):
        others = rivals_of(row, rivals, parameters)
        if len(others) == len(rivals):
            return row
    return Finding(lacking(in_words(settings), rivals, case), "missing")


def amu_pair(results: Results, settings: dict, case: Case, key: str, value: str) -> tuple[Row, Row] | Finding:
    """The AMU of the case, and an AMU with key=value that otherwise differs from it in tuned settings only."""
    for row in amu_rows(results, settings, case):
        for other in rows_of(row.comparison, "amu", case.optimizer):
            if other.model.get(key) == value and other.trials >= MIN_TRIALS and _alike(row, other, key):
                return row, other
    return _missing(settings, f"the AMU, and of the same AMU with {key}={value}, trained by {case.training}")


def _alike(row: Row, other: Row, key: str) -> bool:
    """Whether two rows' models are equal except for this option and tuned settings."""
    ours, theirs = (
        {name: value for name, value in each.model.items() if name != key and f"model.{name}" not in tuned()}
        for each in (row, other)
    )
    return ours == theirs


def _missing(settings: dict, rows: str) -> Finding:
    return Finding(f"{in_words(settings)}: needs {MIN_TRIALS} trials or more of {rows}", "missing")


def lacking(experiments: str, rivals: Iterable[str], case: Case) -> str:
    """The runs that a rule needs in these experiments, in words."""
    cells = ", ".join(["amu", *rivals])
    return f"{experiments}: needs {MIN_TRIALS} trials or more of each of {cells}, trained by {case.training}"


def in_words(settings: dict) -> str:
    """Task settings in a few words."""
    known = {key: value for key, value in settings.items() if value != OLDER.get(key)}
    return " ".join(str(value) if isinstance(value, str) else f"{key}={value}" for key, value in known.items())
