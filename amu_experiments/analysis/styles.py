"""Colour, dashes and marker of each row; a variant of a model looks the same in all figures of a report."""

import colorsys
from collections import Counter

from matplotlib.colors import to_hex, to_rgb

from amu_experiments.analysis.comparison import TUNED, Comparison, flat

Style = tuple[str, object, str]
"""Colour as #rrggbb, dashes and marker of a row's lines."""

STYLES = {
    "amu": ("#0072B2", "-", "o"),
    "lstm": ("#D55E00", (0, (6, 2)), "s"),
    "gru": ("#009E73", (0, (6, 2, 1.5, 2)), "^"),
    "rnn": ("#CC79A7", (0, (1.5, 1.5)), "D"),
    "lstm97": ("#E69F00", (0, (10, 3)), "v"),
}
"""The style of each cell; the colours are from Okabe & Ito's palette, for all kinds of colour vision."""

SPARE_STYLES = (
    ("#56B4E9", (0, (4, 1.5, 1, 1.5, 1, 1.5)), "P"),
    ("#882255", (0, (3, 3)), "X"),
    ("#999933", (0, (8, 1.5, 1, 1.5)), "p"),
    ("#332288", (0, (2, 4)), "h"),
)
"""Styles of all other cells, in the order of their names."""

VARIANT_MARKERS = "o*sh^dDpvP<X>8"
"""Markers of a cell's variants; a variant keeps the dashes of the cell and has a shade of its colour."""

DARK, PALE = 0.5, 0.45
"""Shares of black and of white in a dark and in a pale shade."""

SHADES = (
    *((0, DARK, 0), (0, 0, PALE), (40, 0, 0), (-25, 0, 0), (40, DARK, 0), (-25, DARK, 0)),
    *((40, 0, PALE), (-25, 0, PALE), (80, 0, 0), (80, DARK, 0), (80, 0, PALE), (-50, DARK, 0)),
)
"""The shades of a cell's colour: change of hue in degrees, share of black, share of white."""

SIZES = ("model.units", "model.parameters")
"""Settings that depend on the task and on a matched size; rows that differ in them alone are one variant."""


def report_styles(comparisons: list[Comparison]) -> dict[str, list[Style]]:
    """The styles of the rows of each comparison, by the comparison's name.

    A variant of a model is its cell with its settings, except sizes and tuned values. It has one style in all
    comparisons. The variant in most comparisons takes the cell's own colour and marker; if several are in equally
    many, the variant that comes first in the order of models. If rows of one comparison differ only in sizes or tuned
    values, they count as several variants.
    """
    cells = {result.config["model"]["cell"] for comparison in comparisons for result in comparison.results}
    spare = {cell: SPARE_STYLES[place % len(SPARE_STYLES)] for place, cell in enumerate(sorted(cells - set(STYLES)))}
    variants = {comparison.name: _variants(comparison) for comparison in comparisons}
    counts, standing = Counter(), Counter()
    for rows in variants.values():
        counts.update(rows.values())
        standing.update({variant: place for place, variant in enumerate(rows.values())})
    of_style: dict[Style, list[tuple]] = {}
    for variant in sorted(counts, key=lambda variant: (-counts[variant], standing[variant], variant)):
        of_style.setdefault((STYLES | spare)[variant[0]], []).append(variant)
    styles = {variant: _shade(style, place) for style, alike in of_style.items() for place, variant in enumerate(alike)}
    return {name: [styles[rows[row]] for row in range(len(rows))] for name, rows in variants.items()}


def _variants(comparison: Comparison) -> dict[int, tuple[str, str, int]]:
    """The variant of each row: its cell, its settings, and the number of earlier rows with the same two.

    Rows are in the order of models, so that styles do not depend on results.
    """
    variants, seen = {}, Counter()
    for row in comparison.by_model:
        model = flat({"model": comparison.results[row].config["model"]})
        own = {
            key: value for key, value in model.items() if key not in (*SIZES, *TUNED) and not isinstance(value, list)
        }
        variant = model["model.cell"], repr(sorted(own.items()))
        variants[row] = (*variant, seen[variant])
        seen[variant] += 1
    return variants


def _shade(style: Style, place: int) -> Style:
    """The style of a cell's variant: at place 0 the style of the cell, then its shades."""
    if place == 0:
        return style
    colour, dashes, marker = style
    times, shade = divmod(place - 1, len(SHADES))
    turn, black, white = SHADES[shade]
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    # After the last shade the shades repeat, each time with another hue.
    turned = colorsys.hls_to_rgb((hue + (turn + 9 * times) / 360) % 1, lightness, saturation)
    others = VARIANT_MARKERS.replace(marker, "")
    shaded = to_hex([part * (1 - black - white) + white for part in turned])
    return shaded, dashes, others[(place - 1) % len(others)]
