"""Comparisons: results with the same task settings, ranked and with labels; their criteria and metrics."""

import functools
import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from amu_experiments.analysis import statistics
from amu_experiments.analysis.labels import (
    ALIKE,
    comparison_names,
    form_of,
    natural,
    parameters_of,
    row_labels,
    settings_of,
)
from amu_experiments.analysis.reading import named_readings, reading_of, shipped_reading
from amu_experiments.analysis.text import printable
from amu_experiments.files import UnusableError
from amu_experiments.stack_files import are_times
from amu_experiments.store import Result, common_columns, select_columns
from amu_experiments.tasks import criteria_of

CELLS = ("amu", "lstm", "gru", "rnn", "lstm97")
"""The order of cells in `Comparison.by_model`; other cells follow by name."""

PAPER = {"gradient": "truncated", "output": "neuron"}
"""The AMU of the paper; of AMUs with equally many trials, one with these settings is first in `Comparison.by_model`."""

HIGHER_IS_BETTER = ("accuracy", "right", "correct", "grammatical", "followed")
"""Words in the names of metrics for which higher is better; for every other metric, lower is better."""


AS_PUBLISHED = "as_published"
"""The end of the name of a comparison that has only runs with published settings."""


@dataclass(frozen=True)
class Comparison:
    """Results with the same task settings; no two rows have the same label.

    Rows are ranked, the best first: by the share of trials that met the criterion `stop`, then by the Kaplan-Meier
    median of the sequences until then, then by the median of the metric `ranked_by`. Rows with equal results have the
    order of `by_model`.

    asked: the label or model of the reference, if a user chose it.
    """

    name: str
    results: list[Result]
    labels: list[str]
    asked: str | None = None

    @property
    def task(self) -> dict:
        return self.results[0].config["task"]

    @functools.cached_property
    def by_model(self) -> list[int]:
        """The rows in an order that does not depend on their results.

        Rows are sorted by cell, in the order of `CELLS`. The order within a cell: most trials first; then the settings
        of the paper (`PAPER`); then, for AMUs, whatever they emit, the reading of the abstract, that of model=amu, and
        the others as in readings.yaml; then the fewest differences from the settings of the cell's other rows; then the
        label.
        """
        return sorted(range(len(self.results)), key=lambda row: _row_order(self.results, row, self.labels[row]))

    @functools.cached_property
    def reference(self) -> int | None:
        """The row that every other row is tested against; None if the comparison lacks the row that a user chose.

        By default, it is the first AMU of `by_model`, or the best row if there is no AMU.
        """
        if self.asked is not None:
            return next(iter(self.named(self.asked)), None)
        return 0 if self.reference_is_best else self.by_model[0]

    @functools.cached_property
    def references(self) -> list[int]:
        """The reference, and rows like it of other sizes, if the comparison has models of several sizes.

        These rows differ from the reference in their size and in tuned settings only; no two have about the same number
        of parameters (`labels.ALIKE`). There is only one if a user chose it, without AMU, or if all rows are like it.
        """
        if self.reference is None:
            return []
        forms, found = list(map(form_of, self.results)), [self.reference]
        like = [row for row in self.by_model if forms[row] == forms[self.reference]]
        if self.asked is None and not self.reference_is_best and len(like) < len(forms):
            trials = [len(result.trials) for result in self.results]
            for row in like:
                if trials[row] >= trials[self.reference] and all(self._ratio(row, other) > ALIKE for other in found):
                    found.append(row)
        return found

    def reference_of(self, row: int) -> int | None:
        """The reference with the number of parameters nearest to that of a row; None for a reference."""
        return None if row in self.references else min(self.references, key=lambda other: self._ratio(row, other))

    def _ratio(self, row: int, other: int) -> float:
        """How many times as many parameters the larger of two rows has."""
        sizes = sorted(parameters_of(self.results[each]) for each in (row, other))
        return sizes[1] / sizes[0]

    @property
    def reference_is_best(self) -> bool:
        """Whether the best row is the reference because there is no AMU and no user chose another."""
        return self.asked is None and self.results[self.by_model[0]].config["model"]["cell"] != "amu"

    def named(self, name: str) -> list[int]:
        """The row with this label, or else every row of the model with this name."""
        if name in self.labels:
            return [self.labels.index(name)]
        return [row for row, result in enumerate(self.results) if result.model == name]

    @functools.cached_property
    def cap(self) -> int:
        """The largest budget of any row, in sequences."""
        return max(map(budget, self.results))

    @functools.cached_property
    def criteria(self) -> list[str]:
        """The criteria for which every row has times."""
        first, *others = map(criteria, self.results)
        return [name for name in first if all(name in other for other in others)]

    @functools.cached_property
    def stop(self) -> str | None:
        """The criterion that ends the trials of most rows, or else the last criterion; None without criteria."""
        stops = [self.results[row].config["training"]["stop"] for row in self.by_model]
        known = Counter(stop for stop in stops if stop in self.criteria)
        return known.most_common(1)[0][0] if known else next(reversed(self.criteria), None)

    @functools.cached_property
    def test_metrics(self) -> list[str]:
        """Metrics on test data that have a number for at least one trial."""
        columns = [column for row in self.by_model for column in final_metrics(self.results[row])]
        return [column for column in dict.fromkeys(columns) if column.startswith("test_")]

    @property
    def ranked_by(self) -> str | None:
        """The metric by which rows are ranked if no criterion tells them apart: the loss on test data, if there is one.

        Training selects weights by the same loss, on validation data.
        """
        return "test_loss" if "test_loss" in self.test_metrics else next(iter(self.test_metrics), None)

    @property
    def diverged(self) -> bool:
        """Whether any trial diverged."""
        return any((result.trials["status"] == "diverged").any() for result in self.results)

    @functools.cached_property
    def earliest(self) -> float:
        """Sequences until the first trial met a criterion; infinity if none did."""
        rows = range(len(self.results))
        met = [self.times(row, criterion) for criterion in self.criteria for row in rows]
        return min((times[solved].min() for times, solved in met if solved.any()), default=np.inf)

    def times(self, row: int, criterion: str) -> tuple[np.ndarray, np.ndarray]:
        """Times of a row's trials to a criterion, `times` (R,) and `solved` (R,), for the functions of statistics.py.

        A trial that did not meet the criterion is censored after the sequences it has seen. A diverged trial would
        never meet it, so it is censored at the cap of the comparison.
        """
        return times_to(self.results[row], criterion, self.cap)


def compare(
    results: list[Result], left_out: list[UnusableError | OSError] | None = None, apart: Collection[str] = ()
) -> list[Comparison]:
    """Groups results into comparisons: results with equal task settings are compared.

    Rows of a comparison may differ in every other setting. A label states each setting in which rows of its model
    differ, and each setting of `PROTOCOL` in which any rows differ. It states settings of `tuned` only if needed, and
    also the number of units if all rows of its model have about the same number of parameters. For an AMU, the name of
    its reading in readings.yaml replaces the reading's options, except `output`.

    Args:
        results: results from the store.
        left_out: if given, a result that lacks a column of most results of its comparison is left out, and its error is
            appended. Otherwise all results of a comparison must have the same columns.
        apart: identities of runs with published settings. If a task also has other results, and none of them has the
            same budget, such a run is in a separate comparison, whose name ends in `AS_PUBLISHED`.

    Returns:
        Comparisons in the natural order of their names (T50 before T100), with ranked rows.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(json.dumps(result.config["task"], sort_keys=True), []).append(result)
    names = comparison_names([group[0] for group in groups.values()])
    divided = []
    for name, group in zip(names, groups.values(), strict=True):
        usual, published = _divided(group, apart)
        divided += [(name, usual), (f"{name}-{AS_PUBLISHED}", published)]
    comparisons = []
    for name, group in divided:
        if left_out is not None:
            group = _with_the_same_columns(group, left_out)
        if not group:
            continue
        unranked = Comparison(name, group, row_labels(group))
        rows = sorted(unranked.by_model, key=lambda row: _rank(unranked, row))
        comparisons.append(Comparison(name, [group[row] for row in rows], [unranked.labels[row] for row in rows]))
    return sorted(comparisons, key=lambda comparison: natural(comparison.name))


def _divided(results: list[Result], apart: Collection[str]) -> tuple[list[Result], list[Result]]:
    """The results of a task in two lists: the usual ones, and those that `compare` puts into a separate comparison."""
    budgets = {result.config["training"]["max_sequences"] for result in results if result.identity not in apart}
    usual, published = [], []
    for result in results:
        alone = budgets and result.config["training"]["max_sequences"] not in budgets
        (published if alone else usual).append(result)
    return usual, published


def against(comparisons: list[Comparison], name: str) -> list[Comparison]:
    """The comparisons with the row of this label or model as reference; some of them may lack it.

    Raises:
        LookupError: no comparison has such a row, or one has several; the message names the possible rows.
    """
    found = [(comparison, comparison.named(name)) for comparison in comparisons]
    for comparison, rows in found:
        if len(rows) > 1:
            labels = "; ".join(comparison.labels[row] for row in rows)
            advice = "give the label of one, in quotes, or leave rows out with --where"
            raise LookupError(f"{name} names several rows of {comparison.name}: {labels}; {advice}")
    if not any(rows for _, rows in found):
        models = {result.model for comparison in comparisons for result in comparison.results}
        labels = [label for comparison in comparisons for label in comparison.labels]
        several = {model for comparison in comparisons for model in models if len(comparison.named(model)) > 1}
        possible = dict.fromkeys([*sorted(models - several), *labels])
        raise LookupError(f"no row is named {name}; possible are {'; '.join(possible)}")
    return [replace(comparison, asked=name) for comparison in comparisons]


def _with_the_same_columns(results: list[Result], left_out: list) -> list[Result]:
    """The results with all columns that most results have, without any further columns."""
    trials = common_columns([list(result.trials) for result in results])
    history = common_columns([list(result.history) for result in results])
    same = []
    for result in results:
        try:
            tables = {
                "trials": select_columns(result.trials, trials, result.folder, "trials.csv", left_out),
                "history": select_columns(result.history, history, result.folder, "history.csv", left_out),
            }
            same.append(replace(result, **tables))
        except UnusableError as error:
            left_out.append(error)
    return same


def _row_order(results: list[Result], row: int, label: str) -> tuple:
    """Sort key of a row, as `Comparison.by_model` describes it."""
    cell = results[row].config["model"]["cell"]
    rank = CELLS.index(cell) if cell in CELLS else len(CELLS)
    own = settings_of(results[row])
    of_cell = [settings_of(result) for result in results if result.config["model"]["cell"] == cell]
    differences = sum(other.get(key) != own[key] for other in of_cell for key in own)
    unlike_paper = sum(own.get(f"model.{key}", value) != value for key, value in PAPER.items())
    abstract, *others = named_readings().values()
    order = [each.emitting() for each in (abstract, shipped_reading(), *others)]
    # A reading keeps its place if the unit emits its memory, as all AMUs do where our answers are numbers.
    reading = reading_of(results[row].config["model"]).emitting() if cell == "amu" else None
    place = order.index(reading) if reading in order else len(order)
    return rank, cell, -len(results[row].trials), unlike_paper, place, differences, natural(label)


def _rank(comparison: Comparison, row: int) -> tuple:
    """Sort key of a row by its results, as the class Comparison describes it."""
    key, metric = [], comparison.ranked_by
    if comparison.stop is not None:
        times, solved = comparison.times(row, comparison.stop)
        key += [-solved.mean(), float(statistics.median_times(times, solved))]
    if metric is not None:
        median = float(np.median(final_values(comparison.results[row], metric)))
        key.append(-median if higher_is_better(metric) else median)
    return tuple(key)


# Criteria and metrics ------------------------------------------------------------------------------------------------


def criteria(result: Result) -> list[str]:
    """Names of the criteria for which a result has times: columns <criterion>_sequences."""
    suffix, trials = "_sequences", result.trials
    columns = [name for name in trials if name.endswith(suffix) and are_times(trials[name], trials["sequences"])]
    return [column.removesuffix(suffix) for column in columns]


def condition(task: Mapping, criterion: str) -> str:
    """A criterion with its condition from the task's configuration: "st1: wrong == 0"."""
    try:
        sections = criteria_of(task)
        parts = sections.get(criterion) if isinstance(sections, Mapping) else None
    except (ValueError, AttributeError):  # a configuration that this version rejects
        parts = None
    parts = parts if isinstance(parts, Mapping) else {}
    asked = " and ".join(f"{printable(metric)} {printable(bound)}" for metric, bound in parts.items())
    return f"{printable(criterion)}: {asked}" if asked else printable(criterion)


def budget(result: Result) -> int:
    """The largest number of sequences that a trial was allowed to see, or has seen if that is more."""
    return max(result.config["training"]["max_sequences"], int(result.trials["sequences"].max()))


def times_to(result: Result, criterion: str, cap: int) -> tuple[np.ndarray, np.ndarray]:
    """Times to a criterion in sequences (R,) and whether it was met (R,).

    A diverged trial is censored at `cap` even if it met the criterion before: a diverged network solves nothing.
    """
    met = result.trials[f"{criterion}_sequences"].to_numpy(float)
    diverged = (result.trials["status"] == "diverged").to_numpy()
    solved = ~np.isnan(met) & ~diverged
    watched = np.where(diverged, cap, result.trials["sequences"])
    return np.where(solved, met, watched), solved


def final_values(result: Result, metric: str) -> np.ndarray:
    """A metric after training (R,); the worst value, an infinity, for a trial that diverged or has no number."""
    values = result.trials[metric].to_numpy(float)
    return np.where((result.trials["status"] == "diverged") | np.isnan(values), worst_value(metric), values)


def worst_value(metric: str) -> float:
    """An infinity that is worse than any value of the metric."""
    return -np.inf if higher_is_better(metric) else np.inf


def higher_is_better(metric: str) -> bool:
    """Whether a higher value is better, by the name of the metric."""
    return any(word in metric.split("_") for word in HIGHER_IS_BETTER)


def final_metrics(result: Result) -> list[str]:
    """Names of the metrics after training that have a number for at least one trial."""
    known = {"trial", "status", "sequences", "seconds", "parameters"}
    return [
        column
        for column in result.trials
        if column not in known and not column.endswith("_sequences") and result.trials[column].notna().any()
    ]


def ended_before(comparison: Comparison) -> list[str]:
    """A note for each criterion that trials did not meet because another criterion had ended them."""
    notes = []
    for criterion in comparison.criteria:
        ended = sum(
            int(((result.trials["status"] == "solved") & result.trials[f"{criterion}_sequences"].isna()).sum())
            for result in comparison.results
        )
        if ended:
            notes.append(
                f"Trials ended by another criterion before {printable(criterion)} was met: {ended}. They count as "
                f"censored, but they might have met {printable(criterion)} later, so its curve, median and p are rough."
            )
    return notes
