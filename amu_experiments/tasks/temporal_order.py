"""The temporal order problem: output the order of two or three relevant symbols at the end of a long sequence.

Hochreiter & Schmidhuber 1997, section 5.6 (experiments 6a and 6b).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np

from amu_experiments.options import Count, Positive, whole
from amu_experiments.tasks.task import Sequences, Task, check_section, one_hot, read_criteria

SYMBOLS = "EBabcdXY"


class TemporalOrder(Task):
    """Read symbols, one at a time; the class is the order of the two (6a) or three (6b) symbols that are X or Y.

    A sequence has T to T + T/10 symbols: E, then distractors drawn from a, b, c and d, then B, which asks for the
    answer. At one position of each range in `positions`, X or Y replaces the distractor. A worked sequence of 6a with
    T = 20, where the ranges are 2-4 and 10-12, of class R:

        E  c  X  a  a  d  b  c  a  Y  b  d  c  c  a  d  b  a  c  B   -> XY

    Classes, in this order: XX, XY, YX, YY (Q, R, S, U in the source); with three symbols XXX, XXY, ..., YYY.

    Positions count from 1, as in the source: its table of conditions has at least 40 (6a) and 24 (6b) steps between the
    last X or Y and the answer, which is 100 - 60 and 100 - 76. The ranges are for T = 100 and include both ends; for
    another T they are scaled in proportion and rounded down.

    Inputs are one-hot in the order EBabcdXY, targets are the class, one-hot. With loss="cross_entropy" the outputs
    are a softmax, otherwise logistic, as in the source.

    Metrics, from the absolute errors at the last step:
        wrong, largest_error   sequences with an error of at least `tolerance` at any output; the largest error
        accuracy               share of sequences whose class is the most active output
    and over the latest `window` training sequences, each answered before its update:
        train_error            mean over sequences of the largest error of the outputs; the source does not define its
                               "average training error", which is at most this
        train_wrong            sequences with an error of at least `tolerance` at any output
    """

    input_size = len(SYMBOLS)
    metrics = ("wrong", "largest_error", "accuracy")
    recent_metrics = ("train_error", "train_wrong")

    def __init__(
        self,
        trials,
        *,
        variant: Literal["6a", "6b"],
        T: Count,
        positions: Mapping[str, Sequence[Sequence[Annotated[int, whole(1, 100)]]]],
        tolerance: Positive,
        window: Count,
        loss: Literal["cross_entropy", "squared_error", "half_squared_error"],
        validation_size: Count,
        test_size: Count,
        criteria: Mapping,
    ):
        super().__init__(trials)
        self.variant = variant
        self.T = T
        self.steps = self.T + self.T // 10
        ranges = check_section("positions", positions, self.variant)
        wanted = {"6a": 2, "6b": 3}[self.variant]
        if [len(each) for each in ranges] != [2] * wanted:
            raise ValueError(
                f"task.positions.{self.variant}={ranges}: must be {wanted} ranges, each with its first and last "
                "position, such as [10, 20]"
            )
        self.positions = _in_proportion(ranges, self.T)
        self.output_size = 2 ** len(self.positions)
        self.tolerance = tolerance
        self.window = window
        self.loss = loss
        self.squash = "softmax" if self.loss == "cross_entropy" else "logistic"
        self.validation_size = validation_size
        self.test_size = test_size
        self.criteria = read_criteria(criteria, self.metrics + self.recent_metrics)

    def draw(self, rng, count, split):
        rows, longest = np.arange(count), self.T + self.T // 10
        lengths = rng.integers(self.T, longest, size=count, endpoint=True)
        symbols = rng.integers(SYMBOLS.index("a"), SYMBOLS.index("d"), size=(count, longest), endpoint=True)
        symbols[:, 0] = SYMBOLS.index("E")
        symbols[rows, lengths - 1] = SYMBOLS.index("B")
        classes = np.zeros(count, np.int64)
        for first, last in self.positions:
            is_y = rng.integers(2, size=count)
            position = rng.integers(first, last, size=count, endpoint=True)
            symbols[rows, position - 1] = SYMBOLS.index("X") + is_y
            classes = 2 * classes + is_y
        inputs = one_hot(symbols, len(SYMBOLS))
        inputs[np.arange(longest) >= lengths[:, None]] = 0
        return Sequences(inputs, lengths, one_hot(classes, self.output_size)[:, None])

    def measure(self, outputs, sequences):
        errors = np.abs(outputs - sequences.targets).max(axis=-1)
        right = outputs.argmax(axis=-1) == sequences.targets.argmax(axis=-1)
        return {"wrong": self._wrong(errors), "largest_error": float(errors.max()), "accuracy": float(right.mean())}

    def measure_recent(self, errors):
        return {"train_error": float(errors.mean()), "train_wrong": self._wrong(errors)}

    def _wrong(self, errors: np.ndarray) -> int:
        return int((~(errors < self.tolerance)).sum())


def _in_proportion(positions: Sequence[Sequence[int]], T: int) -> list[tuple[int, int]]:
    """Ranges of positions, scaled from 100 to T; ValueError unless they are in order, disjoint and between E and B."""
    ranges = [(first * T // 100, last * T // 100) for first, last in positions]
    edges = [1, *sum(ranges, ()), T]
    apart = all(before < after for before, after in zip(edges[::2], edges[1::2], strict=True))
    if not apart or any(first > last for first, last in ranges):
        raise ValueError(
            f"task.T={T} puts X and Y at {', '.join(f'{first}-{last}' for first, last in ranges)}; these ranges "
            f"must follow one after the other between the first symbol and symbol {T}"
        )
    return ranges
