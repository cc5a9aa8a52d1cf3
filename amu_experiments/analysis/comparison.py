"""Comparisons: which results may be compared, in which order, under which names."""

import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from amu_experiments.analysis.text import printable, setting_text
from amu_experiments.store import Result, UnusableError, are_times, common_columns, with_columns
from amu_experiments.tasks import criteria_of

CELLS = ("amu", "lstm", "gru", "rnn", "lstm97")
"""The order of rows; cells that are not among these follow by name."""

PAPER = {"gradient": "truncated", "output": "neuron"}
"""The AMU as its paper has it: such a row is the one that others are compared with."""

PROTOCOL = ("training.max_sequences", "training.stop", "training.evaluate_every", "training.select")
"""Settings that bear on what a number means: where rows differ in one, every row's label tells its own."""

TUNED = ("training.learning_rate", "model.initial_range", "model.forget_bias")
"""Settings that differ wherever models are tuned: a label tells them where rows cannot be told apart without."""

HIGHER_IS_BETTER = ("accuracy", "right", "correct")
"""Words in the name of a metric that is better when higher; any other is an error, better when lower."""

LONGEST_NAME = 120
"""Letters of a comparison's name, which files are named after."""


@dataclass(frozen=True)
class Comparison:
    """Results of one and the same task setting, labelled so that no two rows have the same label.

    Rows with the AMU come first, and of them those with most trials; among equals, those with the truncated gradient
    and the output neuron emitted, as the paper has it, then those whose settings differ least from those of the others.
    The first one is the reference of all tests.
    """

    name: str
    results: list[Result]
    labels: list[str]

    @property
    def task(self) -> dict:
        return self.results[0].config["task"]

    @property
    def reference(self) -> int | None:
        """The row that the others are tested against; None without an AMU."""
        return 0 if self.results[0].config["model"]["cell"] == "amu" else None

    @functools.cached_property
    def cap(self) -> int:
        """The most sequences that any trial of the comparison was given or could have been given."""
        return max(
            max(result.config["training"]["max_sequences"], int(result.trials["sequences"].max()))
            for result in self.results
        )

    @functools.cached_property
    def criteria(self) -> list[str]:
        """The criteria that every row has times for."""
        first, *others = map(criteria, self.results)
        return [name for name in first if all(name in other for other in others)]

    @property
    def diverged(self) -> bool:
        """Whether any trial diverged."""
        return any((result.trials["status"] == "diverged").any() for result in self.results)

    @functools.cached_property
    def earliest(self) -> float:
        """Sequences when the first trial met a criterion; infinity where none did."""
        rows = range(len(self.results))
        met = [self.times(row, criterion) for criterion in self.criteria for row in rows]
        return min((times[solved].min() for times, solved in met if solved.any()), default=np.inf)

    def times(self, row: int, criterion: str) -> tuple[np.ndarray, np.ndarray]:
        """A row's trials as the statistics want them: `times` (R,) and `solved` (R,).

        A trial that never met the criterion is censored at the sequences it has seen. One that diverged has
        solved nothing however long one waits: it is censored at the cap of the comparison, so that it counts
        as unsolved all the way.
        """
        return times_to(self.results[row], criterion, self.cap)


def compare(results: list[Result], left_out: list[UnusableError | OSError] | None = None) -> list[Comparison]:
    """Groups results into comparisons: those whose whole task configuration is equal.

    Rows of a comparison may differ in anything else. What differs between rows of the same model, that in `TUNED` if
    need be, and any difference in `PROTOCOL` is part of their labels.

    left_out: takes results that lack criteria or metrics which most results of their task have, to go on without them;
    where it is not given, all results of a task must have the same.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(json.dumps(result.config["task"], sort_keys=True), []).append(result)
    if left_out is not None:
        alike = {task: _with_the_same_columns(group, left_out) for task, group in groups.items()}
        groups = {task: group for task, group in alike.items() if group}
    names = _names([group[0] for group in groups.values()])
    comparisons = []
    for name, group in zip(names, groups.values(), strict=True):
        labels = _labels(group)
        rows = sorted(range(len(group)), key=lambda row: _row_order(group, row, labels[row]))
        comparisons.append(Comparison(name, [group[row] for row in rows], [labels[row] for row in rows]))
    return sorted(comparisons, key=lambda comparison: _natural(comparison.name))


def _with_the_same_columns(results: list[Result], left_out: list) -> list[Result]:
    """The results whose tables have the columns that most have."""
    trials = common_columns([list(result.trials) for result in results])
    history = common_columns([list(result.history) for result in results])
    same = []
    for result in results:
        try:
            tables = {
                "trials": with_columns(result.trials, trials, result.folder, "trials.csv", left_out),
                "history": with_columns(result.history, history, result.folder, "history.csv", left_out),
            }
            same.append(replace(result, **tables))
        except UnusableError as error:
            left_out.append(error)
    return same


def flat(settings: Mapping, prefix: str = "") -> dict[str, object]:
    """Nested settings as one level with dotted names."""
    level = {}
    for key, value in settings.items():
        level |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return level


def _row_order(results: list[Result], row: int, label: str) -> tuple:
    cell = results[row].config["model"]["cell"]
    rank = CELLS.index(cell) if cell in CELLS else len(CELLS)
    own = _settings(results[row])
    of_cell = [_settings(result) for result in results if result.config["model"]["cell"] == cell]
    differences = sum(other.get(key) != own[key] for other in of_cell for key in own)
    unlike_paper = sum(own.get(f"model.{key}", value) != value for key, value in PAPER.items())
    return rank, cell, -len(results[row].trials), unlike_paper, differences, _natural(label)


def _settings(result: Result) -> dict[str, object]:
    return flat({part: result.config[part] for part in ("model", "training")})


def _labels(results: list[Result]) -> list[str]:
    settings = [_settings(result) for result in results]

    def differs(key: str, row: int) -> bool:
        alike = [
            other
            for result, other in zip(results, settings, strict=True)
            if key in PROTOCOL or result.model == results[row].model
        ]
        return any(other.get(key) != settings[row][key] for other in alike)

    def label(row: int, left_out: Collection[str] = ()) -> str:
        own = {key: value for key, value in settings[row].items() if key not in left_out and differs(key, row)}
        told = ", ".join(f"{printable(leaf(key))}={setting_text(value)}" for key, value in own.items())
        return f"{results[row].model} ({told})" if told else results[row].model

    short = [label(row, left_out=TUNED) for row in range(len(results))]
    labels = [short[row] if short.count(short[row]) == 1 else label(row) for row in range(len(results))]
    return [
        own if labels.count(own) == 1 else f"{own} [{result.task}/{result.identity}]"
        for own, result in zip(labels, results, strict=True)
    ]


def _names(results: list[Result]) -> list[str]:
    """A readable name of each task setting, fit for a file: the task, its variant or form, and its sizes.

    A size is a setting named by one letter (T, N). Only where two settings would have the same name, what
    else differs between those two is added, words without their key. Names are of letters, digits, dots, underscores
    and hyphens, `LONGEST_NAME` of them at most, and differ in more than capitals.
    """
    names = []
    for result in results:
        task = result.config["task"]
        variants = [str(task[key]) for key in ("variant", "form") if key in task]
        sizes = [f"{key}{value}" for key, value in task.items() if len(key) == 1]
        names.append("-".join([result.task, *variants, *sizes]))
    settings = [flat(result.config["task"]) for result in results]
    full_names = []
    for name, own in zip(names, settings, strict=True):
        others = [other for twin, other in zip(names, settings, strict=True) if twin == name]
        extra = [
            value if isinstance(value, str) and value.isidentifier() else f"{leaf(key)}{setting_text(value)}"
            for key, value in own.items()
            if any(other.get(key) != value for other in others)
        ]
        full_names.append(re.sub(r"[^A-Za-z0-9_.-]", "", "-".join([name, *extra])))
    counts = Counter(name.lower() for name in full_names)
    return [
        name
        if counts[name.lower()] == 1 and len(name) <= LONGEST_NAME
        else f"{name[:LONGEST_NAME]}-{hashlib.sha256(repr(own).encode(errors='replace')).hexdigest()[:6]}"
        for name, own in zip(full_names, settings, strict=True)
    ]


def leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _natural(text: str) -> list:
    """Sorting key that puts T50 before T100."""
    parts = re.split(r"([0-9]+)", text)
    return [(len(part.lstrip("0")), part.lstrip("0")) if place % 2 else part for place, part in enumerate(parts)]


# Criteria and metrics ------------------------------------------------------------------------------------------------


def criteria(result: Result) -> list[str]:
    """Names of the criteria that a result has times for."""
    suffix, trials = "_sequences", result.trials
    columns = [name for name in trials if name.endswith(suffix) and are_times(trials[name], trials["sequences"])]
    return [column.removesuffix(suffix) for column in columns]


def condition(task: Mapping, criterion: str) -> str:
    """A criterion and what it asks, as the task's configuration has it: "st1: wrong == 0"."""
    try:
        sections = criteria_of(task)
        parts = sections.get(criterion) if isinstance(sections, Mapping) else None
    except (ValueError, AttributeError):  # a configuration that this version would refuse
        parts = None
    parts = parts if isinstance(parts, Mapping) else {}
    asked = " and ".join(f"{printable(metric)} {printable(bound)}" for metric, bound in parts.items())
    return f"{printable(criterion)}: {asked}" if asked else printable(criterion)


def times_to(result: Result, criterion: str, cap: int) -> tuple[np.ndarray, np.ndarray]:
    """Times to a criterion (R,) and whether it was met (R,).

    A diverged trial is censored at `cap`, whatever it met before: of a network that is lost nothing is solved.
    """
    met = result.trials[f"{criterion}_sequences"].to_numpy(float)
    diverged = (result.trials["status"] == "diverged").to_numpy()
    solved = ~np.isnan(met) & ~diverged
    watched = np.where(diverged, cap, result.trials["sequences"])
    return np.where(solved, met, watched), solved


def final_values(result: Result, metric: str) -> np.ndarray:
    """A metric at the end of training (R,); infinitely bad where a trial diverged or has no number."""
    values = result.trials[metric].to_numpy(float)
    worst = -np.inf if higher_is_better(metric) else np.inf
    return np.where((result.trials["status"] == "diverged") | np.isnan(values), worst, values)


def higher_is_better(metric: str) -> bool:
    return any(word in metric.split("_") for word in HIGHER_IS_BETTER)


def final_metrics(result: Result) -> list[str]:
    known = {"trial", "status", "sequences", "seconds", "parameters"}
    return [
        column
        for column in result.trials
        if column not in known and not column.endswith("_sequences") and result.trials[column].notna().any()
    ]


def ended_before(comparison: Comparison) -> list[str]:
    """A note for each criterion that trials had no more chance to meet because another one had ended them."""
    notes = []
    for criterion in comparison.criteria:
        ended = sum(
            int(((result.trials["status"] == "solved") & result.trials[f"{criterion}_sequences"].isna()).sum())
            for result in comparison.results
        )
        if ended:
            notes.append(
                f"Trials ended by another criterion before {printable(criterion)} was met: {ended}. They count as "
                f"censored; more might have met {printable(criterion)} than did, and its curve, median and p are rough."
            )
    return notes
