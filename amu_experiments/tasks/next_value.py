"""The common part of tasks in which a network reads a series value by value and predicts the next value."""

import numpy as np

from amu_experiments.options import ConfigurationError
from amu_experiments.tasks.task import Sequences

CONTINUED = 64
"""Maximum number of test sequences that a network continues."""

INTEGRATED = "version_2"
"""How series are integrated. It is part of a run's identity; change it if a task computes other series.

Version 1, which has no such key, used products of matrices and powers of numpy, which differ between processors.
"""

LEFT = 0.5
"""A free run has left the series when its error exceeds this share of the series' standard deviation."""


class NextValue:
    """A mixin for tasks whose target at each step is the next input: class X(NextValue, Task).

    A subclass calls `set_free_steps`. A free run reads the first T - free_steps + 1 values of a test sequence, and then
    its own answers; the first answer of the free run is the one to the last true value. For T = 6 and free_steps = 3:

        read     x0 x1 x2 x3 y4 y5
        answer               y4 y5 y6, compared with x4 x5 x6

    Metrics:
        rmse            root of the mean squared error of the next value, over all sequences and measured steps
        nrmse           the same, divided by the standard deviation of the values; 1 for the answer "the mean"
    and of the free run, at the test, over at most `CONTINUED` sequences:
        free_nrmse      as nrmse, over all free steps
        last_nrmse      as nrmse, at the last free step alone
        steps_followed  steps before the error first exceeds `LEFT` standard deviations, median over sequences
    """

    input_size = 1
    output_size = 1
    answer = "every"
    feedback = "value"
    media: tuple[str, ...] = ("png",)
    metrics = ("rmse", "nrmse")
    generated_metrics = ("free_nrmse", "last_nrmse", "steps_followed")
    first_measured = 0
    """The first step whose answer counts in rmse and nrmse."""

    def set_free_steps(self, T: int, free_steps: int) -> None:
        """Raises ConfigurationError for more free steps than T."""
        if free_steps > T:
            raise ConfigurationError(f"task.free_steps={free_steps}: must be at most task.T={T}")
        self.T = self.steps = T
        self.given_steps = T - free_steps + 1

    def set_sizes(self, train: int, validation: int, test: int) -> None:
        """Set the sizes of finite sets; a training series is in RAM twice, as drawn and in the order of the pass."""
        self.training_size, self.validation_size, self.test_size = 2 * train, validation, test
        self.sizes = {"train": train, "validation": validation, "test": test}

    def set_contents(self, contents: str | None) -> None:
        """Set the version of integrated series; ConfigurationError for a run with series of another version."""
        if contents not in (None, INTEGRATED):
            raise ConfigurationError(
                f"task.contents={contents}: series are {INTEGRATED} here; another release has yours"
            )
        self.contents = {"contents": INTEGRATED}

    def split(self, series: np.ndarray) -> dict[str, Sequences]:
        """The sets, from all series (B, T + 1) of a trial in the order of `sizes`."""
        pieces = np.split(series, np.cumsum(list(self.sizes.values()))[:-1])
        return {name: next_values(piece) for name, piece in zip(self.sizes, pieces, strict=True)}

    def measure(self, outputs, sequences):
        measured = np.s_[:, self.first_measured :]
        targets = sequences.targets[measured].astype(np.float64)
        return errors_of(outputs[measured], targets)

    def measure_generated(self, network, sequences, trials):
        prime, truth = self.continuation(sequences.take(np.s_[:, :CONTINUED]))
        free = network.free_run(prime, self.T, self.squash, self.feedback)[:, :, self.given_steps - 1 :]
        return [measure_free_run(one, true) for one, true in zip(free, truth, strict=True)]


def errors_of(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """rmse and nrmse of values of one shape; infinite if an output is not a finite number."""
    with np.errstate(over="ignore", invalid="ignore"):
        rmse = float(np.sqrt(np.mean((outputs.astype(np.float64) - targets) ** 2)))
    rmse = rmse if np.isfinite(rmse) else float("inf")
    return {"rmse": rmse, "nrmse": rmse / float(targets.std())}


def measure_free_run(free: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The metrics of a free run (B, steps, 1) against the true values of the same shape."""
    deviation = float(truth.std())
    left = ~(np.abs(free - truth)[..., 0] <= LEFT * deviation)
    followed = np.where(left.any(axis=1), left.argmax(axis=1), left.shape[1])
    last = errors_of(free[:, -1], truth[:, -1])["rmse"]
    return {
        "free_nrmse": errors_of(free, truth)["nrmse"],
        "last_nrmse": last / deviation,
        "steps_followed": float(np.median(followed)),
    }


def next_values(series: np.ndarray) -> Sequences:
    """Sequences of T steps from series (B, T + 1): each value, with the next one as its target."""
    values = series[..., None].astype(np.float32)
    return Sequences(values[:, :-1], np.full(len(series), series.shape[1] - 1), values[:, 1:])
