"""A sweep is one table and, over two settings, a heat map; the best point and its neighbours are marked."""

import itertools

import pandas as pd
import pytest
from handmade import write

from amu_experiments.analysis.comparison import compare
from amu_experiments.analysis.report import main
from amu_experiments.analysis.sweeps import sweep_pictures, sweep_table, sweeps

RATES, CLIPS = (0.001, 0.01, 0.1), (None, 1.0)


def write_grid(root, ends, **training):
    """LSTMs over RATES and CLIPS; `ends` gives the trials of each pair."""
    return [
        write(root, "lstm", ends(rate, clip), training={"learning_rate": rate, "clip_norm": clip, **training})
        for rate, clip in itertools.product(RATES, CLIPS)
    ]


@pytest.fixture
def grid(tmp_path):
    """Best at 0.01 without clipping; with clipping, trials take longer."""
    return write_grid(tmp_path, lambda rate, clip: [(900 if rate != 0.01 else 300) + 50 * (clip is not None)] * 3)


def test_a_sweep_over_two_settings_marks_the_best_point_and_its_three_neighbours(grid):
    (comparison,) = compare(grid)
    (sweep,) = sweeps(comparison)
    table = sweep_table(sweep)
    assert table.numbers["learning_rate"].tolist() == [0.001, 0.001, 0.01, 0.01, 0.1, 0.1]
    assert table.text["clip_norm"].tolist() == ["none", "1"] * 3
    assert table.numbers["median_sequences"].tolist() == [900, 950, 300, 350, 900, 950]
    assert table.numbers["mark"].tolist() == ["neighbour", "", "best", "neighbour", "neighbour", ""]
    assert "over learning_rate and clip_norm, 6 of 6 combinations" in table.caption
    assert "at the edge" not in table.caption  # clip_norm has a value that is not a number


def test_a_best_value_at_the_edge_is_stated(tmp_path):
    rows = [write(tmp_path, "gru", [1000 - units], model={"units": units}) for units in (5, 10, 20)]
    (sweep,) = sweeps(compare(rows)[0])
    assert sweep_table(sweep).numbers["mark"].tolist() == ["", "neighbour", "best"]
    assert "The best lies at the edge of units" in sweep_table(sweep).caption
    assert sweep_pictures(compare(rows)[0]) == []


def test_units_that_follow_from_another_setting_are_no_axis(tmp_path):
    rows = [
        write(tmp_path, "amu", [900], model={"neurons_per_unit": n, "units": units})
        for n, units in ((1, 9), (2, 5), (3, 4))
    ]
    (sweep,) = sweeps(compare(rows)[0])
    assert list(sweep.axes) == ["model.neurons_per_unit"]


def test_models_of_several_sizes_that_were_tuned_apart_are_no_sweep(tmp_path):
    rows = [
        write(tmp_path, "lstm", [900], model={"units": units}, training={"learning_rate": rate}, parameters=parameters)
        for units, rate, parameters in ((4, 0.01, 101), (7, 0.003, 260), (15, 0.03, 1036))
    ]
    assert sweeps(compare(rows)[0]) == []


def test_rows_that_are_no_grid_are_no_sweep(tmp_path):
    """Two rows; and settings that were drawn at random, no two alike."""
    two = [write(tmp_path / "two", "lstm", [900], training={"learning_rate": rate}) for rate in (0.1, 0.2)]
    assert sweeps(compare(two)[0]) == []
    drawn = [
        write(tmp_path / "drawn", "lstm", [900], training={"learning_rate": rate, "clip_norm": clip})
        for rate, clip in ((0.1, 0.5), (0.2, 1.5), (0.3, 2.5), (0.4, 3.5))
    ]
    assert sweeps(compare(drawn)[0]) == []


def test_an_interrupted_sweep_is_a_grid_with_gaps(grid):
    (comparison,) = compare(grid[:-1])
    (sweep,) = sweeps(comparison)
    assert "5 of 6 combinations" in sweep_table(sweep).caption
    (picture,) = sweep_pictures(comparison)
    numbers = [text.get_text() for text in picture.figure.axes[0].texts]
    assert len(numbers) == 5


def test_the_heat_map_shows_the_share_solved_or_else_the_metric(grid, tmp_path):
    (picture,) = sweep_pictures(compare(grid)[0])  # every trial met the criterion
    assert "median test loss" in picture.caption
    solved = write_grid(tmp_path / "other", lambda rate, clip: [500, 600 if rate == 0.01 else None])
    (picture,) = sweep_pictures(compare(solved)[0])
    assert "share of trials that met st2" in picture.caption
    panel = picture.figure.axes[0]
    shown = {(text.get_position(), text.get_text()) for text in panel.texts}
    assert shown == {((clip, rate), "1.00" if rate == 1 else "0.50") for clip in (0, 1) for rate in (0, 1, 2)}
    assert [label.get_text() for label in panel.get_yticklabels()] == ["0.001", "0.01", "0.1"]
    (frame,) = panel.patches
    assert frame.get_xy() in ((-0.5, 0.5), (0.5, 0.5))


def test_budgets_are_not_mixed_in_a_sweep_and_mixed_tests_are_stated(tmp_path, capsys):
    runs, out = tmp_path / "runs", tmp_path / "out"
    write_grid(runs, lambda rate, clip: [900])
    write_grid(runs, lambda rate, clip: [900], max_sequences=2000)
    report = ["--results-dir", str(runs), "--out", str(out), "--only", "tables"]
    assert main(report) == 0
    said = capsys.readouterr().out
    name = "two_sequence-noise_free-T100-N3"
    assert f"{name}: each family of tests mixes budgets of sequences: 1,000 in 6 rows; 2,000 in 6 rows; to" in said
    assert '--where "training.max_sequences == 2000"' in said
    for budget in (1000, 2000):
        table = pd.read_csv(out / "tables" / f"{name}-lstm-sweep-{budget}.csv")
        assert table["mark"].tolist().count("best") == 1
        assert len(table) == 6
    assert main([*report, "--where", "training.max_sequences == 2000"]) == 0
    assert "mixes budgets" not in capsys.readouterr().out
