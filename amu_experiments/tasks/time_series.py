"""Real time series: classification, regression and forecasting, of sets of the UCR/UEA archive or of one's own files.

data_sets.py finds the data.
"""

from collections.abc import Mapping
from typing import Annotated

import numpy as np

from amu_experiments.options import PROPER_FRACTION, TEXT, Added, whole
from amu_experiments.tasks.data_sets import answers_in_rows, load, load_stored, shift_and_scale
from amu_experiments.tasks.series_files import Part
from amu_experiments.tasks.task import Sequences, Task, one_hot, read_criteria


class TimeSeries(Task):
    """Read a series of one or more channels step by step, and answer with its class at its last step.

    The worked example is JapaneseVowels: 12 cepstrum coefficients of a speaker saying "ae", 7 to 29 steps
    long; the classes are the nine speakers, 270 training and 370 test utterances.

    Files of one's own may have other answers: numbers for each series, answered at its last step (regression); numbers
    for each step, answered there; or none, and the answers are the channels `horizon` steps later (forecasting):
    1 2 4 8 -> 2 4 8 with horizon=1.

    Exactly one of two options gives the data:
        name  a data set of the UCR/UEA archive. aeon ships some sets, which need no connection, and downloads the
              others. If a set has missing values, aeon downloads the archive's version in which they are filled in.
        path  a file NAME_TRAIN.ts with NAME_TEST.ts beside it, the same as .csv, or a file NAME.npz (table_files.py
              has both forms); or a folder that contains one such set. A run's identity has NAME and `contents`, a
              digest of the files, but not their path. Other data at the same path are another run; the same data at
              another path are the same run.

    Labels must match exactly: `Run` and `run` are two classes, and so are `1` and `1.0`. The outputs are in the order
    of the labels in lower case.

    The stored configuration of a run has NAME and `contents` and no path. A task made from it finds the files in the
    current folder.

    A share of each class's training series, or of all if there are no classes, becomes validation data, drawn anew for
    every trial. The share is rounded, but never all series of a class are drawn, and at least one if the class has two
    or more. Each channel is shifted and scaled to mean 0 and standard deviation 1 on the remaining training series; a
    channel that is constant there is only shifted. Validation and test data get the same shift and scale. Targets are
    one-hot; numbers are shifted and scaled by mean and standard deviation over all training series, and the loss is in
    these units.

    Metrics: accuracy, the share of series whose class is the most active output. Of numbers: mse and mean_error, the
    mean squared and the mean absolute error over outputs and answered steps, in the units of the data.
    """

    loss = "cross_entropy"
    squash = "softmax"
    metrics = ("accuracy",)

    def __init__(
        self,
        trials,
        *,
        name: Annotated[str, TEXT] | None,
        path: Annotated[str, TEXT] | None,
        validation_share: Annotated[float, PROPER_FRACTION],
        criteria: Mapping,
        horizon: Annotated[int, whole(1, 100_000), Added(1)] = 1,
        contents: str | None = None,
    ):
        super().__init__(trials)
        self.validation_share = validation_share
        data = load(name, path) if contents is None else load_stored(name, path, contents)
        self.contents = data.origin
        training, held_out = data.training, data.test
        forecasting = training.labels is None and training.answers is None
        if horizon > 1 and not forecasting:
            raise ValueError(f"task.horizon={horizon}: must be 1, since the series have answers of their own")
        if training.labels is not None:
            # aeon lowercases labels: with this order, the archive's sets have the same class numbers as with aeon.
            self.classes = sorted(set(training.labels), key=lambda label: (label.lower(), label))
            self.output_size = len(self.classes)
        else:
            if forecasting:
                source = f"task.path={path or name}"
                training, held_out = (_forecasting(part, horizon, source) for part in (training, held_out))
            self.loss, self.squash, self.metrics = "squared_error", "linear", ("mse", "mean_error")
            self.answer = "every" if training.answers.ndim == 3 else "last"
            self.output_size = training.answers.shape[-1]
            self.answer_shift, self.answer_scale = shift_and_scale(answers_in_rows(training))
        self.training, self.held_out = training, held_out
        self.criteria = read_criteria(criteria, self.metrics)
        self.input_size = training.series.shape[2]
        self.training_size, self.validation_size = len(training.lengths), 0
        self.test_size = len(held_out.lengths)
        self.steps = max(training.series.shape[1], held_out.series.shape[1])

    def sets(self, rng):
        kinds = self._classes_of(self.training) if self.classes else np.zeros(self.training_size, int)
        train, validation = split_off(kinds, self.validation_share, rng)
        shift, scale = shift_and_scale(self.training.series[train][self.training.counts[train]])
        everything = slice(None)
        return {
            "train": self._sequences(self.training, train, shift, scale),
            "validation": self._sequences(self.training, validation, shift, scale),
            "test": self._sequences(self.held_out, everything, shift, scale),
        }

    def measure(self, outputs, sequences):
        if self.classes:
            right = outputs.argmax(axis=-1) == sequences.targets.argmax(axis=-1)
            return {"accuracy": float(right.mean())}
        errors = (outputs - sequences.targets).astype(np.float64) * self.answer_scale
        if self.answer == "every":
            errors = errors[np.arange(errors.shape[1]) < sequences.lengths[:, None]]
        return {"mse": float((errors**2).mean()), "mean_error": float(np.abs(errors).mean())}

    def _sequences(self, part: Part, index, shift: np.ndarray, scale: np.ndarray) -> Sequences:
        with np.errstate(over="ignore"):
            inputs = ((part.series[index] - shift) / scale * part.counts[index][:, :, None]).astype(np.float32)
        return Sequences(inputs, part.lengths[index], self._targets(part, index))

    def _targets(self, part: Part, index) -> np.ndarray:
        if self.classes:
            return one_hot(self._classes_of(part)[index], len(self.classes))[:, None]
        answers = (part.answers[index] - self.answer_shift) / self.answer_scale
        answers = answers[:, None] if self.answer == "last" else answers * part.counts[index][:, :, None]
        return answers.astype(np.float32)

    def _classes_of(self, part: Part) -> np.ndarray:
        """The number of each series' class: (B,)."""
        numbers = {label: number for number, label in enumerate(self.classes)}
        return np.array([numbers[label] for label in part.labels])


def _forecasting(part: Part, horizon: int, source: str) -> Part:
    """The series without their last `horizon` steps, and as answers of each step the values that many steps later."""
    shortest = int(part.lengths.min())
    if shortest <= horizon:
        raise ValueError(f"task.horizon={horizon}: must be below {shortest}, the steps of a series of {source}")
    lengths = part.lengths - horizon
    counts = np.arange(part.series.shape[1] - horizon) < lengths[:, None]
    before, after = part.series[:, :-horizon], part.series[:, horizon:]
    return Part(before * counts[:, :, None], lengths, None, after * counts[:, :, None])


def split_off(labels: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices (rest, split off); about this share of every class is split off."""
    split = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        split.append(rng.permutation(members)[:count])
    split = np.sort(np.concatenate(split))
    return np.setdiff1d(np.arange(len(labels)), split), split
