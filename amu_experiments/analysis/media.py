"""Files that show or play a sample: text, PNG, SVG, MIDI and WAV."""

import io
import wave
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from amu_experiments.analysis.handwriting import draw_letters, lines_of
from amu_experiments.analysis.music import draw_roll, midi
from amu_experiments.analysis.picture import WIDTH, house_style, small_svg
from amu_experiments.analysis.samples import Sample

RATE = 8000
"""Sample rate of a WAV, in Hz."""

SECONDS = 2
"""Shortest WAV; a shorter series is repeated."""


def files_of(sample: Sample) -> dict[str, bytes]:
    """The contents of each file of a sample, by its name."""
    write = {"txt": _text, "png": _png, "svg": _svg, "mid": _midi, "wav": wav}
    return {f"sample.{medium}": write[medium](sample) for medium in sample.media}


def _text(sample: Sample) -> bytes:
    return "".join(f"{line}\n" for line in sample.marked_texts()).encode()


def _png(sample: Sample) -> bytes:
    with house_style():
        file = io.BytesIO()
        _figure(sample).savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _svg(sample: Sample) -> bytes:
    with house_style(), matplotlib.rc_context({"svg.hashsalt": sample.name}):
        file = io.StringIO()
        _figure(sample).savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return small_svg(file.getvalue()).encode()


def _figure(sample: Sample) -> Figure:
    if sample.kind == "strokes":
        return _sheet(sample)
    if sample.kind == "notes":
        return _panels(sample, draw_roll, 2.2, "quarter")
    return _panels(sample, draw_series, 1.4, "step")


def _panels(sample: Sample, draw: Callable, height: float, step: str) -> Figure:
    """Each sequence in a panel of this height: the given steps, the generated steps, and the truth."""
    prime, generated, truth = (sample.series[name] for name in ("prime", "generated", "truth"))
    figure = Figure(figsize=(WIDTH, height * len(generated) + 0.7), layout="constrained")
    panels = figure.subplots(len(generated), sharex=True, squeeze=False)[:, 0]
    for row, panel in enumerate(panels):
        draw(panel, prime[row], generated[row], None if truth is None else truth[row])
    panels[-1].set_xlabel(step)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _midi(sample: Sample) -> bytes:
    """The first piece: its given part, then the generated part."""
    return midi(np.concatenate([sample.series["prime"][0, 1:], sample.series["generated"][0]]))


def _sheet(sample: Sample) -> Figure:
    """All letters, line by line."""
    generated = sample.series["generated"]
    figure = Figure(figsize=(WIDTH, 0.37 * lines_of(len(generated)) + 0.1), layout="constrained")
    draw_letters(figure.subplots(), generated, sample.series["truth"])
    return figure


def draw_series(panel, prime: np.ndarray, generated: np.ndarray, truth: np.ndarray | None) -> None:
    """Draw a series into a matplotlib panel; step 0 is the first generated step."""
    steps = np.arange(len(generated))
    if truth is not None:
        panel.plot(steps[: len(truth)], truth[: len(steps)], color="0.6", linewidth=3, label="target")
    if len(prime) > 1:
        panel.plot(np.arange(1 - len(prime), 1) - 1, prime, color="0.6", linestyle=(0, (2, 1)), label="given")
    shown = np.where(np.isfinite(generated), generated, np.nan)
    panel.plot(steps, shown, color="#D55E00", linewidth=1.2, label="free run")
    known = truth if truth is not None else shown[np.isfinite(shown)]
    if len(known):
        low, high = known.min(), known.max()
        room = 0.3 * (high - low) + 1e-6
        panel.set_ylim(low - room, high + room)


def wav(sample: Sample) -> bytes:
    """The first sequence as sound, 16 bits, repeated to `SECONDS`; its largest value is just below full scale."""
    series = np.nan_to_num(sample.series["generated"][0], posinf=0, neginf=0)
    series = series - series.mean()
    scaled = 0.9 * series / max(np.abs(series).max(), 1e-9)
    samples = np.tile((scaled * 32767).astype("<i2"), -(-RATE * SECONDS // len(scaled)))
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(samples.tobytes())
    return file.getvalue()
