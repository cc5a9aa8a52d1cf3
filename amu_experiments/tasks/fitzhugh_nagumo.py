"""The FitzHugh-Nagumo system: predict the next value of a variable with a slow, unseen companion.

The protocol of Rusch, Mishra, Erichson & Mahoney 2022 (LEM), after the code in tk-rusch/LEM.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from scipy.integrate import RK45

from amu_experiments.options import Count, whole
from amu_experiments.tasks.next_value import NextValue
from amu_experiments.tasks.task import Task, read_criteria

END = 400.0
"""The time span of a series, whatever T."""

TOLERANCES = 1e-3, 1e-6
"""Relative and absolute tolerance of a step: the defaults of scipy's solve_ivp, which the source uses. They are coarse:
some jumps come a few tenths of a time unit early or late, and the networks learn that solution."""


class FitzHughNagumo(NextValue, Task):
    """dx/dt = x - x^3/3 - y + 0.5, dy/dt = (x + 0.7 - 0.8 y) / 50; a series has T + 1 values of x on [0, 400].

    x begins uniform in [-1, 1] and y at 0. Within a few steps x jumps to one of two branches, on which it moves slowly
    until it jumps to the other: a slow time scale and a fast one. A trial has its own series, `train_size` for
    training, which goes through them again and again. Series are those of scipy's solve_ivp, as in the source.

    The source reports the rmse over all steps. The answer "the last value again" has an rmse of 0.079. A free run reads
    T - free_steps + 1 values of a test series and then its own answers (see NextValue).
    """

    def __init__(
        self,
        trials,
        *,
        T: Annotated[int, whole(2, 10**5)],
        free_steps: Count,
        train_size: Count,
        validation_size: Count,
        test_size: Count,
        criteria: Mapping,
        contents: str | None = None,
    ):
        super().__init__(trials)
        self.set_contents(contents)
        self.set_free_steps(T, free_steps)
        self.set_sizes(train_size, validation_size, test_size)
        self.criteria = read_criteria(criteria, self.metrics)

    def sets(self, rng):
        return self.split(fitzhugh_nagumo(rng.uniform(-1, 1, sum(self.sizes.values())), self.T))

    def start(self, rng, count):
        return rng.uniform(-1, 1, (count, 1, 1))


def fitzhugh_nagumo(x: np.ndarray, T: int) -> np.ndarray:
    """Series (B, T + 1) of x on [0, END], which begin at x (B,).

    The method of scipy.integrate.RK45 with its default tolerances and choice of steps, for all series side by side. It
    uses no matrix product and no power function of numpy, which round differently on other processors.
    """
    relative, absolute = TOLERANCES
    grid = np.linspace(0, END, T + 1)
    y, t = np.stack([x, np.zeros_like(x)], axis=1), np.zeros(len(x))
    slope = _slope(y)
    series = np.empty((len(x), T + 1))
    series[:, 0] = x
    following = np.ones(len(x), int)  # the place in the grid of each series' next value
    scale = absolute + np.abs(y) * relative
    d0, d1 = _norm(y / scale), _norm(slope / scale)
    h0 = np.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    d2 = _norm((_slope(y + h0[:, None] * slope) - slope) / scale) / h0
    h = np.minimum(100 * h0, _fifth_root(0.01 / np.maximum(d1, d2)))
    rejected = np.zeros(len(x), bool)
    while len(rows := np.flatnonzero(t < END)):
        step = np.minimum(t[rows] + h[rows], END) - t[rows]
        stages = np.empty((7, len(rows), 2))
        stages[0] = slope[rows]
        for n in range(1, 6):
            stages[n] = _slope(y[rows] + step[:, None] * _weighted(RK45.A[n, :n], stages[:n]))
        new = y[rows] + step[:, None] * _weighted(RK45.B, stages[:6])
        stages[6] = _slope(new)
        scale = absolute + np.maximum(np.abs(y[rows]), np.abs(new)) * relative
        error = np.maximum(_norm(step[:, None] * _weighted(RK45.E, stages) / scale), 1e-30)
        accepted = error < 1
        longest = np.where(rejected[rows] | ~accepted, 1, 10)
        h[rows] = step * np.clip(0.9 / _fifth_root(error), 0.2, longest)
        rejected[rows] = ~accepted
        done, step, stages = rows[accepted], step[accepted], stages[:, accepted, 0]
        end = t[done] + step
        while len(inside := np.flatnonzero((following[done] <= T) & (grid[np.minimum(following[done], T)] <= end))):
            at = done[inside]
            share = (grid[following[at]] - t[at]) / step[inside]
            powers = np.cumprod([share] * 4, axis=0)
            weights = [_weighted(row, powers) for row in RK45.P]
            series[at, following[at]] = y[at, 0] + step[inside] * _weighted(stages[:, inside], weights)
            following[at] += 1
        t[done], y[done] = end, new[accepted]
        slope[done] = _slope(y[done])
    return series


def _slope(y: np.ndarray) -> np.ndarray:
    """The time derivatives of (x, y), (..., 2)."""
    x, slow = y[..., 0], y[..., 1]
    return np.stack([x - x * x * x / 3 - slow + 0.5, (x + 0.7 - 0.8 * slow) / 50], axis=-1)


def _weighted(weights: Sequence, values: Sequence) -> np.ndarray:
    """The sum of the values, each times its weight."""
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def _fifth_root(x: np.ndarray) -> np.ndarray:
    """The fifth root of positive numbers, by Newton's method."""
    _, exponent = np.frexp(x)
    root = np.ldexp(1.0, -(-exponent // 5))
    for _ in range(8):  # the start is at most twice the root; from there, 8 steps reach the last digits
        root = (4 * root + x / (root * root * root * root)) / 5
    return root


def _norm(values: np.ndarray) -> np.ndarray:
    """Root of the mean square of the two components."""
    return np.sqrt((values * values).mean(axis=-1))
