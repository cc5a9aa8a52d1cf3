"""Statistics against cases worked by hand, textbook numbers and what must hold of any data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from amu_experiments.analysis import statistics

# Weeks of remission of 42 leukaemia patients on 6-mercaptopurine or a placebo (Freireich et al. 1963), the
# example of many textbooks, among them Kleinbaum & Klein, Survival Analysis. Not relapsed: censored, in remission when
# last seen.
DRUG = np.array([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35])
RELAPSED = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
PLACEBO = np.array([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23])
ALL_RELAPSED = np.ones(21, dtype=bool)

trials = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12).map(
    lambda pairs: (np.array([time for time, _ in pairs]) * 1000.0, np.array([solved for _, solved in pairs]))
)


def test_share_solved_worked_by_hand():
    # 1 of 5 solved at 1 (4/5 left), 1 of 4 solved and 1 censored at 2 (* 3/4), 1 of 2 solved at 3 (* 1/2).
    times, solved = np.array([4, 2, 1, 3, 2]), np.array([False, True, True, True, False])
    at, share = statistics.share_solved(times, solved)
    assert at.tolist() == [1, 2, 3, 4]
    assert share == pytest.approx([0.2, 0.4, 0.7, 0.7])


def test_leukaemia_data_give_the_textbook_numbers():
    at, share = statistics.share_solved(DRUG, RELAPSED)
    textbook = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    assert {week: round(1 - share[at == week].item(), 3) for week in textbook} == textbook
    assert statistics.median_time(DRUG, RELAPSED).value == 23
    assert statistics.median_time(PLACEBO, ALL_RELAPSED).value == 8
    p = statistics.logrank(DRUG, RELAPSED, PLACEBO, ALL_RELAPSED)
    assert stats.chi2.isf(p, df=1) == pytest.approx(16.79, abs=0.005)


def test_nothing_solved():
    times, solved = np.full(10, 500.0), np.zeros(10, dtype=bool)
    assert statistics.share_solved(times, solved)[1].tolist() == [0]
    assert statistics.median_time(times, solved) == (np.inf, np.inf, np.inf)
    assert statistics.success(solved) == pytest.approx((0, 0, 0.2775), abs=1e-4)
    assert statistics.logrank(times, solved, times[:3], solved[:3]) == 1


def test_all_solved_at_once():
    times, solved = np.full(10, 500.0), np.ones(10, dtype=bool)
    assert statistics.share_solved(times, solved)[1].tolist() == [1]
    assert statistics.median_time(times, solved) == (500, 500, 500)
    assert statistics.logrank(times, solved, times, solved) == 1


def test_one_trial_has_a_median_but_no_interval():
    one = np.array([500.0])
    assert statistics.median_time(one, np.array([True])) == pytest.approx((500, np.nan, np.nan), nan_ok=True)
    assert statistics.median_time(one, np.array([False])).value == np.inf
    assert statistics.median(one) == pytest.approx((500, np.nan, np.nan), nan_ok=True)
    # One against one: the earlier of two at risk solves, 1/2 expected, variance 1/4; z = 1.
    p = statistics.logrank(one, np.array([True]), one + 1, np.array([True]))
    assert p == pytest.approx(2 * stats.norm.sf(1))


def test_median_is_reached_when_just_half_have_solved():
    times = np.arange(1.0, 11)
    assert statistics.median_time(times, times <= 5).value == 5
    assert statistics.median_time(times, times <= 4).value == np.inf


def test_interval_is_open_where_many_resamples_stay_under_a_half():
    times = np.arange(1.0, 11)
    estimate = statistics.median_time(times, times <= 6)
    assert estimate.value == 5
    assert estimate.low < 5
    assert estimate.high == np.inf


def test_bootstrap_worked_by_hand():
    # Half of two have solved at the earlier: resamples (1 1), (1 2), (2 1), (2 2) have medians 1, 1, 1, 2.
    assert statistics.median_time(np.array([1.0, 2.0]), np.array([True, True])) == (1, 1, 2)
    # As a plain metric the middle of two is their mean.
    assert statistics.median(np.array([1.0, 2.0])) == (1.5, 1, 2)


def test_censoring_moves_the_median_later():
    times = np.array([100.0, 200, 300, 400])
    assert statistics.median_time(times, np.array([True, True, True, True])).value == 200
    assert statistics.median_time(times, np.array([True, False, True, True])).value == 300


def test_wilson_interval_of_nine_in_ten():
    # (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with p = 0.9, n = 10, z = 1.96.
    assert statistics.success(np.arange(10) > 0) == pytest.approx((0.9, 0.5958, 0.9821), abs=1e-4)


def test_holm_worked_by_hand():
    # Sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which may not be less than the one before.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]).tolist() == [1, 1]
    assert statistics.holm([]).size == 0


def test_mann_whitney_goes_by_ranks():
    # Of the 20 ways to split six ranks in two threes, one each way is as extreme: p = 2/20.
    assert statistics.mann_whitney(np.array([1, 2, 3]), np.array([4, 5, 6])) == pytest.approx(0.1)
    assert statistics.mann_whitney(np.array([1, 2, 3]), np.array([4, 5, np.inf])) == pytest.approx(0.1)
    assert statistics.mann_whitney(np.ones(3), np.ones(4)) == 1


def test_a_group_is_larger_if_it_is_in_more_pairs():
    """Of the nine pairs of the first two groups, five are greater and four smaller; their medians say the opposite."""
    one, other = np.array([1, 4, np.inf]), np.array([0, 5, 6])
    assert statistics.larger(one, other)
    assert not statistics.larger(other, one)
    assert not statistics.larger(one, one)


def test_median_with_diverged_trials():
    assert statistics.median(np.array([1, 2, 3, np.inf, np.inf])) == (3, 1, np.inf)
    assert statistics.median(np.array([-np.inf, 0.9, 0.9])).value == 0.9


@settings(deadline=None)
@given(trials)
def test_share_solved_never_falls_and_stays_a_share(data):
    at, share = statistics.share_solved(*data)
    assert (np.diff(at) > 0).all()
    assert (np.diff(share) >= 0).all()
    assert share[0] >= 0
    assert share[-1] <= 1


@settings(max_examples=25, deadline=None)
@given(trials)
def test_median_time_is_where_the_curve_reaches_a_half_and_within_its_interval(data):
    at, share = statistics.share_solved(*data)
    reached = at[share > 0.5 - 1e-9]
    estimate = statistics.median_time(*data)
    assert estimate.value == (reached[0] if reached.size else np.inf)
    if len(data[0]) > 1:
        assert estimate.low <= estimate.value <= estimate.high
    assert statistics.median_time(*data) == pytest.approx(estimate, nan_ok=True)


@settings(deadline=None)
@given(trials, trials)
def test_logrank_is_a_probability_and_does_not_care_who_is_first(one, other):
    p = statistics.logrank(*one, *other)
    assert 0 <= p <= 1
    assert p == pytest.approx(statistics.logrank(*other, *one))
    assert statistics.logrank(*one, *one) == pytest.approx(1)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_p_value_and_bonferroni_and_keeps_the_order(p_values):
    p_values = np.array(p_values)
    adjusted = statistics.holm(p_values)
    assert (adjusted >= p_values).all()
    assert (adjusted <= np.minimum(1, len(p_values) * p_values)).all()
    assert (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_wilson_interval_holds_the_share(solved):
    share, low, high = statistics.success(np.array(solved))
    assert share == sum(solved) / len(solved)
    assert -1e-9 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1 + 1e-9


def test_the_group_that_solves_sooner_or_more_often_is_faster():
    sooner, later = (np.array([1.0, 2, 3]), np.ones(3, bool)), (np.array([10.0, 20, 30]), np.ones(3, bool))
    never = (np.array([30.0, 30, 30]), np.zeros(3, bool))
    assert statistics.faster(*sooner, *later)
    assert not statistics.faster(*later, *sooner)
    assert statistics.faster(*later, *never)
    assert not statistics.faster(*never, *never)
