"""Sweeps: rows of one model that differ in one or more settings on a grid, as one table and, for two, a heat map."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from amu_experiments.analysis import statistics
from amu_experiments.analysis.comparison import (
    Comparison,
    condition,
    final_values,
    higher_is_better,
)
from amu_experiments.analysis.labels import ALIKE, PROTOCOL, leaf, parameters_of
from amu_experiments.analysis.picture import Picture, house_style, literal
from amu_experiments.analysis.tables import Table
from amu_experiments.analysis.text import listing, metric_text, printable, sequences_text, setting_text
from amu_experiments.selection import flat

FEWEST = 3
"""Fewest rows of a sweep."""

SHARE = 0.5
"""A sweep has more than this share of a grid's combinations; an interrupted sweep lacks some."""

DERIVED = ("model.units",)
"""Settings that may follow from others, as units from model.parameters. They are left out if rows have about the same
number of parameters and the others identify each row."""


@dataclass(frozen=True)
class Sweep:
    """Rows of one model under one protocol, on a grid of settings.

    rows: their places in the comparison, the best first.
    axes: {key: values in order}. points: for each row, the positions of its values on the axes.
    """

    comparison: Comparison
    model: str
    rows: list[int]
    axes: dict[str, list]
    points: list[tuple[int, ...]]

    @property
    def neighbours(self) -> list[bool]:
        """For each row, whether it is next to the best one: one step away on one axis."""
        best = np.array(self.points[0])
        return [bool(np.abs(np.array(point) - best).sum() == 1) for point in self.points]

    @property
    def edges(self) -> list[str]:
        """The numeric axes on which the best value is the first or the last: better ones may lie outside."""
        places = zip(self.axes.items(), self.points[0], strict=True)
        return [
            leaf(key)
            for (key, values), place in places
            if place in (0, len(values) - 1) and all(isinstance(value, int | float) for value in values)
        ]


def sweeps(comparison: Comparison) -> list[Sweep]:
    """The sweeps of a comparison: for each model and protocol with at least `FEWEST` rows on a grid.

    Rows with different budgets are never in one sweep.
    """
    settings = [flat({part: result.config[part] for part in ("model", "training")}) for result in comparison.results]
    groups: dict[tuple, list[int]] = {}
    for row, (result, own) in enumerate(zip(comparison.results, settings, strict=True)):
        groups.setdefault((result.model, *(own.get(key) for key in PROTOCOL)), []).append(row)
    found = [_sweep(comparison, model, rows, settings) for (model, *_), rows in groups.items()]
    return [sweep for sweep in found if sweep is not None]


def _sweep(comparison: Comparison, model: str, rows: list[int], settings: list[dict]) -> Sweep | None:
    own = [settings[row] for row in rows]
    keys = [key for key in dict.fromkeys(itertools.chain(*own)) if any(s.get(key) != own[0].get(key) for s in own)]

    def distinct(keys: list[str]) -> int:
        return len({tuple(repr(s.get(key)) for key in keys) for s in own})

    without = [key for key in keys if key not in DERIVED]
    sizes = [parameters_of(comparison.results[row]) for row in rows]
    if distinct(without) == len(rows) and max(sizes) <= ALIKE * min(sizes):
        keys = without
    axes = {key: _in_order([s.get(key) for s in own]) for key in keys}
    full = math.prod(map(len, axes.values()))
    if len(rows) < FEWEST or distinct(keys) < len(rows) or len(rows) <= SHARE * full:
        return None
    points = [tuple(values.index(s.get(key)) for key, values in axes.items()) for s in own]
    return Sweep(comparison, model, rows, axes, points)


def _in_order(values: list) -> list:
    """Distinct values: none and texts first, numbers ascending."""
    distinct = [value for place, value in enumerate(values) if value not in values[:place]]
    numeric = [isinstance(value, int | float) and not isinstance(value, bool) for value in distinct]
    return sorted(distinct, key=lambda v: (numeric[distinct.index(v)], v if numeric[distinct.index(v)] else 0, str(v)))


def sweep_table(sweep: Sweep) -> Table:
    """A row for each point of the grid, in the order of the grid; the best point and its neighbours are marked."""
    comparison, criterion, metric = sweep.comparison, sweep.comparison.stop, sweep.comparison.ranked_by
    rows = []
    for place, (row, point) in enumerate(zip(sweep.rows, sweep.points, strict=True)):
        result = comparison.results[row]
        own = {leaf(key): values[at] for (key, values), at in zip(sweep.axes.items(), point, strict=True)}
        own |= {"identity": result.identity, "trials": len(result.trials)}
        own["diverged"] = int((result.trials["status"] == "diverged").sum())
        if criterion is not None:
            times, solved = comparison.times(row, criterion)
            own["solved"] = int(solved.sum())
            own["median_sequences"] = float(statistics.median_times(times, solved))
        if metric is not None:
            own["median_metric"] = float(np.median(final_values(result, metric)))
        own["mark"] = "best" if place == 0 else "neighbour" if sweep.neighbours[place] else ""
        rows.append((point, own))
    ordered = [own for _, own in sorted(rows, key=lambda pair: pair[0])]
    numbers = pd.DataFrame(ordered)
    text = pd.DataFrame({leaf(key): [_setting(own[leaf(key)]) for own in ordered] for key in sweep.axes})
    text["n"], text["diverged"] = numbers["trials"].map(str), numbers["diverged"].map(str)
    if criterion is not None:
        text["solved"] = [f"{row.solved}/{row.trials}" for row in numbers.itertuples()]
        text["median sequences"] = numbers["median_sequences"].map(sequences_text)
    if metric is not None:
        text[f"median {printable(metric)}"] = numbers["median_metric"].map(metric_text)
    text["mark"] = numbers["mark"]
    name = _name(sweep)
    return Table(name, _caption(sweep), numbers, text, words=(*map(leaf, sweep.axes), "mark"))


def sweep_pictures(comparison: Comparison) -> list[Picture]:
    """A heat map for each sweep over two settings."""
    if comparison.stop is None and comparison.ranked_by is None:
        return []
    with house_style():
        return [_heat_map(sweep) for sweep in sweeps(comparison) if len(sweep.axes) == 2]


def _heat_map(sweep: Sweep) -> Picture:
    comparison, criterion, metric = sweep.comparison, sweep.comparison.stop, sweep.comparison.ranked_by
    shares = [] if criterion is None else [comparison.times(row, criterion)[1].mean() for row in sweep.rows]
    if len(set(shares)) > 1 or metric is None:
        values, better, what = shares, True, f"share of trials that met {condition(comparison.task, criterion)}"
        texts = [f"{share:.2f}" for share in shares]
    else:
        values = [float(np.median(final_values(comparison.results[row], metric))) for row in sweep.rows]
        better, what = higher_is_better(metric), f"median {metric.replace('_', ' ')}"
        texts = list(map(metric_text, values))
    (key_y, ys), (key_x, xs) = sweep.axes.items()
    grid = np.full((len(ys), len(xs)), np.nan)
    for (y, x), value in zip(sweep.points, values, strict=True):
        grid[y, x] = value if math.isfinite(value) else np.nan
    figure = Figure(figsize=(1.8 + 0.75 * len(xs), 1.3 + 0.45 * len(ys)), layout="constrained")
    panel = figure.subplots()
    panel.grid(visible=False)
    # Light is better, so that the numbers of good points are dark on light.
    colours, limits = "viridis" if better else "viridis_r", {"vmin": 0, "vmax": 1} if values is shares else {}
    image = panel.imshow(grid, cmap=colours, aspect="auto", origin="lower", **limits)
    for (y, x), text in zip(sweep.points, texts, strict=True):
        light = not math.isnan(grid[y, x]) and sum(image.cmap(image.norm(grid[y, x]))[:3]) < 1.4
        panel.text(x, y, literal(text), ha="center", va="center", fontsize=8, color="white" if light else "black")
    y, x = sweep.points[0]
    panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="crimson", linewidth=2.5))
    panel.set_xticks(range(len(xs)), [literal(_setting(value)) for value in xs])
    panel.set_yticks(range(len(ys)), [literal(_setting(value)) for value in ys])
    panel.set_xlabel(literal(leaf(key_x)))
    panel.set_ylabel(literal(leaf(key_y)))
    caption = f"{comparison.name}, {sweep.model}: {printable(what, 200)}, for each combination of two settings. "
    return Picture(_name(sweep), f"{caption}The frame marks the best combination; empty places were not run.", figure)


def _name(sweep: Sweep) -> str:
    """Named after the model, and after the budget if the comparison has several."""
    budgets = {result.config["training"]["max_sequences"] for result in sweep.comparison.results}
    own = sweep.comparison.results[sweep.rows[0]].config["training"]["max_sequences"]
    return f"{sweep.comparison.name}-{sweep.model}-sweep{f'-{own}' if len(budgets) > 1 else ''}"


def _caption(sweep: Sweep) -> str:
    comparison = sweep.comparison
    by = [f"share solved and median sequences of {printable(comparison.stop)}"] if comparison.stop else []
    by += [f"median {printable(comparison.ranked_by)}"] if comparison.ranked_by else []
    caption = [
        f"{comparison.name}: {sweep.model} over {listing(map(leaf, sweep.axes))}, {len(sweep.rows)} of "
        f"{math.prod(map(len, sweep.axes.values()))} combinations.",
        f"Best: by {', then by '.join(by)}. Neighbour: one step from the best on one axis."
        " The best of many looks better than it is, by chance; train it again with other seeds before you report it.",
    ]
    if sweep.edges:
        caption.append(f"The best lies at the edge of {listing(sweep.edges)}: better values may lie beyond.")
    return " ".join(caption)


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else setting_text(value)
