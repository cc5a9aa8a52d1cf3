"""Long time lags between symbols: the last symbol of a sequence repeats one from its beginning.

Hochreiter & Schmidhuber 1997, section 5.2 (experiments 2a, 2b and 2c).
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np

from amu_experiments.options import PROPER_FRACTION, Count, Positive, whole
from amu_experiments.tasks.task import Sequences, Task, check_section, one_hot, read_criteria


class LongLag(Task):
    """Read symbols, one at a time; the last symbol, x or y, repeats a symbol at least p (2c: q + 1) steps earlier.

    The worked sequences below have p = 4 and q = 3; the last target follows the arrow.

    2a: only two sequences, equally likely; every next symbol is a target.

        x  a1 a2 a3  -> x
        y  a1 a2 a3  -> y

    2b: as 2a, but the p - 1 symbols in between are drawn from a1 .. a(p-1) for each sequence. Only the last symbol can
    be predicted, and only the number of symbols shows when it comes.

        x  a2 a1 a2  -> x

    2c: b, then x or y, then q + k distractors from a1 .. ap, then e. After e the x or y of the beginning comes again.
    It is the only target, for two outputs. k is 0 or more: after each distractor from the q-th on, e comes with
    probability `trigger_probability`.

        b  y  a4 a1 a1 a3 e  -> y

    In 2c, distractors have the numbers 1 .. q in the source's formulas, but 1 .. p in its text and table, and here. The
    source gives q + 14 as the mean number of symbols; its procedure, which is used here, gives q + 13 (k is 9 on
    average).

    Inputs are one-hot: a1 .. a(p-1), x, y in 2a and 2b, a1 .. ap, e, b, x, y in 2c. Targets are one-hot, in the same
    order in 2a and 2b, and x, y in 2c. With loss="cross_entropy" the outputs are a softmax, otherwise logistic, as in
    the source. q and trigger_probability apply only to 2c.

    Metrics, from the absolute errors of the outputs, at every step in 2a, at the last step in 2b and 2c:
        wrong           sequences with an error of at least `tolerance`
        largest_error   the largest error
        accuracy        share of sequences whose last symbol is the most active output at the last step

    The source calls a network successful if 10,000 random sequences in a row, after training, have no larger error.
    Here these are the `validation_size` sequences. As in the source, the weights do not change meanwhile, and the
    number of training sequences does not include them.
    """

    metrics = ("wrong", "largest_error", "accuracy")

    def __init__(
        self,
        trials,
        *,
        variant: Literal["2a", "2b", "2c"],
        p: Annotated[int, whole(2, 10**6)],
        q: Count,
        trigger_probability: Annotated[float, PROPER_FRACTION],
        tolerance: Mapping[str, Positive],
        loss: Literal["cross_entropy", "squared_error", "half_squared_error"],
        validation_size: Count,
        test_size: Count,
        criteria: Mapping,
    ):
        super().__init__(trials)
        self.variant = variant
        self.p = p
        self.q = q
        self.trigger_probability = trigger_probability
        # In 2c this is the mean; the longest of many sequences has several times as many steps after the q-th.
        self.steps = self.p if self.variant != "2c" else self.q + 2 + round(1 / self.trigger_probability)
        self.tolerance = check_section("tolerance", tolerance, self.variant)
        self.loss = loss
        self.squash = "softmax" if self.loss == "cross_entropy" else "logistic"
        self.answer = "last" if self.variant == "2c" else "every"
        self.input_size = self.p + (4 if self.variant == "2c" else 1)
        self.output_size = 2 if self.variant == "2c" else self.p + 1
        self.validation_size = validation_size
        self.test_size = test_size
        self.criteria = read_criteria(criteria, self.metrics)

    def draw(self, rng, count, split):
        return self._2c(rng, count) if self.variant == "2c" else self._2a_2b(rng, count)

    def measure(self, outputs, sequences):
        errors = np.abs(outputs - sequences.targets)
        # All sequences have the same length in 2a and 2b, and one answer each in 2c.
        errors = (errors if self.variant == "2a" else errors[:, -1:]).max(axis=(1, 2))
        right = outputs[:, -1].argmax(axis=-1) == sequences.targets[:, -1].argmax(axis=-1)
        return {
            "wrong": int((~(errors < self.tolerance)).sum()),
            "largest_error": float(errors.max()),
            "accuracy": float(right.mean()),
        }

    def _2a_2b(self, rng: np.random.Generator, count: int) -> Sequences:
        x = self.p - 1
        symbols = np.empty((count, self.p + 1), np.int64)
        symbols[:, 0] = symbols[:, -1] = x + rng.integers(2, size=count)
        symbols[:, 1:-1] = (
            np.arange(self.p - 1) if self.variant == "2a" else rng.integers(self.p - 1, size=(count, self.p - 1))
        )
        steps = one_hot(symbols, self.input_size)
        return Sequences(steps[:, :-1], np.full(count, self.p), steps[:, 1:])

    def _2c(self, rng: np.random.Generator, count: int) -> Sequences:
        e, b, x = self.p, self.p + 1, self.p + 2
        is_y = rng.integers(2, size=count)
        k = rng.geometric(self.trigger_probability, size=count) - 1
        lengths = 2 + self.q + k + 1
        symbols = rng.integers(self.p, size=(count, lengths.max()))
        symbols[:, 0] = b
        symbols[:, 1] = x + is_y
        symbols[np.arange(count), lengths - 1] = e
        inputs = one_hot(symbols, self.input_size)
        inputs[np.arange(lengths.max()) >= lengths[:, None]] = 0
        return Sequences(inputs, lengths, one_hot(is_y, 2)[:, None])
