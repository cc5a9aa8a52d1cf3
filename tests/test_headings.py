"""The words and the order of experiments, for comparisons from small results written by hand."""

from types import SimpleNamespace

import pytest
from handmade import write

from amu_experiments.analysis.comparison import compare
from amu_experiments.analysis.headings import heading, paper_experiments, titled


def heading_of(tmp_path, **task):
    (comparison,) = compare([write(tmp_path, "lstm", [300], task=task)])
    return comparison, heading(comparison)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ({}, "Two-sequence problem 3a (noise-free), T = 100"),
        ({"T": 1000}, "Two-sequence problem 3a (noise-free), T = 1000"),
        ({"N": 1}, "Two-sequence problem 3a (noise-free), T = 100, N = 1"),
        ({"variant": "noisy_input"}, "Two-sequence problem 3b (noisy inputs), T = 100"),
        ({"loss": "half_squared_error"}, "Two-sequence problem 3a (noise-free), T = 100, loss = half_squared_error"),
        (
            {"loss": "half_squared_error", "squash": "logistic", "T": 500},
            "Two-sequence problem 3a (noise-free), T = 500, with the loss and output layer for training=sgd",
        ),
    ],
)
def test_a_comparison_has_the_title_of_its_experiment_with_what_differs(tmp_path, task, text):
    _, found = heading_of(tmp_path, **task)
    assert found.text == text


def test_a_digest_is_a_difference_only_if_the_data_come_from_files():
    found = {experiment.name: experiment for experiment in paper_experiments()}
    for name, differences in {"chorales": {}, "mackey_glass": {}, "gun_point": {"contents": "digest"}}.items():
        comparison = SimpleNamespace(task=found[name].settings | {"contents": "digest"})
        assert found[name].differences(comparison) == differences


@pytest.mark.parametrize(
    ("task", "between"), [({}, False), ({"T": 500}, True), ({"T": 1000}, False), ({"N": 1}, True), ({"T": None}, False)]
)
def test_other_sizes_are_between_unless_they_are_ten_times_as_large(tmp_path, task, between):
    assert heading_of(tmp_path, **task)[1].between == between


@pytest.mark.parametrize("task", [{"variance": 0.5}, {"problem": "my.Task"}, {"own": 1}])
def test_a_comparison_of_no_experiment_has_its_own_name_and_comes_last(tmp_path, task):
    comparison, found = heading_of(tmp_path, **task)
    assert found.text == comparison.name
    assert found.place[0] == len(paper_experiments())


def test_experiments_have_the_order_of_the_plan_and_other_trainings_follow_their_experiment(tmp_path):
    tasks = [{"problem": "own"}, {"variant": "noisy_target"}, {"loss": "half_squared_error"}, {"T": 500}, {}]
    places = [heading_of(tmp_path / str(number), **task)[1].place for number, task in enumerate(tasks)]
    assert sorted(range(5), key=places.__getitem__) == [3, 4, 2, 1, 0]


def test_each_experiment_has_the_settings_of_its_task_file_and_of_its_own():
    found = {experiment.name: experiment for experiment in paper_experiments()}
    assert list(found)[:3] == ["embedded_reber", "embedded_reber_legal", "two_sequence_3a"]
    assert found["embedded_reber_legal"].settings["targets"] == "legal"
    assert found["gun_point"].settings["problem"] == "time_series"
    assert found["gun_point"].settings["name"] == "GunPoint"


def test_a_size_replaces_that_of_the_title():
    assert titled("Adding problem, T = 100", {"T": 1000, "N": 2}) == "Adding problem, T = 1000, N = 2"
