"""Tables of a comparison: times to each criterion, metrics on test data, published numbers; and of one run."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from amu_experiments.analysis import statistics
from amu_experiments.analysis.comparison import (
    Comparison,
    budget,
    condition,
    criteria,
    ended_before,
    final_metrics,
    final_values,
    times_to,
)
from amu_experiments.analysis.labels import PROTOCOL, leaf, parameters_of, settings_of, tuned
from amu_experiments.analysis.statistics import CONFIDENCE, RESAMPLES, Estimate
from amu_experiments.analysis.text import (
    cell_text,
    latex,
    markdown,
    metric_text,
    p_text,
    printable,
    sequences_text,
    setting_text,
)
from amu_experiments.selection import flat
from amu_experiments.store import Result

WORDS = (
    *("criterion", "metric", "model", "method", "source", "claim", "statement", "verdict", "finding", "says"),
    *("task", "agrees", "but with", "reading", "training", "problem", "training step", "against"),
)
"""Columns of words, aligned left; all other columns hold numbers and are aligned right."""

CROSSING = (
    "The log-rank test compares whole curves of the share solved, not medians. It can miss a difference if the curves "
    "of two rows cross, even if their medians are far apart."
)

STOPPED = (
    "A trial that met its criterion stopped there. Its final metrics, and their p-values, mostly reflect the threshold "
    "of the criterion, not how good a model can get: compare models by the trials solved and the sequences until then."
)


@dataclass(frozen=True)
class Table:
    """A table in two forms, numbers for computation and text for readers, with its caption.

    words: columns that contain words and are aligned left, in addition to those in `WORDS`.
    """

    name: str
    caption: str
    numbers: pd.DataFrame
    text: pd.DataFrame
    words: tuple[str, ...] = ()

    def csv(self) -> str:
        return self.numbers.to_csv(index=False)

    def markdown(self, marked: bool = False) -> str:
        """The table as Markdown; `marked`: its cells are already Markdown, such as links."""
        escape = str if marked else markdown
        rows = (self.text.columns, *self.text.to_numpy().tolist())
        cells = [[escape(cell).replace("|", r"\|") for cell in row] for row in rows]
        widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
        rules = zip(widths, self._alignment(), strict=True)
        cells.insert(1, ["-" * (width - 1) + ("-" if side == "l" else ":") for width, side in rules])
        lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        return "".join(f"| {line} |\n" for line in lines) + f"\n{escape(self.caption)}\n"

    def latex(self) -> str:
        return (
            self.text.map(latex)
            .rename(columns=latex)
            .to_latex(
                index=False,
                caption=latex(self.caption),
                label=f"tab:{self.name}",
                column_format=self._alignment(),
                position="htb",
            )
        )

    def plain(self) -> str:
        return self.text.to_string(index=False) + "\n"

    def _alignment(self) -> str:
        return "".join("l" if column in (*WORDS, *self.words) else "r" for column in self.text)


# The tables -----------------------------------------------------------------------------------------------


def tables(comparison: Comparison, published: list[dict]) -> list[Table]:
    """Every table of a comparison that has rows; `published` are the entries of published.yaml."""
    made = [criteria_table(comparison), metrics_table(comparison), published_table(comparison, published)]
    return [table for table in made if table is not None]


def criteria_table(comparison: Comparison) -> Table | None:
    """Share solved and median time to each criterion, with tests; None for a task without criteria."""
    rows = []
    for criterion in comparison.criteria:
        times = [comparison.times(row, criterion) for row in range(len(comparison.results))]
        tests = _against_reference(comparison, lambda a, b, times=times: statistics.logrank(*times[a], *times[b]))
        for row, (p, adjusted) in enumerate(tests):
            share, median = statistics.success(times[row][1]), statistics.median_time(*times[row])
            rows.append(
                {"criterion": criterion}
                | _row_columns(comparison, row)
                | {"solved": int(times[row][1].sum()), "cut_off": _cut_off(comparison.results[row], criterion)}
                | _estimate_columns("solved_share", share)
                | _estimate_columns("median_sequences", median)
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
        }
        | _p_columns(comparison, rows)
    )
    percent = f"{CONFIDENCE:.0%}"
    caption = [
        f"{comparison.name}: sequences until a criterion was met ("
        + "; ".join(condition(comparison.task, criterion) for criterion in comparison.criteria)
        + ").",
        f"Solved: trials that met it of all trials, [Wilson {percent} interval of the share].",
        "Cut off: trials whose budget of sequences ended before they met it.",
        f"Median sequences: Kaplan-Meier median, [bootstrap {percent} percentile interval, {RESAMPLES:,} "
        + "resamples]; not reached (n.r.) if the estimated share solved stays below a half.",
        "A trial that did not meet it is censored after the sequences it has seen"
        + (f", a diverged one at {comparison.cap:,}." if comparison.diverged else "."),
        *ended_before(comparison),
        _rank_note(comparison),
        _test_note(comparison, "log-rank", "criterion"),
        CROSSING if _is_tested(comparison) else "",
        _protocol_note(comparison),
        _settings_note(comparison),
    ]
    return Table(f"{comparison.name}-criteria", " ".join(filter(None, caption)), numbers, text)


def metrics_table(comparison: Comparison) -> Table | None:
    """Medians of the metrics on test data, with tests; None if no metric has a number."""
    rows = []
    for metric in comparison.test_metrics:
        values = [final_values(result, metric) for result in comparison.results]
        tests = _against_reference(
            comparison, lambda a, b, values=values: statistics.mann_whitney(values[a], values[b])
        )
        for row, (p, adjusted) in enumerate(tests):
            rows.append(
                {"metric": metric}
                | _row_columns(comparison, row)
                | _estimate_columns("median", statistics.median(values[row]))
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
            "median": [_estimate(row, "median", metric_text) for row in rows],
        }
        | _p_columns(comparison, rows)
    )
    caption = [
        f"{comparison.name}: metrics on test data after training.",
        f"Median over n trials, [bootstrap {CONFIDENCE:.0%} percentile interval, {RESAMPLES:,} resamples].",
        "A diverged trial counts as worse than any other." if comparison.diverged else "",
        _rank_note(comparison),
        _test_note(comparison, "Mann-Whitney", "metric"),
        STOPPED if any((result.trials["status"] == "solved").any() for result in comparison.results) else "",
        _protocol_note(comparison),
        "" if comparison.criteria else _settings_note(comparison),
    ]
    return Table(f"{comparison.name}-metrics", " ".join(filter(None, caption)), numbers, text)


def published_table(comparison: Comparison, published: list[dict]) -> Table | None:
    """Numbers from the literature for these task settings; None if there are none.

    Args:
        comparison: the comparison; an entry applies if the comparison has all of the entry's task settings.
        published: entries with `task`, the settings; `source`; `statistic`, a sentence; and `rows`, each with a
            `method` and values by column name. historical.py uses the key `again` of a row.
    """
    settings = flat(comparison.task)
    entries = [entry for entry in published if flat(entry["task"]).items() <= settings.items()]
    if not entries:
        return None
    numbers = pd.DataFrame(
        [row | {"source": entry["source"]} for entry in entries for row in entry["rows"]], dtype=object
    ).drop(columns="again", errors="ignore")
    text = pd.DataFrame({column: [cell_text(value) for value in numbers[column]] for column in numbers})
    statements = list(dict.fromkeys(entry["statistic"] for entry in entries))
    caption = f"{comparison.name}: published numbers, not made with this software. {' '.join(statements)}"
    return Table(f"{comparison.name}-published", caption, numbers, text)


def run_table(result: Result) -> str:
    """A finished run as a few lines of plain text: parameters, time, criteria and final metrics."""
    trials = result.trials
    diverged = int((trials["status"] == "diverged").sum())
    lines = [
        f"{result.task}, {result.model}: {len(trials)} trial{'s' if len(trials) > 1 else ''}"
        + (f" ({diverged} diverged)" if diverged else "")
        + f", {int(trials['parameters'].iloc[0]):,} parameters, {trials['seconds'].max():.0f} s"
    ]
    met = []
    for criterion in criteria(result):
        times, solved = times_to(result, criterion, budget(result))
        median = float(statistics.median_times(times, solved))
        range_met = (
            f"{sequences_text(times[solved].min())} to {sequences_text(times[solved].max())}" if solved.any() else "-"
        )
        bounds = condition(result.config["task"], criterion).partition(": ")[2]
        met.append((printable(criterion), f"{solved.sum()}/{len(solved)}", sequences_text(median), range_met, bounds))
    measured = []
    for metric in final_metrics(result):
        values = final_values(result, metric)
        numbers = (metric_text(value) for value in (np.median(values), values.min(), values.max()))
        measured.append((printable(_with_data(metric)), *numbers))
    for columns, rows in (
        (("criterion", "solved", "median sequences", "range of those solved", "condition"), met),
        (("final metric", "median", "lowest", "highest"), measured),
    ):
        if rows:
            lines += ["", pd.DataFrame(rows, columns=columns).to_string(index=False)]
    return "\n".join(lines)


def _with_data(metric: str) -> str:
    """A metric's name with its data: a name without the prefix test_ or train_ means validation data."""
    data, _, name = metric.partition("_")
    return f"{data} {name}" if data in ("test", "train") else f"validation {metric}"


def _cut_off(result: Result, criterion: str) -> int:
    """The number of trials whose budget ended before they met the criterion."""
    return int(((result.trials["status"] == "finished") & result.trials[f"{criterion}_sequences"].isna()).sum())


def _against_reference(comparison: Comparison, test: Callable[[int, int], float]) -> list[tuple[float, float]]:
    """p and Holm-adjusted p of `test(reference, row)` for each row; NaN for references, and if there is none."""
    tested = [(math.nan, math.nan)] * len(comparison.results)
    if comparison.references:
        others = [row for row in range(len(tested)) if row not in comparison.references]
        p_values = [test(comparison.reference_of(row), row) for row in others]
        for row, p, adjusted in zip(others, p_values, statistics.holm(p_values), strict=True):
            tested[row] = p, adjusted
    return tested


def _row_columns(comparison: Comparison, row: int) -> dict:
    """The columns that describe a row in every table."""
    result = comparison.results[row]
    return {
        "model": comparison.labels[row],
        "identity": result.identity,
        "parameters": parameters_of(result),
        "units": result.config["model"]["units"],
        "trials": len(result.trials),
        "diverged": int((result.trials["status"] == "diverged").sum()),
    } | _against(comparison, row)


def _against(comparison: Comparison, row: int) -> dict[str, str]:
    """The column with the label of the row's reference, if the comparison has several references."""
    if len(comparison.references) < 2:
        return {}
    reference = comparison.reference_of(row)
    return {"against": "" if reference is None else comparison.labels[reference]}


def _estimate_columns(name: str, estimate: Estimate) -> dict:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _is_tested(comparison: Comparison) -> bool:
    return comparison.reference is not None and len(comparison.results) > 1


# Captions -------------------------------------------------------------------------------------------------


def _rank_note(comparison: Comparison) -> str:
    if len(comparison.results) == 1:
        return ""
    by = [f"share solved and median sequences of {printable(comparison.stop)}"] if comparison.stop else []
    by += [f"median {printable(comparison.ranked_by)}"] if comparison.ranked_by else []
    return f"The best row comes first, by {', then by '.join(by)}." if by else ""


def _test_note(comparison: Comparison, test: str, family: str) -> str:
    if comparison.reference is None:
        return f"No p-values: no row is named {printable(comparison.asked)}."
    others = len(comparison.results) - len(comparison.references)
    if others == 0:
        return "No p-values: there is only one row."
    note = f"p: two-sided {test} test against {comparison.labels[comparison.reference]}"
    if len(comparison.references) > 1:
        note = (
            f"p: two-sided {test} test against the reference with the nearest number of parameters, named in each row"
        )
    if others > 1:
        note += f", Holm-corrected for the {others} tests of each {family}"
    if comparison.reference_is_best:
        note += ". The reference is the best row, because there is no AMU"
        note += "; it was chosen by its results, so p is somewhat too small" if others > 1 else ""
    return f"{note}."


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
            same.append(words[key].format(setting_text(settings[0][key])))
    note = f"Training: {', '.join(same)}." if same else ""
    if differing:
        names = ", ".join(leaf(key) for key in differing)
        note += f" Rows differ in {names}, as their labels state: compare their shares and final metrics with care."
    return note.strip()


def _settings_note(comparison: Comparison) -> str:
    """The settings of each row that tuning chooses and its label leaves out."""
    rows = []
    for label, result in zip(comparison.labels, comparison.results, strict=True):
        own = settings_of(result)
        stated = [f"{leaf(key)}={setting_text(own[key])}" for key in tuned() if key in own]
        stated = [text for text in stated if text not in label]
        rows += [f"{label}: {', '.join(stated)}"] if stated else []
    return f"Settings that tuning changes: {'; '.join(rows)}." if rows else ""


# Text of single cells -------------------------------------------------------------------------------------


def _estimate(row: Mapping, name: str, text: Callable[[float], str]) -> str:
    return f"{text(row[name])} {_interval(row, name, text)}".strip()


def _interval(row: Mapping, name: str, text: Callable[[float], str]) -> str:
    """The interval "[300, n.r.]"; empty if a limit is unknown or both are the same infinity."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if math.isnan(low) or (low == high and math.isinf(low)):
        return ""
    return f"[{text(low)}, {text(high)}]".replace("not reached", "n.r.")


def _p_columns(comparison: Comparison, rows: list[dict]) -> dict[str, list[str]]:
    """The column of p-values, in which references are marked, and that of several references.

    No column if nothing is tested.
    """
    if not _is_tested(comparison):
        return {}
    references = [comparison.labels[row] for row in comparison.references]
    columns = {"p (Holm)": ["reference" if row["model"] in references else p_text(row["p_holm"]) for row in rows]}
    return columns | ({"against": [row["against"] for row in rows]} if len(references) > 1 else {})
