"""Colour, dashes and marker of each row; a model and its variants look the same in all figures of a report."""

import colorsys
from collections import Counter

from matplotlib.colors import to_hex, to_rgb

from amu_experiments.analysis.comparison import Comparison
from amu_experiments.analysis.labels import leaf, tuned
from amu_experiments.analysis.reading import Reading
from amu_experiments.selection import flat

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
    ("#882255", (0, (3, 3)), "X"),
    ("#999933", (0, (8, 1.5, 1, 1.5)), "p"),
    ("#8C510A", (0, (4, 1.5, 1, 1.5, 1, 1.5)), "P"),
    ("#117733", (0, (2, 4)), "h"),
)
"""Styles of all other cells, in the order of their names."""

AMU_COLOURS = ("#6A3D9A", "#56B4E9", "#000000")
"""Colours of further readings of the AMU."""

FORM_MARKERS = "*<>8dH"
"""Markers of a cell's second and later forms (see `report_styles`). No first form has one of them."""

VARIANT_DASHES = ("-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)), (0, (8, 1.5, 1, 1.5)))
"""Dashes of a form's variants."""

TURNS = (40, -25, 80, -50, 120, -80)
"""Changes of hue in degrees for a cell's further forms, after those with a colour of their own."""

SHADES = ((0.5, 0.0), (0.0, 0.45), (0.25, 0.3))
"""Shares of black and of white in the shades of a form's colour."""

SIZES = ("model.units", "model.parameters")
"""Settings that depend on the task and on a matched size; they change no style."""

SET_BY_TASK = ("model.output", "model.block_size", "model.biases")
"""Settings that a task or a protocol chooses; they change a style only if rows of a comparison differ in them."""


def report_styles(comparisons: list[Comparison]) -> dict[str, list[Style]]:
    """The styles of the rows of each comparison, by its name; a variant of a model looks the same in all.

    A cell has forms and variants. Forms differ in settings of the cell, such as the readings of the AMU. They have
    different colours and markers. The variants of a form differ in the gradient, and in whether they emit the memory.
    They have the marker of their form, shades of its colour, and different dashes. Sizes and tuned values change
    nothing. If rows of one comparison differ only in those, they count as several variants.

    The form and the variant in most comparisons take the cell's own style; if several are in equally many, the one that
    comes first in the order of `by_model`.
    """
    cells = {result.config["model"]["cell"] for comparison in comparisons for result in comparison.results}
    spare = {cell: SPARE_STYLES[place % len(SPARE_STYLES)] for place, cell in enumerate(sorted(cells - set(STYLES)))}
    usual = _usual(comparisons)
    looks = {comparison.name: _looks(comparison, usual) for comparison in comparisons}
    of_style: dict[Style, list[tuple]] = {}
    for cell, form in _by_frequency([[(cell, form) for cell, form, _ in rows.values()] for rows in looks.values()]):
        of_style.setdefault((STYLES | spare)[cell], []).append((cell, form))
    forms = {form: _form(style, place) for style, alike in of_style.items() for place, form in enumerate(alike)}
    variants: dict[str, list[tuple]] = {}
    for cell, variant in _by_frequency(
        [[(cell, variant) for cell, _, variant in rows.values()] for rows in looks.values()]
    ):
        variants.setdefault(cell, []).append(variant)
    return {
        name: [
            _variant(forms[cell, form], variants[cell].index(variant))
            for _, (cell, form, variant) in sorted(rows.items())
        ]
        for name, rows in looks.items()
    }


def main_rows(comparison: Comparison, styles: list[Style], most: int) -> list[int]:
    """At most `most` rows, in order: the first row of each form of a cell, then the second, and so on.

    The rows of a form are in the order of `by_model`: with equal numbers of trials, the variant of the paper is first.
    """
    places, seen = {}, Counter()
    for row in comparison.by_model:
        *_, marker = styles[row]
        places[row] = seen[marker]
        seen[marker] += 1
    ranked = sorted(places, key=lambda row: (places[row], row))
    return sorted(ranked[:most])


def _usual(comparisons: list[Comparison]) -> dict[tuple[str, str], object]:
    """For each cell and setting of `_stated`, the most frequent value in the cell's first rows of all comparisons."""
    counts: dict[tuple[str, str], Counter] = {}
    for comparison in comparisons:
        for (cell, key), values in _stated(comparison).items():
            counts.setdefault((cell, key), Counter())[values[0]] += 1
    return {key: count.most_common(1)[0][0] for key, count in counts.items()}


def _stated(comparison: Comparison) -> dict[tuple[str, str], list]:
    """The values of the settings in `SET_BY_TASK` by cell and key, where rows of the cell differ in them."""
    values: dict[tuple[str, str], list] = {}
    for row in comparison.by_model:
        result = comparison.results[row]
        for key in SET_BY_TASK:
            value = result.config["model"].get(leaf(key))
            values.setdefault((result.config["model"]["cell"], key), []).append(value)
    return {key: own for key, own in values.items() if len(set(own)) > 1}


def _looks(comparison: Comparison, usual: dict[tuple[str, str], object]) -> dict[int, tuple[str, str, tuple]]:
    """The cell, form and variant of each row; the variant has the number of earlier rows that are equal otherwise.

    Rows are in the order of `by_model`, so that styles do not depend on results.
    """
    looks, seen, stated = {}, Counter(), _stated(comparison)
    for row in comparison.by_model:
        result = comparison.results[row]
        cell = result.config["model"]["cell"]
        model = result.config["model"] if cell != "amu" else Reading()._asdict() | result.config["model"]
        own = {
            key: value
            for key, value in flat({"model": model}).items()
            if key not in (*SIZES, *tuned())
            and not isinstance(value, list)
            and (key not in SET_BY_TASK or ((cell, key) in stated and value != usual[cell, key]))
        }
        memory = own.get("model.output") == "memory" and own.pop("model.output")
        variant = repr((own.pop("model.gradient", None), memory))
        look = cell, repr(sorted(own.items())), variant
        looks[row] = (*look[:2], (variant, seen[look]))
        seen[look] += 1
    return looks


def _by_frequency(groups: list[list[tuple]]) -> list[tuple]:
    """All members, those in most groups first; among equals, those with the lowest sum of their positions."""
    counts, standing = Counter(), Counter()
    for group in groups:
        members = list(dict.fromkeys(group))
        counts.update(members)
        standing.update({member: place for place, member in enumerate(members)})
    return sorted(counts, key=lambda member: (-counts[member], standing[member], member))


def _form(style: Style, place: int) -> Style:
    """The style of a cell's form: at place 0 the style of the cell, then other colours and markers."""
    if place == 0:
        return style
    colour, dashes, _ = style
    own = AMU_COLOURS if style == STYLES["amu"] else ()
    marker = FORM_MARKERS[(place - 1) % len(FORM_MARKERS)]
    if place <= len(own):
        return own[place - 1], dashes, marker
    times, turn = divmod(place - 1 - len(own), len(TURNS))
    # After the last turn the turns repeat, each time with another hue.
    return _turned(colour, TURNS[turn] + 9 * times), dashes, marker


def _variant(form: Style, place: int) -> Style:
    """The style of a form's variant: at place 0 the style of the form, then shades of it with other dashes."""
    if place == 0:
        return form
    colour, dashes, marker = form
    times, shade = divmod(place - 1, len(SHADES))
    black, white = SHADES[shade]
    shaded = to_hex([part * (1 - black - white) + white for part in to_rgb(_turned(colour, 15 * times))])
    others = [each for each in VARIANT_DASHES if each != dashes]
    return shaded, others[(place - 1) % len(others)], marker


def _turned(colour: str, degrees: float) -> str:
    """A colour with another hue."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return to_hex(colorsys.hls_to_rgb((hue + degrees / 360) % 1, lightness, saturation))
