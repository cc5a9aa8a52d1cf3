"""Numbers, names and markup as text: one format for each kind of value."""

import math
import re

LONGEST = 60
"""Letters of a setting or a name in a text; of a longer one the middle is left out."""

LONGEST_CELL = 1000
"""Letters of a cell that are shown."""


def printable(value: object, longest: int = LONGEST) -> str:
    """A value as text of one line: without control characters, and without its middle where it is long."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
    return text if len(text) <= longest else f"{text[: longest - 20]}...{text[-17:]}"


def cell_text(value: object) -> str:
    """A value of a table that was read: numbers with separators and four digits, "" for NaN."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if whole else printable(value, LONGEST_CELL)


def setting_text(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else printable(value)


def sequences_text(value: float) -> str:
    return "not reached" if value == math.inf else f"{value:,.0f}"


def metric_text(value: float) -> str:
    if math.isinf(value):
        return "diverged"
    # A count, or an exact 0 or 1, has no decimals.
    whole = float(value).is_integer() or abs(value) >= 1000
    return f"{value:,.0f}" if whole else f"{value:#.3g}".removesuffix(".")


def p_text(p: float, name: str = "") -> str:
    """A p-value: "0.012", "<0.001", "-" for NaN; with a name "p = 0.012", "p < 0.001"."""
    if math.isnan(p):
        return "-"
    number, sign = ("0.001", "<") if p < 0.001 else (f"{p:.3f}", "=")
    return f"{name} {sign} {number}" if name else f"{sign}{number}".removeprefix("=")


def markdown(text: str) -> str:
    """Text with a backslash before what Markdown, as GitHub has it, would take for more than text outside of tables."""
    return _MARKDOWN.sub(r"\\\g<0>", text)


_MARKDOWN = re.compile(r"[\\`*$~]|(?<!\w)_|_(?!\w)|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<=\])[(\[]")


def latex(text: str) -> str:
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
