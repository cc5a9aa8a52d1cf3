"""Figures drawn from small results written by hand: what the curves are, and that they can be read."""

import io

import numpy as np
import pytest
from handmade import write
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from amu_experiments.analysis.comparison import compare
from amu_experiments.analysis.figures import (
    carried_forward,
    metric_picture,
    pictures,
    solved_picture,
)
from amu_experiments.analysis.picture import small_png, small_svg
from amu_experiments.analysis.styles import STYLES, report_styles


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


def drawn(make, comparison):
    """The picture of a comparison that stands alone in its report."""
    return make(comparison, report_styles([comparison])[comparison.name])


def colours_of_legend(figure) -> set[str]:
    """The colours in the legend as #rrggbb. An open marker has the colour of its edge."""
    (legend,) = figure.legends
    return {to_hex(line.get_color()) for line in legend.get_lines()}


def colours_of_png(path) -> set[str]:
    with Image.open(path) as image:
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), np.uint32), -1, 0)
    return {f"#{colour:06x}" for colour in np.unique(red << 16 | green << 8 | blue).tolist()}


def test_share_solved_steps_up_at_each_solved_trial_and_ends_where_the_last_was_watched(comparison):
    picture = drawn(solved_picture, comparison)
    panels = picture.figure.axes
    assert [panel.get_title().split("\n")[0] for panel in panels] == ["st1", "st2"]
    amu, *_ = (line for line in panels[1].lines if line.get_drawstyle() == "steps-post")
    assert amu.get_xdata().tolist() == [0, 300, 400, 500, 1000, 1000]
    assert amu.get_ydata() == pytest.approx([0, 0.25, 0.5, 0.75, 0.75, 0.75])


def test_ticks_mark_the_trials_that_did_not_solve_it(comparison):
    panel = drawn(solved_picture, comparison).figure.axes[1]
    ticks = [line.get_xdata().tolist() for line in panel.lines if line.get_marker() == "|"]
    assert ticks == [[1000], [1000, 1000], [1000]]


def test_an_early_and_a_late_solution_need_a_logarithmic_axis(tmp_path):
    for cap, scale in ((2000, "linear"), (20000, "log")):
        result = write(tmp_path / scale, "amu", [200, None], training={"max_sequences": cap})
        for picture in drawn(pictures, *compare([result])):
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
    panel = drawn(metric_picture, comparison).figure.axes[0]
    assert panel.lines[0].get_ydata()[-1] == pytest.approx(0.0052)
    band = panel.collections[0].get_paths()[0].vertices
    assert band[band[:, 0] == 1000][:, 1].min() == pytest.approx(0.0051)
    assert band[band[:, 0] == 1000][:, 1].max() == pytest.approx(0.0053)


def test_a_task_without_criteria_has_the_metric_alone(tmp_path):
    result = write(tmp_path, "amu", [None, None], task={"criteria": {}})
    result.trials.drop(columns=["st1_sequences", "st2_sequences"], inplace=True)
    (picture,) = drawn(pictures, *compare([result]))
    assert picture.name == "two_sequence-noise_free-T100-N3-mean_error"


def test_trials_that_diverged_before_any_evaluation_can_be_drawn(tmp_path):
    result = write(tmp_path, "amu", ["diverged", "diverged"])
    result.history.drop(result.history.index, inplace=True)
    for picture in drawn(pictures, *compare([result])):
        picture.save(tmp_path)
        assert (tmp_path / f"{picture.name}.png").stat().st_size > 0


def test_rows_can_be_told_apart_without_colour(tmp_path):
    figure = drawn(metric_picture, variants(tmp_path)).figure
    looks = [(str(line._dash_pattern), line.get_marker()) for line in figure.axes[0].lines]
    assert len(set(looks)) == 7


def test_the_colours_of_the_legend_are_in_the_png(comparison, tmp_path):
    for each in (comparison, variants(tmp_path / "variants")):
        for picture in drawn(pictures, each):
            picture.save(tmp_path)
            colours = colours_of_legend(picture.figure)
            assert len(colours) == len(each.results)
            assert colours <= colours_of_png(tmp_path / f"{picture.name}.png")


@pytest.mark.parametrize("count", [3, 200, 300])
def test_a_small_png_keeps_every_colour_that_it_is_asked_to_keep(count):
    """A palette has 256 entries at most."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    kept = {tuple(colour) for colour in pixels.reshape(-1, 3)[:count].tolist()}
    elsewhere = {(1, 2, 3)} - {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()}
    with Image.open(io.BytesIO(small_png(Image.fromarray(pixels), kept | elsewhere))) as image:
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert image.size == (50, 40)
    assert colours[:count].tolist() == pixels.reshape(-1, 3)[:count].tolist()


def test_a_model_looks_the_same_in_every_figure(comparison, tmp_path):
    alone = compare([write(tmp_path / "alone", "lstm", [300])])[0]
    for each, place in ((comparison, 1), (alone, 0)):
        line = drawn(metric_picture, each).figure.axes[0].lines[place]
        assert to_rgb(line.get_color()) == to_rgb(STYLES["lstm"][0])
        assert line.get_marker() == STYLES["lstm"][2]


def test_a_variant_looks_the_same_in_every_figure_of_a_report(tmp_path):
    """Whatever stands beside it, and whatever its sizes and tuned values are."""
    truncated, full = {"gradient": "truncated"}, {"gradient": "full"}
    rows = [
        ({"T": 100}, "amu", truncated),
        ({"T": 100}, "amu", full),
        ({"T": 100}, "own_b", {}),
        ({"T": 200}, "amu", full | {"units": 9, "initial_range": 0.5}),
        ({"T": 200}, "own_a", {}),
        ({"T": 500}, "amu", truncated),
        ({"T": 500}, "own_b", {}),
    ]
    comparisons = compare([write(tmp_path, cell, [300], task=task, model=model) for task, cell, model in rows])
    first, second, third = report_styles(comparisons).values()
    assert first[0] == third[0] == STYLES["amu"]
    assert first[1] == second[0] != STYLES["amu"]
    assert first[2] == third[1] != second[1]


def test_a_label_has_one_style_in_all_figures_of_a_report(tmp_path):
    """A task chooses what the AMU emits; where all rows emit the same, their labels do not say what."""
    memory, neuron = {"output": "memory"}, {"output": "neuron"}
    rows = [(T, "amu", model) for T, model in ((100, memory), (100, neuron), (200, memory), (500, neuron))]
    rows += [(100, "lstm97", {"block_size": 2}), (200, "lstm97", {"block_size": 1}), (500, "lstm97", {})]
    comparisons = compare([write(tmp_path, cell, [300], task={"T": T}, model=model) for T, cell, model in rows])
    styles = report_styles(comparisons)
    by_label = {}
    for comparison in comparisons:
        for label, style in zip(comparison.labels, styles[comparison.name], strict=True):
            by_label.setdefault(label, set()).add(style)
    assert by_label["amu"] == by_label["amu (output=neuron)"] == {STYLES["amu"]}
    assert by_label["lstm97"] == {STYLES["lstm97"]}
    assert len(by_label["amu (output=memory)"] - {STYLES["amu"]}) == 1


def claims_comparison(tmp_path):
    """Four readings of the AMU in four variants each, and six other cells."""
    readings = [
        {},
        {"neurons_per_unit": 2, "output_in_product": False},
        {"writers": "gated"},
        {"memory_seen_by": "all"},
    ]
    models = [
        reading | {"gradient": gradient, "output": output}
        for reading in readings
        for gradient in ("truncated", "full")
        for output in ("neuron", "memory")
    ]
    rows = [("amu", model) for model in models] + [(c, {}) for c in ("lstm", "gru", "rnn", "lstm97", "lem", "janet")]
    results = [write(tmp_path, cell, [300 + 10 * row], model=rows[row][1]) for row, (cell, _) in enumerate(rows)]
    (comparison,) = compare(results)
    return comparison


def test_readings_differ_in_colour_and_marker_and_their_variants_in_dashes(tmp_path):
    comparison = claims_comparison(tmp_path)
    styles = report_styles([comparison])[comparison.name]
    assert len({(str(dashes), marker) for _, dashes, marker in styles}) == len(styles) == 22
    markers, dashes, first = {}, {}, set()
    for result, style in zip(comparison.results, styles, strict=True):
        model = result.config["model"]
        reading = model["cell"], model.get("neurons_per_unit"), model.get("writers"), model.get("memory_seen_by")
        markers.setdefault(reading, set()).add(style[2])
        dashes.setdefault((model["cell"], model.get("gradient"), model.get("output")), set()).add(style[1])
        first.add(style[0]) if style[1] == STYLES.get(model["cell"], style)[1] else None
    assert [len(each) for each in (*markers.values(), *dashes.values())] == [1] * (10 + 10)
    assert len(first) == 10


def test_a_figure_of_many_rows_draws_the_main_ones_and_says_so(tmp_path):
    comparison = claims_comparison(tmp_path)
    for picture in drawn(pictures, comparison):
        lines = picture.figure.legends[0].get_lines()
        assert len(lines) == len({line.get_marker() for line in lines}) == 10
        texts = [text.get_text() for text in picture.figure.legends[0].get_texts()]
        assert not any("gradient=full" in text or "output=memory" in text for text in texts)
        assert picture.caption.endswith(
            "Only 10 of 22 rows are drawn: of each model those with most trials; if equal, those nearest to the paper. "
            "The tables have all."
        )


def test_a_small_svg_draws_the_same_shapes():
    """Styles become classes, and each point of a path of straight lines is relative to the one before."""
    svg = (
        '<?xml version="1.0"?><!DOCTYPE svg><svg><defs><style type="text/css">*{stroke-linecap: butt}</style></defs>'
        '<g id="line_1"><!-- a --><path id="m" d="M 0 0.123456 \nL 1.99 2 \nL 1.99 2 \nL 1.5 1.5 \nz\nM 7 7 \nL 7.5 10"'
        ' style="fill: none"/></g>\n<path d="M 0 0.77 L 1 1 C 1 2 3 4 5 6" clip-path="url(#p0123456789)" '
        'style="fill: none"/><clipPath id="p0123456789"/><text x="3.14159">"</text></svg>'
    )
    assert small_svg(svg) == (
        "<svg><defs><style type='text/css'>*{stroke-linecap: butt}.c0{fill: none}</style></defs>"
        "<g><path id='m' d='M0 .1l2 1.9-.5-.5zM7 7l.5 3' class='c0'/></g>"
        "<path d='M 0 0.7 L 1 1 C 1 2 3 4 5 6' clip-path='url(#p0)' class='c0'/>"
        "<clipPath id='p0'/><text x='3.1'>\"</text></svg>"
    )


def test_cells_of_ones_own_never_share_a_colour(tmp_path):
    (comparison,) = compare([write(tmp_path, f"own_{place}", [300]) for place in range(9)])
    styles = report_styles([comparison])[comparison.name]
    assert len({colour for colour, *_ in styles}) == 9


@pytest.mark.parametrize("make", [solved_picture, metric_picture])
@pytest.mark.parametrize("labels", ["few", "many", "long"])
def test_no_text_leaves_the_figure_or_overlaps_other_text(comparison, tmp_path, make, labels):
    if labels == "many":
        comparison = variants(tmp_path / "many")
    if labels == "long":
        models = [{"output": output} for output in ("x" * 300, "$a$ " * 30, "neuron")]
        (comparison,) = compare([write(tmp_path / "long", "amu", [300], model=model) for model in models])
    figure = drawn(make, comparison).figure
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


def test_dollar_signs_are_no_formula(tmp_path):
    """Matplotlib's formulas have no command named nothing."""
    models = [{"output": r"a$\nothing$"}, {"output": "neuron"}]
    (comparison,) = compare([write(tmp_path, "amu", [300], model=model) for model in models])
    for picture in drawn(pictures, comparison):
        assert r"a$\nothing$" in picture.save(tmp_path).svg


@pytest.mark.parametrize("key", ["dt", "longest_lag", "input_deviation", "initial_range", "forget_bias"])
def test_a_tuned_setting_changes_no_style(tmp_path, key):
    results = [
        write(tmp_path, "own", [300], model={key: value}, task={"variant": variant})
        for value, variant in ((0.1, "noise_free"), (0.5, "noisy_input"))
    ]
    styles = report_styles(compare(results))
    assert len(styles) == 2
    assert len({str(rows) for rows in styles.values()}) == 1
