"""The table of lags, from stores written by hand."""

import pytest
from handmade import write
from scipy import stats

from amu_experiments.analysis.cases import Case
from amu_experiments.analysis.comparison import compare
from amu_experiments.analysis.lags import lags_table
from amu_experiments.analysis.reading import Reading

TFRAME = Case(Reading(), "adam")
QUICK = [300 + 10 * n for n in range(10)]
NEAR = [340 + 10 * n for n in range(10)]
SLOW = [800 + 10 * n for n in range(10)]


@pytest.fixture
def table(tmp_path):
    """At T = 100 the LSTM is nearly as fast as the AMU, and the RNN never solves; at T = 1000 there is no GRU."""
    rows = [(100, "amu", QUICK), (100, "lstm", NEAR), (100, "gru", SLOW), (100, "rnn", [None] * 10)]
    rows += [(1000, "amu", SLOW), (1000, "lstm", QUICK), (1000, "rnn", SLOW)]
    results = []
    for place, (T, cell, ends) in enumerate(rows):
        settings = {"model": {"gradient": "truncated"} if cell == "amu" else {}, "training": {"optimizer": "adam"}}
        results.append(write(tmp_path, cell, ends, identity=f"{place:012}", task={"T": T}, **settings))
    return lags_table(compare(results), [TFRAME])


def test_each_lag_has_the_amu_beside_its_rivals(table):
    assert table.text.columns.tolist() == ["problem", "T", "case", "amu", "lstm", "gru", "rnn"]
    assert table.text["T"].tolist() == ["100", "1,000"]
    assert table.text["case"].tolist() == ["tframe (Adam)"] * 2
    assert table.text["amu"].tolist() == ["10/10, 340", "10/10, 840"]
    assert table.text.loc[0, "rnn"] == "0/10, n.r.; p < 0.001, ahead"
    assert table.text.loc[1, "lstm"] == "10/10, 340; p < 0.001, behind"
    assert table.text.loc[1, "gru"] == "not run"
    assert table.text.loc[1, "rnn"] == "10/10, 840; p = 1.000"


def test_p_is_that_of_scipys_logrank_test_corrected_for_the_five_tests_of_the_table(table):
    """Three of the five have a smaller p, so Holm multiplies this one by two."""
    p = stats.logrank(QUICK, NEAR).pvalue
    assert 0.001 < p < 0.05
    assert table.numbers.loc[0, "p_lstm"] == pytest.approx(2 * p)


def test_cases_without_runs_have_no_rows(tmp_path, table):
    other = Case(Reading(neurons_per_unit=2), "adam")
    result = write(tmp_path / "alone", "amu", QUICK, model={"gradient": "truncated"}, training={"optimizer": "adam"})
    assert lags_table(compare([result]), [other]) is None
    assert lags_table(compare([result]), [other, TFRAME]).text["lstm"].tolist() == ["not run"]


def test_a_rival_with_few_trials_has_no_test(tmp_path):
    rows = {"amu": ({"gradient": "truncated"}, QUICK), "lstm": ({}, QUICK[:9])}
    results = [
        write(tmp_path, cell, ends, model=model, training={"optimizer": "adam"}) for cell, (model, ends) in rows.items()
    ]
    assert lags_table(compare(results), [TFRAME]).text["lstm"].tolist() == ["not run"]


def test_of_two_comparisons_with_the_same_lag_the_one_with_rivals_counts(tmp_path):
    rows = [("amu", QUICK * 2, 0.1), ("amu", QUICK, 0.2), ("lstm", SLOW, 0.2)]
    results = []
    for place, (cell, ends, variance) in enumerate(rows):
        settings = {"model": {"gradient": "truncated"} if cell == "amu" else {}, "training": {"optimizer": "adam"}}
        results.append(write(tmp_path, cell, ends, identity=f"{place:012}", task={"variance": variance}, **settings))
    (text,) = lags_table(compare(results), [TFRAME]).text.to_dict("records")
    assert (text["amu"], text["lstm"]) == ("10/10, 340", "10/10, 840; p < 0.001, ahead")
