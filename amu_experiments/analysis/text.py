"""Numbers, names and markup as text: one format for each kind of value."""

import math
import re
from collections.abc import Iterable

LONGEST = 60
"""Longest setting or name in characters; a longer one loses its middle."""

LONGEST_CELL = 1000
"""Longest cell of a table in characters; a longer one loses its middle."""


def printable(value: object, longest: int = LONGEST) -> str:
    """A value as one line of printable characters; text longer than `longest` loses its middle."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
    return text if len(text) <= longest else f"{text[: longest - 20]}...{text[-17:]}"


def cell_text(value: object) -> str:
    """A value from a CSV or yaml file: "12,000", "0.1235" (four significant digits), "" for NaN, or text."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if whole else printable(value, LONGEST_CELL)


def setting_text(value: object) -> str:
    """A setting: "none", "12,000", or its printable text."""
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else printable(value)


def sequences_text(value: float) -> str:
    """A number of sequences: "12,000"; "not reached" for infinity."""
    return "not reached" if value == math.inf else f"{value:,.0f}"


def outcome_text(solved: float, trials: float, median: float) -> str:
    """Trials that met a criterion, of all trials, and their median in sequences: "5/6, 3,000", "2/6, n.r."."""
    return f"{solved:.0f}/{trials:.0f}, {sequences_text(median).replace('not reached', 'n.r.')}"


def metric_text(value: float) -> str:
    """A metric: "0.0123" (three significant digits), "1,234" without decimals, "diverged" for an infinity."""
    if math.isinf(value):
        return "diverged"
    value = float(f"{value:.9g}")  # of two values that differ by rounding, both get the same text
    whole = value.is_integer() or abs(value) >= 1000
    return f"{value:,.0f}" if whole else f"{value:#.3g}".removesuffix(".")


def p_text(p: float, name: str = "") -> str:
    """A p-value: "0.012", "<0.001", "-" for NaN; with a name "p = 0.012", "p < 0.001"."""
    if math.isnan(p):
        return "-"
    number, sign = ("0.001", "<") if p < 0.001 else (f"{p:.3f}", "=")
    return f"{name} {sign} {number}" if name else f"{sign}{number}".removeprefix("=")


def listing(names: Iterable[str]) -> str:
    """Names as a list in a sentence: "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def markdown(text: str) -> str:
    """Text with a backslash before each character that GitHub's Markdown would interpret, but not before |."""
    return _MARKDOWN.sub(r"\\\g<0>", text)


_MARKDOWN = re.compile(r"[\\`*$~]|(?<!\w)_|_(?!\w)|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<=\])[(\[]")


def latex(text: str) -> str:
    """Text in which LaTeX's special characters are escaped."""
    marked = text.translate(_LATEX)
    # At the start of a row, LaTeX would read [ or * as an option of the line break before it.
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
