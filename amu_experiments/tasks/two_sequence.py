"""The two-sequence problem: output the sign of the first N inputs at the end of about T steps of noise.

Hochreiter & Schmidhuber 1997, section 5.3 (experiments 3a, 3b, 3c), after Bengio et al. 1994.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from amu_experiments.options import Count, Positive
from amu_experiments.tasks.task import Sequences, Task, check_section, read_criteria


class TwoSequence(Task):
    """One input, T to T + T/10 steps; the answer at the last step is the sign of the first N values.

    A worked sequence (T = 8, N = 3, the rest Gaussian with mean 0 and variance 0.2): class -1, target 0

        -1  -1  -1  0.31  -0.66  0.04  -0.12  0.58   -> 0

    variant `noise_free` (3a): as above. `noisy_input` (3b): the first N inputs also have Gaussian noise of that
    variance. `noisy_target` (3c): the targets are 0.2 and 0.8; in training they have Gaussian noise of variance
    `target_variance`. On validation and test data, errors are measured from the noise-free target.

    Metrics, from the absolute error at the last step:
        largest_error, mean_error
        wrong      sequences with an error of at least `tolerance`, which the source calls misclassified
        accuracy   share of sequences whose answer is nearer to the target of its class than to the other target
    """

    input_size = 1
    output_size = 1
    metrics = ("largest_error", "mean_error", "wrong", "accuracy")

    def __init__(
        self,
        trials,
        *,
        variant: Literal["noise_free", "noisy_input", "noisy_target"],
        T: Count,
        N: Count,
        variance: Positive,
        target_variance: Positive,
        targets: Mapping[str, Sequence[float]],
        tolerance: Mapping[str, Positive],
        squash: Literal["linear", "logistic"],
        loss: Literal["squared_error", "half_squared_error"],
        validation_size: Count,
        test_size: Count,
        criteria: Mapping,
    ):
        super().__init__(trials)
        self.variant = variant
        self.N = N
        self.T = T
        if self.N > self.T:
            raise ValueError(f"task.N={self.N}: must be at most task.T={self.T}, the length of a sequence")
        self.steps = self.T + self.T // 10
        self.deviation = np.float32(variance**0.5)
        self.target_deviation = target_variance**0.5
        self.targets = tuple(check_section("targets", targets, self.variant))
        if len(self.targets) != 2 or self.targets[0] == self.targets[1]:
            raise ValueError(f"task.targets.{self.variant}={list(self.targets)}: must be two different numbers")
        self.tolerance = check_section("tolerance", tolerance, self.variant)
        self.squash = squash
        if self.squash == "logistic" and not all(0 <= target <= 1 for target in self.targets):
            raise ValueError(
                f"task.squash=logistic cannot reach task.targets.{self.variant}={list(self.targets)}; use linear, or "
                "targets from 0 to 1"
            )
        self.loss = loss
        self.validation_size = validation_size
        self.test_size = test_size
        section = self.criteria_of({"variant": variant, "criteria": criteria})
        self.criteria = read_criteria(section, self.metrics)

    @classmethod
    def criteria_of(cls, options):
        return check_section("criteria", super().criteria_of(options), str(options.get("variant")))

    def draw(self, rng, count, split):
        longest = self.T + self.T // 10
        lengths = rng.integers(self.T, longest, size=count, endpoint=True)
        positive = rng.integers(2, size=count, dtype=bool)
        inputs = rng.standard_normal((count, longest), dtype=np.float32)
        inputs *= self.deviation
        if self.variant != "noisy_input":
            inputs[:, : self.N] = 0
        inputs[:, : self.N] += np.where(positive, np.float32(1), np.float32(-1))[:, None]
        inputs[:, self.T :] *= np.arange(self.T, longest) < lengths[:, None]
        targets = np.where(positive, *self.targets)
        if self.variant == "noisy_target" and split == "train":
            targets = targets + self.target_deviation * rng.standard_normal(count)
        return Sequences(inputs[:, :, None], lengths, targets.astype(np.float32)[:, None, None])

    def measure(self, outputs, sequences):
        errors = np.abs(outputs - sequences.targets)
        half_way = abs(self.targets[0] - self.targets[1]) / 2
        return {
            "largest_error": float(errors.max()),
            "mean_error": float(errors.mean()),
            "wrong": int((~(errors < self.tolerance)).sum()),
            "accuracy": float(np.mean(errors < half_way)),
        }
