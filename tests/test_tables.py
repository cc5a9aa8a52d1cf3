"""Tables made from small results written by hand: what is compared with what, and what the cells say."""

import io
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from handmade import write

from amu_experiments.analysis import statistics
from amu_experiments.analysis.comparison import against, compare, condition, final_values
from amu_experiments.analysis.tables import Table, criteria_table, metrics_table, published_table, run_table, tables
from amu_experiments.analysis.text import printable
from amu_experiments.conf_files import conf_dir


@pytest.fixture
def published():
    return yaml.safe_load((conf_dir() / "published.yaml").read_text())


@pytest.fixture
def comparison(tmp_path):
    """AMU: 3 of 4 solve; LSTM: 1 of 3, one diverged; RNN: one trial, unsolved."""
    results = [
        write(tmp_path, "rnn", [None]),
        write(tmp_path, "lstm", ["diverged", 900, None]),
        write(tmp_path, "amu", [300, 400, 500, None]),
    ]
    (comparison,) = compare(results)
    return comparison


def row(table, **values):
    """The one row of a table's numbers with these values."""
    numbers = table.numbers
    for column, value in values.items():
        numbers = numbers[numbers[column] == value]
    assert len(numbers) == 1
    return numbers.iloc[0]


# What is compared with what


def test_equal_tasks_are_one_comparison_with_the_best_row_first(comparison):
    assert comparison.name == "two_sequence-noise_free-T100-N3"
    assert comparison.labels == ["amu", "lstm", "rnn"]
    assert comparison.criteria == ["st1", "st2"]


def test_rows_are_ranked_by_share_solved_then_by_median_then_by_loss(tmp_path):
    ends = {
        "amu": [None, None, None],
        "rnn": [200, None, None],
        "gru": [800, 800, 800],
        "lstm97": [500, 500, 500],
        "lstm": [500, 500, 500],
    }
    results = [write(tmp_path, cell, own) for cell, own in ends.items()]
    results[-1].trials["test_loss"] /= 2
    (comparison,) = compare(results)
    assert comparison.labels == ["lstm", "lstm97", "gru", "rnn", "amu"]
    for table in tables(comparison, []):
        assert table.numbers["model"].tolist()[:5] == comparison.labels
        assert (
            "The best row comes first, by share solved and median sequences of st2, then by median test_loss."
            in table.caption
        )


def test_the_criterion_that_ends_most_rows_ranks_them(tmp_path):
    results = [
        write(tmp_path, "amu", [300, None], training={"stop": None}),
        *(write(tmp_path, cell, [400, 500], training={"stop": "st1"}) for cell in ("gru", "lstm")),
    ]
    results[0].trials["st1_sequences"] = 100
    (comparison,) = compare(results)
    assert comparison.stop == "st1"
    assert comparison.results[0].model == "amu"


def test_rows_without_a_criterion_are_ranked_by_their_loss_on_test_data(tmp_path):
    results = [write(tmp_path, cell, [None, None], task={"criteria": {}}) for cell in ("amu", "gru", "lstm")]
    for result, loss in zip(results, (0.3, 0.1, np.nan), strict=True):
        result.trials.drop(columns=["st1_sequences", "st2_sequences"], inplace=True)
        result.trials["test_loss"] = loss
    (comparison,) = compare(results)
    assert comparison.stop is None
    assert comparison.labels == ["gru", "amu", "lstm"]
    assert "The best row comes first, by median test_loss." in metrics_table(comparison).caption


def test_other_task_settings_are_other_comparisons_in_order_of_size(tmp_path):
    results = [write(tmp_path, "amu", [300], identity=str(size), task={"T": size}) for size in (1000, 100, 50)]
    names = [comparison.name for comparison in compare(results)]
    assert names == [f"two_sequence-noise_free-T{size}-N3" for size in (50, 100, 1000)]


def test_comparisons_that_would_have_the_same_name_say_what_differs(tmp_path):
    quiet, noisy = ({"variance": variance} for variance in (0.1, 0.2))
    results = [
        write(tmp_path, "amu", [300], identity="a", task=quiet),
        write(tmp_path, "amu", [300], identity="b", task=noisy),
    ]
    names = {comparison.name for comparison in compare(results)}
    assert names == {f"two_sequence-noise_free-T100-N3-variance{variance}" for variance in (0.1, 0.2)}


def test_labels_tell_what_differs_between_rows_of_a_model_and_nothing_else(tmp_path):
    results = [
        write(tmp_path, "amu", [300], identity="a", model={"gradient": "truncated"}),
        write(tmp_path, "amu", [300], identity="b", model={"gradient": "full"}),
        write(tmp_path, "lstm", [300], training={"learning_rate": 0.1}),
    ]
    (comparison,) = compare(results)
    assert comparison.labels == ["amu (gradient=truncated)", "amu (gradient=full)", "lstm"]


def test_a_learning_rate_is_told_only_where_rows_would_be_alike_without(tmp_path):
    settings = [("truncated", 0.1), ("full", 0.1), ("full", 0.2)]
    results = [
        write(tmp_path, "amu", [300], model={"gradient": gradient}, training={"learning_rate": rate})
        for gradient, rate in settings
    ]
    (comparison,) = compare(results)
    assert comparison.labels == [
        "amu (gradient=truncated)",
        "amu (gradient=full, learning_rate=0.1)",
        "amu (gradient=full, learning_rate=0.2)",
    ]


def test_rows_with_other_budgets_show_it_whatever_their_model(tmp_path):
    results = [
        write(tmp_path, "amu", [300]),
        write(tmp_path, "lstm", [300], training={"max_sequences": 2000}),
    ]
    (comparison,) = compare(results)
    assert comparison.labels == ["amu (max_sequences=1,000)", "lstm (max_sequences=2,000)"]
    assert "Rows differ in max_sequences" in criteria_table(comparison).caption


def test_the_reference_is_the_amu_with_most_trials(tmp_path):
    results = [
        write(tmp_path, "amu", [300, 400], identity="a", model={"gradient": "full"}),
        write(tmp_path, "amu", [300, 400, 500], identity="b", model={"gradient": "truncated"}),
        write(tmp_path, "lstm", [300] * 9),
    ]
    table = criteria_table(*compare(results))
    assert "log-rank test against amu (gradient=truncated)" in table.caption
    assert table.text["p (Holm)"].tolist().count("reference") == len(["st1", "st2"])


def test_among_equals_the_reference_is_the_one_the_others_are_variations_of(tmp_path):
    base = {"gradient": "truncated", "output": "neuron"}
    variations = [base | {"gradient": "full"}, base | {"output": "linear"}, base, base | {"output": "memory"}]
    results = [
        write(tmp_path, "amu", [300], identity=str(place), model=model) for place, model in enumerate(variations)
    ]
    (comparison,) = compare(results)
    assert comparison.labels[comparison.reference] == "amu (gradient=truncated, output=neuron)"


def test_models_of_several_sizes_are_tested_against_the_amu_of_their_size(tmp_path):
    """The small LSTM is like the small AMU and the large one like the large AMU, so nothing differs."""
    fast, slow = [100, 200, 300, 400], [600, 700, 800, 900]
    rows = [
        write(tmp_path, cell, ends, model={"units": units}, parameters=parameters)
        for cell, ends, units, parameters in (
            ("amu", slow, 3, 112),
            ("amu", fast, 10, 1001),
            ("lstm", slow, 4, 101),
            ("lstm", fast, 15, 1036),
        )
    ]
    (compared,) = compare(rows)
    table = criteria_table(compared)
    p = dict(zip(table.numbers["model"], table.text["p (Holm)"], strict=True))
    assert p == {
        "amu (units=3)": "reference",
        "amu (units=10)": "reference",
        "lstm (units=4)": "1.000",
        "lstm (units=15)": "1.000",
    }
    assert dict(zip(table.text["model"], table.text["against"], strict=True)) == {
        "amu (units=3)": "",
        "amu (units=10)": "",
        "lstm (units=4)": "amu (units=3)",
        "lstm (units=15)": "amu (units=10)",
    }
    assert "the reference with the nearest number of parameters, named in each row, Holm-corrected for the 2 tests" in (
        table.caption
    )
    (asked,) = against([compared], "amu (units=3)")
    assert criteria_table(asked).text["p (Holm)"].tolist().count("reference") == len(asked.criteria)
    assert "against" not in criteria_table(asked).text
    (sizes,) = compare(rows[:2])
    assert criteria_table(sizes).numbers["p_holm"].notna().sum() == len(sizes.criteria)


def test_the_amu_is_the_reference_wherever_it_ranks(tmp_path):
    results = [write(tmp_path, cell, ends) for cell, ends in (("amu", [900]), ("gru", [300]), ("lstm", [None]))]
    (comparison,) = compare(results)
    table = criteria_table(comparison)
    assert table.text["model"].tolist() == ["gru", "amu", "lstm"] * 2
    assert table.text["p (Holm)"].str.contains("reference").tolist() == [False, True, False] * 2
    assert "test against amu, Holm-corrected for the 2 tests of each criterion. The log-rank" in table.caption
    gru, lstm = (row(table, criterion="st2", model=model) for model in ("gru", "lstm"))
    p = [statistics.logrank(*comparison.times(1, "st2"), *comparison.times(other, "st2")) for other in (0, 2)]
    assert [gru["p_logrank"], lstm["p_logrank"]] == p
    assert [gru["p_holm"], lstm["p_holm"]] == statistics.holm(p).tolist()


def test_without_an_amu_the_best_row_is_the_reference(tmp_path):
    results = [write(tmp_path, cell, ends) for cell, ends in (("gru", [700]), ("lstm", [400]))]
    table = criteria_table(*compare(results))
    assert table.text[["model", "p (Holm)"]].to_numpy().tolist() == [["lstm", "reference"], ["gru", "0.317"]] * 2
    assert "test against lstm. The reference is the best row, because there is no AMU. The log-rank" in table.caption
    table = criteria_table(*compare([*results, write(tmp_path, "rnn", [None])]))
    assert "it was chosen by its results, so p is somewhat too small." in table.caption


def test_a_single_row_has_no_column_of_p_values(tmp_path):
    table = criteria_table(*compare([write(tmp_path, "amu", [300])]))
    assert "p (Holm)" not in table.text
    assert table.numbers["p_holm"].isna().all()
    assert "No p-values: there is only one row." in table.caption
    assert "log-rank" not in table.caption


def test_a_comparison_without_the_named_reference_has_no_column_of_p_values(tmp_path):
    results = [write(tmp_path, cell, [300], task={"T": T}) for T, cells in ((50, "ab"), (100, "bc")) for cell in cells]
    lacks, has = against(compare(results), "c")
    assert [table.text.get("p (Holm)") for table in tables(lacks, [])] == [None, None]
    assert all("No p-values: no row is named c." in table.caption for table in tables(lacks, []))
    for table in tables(has, []):
        assert "test against c. " in table.caption
        assert "chosen" not in table.caption
        assert table.numbers.loc[table.numbers["p_holm"].isna(), "model"].unique().tolist() == ["c"]


def test_a_reference_is_named_by_its_label_or_by_its_model_if_that_has_one_row(tmp_path):
    results = [
        write(tmp_path, cell, [300], model={"note": note}) for cell, note in (("a", "x"), ("a", "y"), ("b", "x"))
    ]
    comparisons = compare(results)
    for name, label in (("a (note=y)", "a (note=y)"), ("b", "b")):
        (comparison,) = against(comparisons, name)
        assert comparison.labels[comparison.reference] == label
    with pytest.raises(LookupError, match=r"a names several rows of two_sequence.*: a \(note=x\); a \(note=y\); give "):
        against(comparisons, "a")
    with pytest.raises(LookupError, match=r"no row is named c; possible are b; a \(note=x\); a \(note=y\)$"):
        against(comparisons, "c")


# What the numbers are


def test_unsolved_trials_are_censored_where_they_ended_and_diverged_ones_at_the_cap(comparison):
    times, solved = comparison.times(0, "st2")
    assert times.tolist() == [300, 400, 500, 1000]
    assert solved.tolist() == [True, True, True, False]
    # The diverged trial of the LSTM ended after 300 sequences.
    times, solved = comparison.times(1, "st2")
    assert times.tolist() == [1000, 900, 1000]
    assert solved.tolist() == [False, True, False]


def test_the_cap_is_the_largest_budget_of_the_comparison(tmp_path):
    results = [
        write(tmp_path, "amu", ["diverged"]),
        write(tmp_path, "lstm", [300], training={"max_sequences": 5000}),
    ]
    (comparison,) = compare(results)
    assert [comparison.times(row, "st2")[0].tolist() for row in (0, 1)] == [[300], [5000]]


def test_criteria_table_has_the_statistics_of_its_rows(comparison):
    table = criteria_table(comparison)
    amu, lstm, rnn = (row(table, criterion="st2", model=model) for model in ("amu", "lstm", "rnn"))
    assert (amu["trials"], amu["solved"], amu["parameters"], amu["units"], amu["diverged"]) == (
        4,
        3,
        42,
        3,
        0,
    )
    assert amu["median_sequences"] == 400
    assert (lstm["trials"], lstm["solved"], lstm["diverged"]) == (3, 1, 1)
    assert lstm["median_sequences"] == np.inf
    p = [statistics.logrank(*comparison.times(0, "st2"), *comparison.times(other, "st2")) for other in (1, 2)]
    assert [lstm["p_logrank"], rnn["p_logrank"]] == p
    assert [lstm["p_holm"], rnn["p_holm"]] == statistics.holm(p).tolist()
    assert row(table, criterion="st1", model="amu")["median_sequences"] == 300


def test_criteria_table_reads_well(comparison):
    table = criteria_table(comparison)
    text = table.text[table.text["criterion"] == "st2"].drop(columns="p (Holm)")
    assert text.to_numpy().tolist() == [
        ["st2", "amu", "42", "3", "0", "1", "3/4 [0.30, 0.95]", "400 [300, n.r.]"],
        ["st2", "lstm", "42", "3", "1", "1", "1/3 [0.06, 0.79]", "not reached [900, n.r.]"],
        ["st2", "rnn", "42", "3", "0", "1", "0/1 [0.00, 0.79]", "not reached"],
    ]
    assert "st2: wrong == 0 and mean_error < 0.01" in table.caption
    assert "Holm-corrected for the 2 tests of each criterion" in table.caption
    assert "a diverged one at 1,000" in table.caption
    assert "at most 1,000 sequences, a trial ends when it meets st2" in table.caption


def test_a_diverged_trial_has_the_worst_of_every_metric(comparison):
    lstm = comparison.results[1]
    assert final_values(lstm, "test_mean_error").tolist() == [np.inf, 0.0051, 0.5]
    assert final_values(lstm, "test_accuracy").tolist() == [-np.inf, 0.9949, 0.5]
    table = metrics_table(comparison)
    assert row(table, metric="test_accuracy", model="lstm")["median"] == 0.5
    assert row(table, metric="test_mean_error", model="lstm")["median"] == 0.5
    text = table.text.set_index(["metric", "model"])["median"]
    assert text["test_mean_error", "lstm"] == "0.500 [0.00510, diverged]"
    assert "A diverged trial counts as worse than any other." in table.caption


def test_a_row_of_diverged_trials_only_stays_in_the_table(tmp_path):
    results = [write(tmp_path, "amu", ["diverged"] * 2), write(tmp_path, "lstm", [300, 400])]
    table = metrics_table(*compare(results))
    assert row(table, metric="test_loss", model="amu")["median"] == np.inf
    assert table.text["median"].tolist().count("diverged") == 3


def test_trials_that_another_criterion_ended_are_pointed_out(tmp_path):
    result = write(tmp_path, "amu", [300, 400, None])
    result.trials.loc[0, "st1_sequences"] = np.nan
    caption = criteria_table(*compare([result])).caption
    assert "Trials ended by another criterion before st1 was met: 1." in caption
    assert "before st2" not in caption


def test_metrics_of_trials_that_stopped_at_a_criterion_are_not_read_as_quality(tmp_path):
    words = "A trial that met its criterion stopped there."
    (stopped,) = compare([write(tmp_path / "some", cell, [300, None]) for cell in ("amu", "gru")])
    (whole,) = compare([write(tmp_path / "none", cell, [None, None]) for cell in ("amu", "gru")])
    assert words in metrics_table(stopped).caption
    assert words not in metrics_table(whole).caption


def test_the_note_has_the_settings_of_each_row_that_tuning_changes_and_labels_leave_out(tmp_path):
    rows = [("amu", {"initial_range": 0.5}, 0.01), ("lstm", {"forget_bias": 3.0}, 0.003), ("lstm", {}, 0.1)]
    results = [
        write(
            tmp_path,
            cell,
            [300, None],
            identity=str(place),
            model=model,
            training={"learning_rate": rate, "clip_norm": None},
        )
        for place, (cell, model, rate) in enumerate(rows)
    ]
    (comparison,) = compare(results)
    caption = criteria_table(comparison).caption
    assert "amu: learning_rate=0.01, clip_norm=none, initial_range=0.5" in caption
    assert "lstm (forget_bias=3.0, learning_rate=0.003): clip_norm=none" in caption
    assert "tuning changes" not in metrics_table(comparison).caption


# Published numbers


@pytest.mark.parametrize(
    ("task", "numbers", "source"),
    [
        ({}, ["LSTM", "102", "27,380", "39,850", "0.000195"], "Table 4"),
        (
            {"variant": "noisy_target", "target_variance": 0.1},
            ["LSTM", "102", "269,650", "0.00558"],
            "Table 6",
        ),
    ],
)
def test_published_numbers_stand_apart_with_their_source(tmp_path, published, task, numbers, source):
    (comparison,) = compare([write(tmp_path, "amu", [300], task=task)])
    table = published_table(comparison, published)
    assert table.text.to_numpy().tolist() == [[*numbers, f"Hochreiter & Schmidhuber 1997, {source}"]]
    assert "published numbers, not made with this software. Mean number" in table.caption


def test_a_setting_that_nobody_published_has_no_published_numbers(tmp_path, published):
    (comparison,) = compare([write(tmp_path, "amu", [300], task={"T": 70})])
    assert published_table(comparison, published) is None


def test_published_settings_are_settings_of_the_shipped_tasks(published):
    files = [yaml.safe_load(file.read_text())["task"] for file in (conf_dir() / "task").glob("*.yaml")]
    shipped = {task["problem"]: task for task in files if "problem" in task}
    for entry in published:
        task = shipped[entry["task"]["problem"]]
        assert entry["task"].keys() <= task.keys()
        sections = task["criteria"]
        names = sections.get(entry["task"].get("variant", entry["task"].get("form")), sections).keys()
        described = {"method", "params", "solved", "misclassified", "rmse", "sequences", "again"}
        assert all(row.keys() - described <= names for row in entry["rows"])


def test_what_a_criterion_asks_is_told_by_the_task():
    own = {"accuracy": "> 0.9"}
    real = {"problem": "time_series", "name": "GunPoint", "criteria": {"GunPoint": own}}
    assert condition(real, "GunPoint") == "GunPoint: accuracy > 0.9"
    adding = {"problem": "adding", "form": "1997", "criteria": {"modern": {}, "1997": {"l97": {"mse": "< 1"}}}}
    assert condition(adding, "l97") == "l97: mse < 1"
    assert condition({"problem": "adding", "form": "2001", "criteria": {}}, "l97") == "l97"
    # A task that has been removed since, with a variant that is named as a criterion is.
    assert (
        condition({"problem": "removed", "variant": "good", "criteria": {"good": own}}, "good")
        == "good: accuracy > 0.9"
    )


# As text


def test_csv_holds_every_number_to_the_last_digit(comparison, published):
    for table in tables(comparison, published):
        read = pd.read_csv(io.StringIO(table.csv()), float_precision="round_trip", dtype={"identity": str})
        pd.testing.assert_frame_equal(read, table.numbers, check_dtype=False, check_exact=True)


def test_markdown_is_a_table_with_its_caption(comparison):
    table = criteria_table(comparison)
    lines = table.markdown().splitlines()
    assert {line.count("|") for line in lines[: 2 + len(table.text)]} == {table.text.shape[1] + 1}
    assert set(lines[1]) == set("|-: ")
    assert lines[-1] == table.caption


def test_latex_has_no_bare_special_characters(comparison, published):
    for table in tables(comparison, published):
        text = table.latex()
        assert "two\\_sequence-noise\\_free" in text
        assert "95%" not in text
        assert "<" not in text
        assert text.count("\\toprule") == 1


def test_tables_of_plain_models_fit_a_terminal_of_100_columns(tmp_path):
    results = [
        write(
            tmp_path,
            cell,
            [90000 + 100 * trial for trial in range(9)] + [None],
            training={"max_sequences": 10**5},
        )
        for cell in ("amu", "lstm", "gru", "rnn")
    ]
    (comparison,) = compare(results)
    for table in (criteria_table(comparison), metrics_table(comparison)):
        assert max(map(len, table.plain().splitlines())) <= 100


SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "$": r"\$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
"""LaTeX's ten special characters and what stands for them, and two that its old fonts print as others."""


@pytest.mark.parametrize("letter", SPECIAL)
def test_latex_prints_every_character_as_it_is(letter):
    text = pd.DataFrame({f"a{letter}b": [f"c{letter}{letter}d"]})
    latex = Table("name", f"e{letter}", text, text).latex()
    escaped = SPECIAL[letter]
    assert f"a{escaped}b" in latex
    assert f"c{escaped}{escaped}d" in latex
    assert f"caption{{e{escaped}}}" in latex


@pytest.mark.parametrize("start", ["[1]", "*"])
def test_no_cell_is_taken_for_an_option_of_the_line_before(start):
    text = pd.DataFrame({"a": [start]})
    assert f"\n{{{start[0]}}}{start[1:]} \\\\" in Table("name", "", text, text).latex()


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("x | y", r"x \| y"),
        ("\\|", r"\\\|"),
        ("<script>", r"\<script>"),
        ("a < 1", "a < 1"),
        ("*b*", r"\*b\*"),
        ("_c_", r"\_c\_"),
        ("d_e", "d_e"),
        ("`f`", r"\`f\`"),
        ("[g](h)", r"[g]\(h)"),
        ("&lt;", r"\&lt;"),
        ("$i$", r"\$i\$"),
    ],
)
def test_markdown_shows_every_character_as_it_is(cell, shown):
    text = pd.DataFrame({"a|b": [cell]})
    head, _, row, _, caption = Table("name", "c|<d>", text, text).markdown().splitlines()
    assert (head.split(), row.strip("| ").removesuffix(" |").strip()) == (["|", r"a\|b", "|"], shown.strip("| "))
    assert caption == r"c|\<d>"


def test_text_for_a_line_has_no_control_characters_and_is_short():
    assert printable("a\nb\t\x1b[31mc\u202e\ud800 d") == "a b [31mc d"
    long = printable("a" * 200 + "b" * 200)
    assert len(long) <= 60
    assert (long[0], long[-1]) == ("a", "b")


AWKWARD = [
    "../x",
    "a/b",
    "A/B",
    "ab",
    "x" * 300,
    "x" * 299 + "y",
    "..",
    "",
    "\n",
    "ä",
    "ö",
    "²",
    "$a$",
    "\\input{x}",
    "1" * 5000,
]


def test_names_are_safe_short_and_different(tmp_path):
    results = [write(tmp_path, "amu", [300], task={"variant": variant}) for variant in AWKWARD]
    names = [comparison.name for comparison in compare(results)]
    assert len({name.lower() for name in names}) == len(AWKWARD)
    assert all(re.fullmatch(r"two_sequence[A-Za-z0-9_.-]{0,140}", name) for name in names)


def test_a_label_names_the_reading_of_the_unit_and_leaves_out_what_follows_from_it(tmp_path):
    readings = {
        "abstract": {"neurons_per_unit": 2, "output_in_product": False, "units": 6},
        "tframe": {"neurons_per_unit": 3, "output_in_product": True, "units": 5},
        "own": {"neurons_per_unit": 4, "output_in_product": True, "units": 5},
    }
    results = [write(tmp_path, "amu", [300], model=model | {"output": "neuron"}) for model in readings.values()]
    results.append(write(tmp_path, "amu", [400], model=readings["tframe"] | {"output": "memory"}))
    assert set(compare(results)[0].labels) == {
        "amu (reading=abstract, output=neuron)",
        "amu (reading=tframe, output=neuron)",
        "amu (neurons_per_unit=4, output_in_product=True, output=neuron)",
        "amu (reading=tframe, output=memory)",
    }


def test_the_reference_is_the_first_named_reading_however_many_forms_another_has(tmp_path):
    gated = {"neurons_per_unit": 3, "output_in_product": False, "writers": "gated", "output": "neuron"}
    models = [gated | {"gradient": gradient} for gradient in ("truncated", "full")]
    models.append({"neurons_per_unit": 2, "output_in_product": False, "output": "neuron", "gradient": "truncated"})
    (comparison,) = compare([write(tmp_path, "amu", [300], model=model) for model in models])
    assert comparison.labels[comparison.reference] == "amu (reading=abstract, gradient=truncated)"


@pytest.mark.parametrize("emitted", ["neuron", "memory"])
def test_without_the_reading_of_the_abstract_the_reference_is_that_of_the_model_amu(tmp_path, emitted):
    gated = {"neurons_per_unit": 3, "output_in_product": False, "writers": "gated"}  # the defaults of model=amu
    tframe = {"neurons_per_unit": 3, "output_in_product": True, "writers": "tanh"}
    models = [reading | {"output": emitted, "gradient": "truncated"} for reading in (tframe, gated)]
    models.append(models[0] | {"gradient": "full"})
    (comparison,) = compare([write(tmp_path, "amu", [300], model=model) for model in models])
    assert comparison.labels[comparison.reference] == "amu (reading=best_1, gradient=truncated)"


def test_settings_of_any_text_make_different_labels_of_one_line(tmp_path):
    results = [write(tmp_path, "amu", [300], identity=str(n), model={"note": a}) for n, a in enumerate(AWKWARD)]
    (comparison,) = compare(results)
    assert len(set(comparison.labels)) == len(AWKWARD)
    assert all(label.isprintable() and len(label) < 120 for label in comparison.labels)


@pytest.mark.parametrize("criteria", [None, "none", [], {"st1": "x"}, {"noise_free": []}, {"noise_free": {"st1": [1]}}])
def test_criteria_that_are_described_as_none_are_have_their_names_alone(tmp_path, criteria):
    result = write(tmp_path, "amu", [300], task={"criteria": criteria})
    assert condition(result.config["task"], "st1") == "st1"
    assert "(st1; st2)" in criteria_table(*compare([result])).caption


def test_results_that_lack_what_others_of_their_task_have_are_left_out_and_named(tmp_path):
    results = [write(tmp_path, cell, [300, 400]) for cell in ("amu", "lstm", "gru")]
    names = [name for name in results[1].trials if name.startswith("test_")]
    results[1].trials.drop(columns=names, inplace=True)
    results[2].trials["test_more"] = 1.0
    left_out = []
    (comparison,) = compare(results, left_out)
    assert comparison.labels == ["amu", "gru"]
    assert [str(error) for error in left_out] == [
        f"{results[1].folder}: trials.csv has no {', '.join(names)}, unlike the results beside it",
        f"{results[2].folder}: trials.csv has test_more, unlike the results beside it: not shown",
    ]
    assert all(len(table.numbers) for table in tables(comparison, []))


def test_a_metric_whose_name_ends_like_that_of_a_criterion_is_none(comparison):
    for result in comparison.results:
        result.trials["wrong_sequences"] = 0.5
    assert compare(comparison.results)[0].criteria == ["st1", "st2"]


def test_run_table(comparison):
    lines = run_table(comparison.results[1]).splitlines()
    assert lines[0] == "two_sequence, lstm: 3 trials (1 diverged), 42 parameters, 10 s"
    words = [line.split() for line in lines]
    assert [
        "st2",
        "1/3",
        "not",
        "reached",
        "900",
        "to",
        "900",
        *["wrong", "==", "0", "and", "mean_error", "<", "0.01"],
    ] in words
    assert ["test", "mean_error", "0.500", "0.00510", "diverged"] in words


def test_run_table_of_a_task_without_criteria(tmp_path):
    result = write(tmp_path, "amu", [None], task={"criteria": {}})
    result.trials.drop(columns=["st1_sequences", "st2_sequences"], inplace=True)
    assert "criterion" not in run_table(result)
    assert criteria_table(*compare([result])) is None
