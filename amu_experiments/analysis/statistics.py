"""Statistics of trials as pure functions on arrays: censored times to a criterion, and final metrics.

R is the number of trials. A time to a criterion is a pair of arrays: `times` (R,), in sequences, and `solved`
(R,): true if the criterion was met at that time, false if the trial was observed until then without meeting it
(right-censored). Infinity means "not reached" as a time and "worst of all" as a metric. NaN means that one trial alone
gives no estimate.
"""

from typing import NamedTuple

import numpy as np
import scipy  # its part stats, which takes a second to import, is imported at its first use

CONFIDENCE = 0.95
RESAMPLES = 5000
"""Bootstrap resamples, always drawn from the same seed, so that tables are reproducible."""


class Estimate(NamedTuple):
    """A value with the limits of its confidence interval."""

    value: float
    low: float
    high: float


def share_solved(times: np.ndarray, solved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan-Meier estimate of the share of trials that have met the criterion, as a function of time.

    Args:
        times: (R,) sequences until the criterion was met or the observation ended.
        solved: (R,) bool, whether it was met.

    Returns:
        The distinct times (D,), ascending, and the share solved from each time on (D,), between 0 and 1.
    """
    curve = scipy.stats.ecdf(_censored(times, solved)).cdf
    return curve.quantiles, curve.probabilities


def success(solved: np.ndarray) -> Estimate:
    """The share of trials that met the criterion, k/n, with its Wilson interval; `solved` is (R,) bool."""
    result = scipy.stats.binomtest(int(np.sum(solved)), len(solved))
    interval = result.proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(result.statistic, interval.low, interval.high)


def median_time(times: np.ndarray, solved: np.ndarray) -> Estimate:
    """Median time to the criterion with a bootstrap percentile interval that accounts for censoring.

    The median is the first time at which the Kaplan-Meier share solved is a half or more, or infinity. For the
    interval, trials (pairs of time and solved) are drawn with replacement. One or both limits may be infinite; for one
    trial they are NaN.

    Args:
        times: (R,) as in `share_solved`.
        solved: (R,) bool.
    """
    # Trials are sorted once. Sorting the integer ranks of each resample then takes half as long as sorting times.
    order = np.lexsort((~solved, times))
    places = np.argsort(order)[_resamples(len(times))]
    places.sort(axis=-1)
    times, solved = times[order], solved[order]
    low, high = _percentile_interval(_medians_of_sorted(times[places], solved[places]), len(times))
    return Estimate(float(_medians_of_sorted(times, solved)), low, high)


def median_times(times: np.ndarray, solved: np.ndarray) -> np.ndarray:
    """Kaplan-Meier medians (...,) of samples along the last axis of arrays (..., R), without intervals."""
    # At equal times, met criteria come first: a trial censored at that time was still at risk.
    order = np.lexsort((~solved, times), axis=-1)
    return _medians_of_sorted(np.take_along_axis(times, order, -1), np.take_along_axis(solved, order, -1))


def _medians_of_sorted(times: np.ndarray, solved: np.ndarray) -> np.ndarray:
    # scipy's ecdf takes only one sample.
    at_risk = np.arange(times.shape[-1], 0, -1)
    unsolved = np.cumprod(1 - solved / at_risk, axis=-1)
    reached = unsolved <= 0.5 + 1e-9  # half of ten trials is a product of five rounded numbers
    first = np.take_along_axis(times, reached.argmax(-1)[..., None], -1)[..., 0]
    return np.where(reached.any(-1), first, np.inf)


def median(values: np.ndarray) -> Estimate:
    """Median of a metric (R,) with a bootstrap percentile interval; values may be infinite."""
    low, high = _percentile_interval(np.median(values[_resamples(len(values))], axis=-1), len(values))
    return Estimate(float(np.median(values)), low, high)


def logrank(times: np.ndarray, solved: np.ndarray, other_times: np.ndarray, other_solved: np.ndarray) -> float:
    """Two-sided p-value of the log-rank test that two groups of trials solve at the same rate.

    It is 1 if the two curves are equal and the test is undefined: no trial of either group met the criterion, or all
    trials of both groups met it at the same time.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        p = scipy.stats.logrank(_censored(times, solved), _censored(other_times, other_solved)).pvalue
    return 1.0 if np.isnan(p) else float(p)


def faster(times: np.ndarray, solved: np.ndarray, other_times: np.ndarray, other_solved: np.ndarray) -> bool:
    """Whether the first group solves at a higher rate, by the sign of the log-rank statistic; false if undefined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = scipy.stats.logrank(_censored(times, solved), _censored(other_times, other_solved)).statistic
    return bool(statistic > 0)


def mann_whitney(values: np.ndarray, others: np.ndarray) -> float:
    """Two-sided p-value of the Mann-Whitney test on two groups' metrics (R1,), (R2,), which may be infinite.

    The test uses ranks only. The p-value is 1 if all values of both groups are equal.
    """
    if np.unique(np.concatenate([values, others])).size == 1:
        return 1.0
    return float(scipy.stats.mannwhitneyu(values, others, alternative="two-sided").pvalue)


def larger(values: np.ndarray, others: np.ndarray) -> bool:
    """Whether the first group's metrics are the larger ones, by the Mann-Whitney statistic; false if neither's are."""
    statistic = scipy.stats.mannwhitneyu(values, others, alternative="two-sided").statistic
    return bool(statistic > len(values) * len(others) / 2)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm-adjusted p-values (m,) of m tests, which control the family-wise error rate (Holm 1979).

    With p sorted ascending, p_(i), i = 1..m: adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j)).
    """
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(p_values), 0, -1) * p_values[order]
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def _censored(times: np.ndarray, solved: np.ndarray) -> "scipy.stats.CensoredData":
    return scipy.stats.CensoredData.right_censored(times, ~np.asarray(solved, dtype=bool))


def _resamples(trials: int) -> np.ndarray:
    """Indices of trials drawn with replacement, (RESAMPLES, R)."""
    return np.random.default_rng(0).integers(trials, size=(RESAMPLES, trials))


def _percentile_interval(estimates: np.ndarray, trials: int) -> tuple[float, float]:
    if trials == 1:
        return np.nan, np.nan
    beyond = round((1 - CONFIDENCE) / 2 * RESAMPLES)
    # Order statistics without interpolation: a point between a number and infinity would be infinite.
    low, high = np.sort(estimates)[[beyond, -1 - beyond]]
    return float(low), float(high)
