"""Two figures of a comparison: the share of trials solved and a validation metric, against sequences seen."""

import math
import textwrap
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from amu_experiments.analysis import statistics
from amu_experiments.analysis.comparison import (
    Comparison,
    budget,
    condition,
    ended_before,
    higher_is_better,
    worst_value,
)
from amu_experiments.analysis.picture import WIDTH, Picture, house_style, literal
from amu_experiments.analysis.styles import Style, main_rows
from amu_experiments.store import Result

MAIN_METRICS = ("mse", "mean_error", "strings_right", "accuracy", "loss")
"""The figure shows the first of these validation metrics that the task has; every task has the loss."""

MOST_LINES = 10
"""Maximum number of rows in a figure; with more, readers could not distinguish the curves."""

ENTRY = 72
"""Characters in a line of a legend entry; a figure is wide enough for them."""


def pictures(comparison: Comparison, styles: list[Style]) -> list[Picture]:
    """The figures of the share solved and of a metric. A task without criteria has only that of the metric.

    styles: one for each row.
    """
    drawn, styles, note = with_main_rows(comparison, styles)
    with house_style():
        made = [solved_picture(drawn, styles)] if drawn.criteria else []
        made.append(metric_picture(drawn, styles))
    return [replace(picture, caption=picture.caption + note) for picture in made]


def with_main_rows(comparison: Comparison, styles: list[Style]) -> tuple[Comparison, list[Style], str]:
    """The comparison and its styles with the rows that are drawn, and a sentence for captions if rows are missing."""
    rows = main_rows(comparison, styles, MOST_LINES)
    if len(rows) == len(styles):
        return comparison, styles, ""
    parts = [[values[row] for row in rows] for values in (comparison.results, comparison.labels, styles)]
    count = f" Only {len(rows)} of {len(styles)} rows are drawn"
    note = f"{count}: of each model those with most trials; if equal, those nearest to the paper. The tables have all."
    return replace(comparison, results=parts[0], labels=parts[1]), parts[2], note


def solved_picture(comparison: Comparison, styles: list[Style]) -> Picture:
    """Kaplan-Meier curves of the share solved, with a panel for each criterion."""
    names = comparison.criteria
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    titles = [condition(comparison.task, name).replace(": ", "\n").replace(" and ", "\nand ") for name in names]
    titles = list(map(literal, titles))
    title_lines = 1 + max(title.count("\n") for title in titles)
    height = (2.6 + 0.16 * title_lines) * lines + legend_height(comparison)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    for panel, criterion, title in zip(panels, names, titles, strict=False):
        for row in range(len(comparison.results)):
            _draw_share(panel, comparison, row, criterion, styles[row])
        # Every title has the same number of lines, so that the first lines are at the same height.
        panel.set_title(literal(title) + "\n" * (title_lines - 1 - title.count("\n")), fontsize=9)
        _sequence_axis(panel, comparison)
        panel.set_ylim(-0.04, 1.04)
    for empty in panels[len(names) :]:
        empty.remove()
    for panel in panels[::columns]:
        panel.set_ylabel("share of trials solved")
    draw_legend(figure, comparison, styles)
    caption = (
        f"{comparison.name}: Kaplan-Meier estimate of the share of n trials that have met a criterion, against "
        "the sequences seen. Vertical ticks: trials that ended without meeting it"
    )
    if comparison.diverged:
        caption += f" (a diverged one at {comparison.cap:,})"
    caption = " ".join([f"{caption}.", *ended_before(comparison)])
    return Picture(f"{comparison.name}-solved", caption, figure)


def metric_picture(comparison: Comparison, styles: list[Style]) -> Picture:
    """Median and interquartile band over trials of the main validation metric."""
    metric = next(name for name in MAIN_METRICS if all(name in result.history for result in comparison.results))
    figure = Figure(figsize=(WIDTH, 3.4 + legend_height(comparison)), layout="constrained")
    panel = figure.subplots()
    curves = [carried_forward(result, metric) for result in comparison.results]
    finite = [curve.to_numpy()[np.isfinite(curve.to_numpy())] for curve in curves]
    shown = np.concatenate([values for values in finite if values.size] or [np.array([0.0, 1.0])])
    for row, curve in enumerate(curves):
        if curve.columns.empty:
            continue
        # Quartiles depend on order alone, so an infinity can be replaced by the worst value shown.
        values = curve.clip(shown.min(), shown.max())
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
        colour, dashes, marker = styles[row]
        panel.fill_between(curve.index, low, high, color=colour, alpha=0.15, linewidth=0)
        # Markers are a quarter of the axis apart, and those of each row start a little further right.
        every = ((row + 0.5) / len(styles) / 4, 0.25)
        panel.plot(curve.index, middle, color=colour, linestyle=dashes, marker=marker, markevery=every)
    _sequence_axis(panel, comparison)
    if not higher_is_better(metric) and shown.min() > 0 and shown.max() > 20 * shown.min():
        panel.set_yscale("log")
    panel.set_ylabel(literal(f"{metric} on validation data".replace("_", " ")))
    draw_legend(figure, comparison, styles)
    caption = (
        f"{comparison.name}: {metric} on validation data against the sequences seen, median (line) and "
        "interquartile range (band) over n trials. After its end a trial keeps its last value"
    )
    if comparison.diverged:
        caption += "; a diverged trial has the worst value shown from then on"
    return Picture(f"{comparison.name}-{metric}", f"{caption}.", figure)


def carried_forward(result: Result, metric: str) -> pd.DataFrame:
    """A validation metric of every trial at the evaluations of all trials.

    Returns:
        A column for each trial, indexed by sequences, ascending, up to the budget. After its end a trial keeps its
        last value; a diverged trial has the worst value, an infinity. NaN counts as the worst value, too. A trial
        without history has no column, unless it diverged.
    """
    worst = worst_value(metric)
    history = result.history.assign(value=result.history[metric].fillna(worst))
    table = history.pivot(index="sequences", columns="trial", values="value")
    # The history has no rows of a trial that diverged before its first evaluation.
    known = result.trials["trial"].isin(table.columns) | (result.trials["status"] == "diverged")
    table = table.reindex(columns=result.trials.loc[known, "trial"])
    ends = result.trials.loc[result.trials["status"] == "diverged"].set_index("trial")["sequences"]
    table = table.reindex(table.index.union([budget(result)]))
    for trial, end in ends.items():
        table.loc[table.index >= end, trial] = worst
    return table.ffill()


def _draw_share(panel: Axes, comparison: Comparison, row: int, criterion: str, style: Style) -> None:
    times, solved = comparison.times(row, criterion)
    sequences, share = statistics.share_solved(times, solved)
    left, right = _span(comparison)
    # If the estimate reaches 1, the curve stays there; otherwise it is unknown after the last observation.
    end = right if share[-1] == 1 else sequences[-1]
    sequences, share = np.r_[left, sequences, end], np.r_[0.0, share, share[-1]]

    def share_at(points: np.ndarray) -> np.ndarray:
        return share[np.searchsorted(sequences, points, side="right") - 1]

    colour, dashes, marker = style
    panel.step(sequences, share, where="post", color=colour, linestyle=dashes)
    panel.plot(times[~solved], share_at(times[~solved]), linestyle="none", marker="|", color=colour, markersize=10)
    # Each row has its markers at other positions, so that readers can distinguish curves that overlap.
    places = (np.arange(4) + (row + 0.5) / len(comparison.results)) / 4
    marked = left * (right / left) ** places if _logarithmic(comparison) else left + places * (right - left)
    marked = marked[marked <= end]
    panel.plot(marked, share_at(marked), linestyle="none", marker=marker, color=colour)


def _sequence_axis(panel: Axes, comparison: Comparison) -> None:
    left, right = _span(comparison)
    if _logarithmic(comparison):
        panel.set_xscale("log")
        panel.set_xlim(left, right * 1.1)
    else:
        panel.set_xlim(left, right * 1.02)
        panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    panel.set_xlabel("sequences seen")


def _span(comparison: Comparison) -> tuple[float, float]:
    """Left and right end of the axis of sequences."""
    if not _logarithmic(comparison):
        return 0.0, float(comparison.cap)
    first = min(result.config["training"]["evaluate_every"] for result in comparison.results)
    return float(min(first, comparison.earliest)), float(comparison.cap)


def _logarithmic(comparison: Comparison) -> bool:
    """Whether the axis of sequences is logarithmic: on a linear axis, early times would be too close together."""
    return comparison.cap > 25 * comparison.earliest


def draw_legend(figure: Figure, comparison: Comparison, styles: list[Style]) -> None:
    """Draws a legend below the panels, with an entry for each row."""
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, marker=marker, label=literal(entry))
        for (colour, dashes, marker), entry in zip(styles, _entries(comparison), strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=_legend_columns(comparison))


def legend_height(comparison: Comparison) -> float:
    """Height of the legend in inches."""
    entries, columns = _entries(comparison), _legend_columns(comparison)
    length = math.ceil(len(entries) / columns)
    # Entries fill the first column, then the next. The second line of an entry takes less height than the first.
    further = [
        sum(entry.count("\n") for entry in entries[first : first + length]) for first in range(0, len(entries), length)
    ]
    return 0.1 + 0.2 * length + 0.17 * max(further)


def _entries(comparison: Comparison) -> list[str]:
    rows = zip(comparison.labels, comparison.results, strict=True)
    return [textwrap.fill(f"{label}, n = {len(result.trials)}", ENTRY) for label, result in rows]


def _legend_columns(comparison: Comparison) -> int:
    longest = max(len(line) for entry in _entries(comparison) for line in entry.split("\n"))
    return max(1, min(4, len(comparison.labels), int(WIDTH / (0.8 + 0.08 * longest))))
