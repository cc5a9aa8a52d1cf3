"""A figure and its files: SVG for the page, PNG with a small palette, and PDF."""

import io
import re
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from amu_experiments.files import write_bytes

RC = {
    "figure.dpi": 100,
    "savefig.dpi": 130,
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
"""Width of a figure in inches."""

EXACT_COLOURS, MIXED_COLOURS = 32, 64
"""Entries of a PNG's palette: the most frequent colours unchanged, and colours that replace all others."""


@dataclass(frozen=True)
class Drawn:
    """A figure whose files are written, with its SVG for the page."""

    name: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Picture:
    """A figure with its caption and the name of its files without a suffix."""

    name: str
    caption: str
    figure: Figure

    def _svg(self) -> str:
        """The figure as a small SVG; text stays text."""
        file = io.StringIO()
        with house_style(), matplotlib.rc_context({"svg.hashsalt": self.name, "svg.fonttype": "none"}):
            unsigned = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            FigureCanvasSVG(self.figure).print_svg(file, metadata=unsigned)
        return small_svg(file.getvalue())

    def save(self, folder: Path) -> Drawn:
        """Writes PNG and PDF; the same figure gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.name}.png", folder / f"{self.name}.pdf"]
        with house_style():
            pixels, pdf = io.BytesIO(), io.BytesIO()
            self.figure.savefig(pixels, format="png")
            # The layout is final now. A second layout pass would take as long as drawing. savefig always makes one,
            # so print_pdf writes the PDF.
            self.figure.set_layout_engine("none")
            unsigned = {"CreationDate": None, "Creator": None, "Producer": None}
            FigureCanvasPdf(self.figure).print_pdf(pdf, metadata=unsigned)
        png = small_png(Image.open(pixels).convert("RGB"), line_colours(self.figure))
        for path, made in zip(paths, (png, pdf.getvalue()), strict=True):
            write_bytes(path, made)
        return Drawn(self.name, self.caption, self._svg())


def house_style() -> AbstractContextManager:
    """Matplotlib's defaults and `RC`; the user's own settings have no effect."""
    return matplotlib.style.context(["default", RC])


def literal(text: str) -> str:
    """Text with escaped dollar signs; matplotlib reads text between two of them as a formula."""
    return text.replace("$", r"\$")


def line_colours(figure: Figure) -> set[tuple[int, int, int]]:
    """The opaque colours of all lines and markers of a figure and its legend, as 8-bit red, green and blue."""
    lines = figure.findobj(Line2D)
    colours = {to_rgba(colour) for line in lines for colour in (line.get_color(), line.get_markerfacecolor())}
    return {tuple(round(255 * part) for part in colour[:3]) for colour in colours if colour[3] == 1}


def small_png(image: Image.Image, exact: Collection[tuple[int, int, int]]) -> bytes:
    """An RGB image as a PNG with a palette: a third of the bytes of a PNG without one.

    Args:
        image: a few colours should cover nearly all of it, and the other colours belong to edges.
        exact: colours that must not change. With more than 256 of them in the image, the PNG has no palette.
    """
    file = io.BytesIO()
    codes, places, counts = np.unique(_codes(image), return_inverse=True, return_counts=True)
    fixed = np.intersect1d(_codes(list(exact)), codes)
    if len(fixed) > 256:
        image.save(file, format="png", optimize=True)
        return file.getvalue()
    frequent = codes[np.argsort(-counts, kind="stable")[:EXACT_COLOURS]]
    mixed = np.reshape(image.quantize(MIXED_COLOURS, dither=Image.Dither.NONE).getpalette(), (-1, 3))
    palette = np.array(list(dict.fromkeys([*fixed, *frequent, *_codes(mixed)]))[:256])
    distances = (_parts(codes)[:, None] - _parts(palette)) ** 2
    pixels = distances.sum(axis=-1).argmin(axis=1)[places].reshape(image.height, image.width)
    small = Image.fromarray(pixels.astype(np.uint8))
    small.putpalette(_parts(palette).astype(np.uint8).tobytes())
    small.save(file, format="png", optimize=True)
    return file.getvalue()


def small_svg(svg: str) -> str:
    """An SVG of matplotlib that looks the same in a quarter of the bytes.

    Coordinates have one decimal (tenths of a point), points of lines are relative, each style is stated once, and
    attributes have single quotes, which need no escape in the page. Names of groups, comments and the document type
    are left out, and names of clip paths are short.
    """
    classes: dict[str, str] = {}
    clips: dict[str, str] = {}

    def class_of(style: re.Match) -> str:
        return f' class="{classes.setdefault(style[1], f"c{len(classes)}")}"'

    def clip_of(name: re.Match) -> str:
        return clips.setdefault(name[0], f"p{len(clips)}")

    def path_of(match: re.Match) -> str:
        curved = re.search("[CQ]", match[1])
        return f' d="{" ".join(_tenths(match[1]).split()) if curved else _relative(match[1])}"'

    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r' style="([^"]*)"', class_of, svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"\bp[0-9a-f]{10}\b", clip_of, svg)
    svg = re.sub(r' (?:x|y|transform)="[^"]*"', lambda match: _tenths(match[0]), svg)
    svg = re.sub(r' d="([^"]*)"', path_of, re.sub(r">\s+<", "><", svg))
    svg = re.sub(r"<[^>]*>", lambda tag: tag[0].replace('"', "'"), svg)
    rules = "".join(f".{name}{{{style}}}" for style, name in classes.items())
    return svg.replace("</style>", f"{rules}</style>", 1)


def _tenths(text: str) -> str:
    """Text whose numbers have one decimal at most."""
    return re.sub(r"(\.\d)\d+", r"\1", text)


def _relative(path: str) -> str:
    """An SVG path of straight lines in which each point is given by its distance from the one before."""
    said, before, words = [], (0, 0), iter(path.split())
    for command in words:
        if command == "z":
            said.append("z")
            continue
        x, y = (round(10 * float(next(words))) for _ in range(2))
        if command == "M":
            said.append(f"M{_number(x)} {_number(y)}l")
        elif (x, y) != before:
            said.append(f"{_number(x - before[0])} {_number(y - before[1])}")
        before = x, y
    # A space is needed only between two numbers without a sign.
    return re.sub("l(?=[Mz]|$)", "", re.sub(" (?=[-Mz])|(?<=l) ", "", " ".join(said)))


def _number(tenths: int) -> str:
    """A number of tenths in the shortest form: 1.5, .5, -.5, 2."""
    text = f"{tenths / 10:.10g}"
    return text.replace("0.", ".", 1) if 0 < abs(tenths) < 10 else text


def _codes(colours: Image.Image | np.ndarray | list) -> np.ndarray:
    """Colours (..., 3) as one number each (n,): 0xrrggbb."""
    return (np.asarray(colours, np.int64).reshape(-1, 3) << np.array([16, 8, 0])).sum(axis=1)


def _parts(codes: np.ndarray) -> np.ndarray:
    """Red, green and blue (n, 3) of colours that are one number each (n,)."""
    return codes[:, None] >> np.array([16, 8, 0]) & 255
