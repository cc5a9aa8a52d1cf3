"""Multiple superimposed oscillators: continue a sum of two to eight sines.

The frequencies mso2 to mso8 of the literature on echo state networks and Evolino; the protocol is our own.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import numpy as np

from amu_experiments.options import FRACTION, Added, Count, whole
from amu_experiments.tasks.next_value import NextValue, next_values
from amu_experiments.tasks.task import Task, read_criteria

FREQUENCIES = (0.2, 0.311, 0.42, 0.51, 0.63, 0.74, 0.85, 0.97)
"""Frequencies of the sines, in radians per step."""


class Oscillators(NextValue, Task):
    """The first `sines` frequencies f, summed and scaled to variance 1: x(t) = sqrt(2 / sines) * sum of sin(f t).

    Each sequence is a window of the series with T + 1 values, from a random t on. Windows for training begin in the
    first `span` steps, those for validation in the next, those for the test in the third. Worked values, sines = 2:

        t      0       1       2       3       4
        x      0.000   0.505   0.972   1.368   1.664
        next   0.505   0.972   1.368   1.664   1.841

    noise: the standard deviation of uniform noise that is added to the inputs of training; targets have none. A network
    that learns without noise never meets its own small errors, and its free run adds them up.

    A free run continues each test window (see NextValue). The answer "the last value again" has an nrmse of about the
    root of the mean of f^2: 0.26 for two sines.
    """

    media = ("png", "wav")

    def __init__(
        self,
        trials,
        *,
        sines: Annotated[int, whole(2, 8)],
        T: Annotated[int, whole(2, 10**5)],
        free_steps: Count,
        span: Count,
        noise: Annotated[float, FRACTION, Added(0.0)] = 0.0,
        validation_size: Count,
        test_size: Count,
        criteria: Mapping,
    ):
        super().__init__(trials)
        self.sines, self.span, self.noise = sines, span, noise
        self.set_free_steps(T, free_steps)
        self.first_measured = self.given_steps - 1
        self.validation_size, self.test_size = validation_size, test_size
        self.criteria = read_criteria(criteria, self.metrics)

    def draw(self, rng, count, split):
        first = self.span * ("train", "validation", "test").index(split)
        t = first + rng.integers(0, self.span, count)[:, None] + np.arange(self.T + 1)
        series = sum(np.sin(f * t) for f in FREQUENCIES[: self.sines])
        sequences = next_values(np.sqrt(2 / self.sines) * series)
        if self.noise and split == "train":
            noise = rng.random(sequences.inputs.shape, np.float32) - np.float32(0.5)  # of variance 1 / 12
            return replace(sequences, inputs=sequences.inputs + np.float32(12**0.5 * self.noise) * noise)
        return sequences
