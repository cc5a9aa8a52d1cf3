"""The adding problem: output the sum of the two marked values at the end of a long sequence.

Hochreiter & Schmidhuber 1997, section 5.4 (experiment 4), and the simpler form that is common today (Le, Jaitly &
Hinton 2015; Arjovsky, Shah & Bengio 2016).
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np

from amu_experiments.options import Count, Positive, whole
from amu_experiments.tasks.task import Sequences, Task, check_section, read_criteria


class Adding(Task):
    """Two inputs, a value and a mark; the answer at the last step depends on the two values with mark 1.

    form `modern`: T steps, values uniform in [0, 1], one mark in each half of the sequence, the others 0. The target is
    the sum of the two values. The constant answer 1 has a mean squared error of 1/6. A worked sequence (T = 6):

        value  0.83  0.21  0.57  0.05  0.94  0.30
        mark   0     1     0     0     0     1      -> 0.21 + 0.30 = 0.51

    form `1997`: T to T + T/10 steps, values uniform in [-1, 1]. X1 is one of the first ten pairs, X2 one of the first
    T/2 - 1 pairs still unmarked. The marks are 1 there, -1 at the first and the last pair, 0 elsewhere. If the first
    pair is X1 or X2, its mark is 1 and its value is set to 0. (The source has "X1 set to zero", and does not say what
    happens if that pair is X2.) The target is 0.5 + (X1 + X2)/4, in [0, 1].

    Metrics, from the error at the last step:
        mse, mean_error, largest_error   mean squared, mean absolute and largest absolute error
        wrong                            sequences with an absolute error of at least `tolerance`
    and in the 1997 form, over the latest `window` training sequences, each answered before its update:
        train_error, train_wrong         mean absolute error; sequences with an error of at least `tolerance`
    """

    input_size = 2
    output_size = 1
    metrics = ("mse", "mean_error", "largest_error", "wrong")

    def __init__(
        self,
        trials,
        *,
        form: Literal["modern", "1997"],
        T: Annotated[int, whole(2, 10**6)],
        tolerance: Positive,
        window: Count,
        squash: Literal["linear", "logistic"],
        loss: Literal["squared_error", "half_squared_error", "binary_cross_entropy"],
        validation_size: Count,
        test_size: Count,
        criteria: Mapping,
    ):
        super().__init__(trials)
        self.form = form
        self.T = T
        # Any of the first ten pairs may be marked, and the last pair never is.
        if form == "1997" and T < 11:
            raise ValueError(f"task.T={T}: must be at least 11 with task.form=1997")
        self.steps = self.T + (self.T // 10 if self.form == "1997" else 0)
        self.tolerance = tolerance
        if self.form == "1997":
            self.window = window
            self.recent_metrics = ("train_error", "train_wrong")
        self.squash = squash
        self.loss = loss
        if self.form == "modern" and self.squash == "logistic":
            raise ValueError("task.squash=logistic cannot reach the targets of task.form=modern; use linear")
        if self.loss == "binary_cross_entropy" and self.squash == "linear":
            raise ValueError("task.loss=binary_cross_entropy is of logistic outputs; use task.squash=logistic")
        self.validation_size = validation_size
        self.test_size = test_size
        section = self.criteria_of({"form": form, "criteria": criteria})
        self.criteria = read_criteria(section, self.metrics + self.recent_metrics)

    @classmethod
    def criteria_of(cls, options):
        return check_section("criteria", super().criteria_of(options), str(options.get("form")))

    def draw(self, rng, count, split):
        return self._modern(rng, count) if self.form == "modern" else self._1997(rng, count)

    def measure(self, outputs, sequences):
        errors = np.abs(outputs - sequences.targets)
        return {
            "mse": float(np.mean(errors**2)),
            "mean_error": float(errors.mean()),
            "largest_error": float(errors.max()),
            "wrong": self._wrong(errors),
        }

    def measure_recent(self, errors):
        return {"train_error": float(errors.mean()), "train_wrong": self._wrong(errors)}

    def _wrong(self, errors: np.ndarray) -> int:
        """Number of errors that are not below the tolerance; NaN is such an error."""
        return int((~(errors < self.tolerance)).sum())

    def _modern(self, rng: np.random.Generator, count: int) -> Sequences:
        rows = np.arange(count)
        marked = rng.integers(0, self.T // 2, count), rng.integers(self.T // 2, self.T, count)
        inputs = np.zeros((count, self.T, 2), np.float32)
        inputs[:, :, 0] = rng.random((count, self.T), dtype=np.float32)
        for position in marked:
            inputs[rows, position, 1] = 1
        sums = sum(inputs[rows, position, 0] for position in marked)
        return Sequences(inputs, np.full(count, self.T), sums[:, None, None])

    def _1997(self, rng: np.random.Generator, count: int) -> Sequences:
        inputs, lengths, X1, X2 = marked_pairs(rng, count, self.T, low=-1, neutral=0)
        return Sequences(inputs, lengths, (0.5 + (X1 + X2) / 4)[:, None, None])


def marked_pairs(rng: np.random.Generator, count: int, T: int, low: float, neutral: float) -> tuple:
    """Sequences of value and mark in the form of 1997, and the values of the two marked pairs.

    Values are uniform in [low, 1]; the value of a marked first pair is `neutral`. Returns inputs (B, T + T/10, 2),
    lengths (B,), X1 (B,) and X2 (B,).
    """
    rows, longest = np.arange(count), T + T // 10
    lengths = rng.integers(T, longest, size=count, endpoint=True)
    first = rng.integers(0, 10, count)
    second = rng.integers(0, T // 2 - 1, count)
    second += second >= first  # drawn as an index among the unmarked pairs
    inputs = np.zeros((count, longest, 2), np.float32)
    inputs[:, :, 0] = (1 - low) * rng.random((count, longest), dtype=np.float32) + low
    inputs[:, T:, 0] *= np.arange(T, longest) < lengths[:, None]
    inputs[(first == 0) | (second == 0), 0, 0] = neutral
    inputs[:, 0, 1] = inputs[rows, lengths - 1, 1] = -1
    for position in (first, second):
        inputs[rows, position, 1] = 1
    return inputs, lengths, inputs[rows, first, 0], inputs[rows, second, 0]
