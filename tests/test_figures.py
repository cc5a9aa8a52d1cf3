"""Figures drawn from small results written by hand: what the curves are, and that they can be read."""

import numpy as np
import pytest
from handmade import write
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from amu_experiments.analysis.figures import STYLES, carried_forward, metric_picture, pictures, solved_picture
from amu_experiments.analysis.tables import compare


@pytest.fixture
def comparison(tmp_path):
    """AMU: 3 of 4 solve; LSTM: 1 of 3, one diverged; RNN: one trial, unsolved."""
    results = [
        write(tmp_path, "amu", [300, 400, 500, None]),
        write(tmp_path, "lstm", ["diverged", 900, None]),
        write(tmp_path, "rnn", [None]),
    ]
    (comparison,) = compare(results)
    return comparison


def variants(tmp_path):
    """A comparison of seven rows with long labels, three of them of one model."""
    results = [
        write(tmp_path, "amu", [300], identity=str(place), model={"gradient": gradient, "output": output})
        for place, (gradient, output) in enumerate(
            (("truncated", "neuron"), ("full", "neuron"), ("truncated", "memory"))
        )
    ]
    results += [write(tmp_path, cell, [400, None]) for cell in ("lstm", "gru", "rnn", "own_cell")]
    (comparison,) = compare(results)
    return comparison


def test_share_solved_steps_up_at_each_solved_trial_and_ends_where_the_last_was_watched(comparison):
    picture = solved_picture(comparison)
    panels = picture.figure.axes
    assert [panel.get_title().split("\n")[0] for panel in panels] == ["st1", "st2"]
    amu, *_ = (line for line in panels[1].lines if line.get_drawstyle() == "steps-post")
    assert amu.get_xdata().tolist() == [0, 300, 400, 500, 1000, 1000]
    assert amu.get_ydata() == pytest.approx([0, 0.25, 0.5, 0.75, 0.75, 0.75])


def test_ticks_mark_the_trials_that_did_not_solve_it(comparison):
    panel = solved_picture(comparison).figure.axes[1]
    ticks = [line.get_xdata().tolist() for line in panel.lines if line.get_marker() == "|"]
    assert ticks == [[1000], [1000, 1000], [1000]]


def test_an_early_and_a_late_solution_need_a_logarithmic_axis(tmp_path):
    for cap, scale in ((2000, "linear"), (20000, "log")):
        result = write(tmp_path / scale, "amu", [200, None], training={"max_sequences": cap})
        for picture in pictures(*compare([result])):
            assert {panel.get_xscale() for panel in picture.figure.axes} == {scale}


def test_a_trial_that_ended_keeps_its_last_value(tmp_path):
    curve = carried_forward(write(tmp_path, "amu", [200, 400]), "mean_error")
    assert curve.index.tolist() == [100, 200, 300, 400, 1000]
    assert curve[0].tolist() == [0.5, 0.005, 0.005, 0.005, 0.005]
    assert curve[1].tolist() == [0.5, 0.5, 0.5, 0.0051, 0.0051]


def test_a_trial_that_diverged_has_the_worst_value_from_then_on(tmp_path):
    result = write(tmp_path, "amu", ["diverged", 400])
    assert carried_forward(result, "mean_error")[0].tolist() == [0.5, 0.5, np.inf, np.inf, np.inf]
    assert carried_forward(result, "accuracy")[0].tolist() == [0.5, 0.5, -np.inf, -np.inf, -np.inf]


def test_median_and_quartiles_over_trials(tmp_path):
    # Errors at the end 0.005, 0.0051, 0.0052, 0.0053, 0.5.
    (comparison,) = compare([write(tmp_path, "amu", [300, 300, 300, 300, None])])
    panel = metric_picture(comparison).figure.axes[0]
    assert panel.lines[0].get_ydata()[-1] == pytest.approx(0.0052)
    band = panel.collections[0].get_paths()[0].vertices
    assert band[band[:, 0] == 1000][:, 1].min() == pytest.approx(0.0051)
    assert band[band[:, 0] == 1000][:, 1].max() == pytest.approx(0.0053)


def test_a_task_without_criteria_has_the_metric_alone(tmp_path):
    result = write(tmp_path, "amu", [None, None], task={"criteria": {}})
    result.trials.drop(columns=["st1_sequences", "st2_sequences"], inplace=True)
    (picture,) = pictures(*compare([result]))
    assert picture.name == "two_sequence-noise_free-T100-N3-mean_error"


def test_trials_that_diverged_before_any_evaluation_can_be_drawn(tmp_path):
    result = write(tmp_path, "amu", ["diverged", "diverged"])
    result.history.drop(result.history.index, inplace=True)
    for picture in pictures(*compare([result])):
        picture.save(tmp_path)
        assert (tmp_path / f"{picture.name}.png").stat().st_size > 0


def test_rows_can_be_told_apart_without_colour(tmp_path):
    figure = metric_picture(variants(tmp_path)).figure
    looks = [(str(line._dash_pattern), line.get_marker()) for line in figure.axes[0].lines]
    assert len(set(looks)) == 7


def test_a_model_looks_the_same_in_every_figure(comparison, tmp_path):
    alone = compare([write(tmp_path / "alone", "lstm", [300])])[0]
    for figure, place in ((metric_picture(comparison).figure, 1), (metric_picture(alone).figure, 0)):
        line = figure.axes[0].lines[place]
        assert to_rgb(line.get_color()) == to_rgb(STYLES["lstm"][0])
        assert line.get_marker() == STYLES["lstm"][2]


@pytest.mark.parametrize("make", [solved_picture, metric_picture])
@pytest.mark.parametrize("many", [False, True])
def test_no_text_leaves_the_figure_or_overlaps_other_text(comparison, tmp_path, make, many):
    figure = make(variants(tmp_path / "many") if many else comparison).figure
    FigureCanvasAgg(figure).draw()
    panels, (legend,) = figure.axes, figure.legends
    texts = [*legend.get_texts(), *(text for panel in panels for text in (panel.title, panel.xaxis.label))]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    for place, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:place])
        assert not any(box.overlaps(panel.get_window_extent()) for panel in panels)
