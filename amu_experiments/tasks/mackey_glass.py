"""The Mackey-Glass series: predict a chaotic series, and continue it for 84 steps.

Mackey & Glass 1977; tau = 17 and the error after 84 steps as in Jaeger & Haas 2004 and in Evolino (Schmidhuber et al.
2007). How series begin and how many there are is our own.
"""

from collections.abc import Mapping
from typing import Annotated

import numpy as np

from amu_experiments.options import Count, whole
from amu_experiments.tasks.next_value import NextValue
from amu_experiments.tasks.task import Task, read_criteria

FINE = 10
"""Steps of the integration in a step of the series."""

FIRST = 300
"""Steps before a series begins, in which it forgets its start."""


class MackeyGlass(NextValue, Task):
    """dx/dt = 0.2 x(t - tau) / (1 + x(t - tau)^10) - 0.1 x(t), read at every whole t; values are x - 1.

    Each series has a history of its own, x = constant between 0.5 and 1.5 for t <= 0, and begins after `FIRST` steps.
    Integrated with the Runge-Kutta method of fourth order, step 0.1. With tau = 17 the series are chaotic: the
    distance between two close series grows exponentially, on average.

    Training goes through `train_size` series again and again. A free run reads T - free_steps + 1 values of a test
    series and then its own answers (see NextValue); with free_steps = 84, last_nrmse is the NRMSE at 84 steps.
    """

    def __init__(
        self,
        trials,
        *,
        tau: Annotated[int, whole(1, 100)],
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
        self.tau = tau
        self.set_free_steps(T, free_steps)
        self.first_measured = self.given_steps - 1
        self.set_sizes(train_size, validation_size, test_size)
        self.criteria = read_criteria(criteria, self.metrics)

    def sets(self, rng):
        # All series of a trial side by side: the integration is a loop over steps.
        series = mackey_glass(rng.uniform(0.5, 1.5, sum(self.sizes.values())), self.tau, FIRST + self.T + 1)
        return self.split(series[:, FIRST:] - 1)

    def start(self, rng, count):
        return mackey_glass(rng.uniform(0.5, 1.5, count), self.tau, FIRST + 1)[:, FIRST:, None] - 1


def mackey_glass(history: np.ndarray, tau: int, steps: int) -> np.ndarray:
    """Series (B, steps) at t = 0, 1, ..., each with a constant history (B,).

    It does not use numpy's power function, which rounds differently on other processors.
    """
    delay, h = tau * FINE, 1 / FINE
    x = np.empty((delay + 1 + steps * FINE, len(history)))
    x[: delay + 1] = history

    def slope(now, delayed):
        square = delayed * delayed
        fourth = square * square
        return 0.2 * delayed / (1 + fourth * fourth * square) - 0.1 * now

    for t in range(delay, len(x) - 1):
        before, after = x[t - delay], x[t - delay + 1]
        middle = (before + after) / 2
        a = slope(x[t], before)
        b = slope(x[t] + h / 2 * a, middle)
        c = slope(x[t] + h / 2 * b, middle)
        d = slope(x[t] + h * c, after)
        x[t + 1] = x[t] + h / 6 * (a + 2 * b + 2 * c + d)
    return x[delay : delay + steps * FINE : FINE].T
