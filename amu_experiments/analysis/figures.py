"""Two figures of a comparison, against sequences: the share of trials solved, and a validation metric."""

import io
import math
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from PIL import Image

from amu_experiments.analysis import statistics
from amu_experiments.analysis.tables import Comparison, condition, ended_before, higher_is_better
from amu_experiments.store import Result, write_bytes

STYLES = {
    "amu": ("#0072B2", "-", "o"),
    "lstm": ("#D55E00", (0, (6, 2)), "s"),
    "gru": ("#009E73", (0, (6, 2, 1.5, 2)), "^"),
    "rnn": ("#CC79A7", (0, (1.5, 1.5)), "D"),
    "lstm97": ("#E69F00", (0, (10, 3)), "v"),
}
"""Colour (of Okabe & Ito's palette, for all kinds of colour vision), dashes and marker, always the same."""

SPARE_STYLES = (
    ("#56B4E9", (0, (4, 1.5, 1, 1.5, 1, 1.5)), "P"),
    ("#000000", (0, (3, 3)), "X"),
)
"""For cells that have none of their own, in the order of their names."""

VARIANT_MARKERS = "o*sh^dDpvP<X>8"
"""Further rows of a cell keep its colour, paler, and its dashes, and take these markers."""

MAIN_METRICS = ("mse", "mean_error", "strings_right", "accuracy", "loss")
"""The validation metric shown is the first of these that a task has; the loss always is one."""

RC = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.handlelength": 3.6,
    "pdf.fonttype": 42,
}

WIDTH = 7.2
"""Of a figure, in inches."""


@dataclass(frozen=True)
class Drawn:
    """A figure that stands in its files, with its picture for a page as SVG."""

    name: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Picture:
    """A figure with its file's name, without suffix, and the caption that explains it."""

    name: str
    caption: str
    figure: Figure

    def _svg(self) -> str:
        """The figure as SVG, with text as text and coordinates to a hundredth of a point."""
        file = io.StringIO()
        with house_style(), matplotlib.rc_context({"svg.hashsalt": self.name, "svg.fonttype": "none"}):
            FigureCanvasSVG(self.figure).print_svg(file, metadata={"Date": None, "Creator": None})
        return re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), file.getvalue())

    def save(self, folder: Path) -> Drawn:
        """Writes PNG and PDF, the same to the last byte each time."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.name}.png", folder / f"{self.name}.pdf"]
        with house_style():
            pixels, png, pdf = io.BytesIO(), io.BytesIO(), io.BytesIO()
            self.figure.savefig(pixels, format="png")
            # Where everything stands is settled now: to find it again for each format takes as long as drawing, and
            # so does savefig's look before it draws.
            self.figure.set_layout_engine("none")
            unsigned = {"CreationDate": None, "Creator": None, "Producer": None}
            FigureCanvasPdf(self.figure).print_pdf(pdf, metadata=unsigned)
        # A figure has few colours: with a palette its file is a third of the size.
        image = Image.open(pixels).convert("RGB").quantize(64, dither=Image.Dither.NONE)
        image.save(png, format="png", optimize=True)
        for path, made in zip(paths, (png, pdf), strict=True):
            write_bytes(path, made.getvalue())
        return Drawn(self.name, self.caption, self._svg())


def pictures(comparison: Comparison) -> list[Picture]:
    """Every figure of a comparison; the first of them only where the task has criteria."""
    with house_style():
        made = [solved_picture(comparison)] if comparison.criteria else []
        return [*made, metric_picture(comparison)]


def solved_picture(comparison: Comparison) -> Picture:
    """Kaplan-Meier curves of the share solved, a panel for each criterion."""
    names, styles = comparison.criteria, row_styles(comparison)
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
        # As many lines in every title, for their first ones to stand at the same height.
        panel.set_title(title + "\n" * (title_lines - 1 - title.count("\n")), fontsize=9)
        _sequence_axis(panel, comparison)
        panel.set_ylim(-0.04, 1.04)
    for empty in panels[len(names) :]:
        empty.remove()
    for panel in panels[::columns]:
        panel.set_ylabel("share of trials solved")
    draw_legend(figure, comparison, styles)
    caption = (
        f"{comparison.name}: Kaplan-Meier estimate of the share of trials that have met a criterion, against "
        "the sequences seen, over n trials. Vertical ticks: trials that had not met it when they ended"
    )
    if _diverged(comparison):
        caption += f" (a diverged one at {comparison.cap:,})"
    caption = " ".join([f"{caption}.", *ended_before(comparison)])
    return Picture(f"{comparison.name}-solved", caption, figure)


def metric_picture(comparison: Comparison) -> Picture:
    """Median and interquartile band over trials of the main validation metric."""
    metric = next(name for name in MAIN_METRICS if all(name in result.history for result in comparison.results))
    styles = row_styles(comparison)
    figure = Figure(figsize=(WIDTH, 3.4 + legend_height(comparison)), layout="constrained")
    panel = figure.subplots()
    curves = [carried_forward(result, metric) for result in comparison.results]
    finite = [curve.to_numpy()[np.isfinite(curve.to_numpy())] for curve in curves]
    shown = np.concatenate([values for values in finite if values.size] or [np.array([0.0, 1.0])])
    for row, curve in enumerate(curves):
        if curve.columns.empty:
            continue
        # Quartiles go by order alone, so that any value beyond all others serves for a trial without one.
        values = curve.clip(shown.min(), shown.max())
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
        colour, dashes, marker = styles[row]
        panel.fill_between(curve.index, low, high, color=colour, alpha=0.15, linewidth=0)
        # Markers a quarter of the axis apart, each row's a little further on than the one's before.
        every = ((row + 0.5) / len(styles) / 4, 0.25)
        panel.plot(curve.index, middle, color=colour, linestyle=dashes, marker=marker, markevery=every)
    _sequence_axis(panel, comparison)
    if not higher_is_better(metric) and shown.min() > 0 and shown.max() > 20 * shown.min():
        panel.set_yscale("log")
    panel.set_ylabel(f"{metric} on validation data".replace("_", " "))
    draw_legend(figure, comparison, styles)
    caption = (
        f"{comparison.name}: {metric} on validation data against the sequences seen, median (line) and "
        "interquartile range (band) over n trials. A trial that ended keeps its last value"
    )
    if _diverged(comparison):
        caption += ", one that diverged counts from then on as the worst value shown"
    return Picture(f"{comparison.name}-{metric}", f"{caption}.", figure)


def carried_forward(result: Result, metric: str) -> pd.DataFrame:
    """A validation metric of every trial at every evaluation that any trial had.

    Returns:
        A column a trial, indexed by sequences, ascending, to the end of the budget. After its end a trial
        keeps its last value, or if it diverged has the worst there is, an infinity; as has any value that is
        no number. A trial that did not diverge and has no history has no column.
    """
    worst = -np.inf if higher_is_better(metric) else np.inf
    history = result.history.assign(value=result.history[metric].fillna(worst))
    table = history.pivot(index="sequences", columns="trial", values="value")
    # A trial that diverged before its first evaluation has no row in the history.
    known = result.trials["trial"].isin(table.columns) | (result.trials["status"] == "diverged")
    table = table.reindex(columns=result.trials.loc[known, "trial"])
    ends = result.trials.loc[result.trials["status"] == "diverged"].set_index("trial")["sequences"]
    budget = max(result.config["training"]["max_sequences"], int(result.trials["sequences"].max()))
    table = table.reindex(table.index.union([budget]))
    for trial, end in ends.items():
        table.loc[table.index >= end, trial] = worst
    return table.ffill()


# How rows look --------------------------------------------------------------------------------------------


def row_styles(comparison: Comparison) -> list[tuple]:
    """(colour, dashes, marker) of each row."""
    cells = [result.config["model"]["cell"] for result in comparison.results]
    unknown = sorted(set(cells) - set(STYLES))
    own = STYLES | {cell: SPARE_STYLES[place % len(SPARE_STYLES)] for place, cell in enumerate(unknown)}
    styles = []
    for row, cell in enumerate(cells):
        colour, dashes, marker = own[cell]
        before, of_cell = cells[:row].count(cell), cells.count(cell)
        if before:
            pale = 0.55 * before / (of_cell - 1)
            colour = tuple(part + (1 - part) * pale for part in to_rgb(colour))
            others = VARIANT_MARKERS.replace(marker, "")
            marker = others[(before - 1) % len(others)]
        styles.append((colour, dashes, marker))
    return styles


def _draw_share(panel: Axes, comparison: Comparison, row: int, criterion: str, style: tuple) -> None:
    times, solved = comparison.times(row, criterion)
    sequences, share = statistics.share_solved(times, solved)
    left, right = _span(comparison)
    # Where all have solved it the curve stays at the top for ever; else nobody knows what follows.
    end = right if share[-1] == 1 else sequences[-1]
    sequences, share = np.r_[left, sequences, end], np.r_[0.0, share, share[-1]]

    def share_at(points: np.ndarray) -> np.ndarray:
        return share[np.searchsorted(sequences, points, side="right") - 1]

    colour, dashes, marker = style
    panel.step(sequences, share, where="post", color=colour, linestyle=dashes)
    panel.plot(times[~solved], share_at(times[~solved]), linestyle="none", marker="|", color=colour, markersize=10)
    # Markers in places of each row's own, so that curves on top of one another can be told apart.
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
    """Left and right end of the sequence axis."""
    if not _logarithmic(comparison):
        return 0.0, float(comparison.cap)
    first = min(result.config["training"]["evaluate_every"] for result in comparison.results)
    return float(min(first, comparison.earliest)), float(comparison.cap)


def _logarithmic(comparison: Comparison) -> bool:
    """Whether sequences stand on a logarithmic axis: where a linear one would press the first times flat."""
    return comparison.cap > 25 * comparison.earliest


def draw_legend(figure: Figure, comparison: Comparison, styles: list[tuple]) -> None:
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, marker=marker, label=literal(entry))
        for (colour, dashes, marker), entry in zip(styles, _entries(comparison), strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=_legend_columns(comparison))


def literal(text: str) -> str:
    """Text that matplotlib shows as it is; between two dollar signs it would read a formula."""
    return text.replace("$", r"\$")


def _entries(comparison: Comparison) -> list[str]:
    rows = zip(comparison.labels, comparison.results, strict=True)
    return [f"{label}, n = {len(result.trials)}" for label, result in rows]


def _legend_columns(comparison: Comparison) -> int:
    longest = max(map(len, _entries(comparison)))
    return max(1, min(4, len(comparison.labels), int(WIDTH / (0.8 + 0.08 * longest))))


def legend_height(comparison: Comparison) -> float:
    return 0.1 + 0.2 * math.ceil(len(comparison.labels) / _legend_columns(comparison))


def _diverged(comparison: Comparison) -> bool:
    return any((result.trials["status"] == "diverged").any() for result in comparison.results)


def house_style() -> AbstractContextManager:
    """Matplotlib's defaults and ours, whatever the user's own settings are."""
    return matplotlib.style.context(["default", RC])
