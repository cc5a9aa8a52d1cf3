"""Figures of the mechanism: error flow, gradient conflict and memory traces of the rows of a comparison."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from amu_experiments.analysis.comparison import Comparison
from amu_experiments.analysis.figures import draw_legend, legend_height, with_main_rows
from amu_experiments.analysis.mechanism_tables import FLOWS, PHASES, of_row
from amu_experiments.analysis.picture import WIDTH, Picture, house_style, literal
from amu_experiments.analysis.styles import Style

LOWEST = 1e-12
"""Lowest relative error flow in a figure; flow below this counts as vanished."""

LABEL = 40
"""Characters in a line of a row's label beside a panel."""

UNIT_STYLES = (
    ("#000000", "-"),
    ("#56B4E9", (0, (6, 2))),
    ("#882255", (0, (1.5, 1.5))),
    ("#999933", (0, (6, 2, 1.5, 2))),
)
"""Colour and dashes of each unit in the figure of traces; further units start the list again."""


def mechanism_pictures(
    comparison: Comparison, styles: list[Style], mechanism: dict[str, pd.DataFrame]
) -> list[Picture]:
    """Every figure of the mechanism for which a comparison has measurements. `styles`: one for each row."""
    if not mechanism:
        return []
    with house_style():
        made = [
            flow_picture(comparison, styles, mechanism["flow"]),
            conflict_picture(comparison, styles, mechanism["trials"]),
            trace_picture(comparison, mechanism["traces"]),
        ]
    return [picture for picture in made if picture is not None]


def flow_picture(comparison: Comparison, styles: list[Style], flow: pd.DataFrame) -> Picture | None:
    """Error flow relative to the flow at lag 1, against the lag, before and after training.

    The upper panels show the derivative of every row. The lower panels show the truncated flow of the rows that learn
    with a truncated gradient.
    """
    comparison, styles, note = with_main_rows(comparison, styles)
    flows = [of_row(flow, comparison, row) for row in range(len(comparison.results))]
    if not any(map(len, flows)):
        return None
    kinds = [kind for kind in FLOWS if any((own["flow"] == kind).any() for own in flows)]
    ratios = [{"full": 2.6, "truncated": 1.5}[kind] for kind in kinds]
    figure = Figure(figsize=(WIDTH, 0.8 + sum(ratios) + legend_height(comparison)), layout="constrained")
    panels = figure.subplots(len(kinds), len(PHASES), sharex=True, sharey="row", squeeze=False, height_ratios=ratios)
    for line, kind in zip(panels, kinds, strict=True):
        for panel, (phase, words) in zip(line, PHASES.items(), strict=True):
            for row, (own, style) in enumerate(zip(flows, styles, strict=True)):
                _draw_flow(panel, own[(own["phase"] == phase) & (own["flow"] == kind)], style, (row + 0.5) / len(flows))
            panel.set_yscale("log")
            panel.minorticks_off()
            panel.set_title(f"{FLOWS[kind]}, {words}", fontsize=10)
        # A constant flow is in the middle of its panel.
        low, high = line[0].get_ylim()
        line[0].set_ylim(min(low, 0.1), max(high, 10))
        line[0].set_ylabel("|dL/d(state at t)|\nrelative to t = T - 1" if kind == "full" else "relative to\nt = T - 1")
    for panel in panels[-1]:
        panel.set_xlabel("T - t, steps before the end")
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    draw_legend(figure, comparison, styles)
    caption = (
        f"{comparison.name}: norm of the derivative of the last answer's loss with respect to the state at t, divided "
        "by the norm at T - t = 1, against T - t; median over sequences, then median (line) and interquartile range "
        f"(band) over trials. Lower values are drawn at {LOWEST:g}."
    )
    if "full" in kinds:
        caption += " Derivative: the full derivative, also for rows that were trained with a truncated gradient."
    if "truncated" in kinds:
        caption += (
            " Truncated flow: the error flow of a truncated gradient, for rows that were trained with one. It passes "
            "through the memory unchanged: it is constant by construction, or zero behind saturated units."
        )
    rows = zip(comparison.labels, flows, strict=True)
    missing = [label for label, own in rows if not (own["flow"] == "full").any()]
    if missing:
        caption += f" The derivative was not measured for {', '.join(missing)}."
    return Picture(f"{comparison.name}-flow", caption + note, figure)


def _draw_flow(panel: Axes, own: pd.DataFrame, style: Style, place: float) -> None:
    """Draws a row's flow; markers are a quarter of the axis apart, the first after `place` quarters, 0 to 1."""
    if own.empty:
        return
    colour, dashes, marker = style
    low, middle, high = (own[f"relative_{name}"].clip(LOWEST) for name in ("low", "median", "high"))
    if (low < high).any():
        panel.fill_between(own["lag"], low, high, color=colour, alpha=0.15, linewidth=0)
    panel.plot(own["lag"], middle, color=colour, linestyle=dashes, marker=marker, markevery=(place / 4, 0.25))


def conflict_picture(comparison: Comparison, styles: list[Style], trials: pd.DataFrame) -> Picture | None:
    """Gradient-conflict ratio of each row, before and after training; None if it was not measured."""
    rows = [of_row(trials[trials["quantity"] == "conflict"], comparison, row) for row in range(len(comparison.results))]
    if not any(map(len, rows)):
        return None
    labels = [_conflict_label(label, own) for label, own in zip(comparison.labels, rows, strict=True)]
    lines = max(1.5, *(label.count("\n") + 1 for label in labels))
    figure = Figure(figsize=(WIDTH, 1.3 + 0.24 * lines * len(rows)), layout="constrained")
    panel = figure.subplots()
    for row, (own, (colour, _, marker)) in enumerate(zip(rows, styles, strict=True)):
        for phase, shift, filled in (("start", -0.14, False), ("trained", 0.14, True)):
            values = own.loc[own["phase"] == phase, "value"].dropna()
            if not len(values):
                continue
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
            panel.plot([low, high], [row + shift] * 2, color=colour, linewidth=1.2)
            face = colour if filled else "white"
            panel.plot(middle, row + shift, color=colour, marker=marker, markerfacecolor=face, markersize=7)
    panel.set_yticks(range(len(rows)), labels)
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set_xlim(-0.02, 1)
    panel.set_xlabel("gradient-conflict ratio")
    handles = [
        Line2D([], [], color="0.3", marker="o", linestyle="none", markerfacecolor=face, label=PHASES[phase])
        for phase, face in (("start", "white"), ("trained", "0.3"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    caption = (
        f"{comparison.name}: gradient-conflict ratio, 1 - |sum over t of g(t)| / sum over t of |g(t)| with g(t) the "
        "gradient of a weight through its use at step t, averaged over the cell's weights and over sequences; median "
        "and interquartile range over trials, at the start of training (hollow) and after it (filled). g is the "
        "gradient with which a row is trained, truncated or full. If the error vanishes on its way back, only few "
        "steps have a gradient, and the ratio is low because few gradients can conflict."
    )
    return Picture(f"{comparison.name}-conflict", caption, figure)


def _conflict_label(label: str, own: pd.DataFrame) -> str:
    """A row's label in lines; the word truncated marks a row that learns with a truncated gradient."""
    truncated = len(own) and own["flow"].eq("truncated").all() and "gradient=" not in label
    return literal(textwrap.fill(f"{label}, truncated" if truncated else label, LABEL))


def trace_picture(comparison: Comparison, traces: pd.DataFrame) -> Picture | None:
    """Memory and output of one row's trained units on a few validation sequences; None if no row has traces.

    The row is the first one with traces in the order of `by_model`.
    """
    measured = ((row, of_row(traces, comparison, row)) for row in comparison.by_model)
    row, own = next(((row, own) for row, own in measured if len(own)), (None, None))
    if row is None:
        return None
    sequences = own["sequence"].unique()
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    panels = figure.subplots(2, len(sequences), sharex=True, sharey="row", squeeze=False)
    for column, sequence in enumerate(sequences):
        for panel, name in zip(panels[:, column], ("memory", "output"), strict=True):
            for unit, trace in own[own["sequence"] == sequence].groupby("unit"):
                colour, dashes = UNIT_STYLES[unit % len(UNIT_STYLES)]
                panel.plot(trace["step"], trace[name], color=colour, linestyle=dashes, linewidth=1.4)
        panels[0, column].set_title(f"validation sequence {sequence}", fontsize=10)
        panels[1, column].set_xlabel("step t")
    panels[0, 0].set_ylabel("memory s(t)")
    panels[1, 0].set_ylabel("output y(t)")
    units = sorted(own["unit"].unique())[: len(UNIT_STYLES)]
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, label=f"unit {unit}")
        for unit in units
        for colour, dashes in [UNIT_STYLES[unit % len(UNIT_STYLES)]]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(units))
    caption = (
        f"{comparison.name}: memory neurons (above) and outputs (below) of every unit of {comparison.labels[row]}, "
        f"trial {own['trial'].iloc[0]}, after training, on validation sequences."
    )
    if own["unit"].nunique() > len(units):
        caption += " Further units reuse these line styles."
    return Picture(f"{comparison.name}-traces", caption, figure)
