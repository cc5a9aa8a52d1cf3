"""Comparison tables: which results may be compared, what each row says; as Markdown, CSV and LaTeX."""

import functools
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from amu_experiments.analysis import statistics
from amu_experiments.analysis.statistics import CONFIDENCE, RESAMPLES, Estimate
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

WORDS = (
    *("criterion", "metric", "model", "method", "source", "claim", "statement", "verdict", "finding", "says"),
    *("task", "agrees", "but with", "reading", "problem", "training step", "against"),
)
"""Columns that hold words and stand to the left; the others hold numbers and stand to the right."""


LONGEST = 60
"""Letters of a setting or a name in a text; of a longer one the middle is left out."""

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


@dataclass(frozen=True)
class Table:
    """A table twice, with numbers to reckon with and as text to read, and the caption that explains it."""

    name: str
    caption: str
    numbers: pd.DataFrame
    text: pd.DataFrame

    def csv(self) -> str:
        return self.numbers.to_csv(index=False)

    def markdown(self) -> str:
        rows = (self.text.columns, *self.text.to_numpy().tolist())
        cells = [[markdown(cell).replace("|", r"\|") for cell in row] for row in rows]
        widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
        rules = zip(widths, self._alignment(), strict=True)
        cells.insert(1, ["-" * (width - 1) + ("-" if side == "l" else ":") for width, side in rules])
        lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        return "".join(f"| {line} |\n" for line in lines) + f"\n{markdown(self.caption)}\n"

    def latex(self) -> str:
        return (
            self.text.map(_latex)
            .rename(columns=_latex)
            .to_latex(
                index=False,
                caption=_latex(self.caption),
                label=f"tab:{self.name}",
                column_format=self._alignment(),
                position="htb",
            )
        )

    def plain(self) -> str:
        return self.text.to_string(index=False) + "\n"

    def _alignment(self) -> str:
        return "".join("l" if column in WORDS else "r" for column in self.text)


# Which results belong together ----------------------------------------------------------------------------


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
        groups = {task: _with_the_same_columns(group, left_out) for task, group in groups.items()}
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
        told = ", ".join(f"{printable(_leaf(key))}={_shown(value)}" for key, value in own.items())
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
            value if isinstance(value, str) and value.isidentifier() else f"{_leaf(key)}{_shown(value)}"
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


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else printable(value)


def printable(value: object, longest: int = LONGEST) -> str:
    """A value as text of one line: without control characters, and without its middle where it is long."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
    return text if len(text) <= longest else f"{text[: longest - 20]}...{text[-17:]}"


def _natural(text: str) -> list:
    """Sorting key that puts T50 before T100."""
    parts = re.split(r"([0-9]+)", text)
    return [(len(part.lstrip("0")), part.lstrip("0")) if place % 2 else part for place, part in enumerate(parts)]


# The tables -----------------------------------------------------------------------------------------------


def tables(comparison: Comparison, published: list[dict]) -> list[Table]:
    """Every table of a comparison that has any rows; `published` as read from published.yaml."""
    made = [criteria_table(comparison), metrics_table(comparison), published_table(comparison, published)]
    return [table for table in made if table is not None]


def criteria_table(comparison: Comparison) -> Table | None:
    """When each row's trials met each criterion; None for a task without criteria."""
    rows = []
    for criterion in comparison.criteria:
        times = [comparison.times(row, criterion) for row in range(len(comparison.results))]
        tests = _against_reference(comparison, lambda a, b, times=times: statistics.logrank(*times[a], *times[b]))
        for row, (p, adjusted) in enumerate(tests):
            share, median = statistics.success(times[row][1]), statistics.median_time(*times[row])
            rows.append(
                {"criterion": criterion}
                | _who(comparison, row)
                | {"solved": int(times[row][1].sum()), "cut_off": _cut_off(comparison.results[row], criterion)}
                | _columns("solved_share", share)
                | _columns("median_sequences", median)
                | {"p_logrank": p, "p_holm": adjusted}
            )
    if not rows:
        return None
    numbers = pd.DataFrame(rows)
    text = pd.DataFrame(
        {
            "criterion": numbers["criterion"].map(printable),
            "model": numbers["model"],
            "params": numbers["parameters"].map("{:,}".format),
            "units": numbers["units"].map(str),
            "diverged": numbers["diverged"].map(str),
            "cut off": numbers["cut_off"].map(str),
            "solved": [
                f"{row['solved']}/{row['trials']} {_interval(row, 'solved_share', '{:.2f}'.format)}" for row in rows
            ],
            "median sequences": [_estimate(row, "median_sequences", sequences_text) for row in rows],
            "p (Holm)": [_p(comparison, row) for row in rows],
        }
    )
    percent = f"{CONFIDENCE:.0%}"
    caption = [
        f"{comparison.name}: sequences until a criterion was met ("
        + "; ".join(condition(comparison.task, criterion) for criterion in comparison.criteria)
        + ").",
        f"Solved: trials that met it of all trials, [Wilson {percent} interval of the share].",
        "Cut off: trials that had not met it when they had seen all the sequences they were given.",
        f"Median sequences: Kaplan-Meier median, [bootstrap {percent} percentile interval, {RESAMPLES:,} "
        + "resamples]; not reached (n.r.) where under half are estimated to solve.",
        "A trial that did not meet it is censored at the sequences it has seen"
        + (f", a diverged one at {comparison.cap:,}." if numbers["diverged"].any() else "."),
        *ended_before(comparison),
        _test_note(comparison, "log-rank", "criterion"),
        _protocol_note(comparison),
    ]
    return Table(f"{comparison.name}-criteria", " ".join(filter(None, caption)), numbers, text)


def metrics_table(comparison: Comparison) -> Table | None:
    """The metrics of each row's trials on test data; None where none were kept."""
    rows = []
    for metric in _test_metrics(comparison):
        values = [final_values(result, metric) for result in comparison.results]
        tests = _against_reference(
            comparison, lambda a, b, values=values: statistics.mann_whitney(values[a], values[b])
        )
        for row, (p, adjusted) in enumerate(tests):
            rows.append(
                {"metric": metric}
                | _who(comparison, row)
                | _columns("median", statistics.median(values[row]))
                | {"p_mann_whitney": p, "p_holm": adjusted}
            )
    if not rows:
        return None
    numbers = pd.DataFrame(rows)
    text = pd.DataFrame(
        {
            "metric": numbers["metric"].map(printable),
            "model": numbers["model"],
            "params": numbers["parameters"].map("{:,}".format),
            "units": numbers["units"].map(str),
            "n": numbers["trials"].map(str),
            "diverged": numbers["diverged"].map(str),
            "median": [_estimate(row, "median", _metric) for row in rows],
            "p (Holm)": [_p(comparison, row) for row in rows],
        }
    )
    caption = [
        f"{comparison.name}: metrics on test data after training.",
        f"Median over n trials, [bootstrap {CONFIDENCE:.0%} percentile interval, {RESAMPLES:,} resamples].",
        "A diverged trial counts as worse than any other." if numbers["diverged"].any() else "",
        _test_note(comparison, "Mann-Whitney", "metric"),
        _protocol_note(comparison),
    ]
    return Table(f"{comparison.name}-metrics", " ".join(filter(None, caption)), numbers, text)


def published_table(comparison: Comparison, published: list[dict]) -> Table | None:
    """What the literature reports for this task setting; None where there is nothing.

    Args:
        comparison: the comparison, whose task configuration is looked at.
        published: entries with `task`, settings that must all be as in the configuration for the entry to
            apply; `source`; `statistic`, a sentence; and `rows`, with a `method` and values by column name
            (but for `again`, which is for `historical`).
    """
    settings = flat(comparison.task)
    entries = [
        entry for entry in published if all(settings.get(key) == value for key, value in flat(entry["task"]).items())
    ]
    if not entries:
        return None
    numbers = pd.DataFrame(
        [row | {"source": entry["source"]} for entry in entries for row in entry["rows"]], dtype=object
    ).drop(columns="again", errors="ignore")
    text = pd.DataFrame({column: [_printed(value) for value in numbers[column]] for column in numbers})
    statements = list(dict.fromkeys(entry["statistic"] for entry in entries))
    caption = f"{comparison.name}: published numbers, not made with this software. {' '.join(statements)}"
    return Table(f"{comparison.name}-published", caption, numbers, text)


def run_table(result: Result) -> str:
    """A finished run in a few lines of plain text: criteria, final metrics, parameters, time."""
    trials = result.trials
    diverged = int((trials["status"] == "diverged").sum())
    lines = [
        f"{result.task}, {result.model}: {len(trials)} trial{'s' if len(trials) > 1 else ''}"
        + (f" ({diverged} diverged)" if diverged else "")
        + f", {int(trials['parameters'].iloc[0]):,} parameters, {trials['seconds'].max():.0f} s"
    ]
    cap = max(result.config["training"]["max_sequences"], int(trials["sequences"].max()))
    met = []
    for criterion in criteria(result):
        times, solved = times_to(result, criterion, cap)
        median = statistics.median_time(times, solved).value
        range_met = (
            f"{sequences_text(times[solved].min())} to {sequences_text(times[solved].max())}" if solved.any() else "-"
        )
        asked = condition(result.config["task"], criterion).partition(": ")[2]
        met.append((printable(criterion), f"{solved.sum()}/{len(solved)}", sequences_text(median), range_met, asked))
    measured = []
    for metric in _final_metrics(result):
        values = final_values(result, metric)
        numbers = (_metric(value) for value in (np.median(values), values.min(), values.max()))
        measured.append((printable(_of_which_data(metric)), *numbers))
    for columns, rows in (
        (("criterion", "solved", "median sequences", "range of those solved", "it asks for"), met),
        (("final metric", "median", "lowest", "highest"), measured),
    ):
        if rows:
            lines += ["", pd.DataFrame(rows, columns=columns).to_string(index=False)]
    return "\n".join(lines)


def _of_which_data(metric: str) -> str:
    """A metric's name in words: what is not about test or training data is about validation data."""
    data, _, name = metric.partition("_")
    return f"{data} {name}" if data in ("test", "train") else f"validation {metric}"


# What stands in them --------------------------------------------------------------------------------------


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


def _cut_off(result: Result, criterion: str) -> int:
    """Trials that a cap ended before they met the criterion."""
    return int(((result.trials["status"] == "finished") & result.trials[f"{criterion}_sequences"].isna()).sum())


def final_values(result: Result, metric: str) -> np.ndarray:
    """A metric at the end of training (R,); infinitely bad where a trial diverged or has no number."""
    values = result.trials[metric].to_numpy(float)
    worst = -np.inf if higher_is_better(metric) else np.inf
    return np.where((result.trials["status"] == "diverged") | np.isnan(values), worst, values)


def higher_is_better(metric: str) -> bool:
    return any(word in metric.split("_") for word in HIGHER_IS_BETTER)


def _test_metrics(comparison: Comparison) -> list[str]:
    """Metrics on test data, but for those without any number (such as one that is about training data)."""
    columns = [column for result in comparison.results for column in _final_metrics(result)]
    return [column for column in dict.fromkeys(columns) if column.startswith("test_")]


def _final_metrics(result: Result) -> list[str]:
    known = {"trial", "status", "sequences", "seconds", "parameters"}
    return [
        column
        for column in result.trials
        if column not in known and not column.endswith("_sequences") and result.trials[column].notna().any()
    ]


def _against_reference(comparison: Comparison, test: Callable[[int, int], float]) -> list[tuple[float, float]]:
    """(p, Holm-adjusted p) of each row by `test(reference, row)`; NaN for the reference itself."""
    count = len(comparison.results)
    if comparison.reference is None:
        return [(math.nan, math.nan)] * count
    others = [row for row in range(count) if row != comparison.reference]
    p_values = [test(comparison.reference, row) for row in others]
    adjusted = dict(zip(others, zip(p_values, statistics.holm(p_values), strict=True), strict=True))
    return [adjusted.get(row, (math.nan, math.nan)) for row in range(count)]


def _who(comparison: Comparison, row: int) -> dict:
    result = comparison.results[row]
    return {
        "model": comparison.labels[row],
        "identity": result.identity,
        "parameters": int(result.trials["parameters"].iloc[0]),
        "units": result.config["model"]["units"],
        "trials": len(result.trials),
        "diverged": int((result.trials["status"] == "diverged").sum()),
    }


def _columns(name: str, estimate: Estimate) -> dict:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


# Captions -------------------------------------------------------------------------------------------------


def _test_note(comparison: Comparison, test: str, family: str) -> str:
    if comparison.reference is None:
        return "No p-values: there is no AMU here to compare with."
    others = len(comparison.results) - 1
    if others == 0:
        return "No p-values: there is no other row to compare the AMU with."
    note = f"p: two-sided {test} test against {comparison.labels[comparison.reference]}"
    return f"{note}, Holm-corrected for the {others} tests of each {family}." if others > 1 else f"{note}."


def _protocol_note(comparison: Comparison) -> str:
    settings = [flat({"training": result.config["training"]}) for result in comparison.results]
    differing = [key for key in PROTOCOL if any(own.get(key) != settings[0].get(key) for own in settings)]
    words = {
        "training.max_sequences": "at most {} sequences",
        "training.stop": "a trial ends when it meets {}",
        "training.evaluate_every": "evaluated every {} sequences",
        "training.select": "{} weights tested",
    }
    same = []
    for key in PROTOCOL:
        if key not in differing and settings[0].get(key) is not None:
            same.append(words[key].format(_shown(settings[0][key])))
    note = f"Training: {', '.join(same)}." if same else ""
    if differing:
        names = ", ".join(_leaf(key) for key in differing)
        note += f" Rows differ in {names}, given with each: compare their shares and final metrics with care."
    return note.strip()


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


# Text of single cells -------------------------------------------------------------------------------------


def _estimate(row: Mapping, name: str, shown: Callable[[float], str]) -> str:
    interval = _interval(row, name, shown)
    return f"{shown(row[name])} {interval}".strip()


def _interval(row: Mapping, name: str, shown: Callable[[float], str]) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if math.isnan(low) or (low == high and math.isinf(low)):
        return ""
    return f"[{shown(low)}, {shown(high)}]".replace("not reached", "n.r.")


def sequences_text(value: float) -> str:
    return "not reached" if value == math.inf else f"{value:,.0f}"


def _metric(value: float) -> str:
    if math.isinf(value):
        return "diverged"
    # A count, or an exact 0 or 1, has no decimals.
    whole = float(value).is_integer() or abs(value) >= 1000
    return f"{value:,.0f}" if whole else f"{value:#.3g}".removesuffix(".")


def _p(comparison: Comparison, row: Mapping) -> str:
    if row["model"] == comparison.labels[0] and comparison.reference is not None:
        return "reference"
    p = row["p_holm"]
    if math.isnan(p):
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _printed(value: object) -> str:
    """A published value: text as it is, whole numbers with separators, nothing where there is none."""
    if isinstance(value, float) and math.isnan(value):
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def markdown(text: str) -> str:
    """Text with a backslash before what Markdown, as GitHub has it, would take for more than text outside of tables."""
    return _MARKDOWN.sub(r"\\\g<0>", text)


_MARKDOWN = re.compile(r"[\\`*$~]|(?<!\w)_|_(?!\w)|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<=\])[(\[]")


def _latex(text: str) -> str:
    """Text with what LaTeX would take for commands, or print as something else, made plain."""
    marked = text.translate(_LATEX)
    # At the start of a row these would be options of the line break before.
    return f"{{{text[0]}}}{marked[1:]}" if text[:1] in ("[", "*") else marked


_LATEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "%#&_${}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
)
