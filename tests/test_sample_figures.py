"""Figures and sounds of samples, in a report of small results written by hand."""

import base64
import io
import json
import re
import wave
from dataclasses import replace

import numpy as np
import pytest
from handmade import write

from amu_experiments.analysis.comparison import compare
from amu_experiments.analysis.report import write_report
from amu_experiments.analysis.sample_figures import of_comparison, quarter_period
from amu_experiments.analysis.samples import Sample
from amu_experiments.tasks.pen import letter_moves


def sample_of(result, **changes):
    t = np.arange(40.0)
    known = {
        "task": result.task,
        "model": result.model,
        "identity": result.identity,
        "trial": 0,
        "seed": 0,
        "primed": True,
        "temperature": 1.0,
        "media": ("png", "wav"),
        "texts": [],
        "series": {"prime": t[None, :5], "generated": np.sin(t / 2)[None], "truth": np.sin(t / 2.1)[None]},
    }
    return Sample(**known | changes)


def keep(out, sample):
    folder = out / "samples" / sample.name
    folder.mkdir(parents=True)
    (folder / "sample.json").write_text(json.dumps(sample.as_json()))


def test_the_page_has_figures_and_sounds_of_samples(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "report"
    results = [write(runs, model, [300, 400]) for model in ("lstm", "gru", "rnn", "amu")]
    results = [replace(result, identity=result.folder.name) for result in results]
    keep(out, sample_of(results[0]))
    texts = [("BTBTXSETE", None), ("BTBTXSEPE", 7)]
    keep(out, sample_of(results[1], texts=texts, series={}, media=("txt",)))
    letters = np.stack([letter_moves("i")] * 2)
    strokes = {"prime": np.zeros((2, 1, 4)), "generated": letters * [[[1]], [[3]]], "truth": letters}
    keep(out, sample_of(results[2], series=strokes, media=("svg", "png")))
    frames = {"prime": np.zeros((1, 1, 88)), "generated": np.eye(88)[None, :9], "truth": None}
    keep(out, sample_of(results[3], series=frames, media=("mid", "png")))
    (out / "samples" / "nonsense").mkdir()
    (out / "samples" / "nonsense" / "sample.json").write_text("{")
    lines = write_report(runs, out)
    assert [line for line in lines if "nonsense" in line and line.startswith("Left out")]
    names = {path.stem.rpartition("-")[2] for path in (out / "figures").glob("*.png")}
    assert {"run", "texts", "letters", "roll"} <= names
    page = (out / "index.html").read_text()
    assert "1 of 2 right" in page
    assert "BTBTXSE[P]E" in page.replace("%5B", "[").replace("%5D", "]")
    (sound,) = re.findall(r'<audio controls preload="none" src="data:audio/wav;base64,([^"]*)"', page)
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "media-src data:" in policy.split("; ")
    with wave.open(io.BytesIO(base64.b64decode(sound))) as played:
        assert played.getnframes() == 16_000


def test_a_row_shows_its_first_primed_sample(tmp_path):
    (comparison,) = compare([write(tmp_path, "lstm", [300])])
    result = comparison.results[0]
    samples = [
        sample_of(result, primed=False),
        sample_of(result, seed=2),
        sample_of(result, seed=1),
        sample_of(result, temperature=0.5),
        sample_of(result, identity="f" * 12, seed=0),
    ]
    assert of_comparison(comparison, samples) == [(0, samples[2])]
    assert of_comparison(comparison, samples[-1:]) == []


@pytest.mark.parametrize(("period", "quarter"), [(40, 10), (8, 2), (3, 1)])
def test_the_lag_of_a_phase_portrait_is_a_quarter_of_the_period(period, quarter):
    assert quarter_period(np.sin(2 * np.pi * np.arange(400) / period)) == quarter


def test_a_series_without_oscillation_has_a_lag_too():
    assert quarter_period(np.ones(50)) == 1
    assert quarter_period(np.full(50, np.nan)) == 1
