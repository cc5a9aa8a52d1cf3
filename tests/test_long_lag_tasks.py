"""Multiplication, temporal order, long lags and copy memory against the literature and against worked examples."""

import re

import numpy as np
import pytest
import torch
from configured import configuration, rows, task

from amu_experiments.learning import loss_and_error
from amu_experiments.tasks.task import Sequences
from amu_experiments.tasks.temporal_order import SYMBOLS

NAMES = [
    "multiplication",
    "multiplication_1997",
    "temporal_order",
    "temporal_order_1997",
    "temporal_order_6b",
    "temporal_order_6b_1997",
    "long_lag",
    "long_lag_1997",
    "long_lag_2a",
    "long_lag_2b",
    "copy_memory",
]
SMALL = {"long_lag": {"p": 6, "q": 10}, "copy_memory": {"T": 5}}


def small(name, trials):
    return task(name, trials, **SMALL.get(configuration(name)["task"]["problem"], {}))


def symbols_of(sequences, row):
    """The numbers of the symbols of one sequence of one trial, without padding."""
    steps = sequences.inputs[row, : sequences.lengths[row]]
    assert (steps.sum(axis=-1) == 1).all()
    return steps.argmax(axis=-1).tolist()


def criteria_met(kind, metrics):
    return [criterion.name for criterion in kind.criteria if criterion.met(metrics)]


# All of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_trials_stream_depends_only_on_its_number_and_the_position(name):
    expected = rows(small(name, [7]).train_batch(0, 520))
    shared = small(name, [3, 7])
    assert sum((rows(shared.train_batch(at, 130), trial=1) for at in (0, 130, 260, 390)), []) == expected
    shared.select_trials([1])
    assert rows(shared.train_batch(200, 100)) == expected[200:300]
    assert rows(shared.validation()) == rows(small(name, [7]).validation())
    assert rows(shared.test()) == rows(small(name, [7]).test())


@pytest.mark.parametrize("name", NAMES)
def test_padding_is_zero_and_no_longer_than_needed(name):
    kind = small(name, range(2))
    data = kind.train_batch(0, 40)
    assert data.inputs.dtype == data.targets.dtype == np.float32
    assert data.inputs.shape[-1] == kind.input_size
    assert data.targets.shape[-1] == kind.output_size
    assert data.targets.shape[2] == (data.inputs.shape[2] if kind.answer == "every" else 1)
    assert not data.inputs[np.arange(data.inputs.shape[2]) >= data.lengths[:, :, None]].any()
    assert data.inputs.shape[2] == data.lengths.max()


@pytest.mark.parametrize("name", NAMES)
def test_outputs_that_equal_the_targets_meet_every_criterion_and_nan_meets_none(name):
    kind = small(name, [0])
    data = kind.validation().take(0)
    recent = kind.measure_recent(np.zeros(kind.window)) if kind.window else {}
    metrics = kind.measure(data.targets, data) | recent
    assert set(metrics) == {*kind.metrics, *kind.recent_metrics}
    assert criteria_met(kind, metrics) == [criterion.name for criterion in kind.criteria]
    nan = kind.measure(np.full_like(data.targets, np.nan), data)
    broken = kind.measure_recent(np.full(kind.window, np.nan)) if kind.window else {}
    assert criteria_met(kind, nan | broken) == []
    assert configuration(name)["training"]["stop"] in [criterion.name for criterion in kind.criteria]


@pytest.mark.parametrize(
    ("name", "weights"),
    {
        "multiplication_1997": 93,
        "temporal_order": 156,
        "temporal_order_1997": 156,
        "temporal_order_6b": 308,
        "temporal_order_6b_1997": 308,
        "long_lag": 664,
        "long_lag_2a": 10504,
        "long_lag_2b": 10504,
    }.items(),
)
def test_networks_are_of_the_size_of_1997(name, weights):
    assert configuration(name)["model"]["parameters"] == weights


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_1997")])
def test_the_settings_of_1997_are_one_sequence_at_a_time_logistic_outputs_and_half_the_squared_error(name):
    assert configuration(name)["training"]["batch_size"] == 1
    assert task(name).squash == "logistic"
    assert task(name).loss == "half_squared_error"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("multiplication", {"T": 10}, "task.T=10: must be a whole number from 11 to"),
        ("multiplication", {"loss": "cross_entropy"}, "task.loss=cross_entropy: must be one of squared_error"),
        ("temporal_order", {"variant": "6c"}, "task.variant=6c: must be one of 6a, 6b"),
        ("temporal_order", {"T": 9}, "task.T=9 puts X and Y at 0-1, 4-5"),
        ("temporal_order", {"positions": {"6a": [[10, 50], [50, 60]]}}, "puts X and Y at 10-50, 50-60"),
        ("temporal_order", {"positions": {"6a": [[10, 20], [50, 100]]}}, "one after the other between the first"),
        ("temporal_order", {"positions": {"6a": [[20, 10], [50, 60]]}}, "puts X and Y at 20-10"),
        ("temporal_order", {"variant": "6b", "positions": {"6a": []}}, "task.positions has no section for 6b"),
        ("long_lag", {"variant": "2d"}, "task.variant=2d: must be one of 2a, 2b, 2c"),
        ("long_lag", {"p": 1}, "task.p=1: must be a whole number from 2 to"),
        ("long_lag", {"trigger_probability": 1}, "task.trigger_probability=1: must be a number between 0 and 1"),
        ("copy_memory", {"symbols": 1}, "task.symbols=1: must be a whole number from 2 to"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_it(name, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        task(name, **changes)


# Multiplication ---------------------------------------------------------------------------------------------


def test_multiplication_is_as_hochreiter_and_schmidhuber_describe_it():
    data = task("multiplication").train_batch(0, 6000).take(0)
    values, marks, last = data.inputs[:, :, 0], data.inputs[:, :, 1], data.lengths - 1
    marked = marks == 1
    assert set(np.unique(data.lengths)) == set(range(100, 111))
    assert (marked.sum(1) == 2).all()
    assert (marks[np.arange(6000), last] == -1).all()
    first_marked = marked[:, 0]
    assert (marks[~first_marked, 0] == -1).all()
    assert first_marked.any()
    assert (values[first_marked, 0] == 1).all()
    positions = np.sort(np.argwhere(marked)[:, 1].reshape(-1, 2), axis=1)
    assert (positions[:, 0] < 10).all()
    assert positions[:, 1].max() == 49
    inside = np.arange(110) < data.lengths[:, None]
    assert values[inside].min() >= 0
    assert values.max() <= 1
    assert values[inside].mean() == pytest.approx(0.5, abs=0.005)
    assert data.targets[:, 0, 0] == pytest.approx(np.where(marked, values, 1).prod(1), abs=1e-6)


def test_always_answering_one_quarter_has_a_mean_squared_error_of_7_144ths():
    kind = task("multiplication", test_size=20_000)
    data = kind.test().take(0)
    inside = data.inputs[:, 0, 1] != 1  # no marked value is set to 1, so both are uniform
    data = data.take(inside)
    assert kind.measure(np.full_like(data.targets, 0.25), data)["mse"] == pytest.approx(7 / 144, rel=0.03)


@pytest.mark.parametrize(
    ("wrong", "met"), [(140, []), (139, ["n_seq_140"]), (13, ["n_seq_140"]), (12, ["n_seq_140", "n_seq_13"])]
)
def test_multiplication_ends_with_fewer_than_n_seq_of_2000_training_errors_above_004(wrong, met):
    kind = task("multiplication")
    assert kind.window == 2000
    errors = np.full(2000, 0.04)
    errors[:wrong] = 0.041
    recent = kind.measure_recent(errors)
    assert recent["train_wrong"] == wrong
    assert criteria_met(kind, recent) == met
    assert criteria_met(kind, kind.measure_recent(np.append(np.full(150, np.inf), np.zeros(1850)))) == []  # too early


def test_multiplication_metrics_of_a_worked_example():
    kind = task("multiplication")
    data = Sequences(np.zeros((3, 1, 2)), np.ones(3, int), np.full((3, 1, 1), 0.25))
    metrics = kind.measure(np.array([0.25, 0.28, 0.2]).reshape(3, 1, 1), data)
    assert metrics["wrong"] == 1
    assert metrics["mean_error"] == pytest.approx(0.08 / 3)
    assert metrics["largest_error"] == pytest.approx(0.05)
    assert metrics["mse"] == pytest.approx((0.03**2 + 0.05**2) / 3)


# Temporal order ---------------------------------------------------------------------------------------------

CLASSES = {
    "6a": ["XX", "XY", "YX", "YY"],  # Q R S U
    "6b": ["XXX", "XXY", "XYX", "XYY", "YXX", "YXY", "YYX", "YYY"],  # Q R S U V A B C
}
POSITIONS = {"6a": [(10, 20), (50, 60)], "6b": [(10, 20), (33, 43), (66, 76)]}
LEAST_STEPS_TO_THE_END = {"6a": 40, "6b": 24}  # the source's table of conditions


@pytest.mark.parametrize(("name", "variant"), [("temporal_order", "6a"), ("temporal_order_6b", "6b")])
def test_temporal_order_is_as_hochreiter_and_schmidhuber_describe_it(name, variant):
    kind = task(name)
    data = kind.train_batch(0, 3000).take(0)
    places, to_the_end, classes = [], [], []
    for row in range(3000):
        string = "".join(SYMBOLS[symbol] for symbol in symbols_of(data, row))
        assert re.fullmatch("E[abcdXY]+B", string)
        relevant = [place for place, symbol in enumerate(string, start=1) if symbol in "XY"]
        places.append(relevant)
        to_the_end.append(len(string) - relevant[-1])
        classes.append("".join(string[place - 1] for place in relevant))
    assert set(np.unique(data.lengths)) == set(range(100, 111))
    places = np.array(places)
    for column, (first, last) in enumerate(POSITIONS[variant]):
        assert set(places[:, column]) == set(range(first, last + 1))
    assert min(to_the_end) == LEAST_STEPS_TO_THE_END[variant]
    assert classes == [CLASSES[variant][target] for target in data.targets[:, 0].argmax(-1)]
    assert (data.targets.sum(-1) == 1).all()
    assert np.bincount(data.targets[:, 0].argmax(-1)).min() > 0.8 * 3000 / len(CLASSES[variant])


def test_distractors_are_equally_likely_and_never_relevant():
    data = task("temporal_order").train_batch(0, 2000).take(0)
    counts = dict(zip(SYMBOLS, data.inputs.sum((0, 1)), strict=True))
    assert counts["E"] == counts["B"] == 2000
    assert counts["X"] + counts["Y"] == 4000
    shares = np.array([counts[symbol] for symbol in "abcd"]) / sum(counts[symbol] for symbol in "abcd")
    assert shares == pytest.approx(0.25, abs=0.005)


def test_positions_are_in_proportion_to_t():
    assert task("temporal_order", T=20).positions == [(2, 4), (10, 12)]
    assert task("temporal_order", T=500).positions == [(50, 100), (250, 300)]
    assert task("temporal_order_6b", T=50).positions == [(5, 10), (16, 21), (33, 38)]


def test_an_order_is_right_when_every_output_is_within_03():
    kind = task("temporal_order")
    data = Sequences(np.zeros((3, 1, 8)), np.ones(3, int), np.eye(4)[[0, 1, 2], None])
    outputs = np.array([[0.71, 0.29, 0, 0.1], [0.1, 0.9, 0.31, 0], [0.6, 0, 0.4, 0]])[:, None]
    metrics = kind.measure(outputs, data)
    assert metrics["wrong"] == 2
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["largest_error"] == pytest.approx(0.6)
    assert criteria_met(kind, metrics | kind.measure_recent(np.zeros(2000))) == ["l97"]


def test_training_of_1997_stops_after_2000_right_answers_with_a_mean_error_below_01():
    kind = task("temporal_order_1997")
    l97 = kind.criteria[1]
    assert kind.window == 2000
    assert l97.met(kind.measure_recent(np.full(2000, 0.09)))
    assert not l97.met(kind.measure_recent(np.full(2000, 0.11)))  # all right, but the mean is too large
    assert not l97.met(kind.measure_recent(np.append(np.zeros(1999), 0.3)))  # one wrong
    assert not l97.met(kind.measure_recent(np.append(np.inf, np.zeros(1999))))  # only 1999 seen


# Long lags --------------------------------------------------------------------------------------------------


def test_2a_has_two_sequences_and_the_last_symbol_repeats_the_first_after_p_steps():
    kind = task("long_lag_2a")
    assert (kind.input_size, kind.output_size) == (101, 101)
    data = kind.train_batch(0, 400).take(0)
    strings = [(*symbols_of(data, row), int(data.targets[row, -1].argmax())) for row in range(400)]
    x, y = 99, 100
    between = tuple(range(99))
    assert set(strings) == {(x, *between, x), (y, *between, y)}
    assert strings.count((x, *between, x)) / 400 == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", ["long_lag_2a", "long_lag_2b"])
def test_every_next_symbol_is_a_target(name):
    data = task(name).train_batch(0, 50).take(0)
    assert (data.lengths == 100).all()
    assert (data.targets[:, :-1] == data.inputs[:, 1:]).all()
    assert (data.targets[:, -1] == data.inputs[:, 0]).all()


def test_2b_has_random_symbols_in_between_that_are_never_x_or_y():
    data = task("long_lag_2b").train_batch(0, 1000).take(0)
    between = data.inputs[:, 1:].argmax(-1)
    assert between.shape == (1000, 99)
    assert np.bincount(between.ravel(), minlength=99).min() > 0.8 * 1000
    assert set(np.unique(between)) == set(range(99))
    assert set(np.unique(data.inputs[:, 0].argmax(-1))) == {99, 100}


@pytest.mark.parametrize(("p", "q"), [(100, 100), (50, 200)])
def test_2c_has_q_distractors_or_more_between_the_class_and_the_trigger(p, q):
    kind = task("long_lag", p=p, q=q)
    assert (kind.input_size, kind.output_size) == (p + 4, 2)
    data = kind.train_batch(0, 1500).take(0)
    e, b, x, y = range(p, p + 4)
    for row in range(1500):
        begin, told, *distractors, end = symbols_of(data, row)
        assert (begin, end) == (b, e)
        assert told == (x if data.targets[row, 0, 0] == 1 else y)
        assert len(distractors) >= q
        assert max(distractors) < p
    # The last symbol is a target and not an input, so lengths do not include it.
    symbols = data.lengths + 1
    assert symbols.min() == q + 4
    assert symbols.mean() == pytest.approx(q + 13, abs=5 * (90 / 1500) ** 0.5)  # the variance of k is 90
    assert np.mean(symbols == q + 4) == pytest.approx(0.1, abs=0.04)
    assert data.targets[:, 0].mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.07)
    assert np.bincount(data.inputs[:, 2 : q + 2].argmax(-1).ravel(), minlength=p).min() > 0.8 * 1500 * q / p


@pytest.mark.parametrize(
    ("name", "step", "error", "met"),
    [
        ("long_lag_2a", -1, 0.24, True),
        ("long_lag_2a", -1, 0.26, False),
        ("long_lag_2a", 40, 0.26, False),
        ("long_lag_2b", -1, 0.24, True),
        ("long_lag_2b", -1, 0.26, False),
        ("long_lag_2b", 40, 0.26, True),  # unpredictable symbols do not count
        ("long_lag", -1, 0.19, True),
        ("long_lag", -1, 0.21, False),
    ],
)
def test_no_output_may_be_further_off_than_the_tolerance(name, step, error, met):
    kind = task(name)
    data = kind.validation().take(0)
    outputs = data.targets.astype(np.float64)
    outputs[17, step, 1] += error
    metrics = kind.measure(outputs, data)
    assert criteria_met(kind, metrics) == (["solved"] if met else [])
    assert metrics["wrong"] == (0 if met else 1)
    assert metrics["accuracy"] == 1


# Copy memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 50])
def test_copy_memory_is_as_arjovsky_shah_and_bengio_describe_it(T):
    data = task("copy_memory", T=T).train_batch(0, 300).take(0)
    blank, delimiter = 8, 9
    assert (data.lengths == T + 20).all()
    assert data.inputs.shape == (300, T + 20, 10)
    assert data.targets.shape == (300, T + 20, 9)
    read, answers = data.inputs.argmax(-1), data.targets.argmax(-1)
    assert (data.inputs.sum(-1) == 1).all()
    assert (data.targets.sum(-1) == 1).all()
    assert (read[:, 10 : T + 9] == blank).all()
    assert (read[:, T + 9] == delimiter).all()
    assert (read[:, T + 10 :] == blank).all()
    assert (answers[:, : T + 10] == blank).all()
    assert (answers[:, T + 10 :] == read[:, :10]).all()
    assert np.bincount(read[:, :10].ravel()).tolist() == pytest.approx([375] * 8, rel=0.3)


@pytest.mark.parametrize("T", [50, 100])
def test_remembering_nothing_has_a_loss_of_10_ln_8_over_t_plus_20_and_an_accuracy_of_one_eighth(T):
    kind = task("copy_memory", T=T)
    data = kind.validation().take(0)
    net = np.full((T + 20, 9), -1e4, np.float32)  # before the softmax
    net[: T + 10, 8] = 0  # the blank with probability 1
    net[T + 10 :, :8] = 0  # all symbols equally
    arrays = (np.broadcast_to(net, data.targets.shape), data.targets, data.lengths)
    losses, _ = loss_and_error(*(torch.tensor(array)[None] for array in arrays), kind)
    assert losses.numpy() == pytest.approx(10 * np.log(8) / (T + 20), rel=1e-5)
    assert kind.measure(arrays[0], data)["accuracy"] == pytest.approx(1 / 8, abs=0.03)


def test_accuracy_counts_only_the_remembered_symbols():
    kind = task("copy_memory", T=5)
    data = kind.validation().take(0)
    outputs = data.targets.copy()
    outputs[:, :15] = 0  # blanks do not count
    assert kind.measure(outputs, data) == {"accuracy": 1, "sequences_right": 1}
    outputs[:64, 15] = np.roll(outputs[:64, 15], 1, axis=-1)
    metrics = kind.measure(outputs, data)
    assert metrics == {"accuracy": pytest.approx(1 - 64 / 2560), "sequences_right": 0.75}
    assert criteria_met(kind, metrics) == []
