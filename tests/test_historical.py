"""The table of the LSTM of 1997, from small results written by hand and published numbers made up for them."""

import pytest
from handmade import write

from amu_experiments.analysis.comparison import compare
from amu_experiments.analysis.historical import historical_runs, historical_table

PUBLISHED = [
    {
        "source": "Somebody 1901, Table 3",
        "task": {"problem": "two_sequence", "T": 100},
        "statistic": "Means.",
        "remarks": "Rain spoiled the second.",
        "rows": [
            {"method": "slow", "params": 42, "st1": 500, "st2": 600, "again": [{"training.learning_rate": 0.1}]},
            {"method": "quick", "params": 40, "st2": 100, "misclassified": 0.5, "again": [{"model.block_size": 2}]},
            {"method": "another network", "st2": 1},
        ],
    },
    {
        "source": "Somebody 1901, Table 4",
        "task": {"problem": "two_sequence", "T": 1000},
        "statistic": "Means.",
        "rows": [{"method": "slow", "params": 42, "st2": 5000, "again": [{}]}],
    },
]


@pytest.fixture
def table(tmp_path):
    """slow: both trials solved, after 800 and 900. quick: one of two, after 250. A run with Adam does not count."""
    sgd = {"optimizer": "sgd"}
    results = [
        write(tmp_path, "lstm97", [800, 900], identity="1", training=sgd | {"learning_rate": 0.1}),
        write(tmp_path, "lstm97", [250, None], identity="2", training=sgd, model={"block_size": 2}),
        write(tmp_path, "lstm97", [1], identity="3", training={"optimizer": "adam", "learning_rate": 0.1}),
        write(tmp_path, "lstm", [1], identity="4", training=sgd | {"learning_rate": 0.1}),
    ]
    return historical_table(compare(results), PUBLISHED)


def test_a_run_with_published_settings_and_a_budget_of_its_own_is_compared_apart(tmp_path):
    sgd = {"optimizer": "sgd", "learning_rate": 0.1}
    old = write(tmp_path, "lstm97", [800, 900], identity="1", training=sgd | {"max_sequences": 5000})
    others = [write(tmp_path, "lstm", [300], training=sgd), write(tmp_path, "gru", [400], training=sgd)]
    runs = historical_runs([old, *others], PUBLISHED)
    assert runs == {old.identity}
    names = {each.name: [result.model for result in each.results] for each in compare([old, *others], apart=runs)}
    (name,) = (name for name in names if not name.endswith("-as_published"))
    assert names == {name: ["lstm", "gru"], f"{name}-as_published": ["lstm97"]}
    alone = compare([old], apart=runs) + compare(
        [write(tmp_path, "lstm97", [800], identity="1", training=sgd), *others], apart=runs
    )
    assert {each.name for each in alone} == {name}


def test_every_published_mean_has_its_row(table):
    numbers = table.numbers
    assert list(zip(numbers["method"], numbers["criterion"], strict=True)) == [
        ("slow", "st1"),
        ("slow", "st2"),
        ("quick", "st2"),
        ("slow", "st2"),
    ]
    assert numbers["trials"].tolist() == [2, 2, 2, 0]


def test_ratios_are_of_means_over_the_trials_that_solved(table):
    assert table.numbers["mean"].tolist()[:3] == [750, 850, 250]
    assert table.numbers["ratio"].tolist()[:3] == pytest.approx([1.5, 850 / 600, 2.5])
    assert table.text["range"].tolist() == ["700 to 800", "800 to 900", "250 to 250", "-"]


def test_a_run_agrees_within_a_factor_of_two_if_nearly_all_trials_solved(table, tmp_path):
    assert table.text["agrees"].tolist() == ["yes", "yes", "no: too few", "not run"]
    half = write(tmp_path / "half", "lstm97", [600, None], training={"optimizer": "sgd", "learning_rate": 0.1})
    numbers = historical_table(compare([half]), PUBLISHED).numbers
    assert numbers["ratio"][1] == 1
    assert numbers["agrees"][1] == "no: too few"


def test_or_where_the_published_mean_lies_within_the_range(tmp_path):
    times = [200] * 9 + [700]
    far = write(tmp_path, "lstm97", times, training={"optimizer": "sgd", "learning_rate": 0.1})
    numbers = historical_table(compare([far]), PUBLISHED).numbers
    assert numbers["ratio"][1] == pytest.approx(250 / 600)
    assert numbers["agrees"].tolist()[:2] == ["in range", "in range"]


@pytest.mark.parametrize(("times", "agrees"), [([100, 200], "no: faster"), ([3000, 4000], "no: slower")])
def test_or_is_told_to_be_faster_or_slower(tmp_path, times, agrees):
    other = write(tmp_path, "lstm97", times, training={"optimizer": "sgd", "learning_rate": 0.1})
    assert historical_table(compare([other]), PUBLISHED).numbers["agrees"][1] == agrees


def test_what_is_not_run_is_shown_and_remarks_are_told(table):
    assert table.text.iloc[3].tolist()[-6:] == ["not run", "-", "-", "-", "-", "not run"]
    assert "two_sequence: Rain spoiled the second." in table.caption
    assert table.text["params"].tolist()[:3] == ["42", "42", "40 (42 here)"]


def test_runs_with_other_settings_than_the_published_have_rows_of_their_own(tmp_path):
    published = [{**PUBLISHED[1], "task": {"problem": "two_sequence"}}]
    published[0]["rows"] = [
        {"method": "slow", "params": 42, "st2": 500, "again": [{"model.biases": "gates"}, {"model.biases": "all"}]}
    ]
    results = [
        write(tmp_path, "lstm97", times, identity=str(place), training={"optimizer": "sgd"}, model={"biases": biases})
        for place, (biases, times) in enumerate({"gates": [900, None], "all": [500, 500]}.items())
    ]
    table = historical_table(compare(results), published)
    assert table.text["but with"].tolist() == ["-", "model.biases=all"]
    assert table.text["solved here"].tolist() == ["1/2", "2/2"]


def test_trials_are_counted_that_met_a_weaker_test_at_some_evaluation(tmp_path):
    sgd = {"optimizer": "sgd", "learning_rate": 0.1}
    result = write(tmp_path, "lstm97", [800, None, None], training=sgd)
    result.history["slips"] = 1
    result.history.loc[result.history["trial"].eq(1) & result.history["sequences"].eq(300), "slips"] = 0
    result.history.loc[result.history["trial"].eq(0) & result.history["sequences"].eq(800), "slips"] = 0
    table = historical_table(compare([result]), [PUBLISHED[0] | {"weaker": "slips"}])
    assert table.text["solved here"].tolist()[:2] == ["1/3", "1/3"]
    assert table.text["solved by weaker test"].tolist()[:2] == ["2/3", "2/3"]
    assert "Weaker test: slips was 0 at an evaluation." in table.caption


def test_no_table_without_any_such_run(tmp_path):
    assert historical_table(compare([write(tmp_path, "lstm", [300])]), PUBLISHED) is None
    assert historical_table(compare([write(tmp_path, "lstm97", [300])]), PUBLISHED) is None


def test_a_diverged_trial_solved_nothing_whatever_it_met_before(tmp_path):
    training = {"optimizer": "sgd", "learning_rate": 0.1}
    result = write(tmp_path, "lstm97", [800, "diverged"], training=training)
    result.trials.loc[1, "st1_sequences"] = 200
    row = historical_table(compare([result]), PUBLISHED).numbers.iloc[0]
    assert (row["solved"], row["trials"], row["mean"], row["agrees"]) == (1, 2, 700, "no: too few")
