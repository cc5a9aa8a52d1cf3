"""Two figures of a comparison, against sequences: the share of trials solved, and a validation metric."""

import colorsys
import io
import math
import re
import textwrap
from collections import Counter
from collections.abc import Collection
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
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from PIL import Image

from amu_experiments.analysis import statistics
from amu_experiments.analysis.comparison import TUNED, Comparison, condition, ended_before, flat, higher_is_better
from amu_experiments.store import Result, write_bytes

Style = tuple[str, object, str]
"""Colour as #rrggbb, dashes and marker of a row's lines."""

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
    ("#882255", (0, (3, 3)), "X"),
    ("#999933", (0, (8, 1.5, 1, 1.5)), "p"),
    ("#332288", (0, (2, 4)), "h"),
)
"""For cells without a style of their own, in the order of their names."""

VARIANT_MARKERS = "o*sh^dDpvP<X>8"
"""Variants of a cell keep its dashes and take these markers, and shades of its colour."""

DARK, PALE = 0.5, 0.45
"""Shares of black and of white in a dark and in a pale shade."""

SHADES = (
    *((0, DARK, 0), (0, 0, PALE), (40, 0, 0), (-25, 0, 0), (40, DARK, 0), (-25, DARK, 0)),
    *((40, 0, PALE), (-25, 0, PALE), (80, 0, 0), (80, DARK, 0), (80, 0, PALE), (-50, DARK, 0)),
)
"""What makes the shades of a cell's colour: degrees that its hue turns by, shares of black and of white."""

SIZES = ("model.units", "model.parameters")
"""Settings that follow from the task and from a matched size; they make no variant of a model."""

EXACT_COLOURS, MIXED_COLOURS = 32, 64
"""Entries of a PNG's palette: the most frequent colours as they are, and colours that stand for all others."""

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

ENTRY = 72
"""Letters in a line of a legend's entry: as many as a figure is wide."""


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
            unsigned = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            FigureCanvasSVG(self.figure).print_svg(file, metadata=unsigned)

        def short(path: re.Match) -> str:
            return re.sub(r"\s+", " ", re.sub(r"(\.\d\d)\d+", r"\1", path[0]))

        # Line breaks take three letters each where the page holds the figure as an address.
        return re.sub(r">\s+<", "><", re.sub(r' d="[^"]*"', short, file.getvalue()))

    def save(self, folder: Path) -> Drawn:
        """Writes PNG and PDF, the same to the last byte each time."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.name}.png", folder / f"{self.name}.pdf"]
        with house_style():
            pixels, pdf = io.BytesIO(), io.BytesIO()
            self.figure.savefig(pixels, format="png")
            # The layout is final now. Computing it again for each format takes as long as drawing, and so does
            # savefig's own layout pass.
            self.figure.set_layout_engine("none")
            unsigned = {"CreationDate": None, "Creator": None, "Producer": None}
            FigureCanvasPdf(self.figure).print_pdf(pdf, metadata=unsigned)
        png = small_png(Image.open(pixels).convert("RGB"), line_colours(self.figure))
        for path, made in zip(paths, (png, pdf.getvalue()), strict=True):
            write_bytes(path, made)
        return Drawn(self.name, self.caption, self._svg())


def pictures(comparison: Comparison, styles: list[Style]) -> list[Picture]:
    """Every figure of a comparison, its rows in these styles; the first of them only where the task has criteria."""
    with house_style():
        made = [solved_picture(comparison, styles)] if comparison.criteria else []
        return [*made, metric_picture(comparison, styles)]


def solved_picture(comparison: Comparison, styles: list[Style]) -> Picture:
    """Kaplan-Meier curves of the share solved, a panel for each criterion."""
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
        # As many lines in every title, for their first ones to stand at the same height.
        panel.set_title(literal(title) + "\n" * (title_lines - 1 - title.count("\n")), fontsize=9)
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
    panel.set_ylabel(literal(f"{metric} on validation data".replace("_", " ")))
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


def report_styles(comparisons: list[Comparison]) -> dict[str, list[Style]]:
    """The styles of every comparison's rows, by the comparison's name.

    A variant of a model (a cell with its settings, sizes and tuned values aside) has one style in all of them. The
    variant of a cell that most comparisons have takes the cell's own colour and marker; among equals, the variant
    that stands higher in them. Rows of a comparison that differ in sizes or tuned values alone count as further
    variants.
    """
    cells = {result.config["model"]["cell"] for comparison in comparisons for result in comparison.results}
    spare = {cell: SPARE_STYLES[place % len(SPARE_STYLES)] for place, cell in enumerate(sorted(cells - set(STYLES)))}
    variants = {comparison.name: _variants(comparison) for comparison in comparisons}
    counts, standing = Counter(), Counter()
    for rows in variants.values():
        counts.update(rows)
        standing.update({variant: place for place, variant in enumerate(rows)})
    of_style: dict[Style, list[tuple]] = {}
    for variant in sorted(counts, key=lambda variant: (-counts[variant], standing[variant], variant)):
        of_style.setdefault((STYLES | spare)[variant[0]], []).append(variant)
    styles = {variant: _shade(style, place) for style, alike in of_style.items() for place, variant in enumerate(alike)}
    return {name: [styles[variant] for variant in rows] for name, rows in variants.items()}


def _variants(comparison: Comparison) -> list[tuple[str, str, int]]:
    """Cell, settings, and how many rows before have the same ones, of each row."""
    variants, seen = [], Counter()
    for result in comparison.results:
        model = flat({"model": result.config["model"]})
        told = {
            key: value for key, value in model.items() if key not in (*SIZES, *TUNED) and not isinstance(value, list)
        }
        variant = model["model.cell"], repr(sorted(told.items()))
        variants.append((*variant, seen[variant]))
        seen[variant] += 1
    return variants


def _shade(style: Style, place: int) -> Style:
    """The style of a cell's variant at this place: the cell's own, then the shades."""
    if place == 0:
        return style
    colour, dashes, marker = style
    times, shade = divmod(place - 1, len(SHADES))
    turn, black, white = SHADES[shade]
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    # Beyond the last shade all come again, turned a little.
    turned = colorsys.hls_to_rgb((hue + (turn + 9 * times) / 360) % 1, lightness, saturation)
    others = VARIANT_MARKERS.replace(marker, "")
    shaded = to_hex([part * (1 - black - white) + white for part in turned])
    return shaded, dashes, others[(place - 1) % len(others)]


def _draw_share(panel: Axes, comparison: Comparison, row: int, criterion: str, style: Style) -> None:
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


def draw_legend(figure: Figure, comparison: Comparison, styles: list[Style]) -> None:
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, marker=marker, label=literal(entry))
        for (colour, dashes, marker), entry in zip(styles, _entries(comparison), strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=_legend_columns(comparison))


def legend_height(comparison: Comparison) -> float:
    entries, columns = _entries(comparison), _legend_columns(comparison)
    length = math.ceil(len(entries) / columns)
    # Entries go down the first column, then down the next; a further line of an entry is not so high as the first.
    further = [
        sum(entry.count("\n") for entry in entries[first : first + length]) for first in range(0, len(entries), length)
    ]
    return 0.1 + 0.2 * length + 0.17 * max(further)


def literal(text: str) -> str:
    """Text that matplotlib shows as it is; between two dollar signs it would read a formula."""
    return text.replace("$", r"\$")


def _entries(comparison: Comparison) -> list[str]:
    rows = zip(comparison.labels, comparison.results, strict=True)
    return [textwrap.fill(f"{label}, n = {len(result.trials)}", ENTRY) for label, result in rows]


def _legend_columns(comparison: Comparison) -> int:
    longest = max(len(line) for entry in _entries(comparison) for line in entry.split("\n"))
    return max(1, min(4, len(comparison.labels), int(WIDTH / (0.8 + 0.08 * longest))))


def _diverged(comparison: Comparison) -> bool:
    return any((result.trials["status"] == "diverged").any() for result in comparison.results)


def house_style() -> AbstractContextManager:
    """Matplotlib's defaults and ours, whatever the user's own settings are."""
    return matplotlib.style.context(["default", RC])


# PNG --------------------------------------------------------------------------------------------------------


def line_colours(figure: Figure) -> set[tuple[int, int, int]]:
    """The opaque colours of all lines and markers of a figure, its legend's included, as they stand in 8 bits."""
    lines = figure.findobj(Line2D)
    colours = {to_rgba(colour) for line in lines for colour in (line.get_color(), line.get_markerfacecolor())}
    return {tuple(round(255 * part) for part in colour[:3]) for colour in colours if colour[3] == 1}


def small_png(image: Image.Image, exact: Collection[tuple[int, int, int]]) -> bytes:
    """An RGB image as a PNG with a palette, a third of the size of one without.

    Args:
        image: a few colours cover nearly all of it; the others are those of edges.
        exact: colours that stay as they are wherever the image has them.
    """
    file = io.BytesIO()
    codes, places, counts = np.unique(_codes(image), return_inverse=True, return_counts=True)
    kept = np.intersect1d(_codes(list(exact)), codes)
    if len(kept) > 256:
        image.save(file, format="png", optimize=True)
        return file.getvalue()
    frequent = codes[np.argsort(-counts, kind="stable")[:EXACT_COLOURS]]
    mixed = np.reshape(image.quantize(MIXED_COLOURS, dither=Image.Dither.NONE).getpalette(), (-1, 3))
    palette = np.array(list(dict.fromkeys([*kept, *frequent, *_codes(mixed)]))[:256])
    distances = (_parts(codes)[:, None] - _parts(palette)) ** 2
    pixels = distances.sum(axis=-1).argmin(axis=1)[places].reshape(image.height, image.width)
    small = Image.fromarray(pixels.astype(np.uint8))
    small.putpalette(_parts(palette).astype(np.uint8).tobytes())
    small.save(file, format="png", optimize=True)
    return file.getvalue()


def _codes(colours: Image.Image | np.ndarray | list) -> np.ndarray:
    """Colours (..., 3) as one number each, (n,)."""
    return (np.asarray(colours, np.int64).reshape(-1, 3) << np.array([16, 8, 0])).sum(axis=1)


def _parts(codes: np.ndarray) -> np.ndarray:
    """Red, green and blue of colours given as one number each, (n, 3)."""
    return codes[:, None] >> np.array([16, 8, 0]) & 255
