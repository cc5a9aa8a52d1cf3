"""Figures of the mechanism from tables written by hand."""

import pandas as pd
import pytest
from handmade import write
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image

from amu_experiments.analysis.comparison import compare
from amu_experiments.analysis.mechanism_figures import mechanism_pictures
from amu_experiments.analysis.mechanism_tables import of_row, read_mechanism
from amu_experiments.analysis.styles import report_styles


@pytest.fixture
def comparison(tmp_path):
    root = tmp_path / "runs"
    (comparison,) = compare([write(root, "amu", [300, 400]), write(root, "lstm", [700, None])])
    return comparison


def drawn(comparison, mechanism):
    return mechanism_pictures(comparison, report_styles([comparison])[comparison.name], mechanism)


def tables(models=("amu", "lstm"), truncated=("amu",)) -> dict[str, pd.DataFrame]:
    """Measurements of these models: a derivative that is halved at each step, a truncated flow that stays 1."""
    own = [{"task": "two_sequence", "model": model, "identity": "0" * 12} for model in models]
    phases = [row | {"phase": phase} for row in own for phase in ("start", "trained")]
    quartiles = ("low", "median", "high")
    flow = [
        row | {"flow": flow, "lag": lag, "trials": 2} | {f"relative_{name}": factor**lag for name in quartiles}
        for row in phases
        for flow, factor in (("full", 0.5), ("truncated", 1.0))
        if flow == "full" or row["model"] in truncated
        for lag in (1, 50, 99)
    ]
    trials = [
        row | {"flow": "full", "trial": trial, "quantity": "conflict", "value": 0.25 * trial}
        for row in phases
        for trial in (0, 1)
    ]
    traces = [
        own[0] | {"trial": 0, "sequence": sequence, "step": step, "unit": unit, "memory": 0.1, "output": 0.2}
        for sequence in range(4)
        for step in (1, 2)
        for unit in range(6)
    ]
    return {"flow": pd.DataFrame(flow), "trials": pd.DataFrame(trials), "traces": pd.DataFrame(traces)}


def test_a_comparison_has_a_figure_of_flow_conflict_and_traces(comparison, tmp_path):
    pictures = drawn(comparison, tables())
    assert [picture.name.rpartition("-")[2] for picture in pictures] == ["flow", "conflict", "traces"]
    assert "Further units reuse these line styles" in pictures[2].caption
    for picture in pictures:
        assert picture.save(tmp_path).svg.rstrip().endswith("</svg>")
        assert all((tmp_path / f"{picture.name}.{kind}").exists() for kind in ("png", "pdf"))


def test_the_derivative_of_every_row_stands_above_the_truncated_flow_of_those_that_have_one(comparison):
    figure = drawn(comparison, tables())[0].figure
    assert [panel.get_title() for panel in figure.axes] == [
        "derivative, at the start of training",
        "derivative, after training",
        "truncated flow, at the start of training",
        "truncated flow, after training",
    ]
    for place, panel in enumerate(figure.axes):
        assert panel.get_yscale() == "log"
        ends = [line.get_ydata()[-1] for line in panel.lines]
        # Of 2^-99 there is nothing left to see.
        assert ends == ([1e-12, 1e-12] if place < 2 else [1.0])


def test_without_a_truncated_flow_there_is_no_panel_for_it(comparison):
    assert len(drawn(comparison, tables(truncated=()))[0].figure.axes) == 2


def test_a_row_of_which_no_derivative_was_measured_is_named(comparison):
    measured = tables()
    assert "not measured" not in drawn(comparison, measured)[0].caption
    flow = measured["flow"]
    measured["flow"] = flow[(flow["model"] != "amu") | (flow["flow"] == "truncated")]
    assert "The derivative was not measured for amu." in drawn(comparison, measured)[0].caption


def test_conflicts_of_a_truncated_gradient_say_so(comparison):
    measured = tables()
    measured["trials"].loc[measured["trials"]["model"] == "lstm", "flow"] = "truncated"
    panel = drawn(comparison, measured)[1].figure.axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["amu", "lstm, truncated"]


def test_the_colours_of_lines_are_in_the_png_and_no_label_is_cut(comparison, tmp_path):
    for picture in drawn(comparison, tables()):
        picture.save(tmp_path)
        with Image.open(tmp_path / f"{picture.name}.png") as image:
            pixels = {f"#{red:02x}{green:02x}{blue:02x}" for _, (red, green, blue) in image.convert("RGB").getcolors()}
        lines = [line for panel in picture.figure.axes for line in panel.lines]
        assert {to_hex(line.get_color()) for line in lines} <= pixels
        FigureCanvasAgg(picture.figure).draw()
        for part in (*picture.figure.axes, *picture.figure.legends):
            box = part.get_tightbbox(picture.figure.canvas.get_renderer())
            assert 0 <= box.x0 < box.x1 <= picture.figure.bbox.x1
            assert 0 <= box.y0 < box.y1 <= picture.figure.bbox.y1


def test_rows_without_measurements_are_left_out(comparison):
    measured = tables(models=["lstm"])
    assert len(of_row(measured["flow"], comparison, 0)) == 0
    *_, trace = drawn(comparison, measured)
    assert "of every unit of lstm, trial 0" in trace.caption
    elsewhere = {name: table.assign(identity="another") for name, table in measured.items()}
    assert drawn(comparison, elsewhere) == []


def test_traces_are_those_of_the_amu_wherever_it_ranks(tmp_path):
    (comparison,) = compare([write(tmp_path, "amu", [700, None]), write(tmp_path, "lstm", [300, 400])])
    assert comparison.labels == ["lstm", "amu"]
    assert "of every unit of amu, trial 0" in drawn(comparison, tables())[2].caption


def test_a_folder_without_measurements_gives_none(comparison, tmp_path):
    assert read_mechanism(tmp_path) == {}
    assert drawn(comparison, {}) == []
    for name, table in tables().items():
        table.to_csv(tmp_path / f"{name}.csv.gz", index=False)
    assert set(read_mechanism(tmp_path)) == {"flow", "trials", "traces"}
