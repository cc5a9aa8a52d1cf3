"""The tasks' data, metrics and criteria against the literature and against worked examples."""

import re

import numpy as np
import pytest
from configured import configuration, rows, task
from hypothesis import given, settings
from hypothesis import strategies as st

from amu_experiments.registry import find_class
from amu_experiments.tasks import make_task
from amu_experiments.tasks.embedded_reber import SYMBOLS, draw_string, encode, legal_next
from amu_experiments.tasks.task import BLOCK, Criterion, Sequences, Task, read_criteria

KINDS = {
    "embedded_reber": {},
    "two_sequence": {"T": 20},
    "noisy_target": {"variant": "noisy_target", "T": 20},
    "adding": {"T": 20},
    "adding_1997": {"T": 20},
}


def make(kind, trials):
    return task("two_sequence" if kind == "noisy_target" else kind, trials, **KINDS[kind])


# The stream of a trial --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_trials_stream_depends_only_on_its_number_and_the_position(kind):
    total = 2 * BLOCK + 50
    expected = rows(make(kind, [7]).train_batch(0, total))
    shared = make(kind, [3, 7, 5])

    @settings(max_examples=20, deadline=None, database=None)
    @given(st.lists(st.integers(0, total), max_size=8))
    def check(cuts):
        edges = sorted({0, total, *cuts})
        pieces = [rows(shared.train_batch(a, b - a), trial=1) for a, b in zip(edges, edges[1:], strict=False)]
        assert sum(pieces, []) == expected

    check()
    shared.select_trials([1, 2])
    assert shared.trials == [7, 5]
    assert rows(shared.train_batch(200, 300)) == expected[200:500]
    assert rows(shared.validation()) == rows(make(kind, [7]).validation())
    assert rows(shared.test()) == rows(make(kind, [7]).test())
    assert rows(shared.train_batch(0, 50), trial=1) != expected[:50]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_zero_and_no_longer_than_needed(kind):
    data = make(kind, range(3)).train_batch(0, 40)
    assert data.inputs.dtype == data.targets.dtype == np.float32
    assert data.lengths.dtype == np.int64
    assert data.inputs.shape[:2] == data.lengths.shape == data.targets.shape[:2] == (3, 40)
    past = np.arange(data.inputs.shape[2]) >= data.lengths[:, :, None]
    assert not data.inputs[past].any()
    assert data.inputs.shape[2] == data.lengths.max()
    if data.targets.shape[2] > 1:
        assert not data.targets[past].any()


@pytest.mark.parametrize("kind", ["two_sequence", "adding", "adding_1997"])
def test_training_validation_and_test_data_are_different_sequences(kind):
    kind = make(kind, [0])
    streams = [rows(kind.train_batch(0, 500)), rows(kind.validation()), rows(kind.test())]
    assert [len(stream) for stream in streams] == [500, 256, 2560]
    assert len(set(sum(streams, []))) == 500 + 256 + 2560


def test_every_pass_has_the_whole_training_set_in_a_new_order():
    reber = task("embedded_reber")
    passes = [rows(reber.train_batch(256 * number, 256)) for number in range(3)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])
    assert passes[0] != passes[1] != passes[2] != passes[0]


# Criteria and options ---------------------------------------------------------------------------------------


def test_a_criterion_is_met_when_all_its_conditions_hold():
    criterion = Criterion("st2", {"wrong": "== 0", "mean_error": "< 0.01"})
    assert criterion.met({"wrong": 0, "mean_error": 0.009})
    assert not criterion.met({"wrong": 0, "mean_error": 0.01})
    assert not criterion.met({"wrong": 1, "mean_error": 0.009})
    assert not criterion.met({"wrong": 0, "mean_error": float("nan")})
    assert Criterion("good", {"accuracy": ">= 0.9"}).met({"accuracy": 0.9})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"a": {"mse": "0.01"}}, "a.mse='0.01' is not a condition; give a comparison"),
        ({"a": {"mse": "~ 0.01"}}, "is not a condition"),
        ({"a": {"mse": "< small"}}, "is not a condition"),
        ({"a": {"accuracy": "> 0.9"}}, "'accuracy', which is not a metric of this task; it has loss, mse"),
        ({"a": "mse < 0.01"}, "has no conditions"),
        ({"a": {}}, "has no conditions"),
    ],
)
def test_a_malformed_criterion_is_an_error_with_its_cause(section, message):
    with pytest.raises(ValueError, match="task.criteria: .*" + re.escape(message)):
        read_criteria(section, ("mse",))


@pytest.mark.parametrize(
    ("name", "changes", "names"),
    [
        ("embedded_reber", {}, "rc erc l97"),
        ("two_sequence", {"variant": "noise_free"}, "st1 st2"),
        ("two_sequence", {"variant": "noisy_input"}, "st1 st2"),
        ("two_sequence", {"variant": "noisy_target"}, "st1 st2"),
        ("adding", {}, "solved"),
        ("adding", {"form": 1997}, "solved l97"),
        ("adding_1997", {}, "solved l97"),
    ],
)
def test_every_variant_has_its_criteria_and_stops_at_one(name, changes, names):
    criteria = [criterion.name for criterion in task(name, **changes).criteria]
    assert criteria == names.split()
    assert configuration(name)["training"]["stop"] in criteria


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "adding",
            {"problem": "addng"},
            "task.problem: 'addng' is not a task; choose one of adding, chorales, copy_memory",
        ),
        ("adding", {"problem": "task"}, "task.problem: 'task' is not a task"),
        ("adding", {"problem": "series_files"}, "task.problem: 'series_files' is not a task"),
        ("adding", {"problem": "next_value"}, "task.problem: 'next_value' is not a task"),
        ("adding", {"t": 50}, "task.t is not an option of adding, which has form, T,"),
        ("adding", {"form": "old"}, "task.form=old: must be one of modern, 1997"),
        ("adding", {"form": "1997", "T": 10}, "task.T=10: must be at least 11 with task.form=1997"),
        ("adding", {"T": 10.5}, "task.T=10.5: must be a whole number from 2 to 1000000"),
        (
            "adding",
            {"squash": "logistic"},
            "task.squash=logistic cannot reach the targets of task.form=modern",
        ),
        ("two_sequence", {"T": 2}, "task.N=3: must be at most task.T=2"),
        (
            "two_sequence",
            {"targets": {"noise_free": [0.0]}},
            "task.targets.noise_free=[0.0]: must be two different numbers",
        ),
        ("two_sequence", {"variant": "noisy"}, "task.variant=noisy: must be one of noise_free, noisy_input"),
        ("two_sequence", {"variance": -0.2}, "task.variance=-0.2: must be a number above 0"),
        ("two_sequence", {"criteria": {"a": {}}}, "task.criteria has no section for noise_free; it has a"),
        ("adding", {"loss": "binary_cross_entropy"}, "task.loss=binary_cross_entropy is of logistic outputs"),
        ("embedded_reber", {"loss": "hinge"}, "task.loss=hinge: must be one of cross_entropy, squared_error"),
        ("embedded_reber", {"strings": True}, "task.strings=true: must be a whole number"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_it(name, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        task(name, **changes)


def test_a_missing_option_is_named():
    with pytest.raises(ValueError, match="task.T is missing"):
        make_task({"problem": "adding", "form": "modern"}, [0])


def test_a_class_is_found_by_the_name_of_its_module():
    assert find_class("amu_experiments.tasks", "two_sequence", Task).__name__ == "TwoSequence"


# Embedded Reber grammar -------------------------------------------------------------------------------------

# The grammar as a regular expression, worked out by hand from the transition diagrams.
_REBER = "B(?:TS*X(?:SE|XT*V(?:PXT*V)*(?:PSE|VE))|PT*V(?:PXT*V)*(?:PSE|VE))"
EMBEDDED = re.compile(f"B([TP]){_REBER}\\1E")


def decode(sequences):
    """The strings of one trial's sequences."""
    strings = []
    for x, y, length in zip(sequences.inputs, sequences.targets, sequences.lengths, strict=True):
        symbols = [*x[:length].argmax(-1), y[length - 1].argmax()]
        strings.append("".join(SYMBOLS[symbol] for symbol in symbols))
    return strings


@pytest.mark.parametrize(
    ("prefix", "legal"),
    {
        "B": "TP",
        "BT": "B",
        "BP": "B",
        "BTB": "TP",
        "BTBT": "SX",
        "BTBTS": "SX",
        "BTBTX": "SX",
        "BTBTXX": "TV",
        "BTBTXXV": "PV",
        "BTBTXXVP": "SX",
        "BTBTXS": "E",
        "BTBTXSE": "T",
        "BTBTXSET": "E",
        "BPBPVVE": "P",
        "BPBPVVEP": "E",
        "BPBP": "TV",
        "BPBPTTV": "PV",
    }.items(),
)
def test_the_legal_symbols_after_a_prefix(prefix, legal):
    mask = legal_next(encode([prefix + "E"]).inputs)[0, -1]
    assert {SYMBOLS[symbol] for symbol in np.flatnonzero(mask)} == set(legal)


@pytest.mark.parametrize("string", ["BTBTXSETE", "BPBPVVEPE", "BTBTSSXXTVVETE", "BPBTXXVPSEPE"])
def test_worked_strings_are_predictable_throughout(string):
    data = encode([string])
    assert decode(data) == [string]
    assert (legal_next(data.inputs) | (data.targets == 0)).all()
    assert EMBEDDED.fullmatch(string)


def test_drawn_strings_follow_the_grammar_and_its_probabilities():
    rng = np.random.default_rng(0)
    strings = [draw_string(rng) for _ in range(4000)]
    assert all(EMBEDDED.fullmatch(string) for string in strings)
    assert all(string[1] == string[-2] for string in strings)
    assert min(map(len, strings)) == 9
    # Each of the two shortest Reber strings in each branch takes four binary choices.
    for string, probability in {"BTBTXSETE": 1 / 16, "BPBPVVEPE": 1 / 16, "BPBTXSEPE": 1 / 16}.items():
        assert strings.count(string) / 4000 == pytest.approx(probability, abs=5 * (1 / 16 / 4000) ** 0.5)
    assert np.mean([string[1] == "T" for string in strings]) == pytest.approx(0.5, abs=0.04)


def test_no_test_string_is_a_training_string():
    reber = task("embedded_reber", trials=[0, 1])
    for trial in (0, 1):
        training = decode(reber.train_batch(0, 256).take(trial))
        validation = decode(reber.validation().take(trial))
        further = decode(reber.test().take(trial))
        assert len(validation) == 512
        assert len(further) == 256
        assert sorted(validation[256:]) == sorted(training)
        assert not set(training) & set(validation[:256])
        assert not set(training) & set(further)
        assert len(set(training)) < 256  # drawn with repetition
        assert all(EMBEDDED.fullmatch(string) for string in training + validation + further)


def reber_outputs(wrong=()):
    """Metrics, and criteria met, of outputs that are wrong only at these (string, position from its end)."""
    reber = task("embedded_reber")
    data = reber.validation().take(0)
    outputs = np.random.default_rng(0).random(data.targets.shape)
    for row, length in enumerate(data.lengths):
        outputs[row, :length] += 2 * legal_next(data.inputs[row : row + 1])[0, :length]
    for row, position in wrong:
        outputs[row, data.lengths[row] - position] = 1
    metrics = reber.measure(outputs, data)
    return metrics, [criterion.name for criterion in reber.criteria if criterion.met(metrics)]


def test_a_position_is_right_when_the_legal_symbols_are_the_most_active():
    metrics, met = reber_outputs()
    counts = ("wrong_positions", "wrong_positions_rc", "train_wrong_positions", "illegal_choices")
    assert metrics == dict.fromkeys(counts, 0) | {"strings_right": 1}
    assert met == ["rc", "erc", "l97"]


def test_the_criteria_differ_in_the_strings_and_positions_that_count():
    metrics, met = reber_outputs(wrong=[(5, 1), (5, 2), (9, 2)])  # the last two answers of test strings
    assert met == ["rc"]
    assert metrics["wrong_positions"] == 3
    assert metrics["strings_right"] == 254 / 256
    metrics, met = reber_outputs(wrong=[(5, 3)])
    assert met == []
    assert metrics["wrong_positions"] == metrics["wrong_positions_rc"] == 1
    metrics, met = reber_outputs(wrong=[(256 + 5, 4)])  # a training string
    assert met == ["rc", "erc"]
    assert metrics["train_wrong_positions"] == 1
    assert metrics["strings_right"] == 1


def test_a_choice_is_legal_if_the_most_active_output_is_even_where_another_legal_one_is_not_active():
    reber = task("embedded_reber")
    data = reber.validation().take(0)
    first_legal = legal_next(data.inputs).argmax(axis=-1)
    metrics = reber.measure(np.eye(7)[first_legal], data)
    assert metrics["illegal_choices"] == 0
    assert metrics["wrong_positions"] > 0
    metrics = reber.measure(1 - np.eye(7)[first_legal], data)
    assert metrics["illegal_choices"] > 0


def test_test_strings_are_measured_without_the_training_strings():
    reber = task("embedded_reber")
    data = reber.test().take(0)
    metrics = reber.measure(np.zeros_like(data.targets), data)
    assert metrics["wrong_positions"] == data.lengths.sum()
    assert np.isnan(metrics["train_wrong_positions"])


# Two-sequence problem ---------------------------------------------------------------------------------------


def test_the_class_is_the_sign_of_the_first_n_inputs():
    data = task("two_sequence").train_batch(0, 4000).take(0)
    first = data.inputs[:, :3, 0]
    assert set(np.unique(first)) == {-1, 1}
    assert (first == first[:, :1]).all()
    assert ((first[:, 0] > 0) == (data.targets[:, 0, 0] == 1)).all()
    assert ((first[:, 0] < 0) == (data.targets[:, 0, 0] == 0)).all()
    assert data.targets.mean() == pytest.approx(0.5, abs=0.04)


def test_lengths_are_uniform_from_t_to_a_tenth_more():
    lengths = task("two_sequence").train_batch(0, 5000).lengths
    counts = np.bincount(lengths.ravel())
    assert np.flatnonzero(counts).tolist() == list(range(100, 111))
    assert counts[100:].min() > 5000 / 11 * 0.75


def test_distractors_are_gaussian_with_mean_0_and_variance_one_fifth():
    data = task("two_sequence").train_batch(0, 4000).take(0)
    steps = np.arange(data.inputs.shape[1])
    noise = data.inputs[:, :, 0][(steps >= 3) & (steps < data.lengths[:, None])]
    assert noise.mean() == pytest.approx(0, abs=0.005)
    assert noise.var() == pytest.approx(0.2, rel=0.02)
    assert np.mean(np.abs(noise) < 0.2**0.5) == pytest.approx(0.6827, abs=0.005)


def test_noisy_input_has_noise_of_the_same_variance_on_the_first_n_inputs():
    data = task("two_sequence", variant="noisy_input").train_batch(0, 4000).take(0)
    noise = data.inputs[:, :3, 0] - np.where(data.targets[:, 0] == 1, 1, -1)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.var() == pytest.approx(0.2, rel=0.05)


def test_noisy_target_has_noise_of_variance_one_tenth_on_training_targets_only():
    noisy = task("two_sequence", variant="noisy_target")
    data = noisy.train_batch(0, 4000).take(0)
    positive = data.inputs[:, 0, 0] > 0
    noise = data.targets[:, 0, 0] - np.where(positive, 0.2, 0.8)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.var() == pytest.approx(0.1, rel=0.08)
    for data in (noisy.validation().take(0), noisy.test().take(0)):
        expected = np.where(data.inputs[:, 0, 0] > 0, 0.2, 0.8)
        assert data.targets[:, 0, 0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("variant", "errors", "met"),
    [
        ("noise_free", {0: 0.21}, []),
        ("noise_free", {0: -0.19, 1: 0.19}, ["st1", "st2"]),
        ("noise_free", dict.fromkeys(range(256), 0.02), ["st1"]),
        ("noisy_input", dict.fromkeys(range(6), 0.9), []),
        ("noisy_input", dict.fromkeys(range(5), 0.9), ["st1", "st2"]),
        ("noisy_input", dict.fromkeys(range(256), 0.05), ["st1"]),
        ("noisy_target", {7: -0.11}, []),
        ("noisy_target", {7: 0.09}, ["st1", "st2"]),
        ("noisy_target", dict.fromkeys(range(256), 0.016), ["st1"]),
        ("noisy_target", {0: float("nan")}, []),
    ],
)
def test_stopping_criteria_of_experiments_3a_3b_3c(variant, errors, met):
    kind = task("two_sequence", variant=variant)
    data = kind.validation().take(0)
    outputs = data.targets.astype(np.float64)
    for row, error in errors.items():
        outputs[row] += error
    metrics = kind.measure(outputs, data)
    assert [criterion.name for criterion in kind.criteria if criterion.met(metrics)] == met


def test_two_sequence_metrics_of_a_worked_example():
    kind = task("two_sequence")
    data = Sequences(np.zeros((4, 1, 1)), np.ones(4, int), np.array([1, 1, 0, 0]).reshape(4, 1, 1))
    metrics = kind.measure(np.array([1.1, 0.4, 0.3, 0.0]).reshape(4, 1, 1), data)
    assert metrics["largest_error"] == pytest.approx(0.6)
    assert metrics["mean_error"] == pytest.approx(0.25)
    assert metrics["wrong"] == 2  # errors 0.6 and 0.3 are not below 0.2
    assert metrics["accuracy"] == 0.75  # 0.3 is nearer to 0 than to 1


# Adding problem ---------------------------------------------------------------------------------------------


def test_modern_adding_has_one_mark_in_each_half_and_their_sum_as_target():
    data = task("adding").train_batch(0, 3000).take(0)
    values, marks = data.inputs[:, :, 0], data.inputs[:, :, 1]
    assert (data.lengths == 100).all()
    assert set(np.unique(marks)) == {0, 1}
    assert (marks[:, :50].sum(1) == 1).all()
    assert (marks[:, 50:].sum(1) == 1).all()
    assert (marks.sum(0) > 0).all()
    assert data.targets[:, 0, 0] == pytest.approx((values * marks).sum(1), abs=1e-6)
    assert values.min() >= 0
    assert values.max() <= 1
    assert values.mean() == pytest.approx(0.5, abs=0.005)


def test_always_predicting_1_scores_one_sixth_at_modern_adding():
    kind = task("adding")
    data = kind.test().take(0)
    metrics = kind.measure(np.ones_like(data.targets), data)
    assert metrics["mse"] == pytest.approx(1 / 6, abs=0.02)
    assert metrics["mean_error"] == pytest.approx(1 / 3, abs=0.02)
    assert not kind.criteria[0].met(metrics)
    assert kind.criteria[0].met(kind.measure(data.targets + 0.09, data))


def test_adding_of_1997_is_as_hochreiter_and_schmidhuber_describe_it():
    kind = task("adding_1997")
    data = kind.train_batch(0, 6000).take(0)
    values, marks, last = data.inputs[:, :, 0], data.inputs[:, :, 1], data.lengths - 1
    rows_ = np.arange(6000)
    marked = marks == 1
    assert (marked.sum(1) == 2).all()
    assert set(np.unique(data.lengths)) == set(range(100, 111))
    assert (marks[rows_, last] == -1).all()
    first_marked = marked[:, 0]
    assert (marks[~first_marked, 0] == -1).all()
    assert (values[first_marked, 0] == 0).all()
    # As the first of ten with probability 0.1, or else as the first of 49 unmarked pairs.
    assert first_marked.mean() == pytest.approx(0.1 + 0.9 / 49, abs=0.02)
    inner = marks.copy()
    inner[rows_, 0] = inner[rows_, last] = 0
    assert set(np.unique(inner)) == {0, 1}
    positions = np.sort(np.argwhere(marked)[:, 1].reshape(-1, 2), axis=1)
    assert (positions[:, 0] < 10).all()
    assert positions[:, 1].max() == 49  # the last of 49 unmarked pairs, with a marked one before it
    assert values.min() < -0.99
    assert values.max() > 0.99
    assert data.targets[:, 0, 0] == pytest.approx(0.5 + (values * marked).sum(1) / 4, abs=1e-6)


def test_a_sequence_of_1997_is_wrong_from_an_error_of_004():
    kind = task("adding_1997")
    data = Sequences(np.zeros((3, 1, 2)), np.ones(3, int), np.full((3, 1, 1), 0.5))
    metrics = kind.measure(np.array([0.5, 0.53, 0.45]).reshape(3, 1, 1), data)
    assert metrics["wrong"] == 1
    assert metrics["mean_error"] == pytest.approx(0.08 / 3)
    assert metrics["mse"] == pytest.approx((0.03**2 + 0.05**2) / 3)


def test_training_of_1997_stops_after_2000_right_answers_with_a_mean_error_below_001():
    kind = task("adding_1997")
    l97 = kind.criteria[1]
    assert kind.window == 2000
    right = np.full(2000, 0.005)
    assert l97.met(kind.measure_recent(right))
    assert not l97.met(kind.measure_recent(np.full(2000, 0.02)))  # all right, but the mean is too large
    assert not l97.met(kind.measure_recent(np.append(right[1:], 0.05)))  # one wrong
    assert not l97.met(kind.measure_recent(np.append(np.inf, right[1:])))  # only 1999 seen


def test_the_modern_form_has_no_training_window():
    assert task("adding").window == 0
    assert task("adding").recent_metrics == ()


# Constants --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "weights"), [("two_sequence", 102), ("adding_1997", 93)])
def test_networks_are_of_the_size_of_1997_and_tested_on_2560_sequences(name, weights):
    assert configuration(name)["model"]["parameters"] == weights
    assert configuration(name)["task"]["test_size"] == 2560
    assert configuration(name)["task"]["T"] == 100


def test_reber_networks_are_of_the_size_of_1997():
    assert 264 <= configuration("embedded_reber")["model"]["parameters"] <= 280
    assert configuration("embedded_reber")["task"]["strings"] == 256
