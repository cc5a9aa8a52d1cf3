"""The multiplication problem: output the product of the two marked values at the end of a long sequence.

Hochreiter & Schmidhuber 1997, section 5.5 (experiment 5).
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from amu_experiments.options import Count, Positive, whole
from amu_experiments.tasks.adding import Adding, marked_pairs
from amu_experiments.tasks.task import Sequences, Task


class Multiplication(Adding):
    """The adding problem of 1997 with values uniform in [0, 1] and the product X1 * X2 as target.

    A sequence has T to T + T/10 pairs of a value and a mark. X1 is one of the first ten, X2 one of the first T/2 - 1
    pairs still unmarked. The marks are 1 there, -1 at the first and the last pair, 0 elsewhere. If the first pair is X1
    or X2, its mark is 1 and its value is set to 1. (The source has "X1 set to 1.0", and does not say what happens if
    that pair is X2.) A worked sequence (T = 12):

        value  0.83  0.21  0.57  0.05  0.94  0.30  0.46  0.11  0.72  0.68  0.29  0.90
        mark   -1    1     0     0     1     0     0     0     0     0     0     -1    -> 0.21 * 0.94 = 0.20

    At T = 100, the constant answer 1/4 has a mean squared error of 101/1680, about 0.060.

    Metrics, from the error at the last step:
        mse, mean_error, largest_error   mean squared, mean absolute and largest absolute error
        wrong                            sequences with an absolute error above `tolerance`
    and over the latest `window` training sequences, each answered before its update:
        train_error, train_wrong         mean absolute error; sequences with an error above `tolerance`
    """

    def __init__(
        self,
        trials,
        *,
        T: Annotated[int, whole(11, 10**6)],  # any of the first ten pairs may be marked, the last pair never
        tolerance: Positive,
        window: Count,
        squash: Literal["linear", "logistic"],
        loss: Literal["squared_error", "half_squared_error", "binary_cross_entropy"],
        validation_size: Count,
        test_size: Count,
        criteria: Mapping,
    ):
        super().__init__(
            trials,
            form="1997",
            T=T,
            tolerance=tolerance,
            window=window,
            squash=squash,
            loss=loss,
            validation_size=validation_size,
            test_size=test_size,
            criteria=criteria,
        )

    @classmethod
    def criteria_of(cls, options):
        return Task.criteria_of(options)  # Adding has criteria for each form

    def draw(self, rng, count, split):
        inputs, lengths, X1, X2 = marked_pairs(rng, count, self.T, low=0, neutral=1)
        return Sequences(inputs, lengths, (X1 * X2)[:, None, None])

    def _wrong(self, errors):
        """Number of errors that are not within the tolerance; NaN is such an error."""
        return int((~(errors <= self.tolerance)).sum())
