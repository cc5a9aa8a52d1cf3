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

from amu_experiments.store import write_bytes

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

EXACT_COLOURS, MIXED_COLOURS = 32, 64
"""Entries of a PNG's palette: the most frequent colours as they are, and colours that stand for all others."""


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


def house_style() -> AbstractContextManager:
    """Matplotlib's defaults and ours, whatever the user's own settings are."""
    return matplotlib.style.context(["default", RC])


def literal(text: str) -> str:
    """Text that matplotlib shows as it is; between two dollar signs it would read a formula."""
    return text.replace("$", r"\$")


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
