"""Figures of the mechanism from tables written by hand."""

import pandas as pd
import pytest
from handmade import write

from amu_experiments.analysis.mechanism_figures import mechanism_pictures, of_row, read_mechanism
from amu_experiments.analysis.tables import compare


@pytest.fixture
def comparison(tmp_path):
    root = tmp_path / "runs"
    (comparison,) = compare([write(root, "amu", [300, 400]), write(root, "lstm", [700, None])])
    return comparison


def tables(models=("amu", "lstm")) -> dict[str, pd.DataFrame]:
    own = [{"task": "two_sequence", "model": model, "identity": "0" * 12} for model in models]
    phases = [row | {"phase": phase} for row in own for phase in ("start", "trained")]
    quartiles = ("low", "median", "high")
    flow = [
        row | {"flow": flow, "lag": lag, "trials": 2} | {f"relative_{name}": 0.5**lag for name in quartiles}
        for row in phases
        for flow in ("full", "truncated")
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
    pictures = mechanism_pictures(comparison, tables())
    assert [picture.name.rpartition("-")[2] for picture in pictures] == ["flow", "conflict", "traces"]
    assert "Further units take the same lines again" in pictures[2].caption
    for picture in pictures:
        assert picture.save(tmp_path).svg.rstrip().endswith("</svg>")
        assert all((tmp_path / f"{picture.name}.{kind}").exists() for kind in ("png", "pdf"))


def test_a_flow_is_drawn_as_the_full_derivative_on_a_logarithmic_axis(comparison):
    flow = mechanism_pictures(comparison, tables())[0]
    panel = flow.figure.axes[0]
    assert panel.get_yscale() == "log"
    assert [len(line.get_xdata()) for line in panel.lines] == [3, 3]
    # Of 2^-99 there is nothing left to see.
    assert panel.lines[0].get_ydata()[-1] == 1e-12


def test_rows_without_measurements_are_left_out(comparison):
    measured = tables(models=["lstm"])
    assert len(of_row(measured["flow"], comparison, 0)) == 0
    assert len(mechanism_pictures(comparison, measured)) == 2
    elsewhere = {name: table.assign(identity="another") for name, table in measured.items()}
    assert mechanism_pictures(comparison, elsewhere) == []


def test_a_folder_without_measurements_gives_none(comparison, tmp_path):
    assert read_mechanism(tmp_path) == {}
    assert mechanism_pictures(comparison, {}) == []
    for name, table in tables().items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    assert set(read_mechanism(tmp_path)) == {"flow", "trials", "traces"}
