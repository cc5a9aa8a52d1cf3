"""Figures and sounds of generated sequences: free runs, phase portraits, texts, letters, piano rolls, and scores."""

import base64
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from amu_experiments.analysis.comparison import Comparison
from amu_experiments.analysis.handwriting import draw_letters, lines_of
from amu_experiments.analysis.media import draw_series, wav
from amu_experiments.analysis.music import draw_roll
from amu_experiments.analysis.picture import WIDTH, Picture, house_style, literal
from amu_experiments.analysis.samples import Sample
from amu_experiments.analysis.styles import Style

MOST_ROWS = 6
"""Maximum number of samples in a figure."""

MOST_TEXTS = 10
"""Texts of each sample in a figure."""

TEXT = 44
"""Characters of a text in a figure; a longer one is cut."""

SCORES = {
    "test_grammatical": "share grammatical",
    "test_right_last_but_one": "right last but one",
    "test_excess_nats": "nats above the\nsource's entropy",
    "test_length_distance": "distance of\nlengths",
    "test_letters_right": "share of letters right",
    "test_pen_distance": "distance of the pen,\nin capitals",
    "test_right_chords": "share of chords\nthat Bach has",
    "test_keys_error": "error of the mean\nnumber of keys",
}
"""Test metrics of strings, letters and music that networks write, in words."""

PERFECT = {
    "test_grammatical": 1,
    "test_right_last_but_one": 1,
    "test_excess_nats": 0,
    "test_length_distance": 0,
    "test_letters_right": 1,
    "test_pen_distance": 0,
    "test_right_chords": 0.98,  # measured on the test pieces, see tasks/chorales.py
    "test_keys_error": 0,
}
"""The scores of the source."""


@dataclass(frozen=True)
class Sound:
    """A WAV file as a data URL, with its caption."""

    caption: str
    url: str


def of_comparison(comparison: Comparison, samples: list[Sample]) -> list[tuple[int, Sample]]:
    """For each row of a comparison its first sample, if it has one: primed ones first, temperature 1, low seeds."""
    chosen = []
    for row, result in enumerate(comparison.results):
        place = (result.task, result.model, result.identity)
        own = [sample for sample in samples if (sample.task, sample.model, sample.identity) == place]
        own.sort(key=lambda sample: (not sample.primed, sample.temperature != 1, sample.seed, sample.trial))
        chosen += [(row, sample) for sample in own[:1]]
    return chosen[:MOST_ROWS]


def sample_pictures(comparison: Comparison, styles: list[Style], samples: list[Sample]) -> list[Picture]:
    """Every figure of the sequences that the networks of a comparison generated. `styles`: one for each row."""
    own = of_comparison(comparison, samples)
    with house_style():
        made = [
            _free_run_picture(comparison, [(row, sample) for row, sample in own if sample.kind == "series"]),
            _texts_picture(comparison, [(row, sample) for row, sample in own if sample.kind == "texts"]),
            _letters_picture(comparison, [(row, sample) for row, sample in own if sample.kind == "strokes"]),
            _rolls_picture(comparison, [(row, sample) for row, sample in own if sample.kind == "notes"]),
            _scores_picture(comparison, styles),
        ]
    return [picture for picture in made if picture is not None]


def sounds(comparison: Comparison, samples: list[Sample]) -> list[Sound]:
    """The sounds of a comparison, one for each row whose sample has a WAV."""
    heard = [(row, sample) for row, sample in of_comparison(comparison, samples) if "wav" in sample.media]
    return [
        Sound(
            f"{comparison.labels[row]}, trial {sample.trial}: {sample.series['generated'].shape[1]} samples, repeated",
            f"data:audio/wav;base64,{base64.b64encode(wav(sample)).decode()}",
        )
        for row, sample in heard
    ]


def _free_run_picture(comparison: Comparison, own: list[tuple[int, Sample]]) -> Picture | None:
    """A row of panels for each sample: the series over time, and its phase portrait."""
    if not own:
        return None
    figure = Figure(figsize=(WIDTH, 1.7 * len(own) + 0.7), layout="constrained")
    panels = figure.subplots(len(own), 2, squeeze=False, width_ratios=(3, 1))
    for (row, sample), (left, right) in zip(own, panels, strict=True):
        prime, generated, truth = (sample.series[name] for name in ("prime", "generated", "truth"))
        target = None if truth is None else truth[0]
        draw_series(left, prime[0], generated[0], target)
        left.set_title(literal(comparison.labels[row]), fontsize=9, loc="left")
        lag = quarter_period(generated[0] if target is None else target)
        for values, colour, width in ((target, "0.6", 3), (generated[0], "#D55E00", 1)):
            if values is not None:
                right.plot(values[:-lag], values[lag:], color=colour, linewidth=width)
        right.set_xlim(left.get_ylim())
        right.set_ylim(left.get_ylim())
        right.set_title(f"x(t + {lag}) against x(t)", fontsize=9)
    panels[-1, 0].set_xlabel("step of the free run")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    caption = (
        f"{comparison.name}: free run of one trial of each model, over time and as a phase portrait. The network reads "
        "its own answers from step 0 on. Where a test sequence was given before, its rest is the target."
    )
    if comparison.task["problem"] == "waveform":
        caption = f"{comparison.name}: the wave of one trial of each model, over time and as a phase portrait."
    return Picture(f"{comparison.name}-free-run", caption, figure)


def _letters_picture(comparison: Comparison, own: list[tuple[int, Sample]]) -> Picture | None:
    """A sheet of letters of each sample."""
    if not own:
        return None
    heights = [0.37 * lines_of(len(sample.series["generated"])) + 0.3 for _, sample in own]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    panels = figure.subplots(len(own), squeeze=False, height_ratios=heights)[:, 0]
    for (row, sample), panel in zip(own, panels, strict=True):
        generated, title = sample.series["generated"], f"{comparison.labels[row]}, trial {sample.trial}"
        right = draw_letters(panel, generated, sample.series["truth"])
        title += "" if right is None else f": {right} of {len(generated)} right"
        panel.set_title(literal(title), fontsize=9, loc="left")
    caption = (
        f"{comparison.name}: letters that a trial of each model wrote, reading its own moves of the pen. The letters "
        "that it learned are grey. A letter is coloured if a point is a tenth of a capital's height or more from its "
        "place, or the pen is lifted or set down wrongly."
    )
    return Picture(f"{comparison.name}-letters", caption, figure)


def _rolls_picture(comparison: Comparison, own: list[tuple[int, Sample]]) -> Picture | None:
    """A piano roll of the first piece of each sample."""
    if not own:
        return None
    figure = Figure(figsize=(WIDTH, 1.9 * len(own) + 0.7), layout="constrained")
    panels = figure.subplots(len(own), squeeze=False)[:, 0]
    for (row, sample), panel in zip(own, panels, strict=True):
        prime, generated, truth = (sample.series[name] for name in ("prime", "generated", "truth"))
        draw_roll(panel, prime[0], generated[0], None if truth is None else truth[0])
        panel.set_title(literal(f"{comparison.labels[row]}, trial {sample.trial}"), fontsize=9, loc="left")
    panels[-1].set_xlabel("quarter")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    caption = (
        f"{comparison.name}: a piece that a trial of each model composed, as a piano roll. The network reads its own "
        "sampled keys. Where a part of a test piece was given before, the rest of that piece is grey."
    )
    return Picture(f"{comparison.name}-piano-roll", caption, figure)


def quarter_period(series: np.ndarray) -> int:
    """A quarter of the period of the strongest oscillation, in steps; 1 or more, and less than half of the series."""
    finite = np.nan_to_num(series, posinf=0, neginf=0)
    strength = np.abs(np.fft.rfft(finite - finite.mean()))[1:]
    if not len(strength) or strength.max() == 0:
        return 1
    return int(np.clip(round(len(series) / (1 + strength.argmax()) / 4), 1, max(len(series) // 2 - 1, 1)))


def _texts_picture(comparison: Comparison, own: list[tuple[int, Sample]]) -> Picture | None:
    """The first texts of each sample, wrong ones in another colour and with their first wrong symbol in brackets."""
    if not own:
        return None
    columns = min(len(own), 2)
    lines = -(-len(own) // columns)
    figure = Figure(figsize=(WIDTH, lines * (0.2 * MOST_TEXTS + 0.6)), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel in panels:
        panel.axis("off")
    for (row, sample), panel in zip(own, panels, strict=False):
        right = sum(wrong is None for _, wrong in sample.texts)
        title = f"{comparison.labels[row]}, trial {sample.trial}: {right} of {len(sample.texts)} right"
        panel.set_title(literal(title), fontsize=9, loc="left")
        shown = list(zip(sample.texts, sample.marked_texts(), strict=True))[:MOST_TEXTS]
        for place, ((_, wrong), text) in enumerate(shown):
            text = text if len(text) <= TEXT else f"{text[: TEXT - 3]}..."
            colour = "black" if wrong is None else "#D55E00"
            height = 1 - (place + 0.5) / MOST_TEXTS
            panel.text(0, height, text, family="monospace", fontsize=8, color=colour, va="center")
    caption = (
        f"{comparison.name}: strings that a trial of each model wrote, symbol by symbol. A string that the grammar "
        "does not allow is coloured, and its first wrong symbol is in brackets; [] stands for a missing end."
    )
    return Picture(f"{comparison.name}-texts", caption, figure)


def _scores_picture(comparison: Comparison, styles: list[Style]) -> Picture | None:
    """Scores of generated sequences, a point for each trial, and the scores of the source."""
    names = [name for name in SCORES if all(name in result.trials for result in comparison.results)]
    if not names:
        return None
    figure = Figure(figsize=(WIDTH, 1.3 + 0.3 * len(styles)), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for name, panel in zip(names, panels, strict=True):
        panel.axvline(PERFECT[name], color="0.6", linewidth=3)
        for row, (result, (colour, _, marker)) in enumerate(zip(comparison.results, styles, strict=True)):
            values = result.trials[name].dropna()
            panel.plot(values, [row] * len(values), color=colour, marker=marker, linestyle="none", alpha=0.5)
            panel.plot(values.median(), row, color="black", marker="|", markersize=14, linestyle="none")
        panel.set_xlabel(SCORES[name], fontsize=9)
    panels[0].set_yticks(range(len(comparison.labels)), [literal(label[:40]) for label in comparison.labels])
    panels[0].set_ylim(len(styles) - 0.5, -0.5)
    caption = (
        f"{comparison.name}: scores of the generated sequences, and of the source (grey line); a point is a trial, a "
        "black bar the median."
    )
    return Picture(f"{comparison.name}-scores", caption, figure)
