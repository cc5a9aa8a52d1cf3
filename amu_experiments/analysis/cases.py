"""The cases in which claims are judged: a reading of the auxiliary memory unit (reading.py) with a training.

A training is a way to train networks, identified by its optimizer. For the problems in conf/answers, task settings such
as the loss depend on the training, so each training has its own comparisons.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from amu_experiments.analysis import statistics
from amu_experiments.analysis.comparison import Comparison, final_values
from amu_experiments.analysis.labels import parameters_of
from amu_experiments.analysis.reading import Reading, named_readings, reading_of
from amu_experiments.analysis.text import sequences_text
from amu_experiments.selection import flat

MIN_TRIALS = 10
"""Rows with fewer trials are not used."""

OPTIMIZERS = {"adam": "Adam", "sgd": "gradient descent", "rmsprop": "RMSprop"}
"""The trainings in words, in the order of every list of cases."""

OLDER = {"samples": 0, "noise": 0.0}
"""Task settings missing from older rows, with the values that those rows were run with."""


class Case(NamedTuple):
    """A reading of the unit with the optimizer of its training."""

    reading: Reading
    optimizer: str

    @property
    def training(self) -> str:
        return OPTIMIZERS.get(self.optimizer, self.optimizer)

    @property
    def name(self) -> str:
        return case_name(self.reading.name, self.training)


class Row(NamedTuple):
    """A row of a comparison."""

    comparison: Comparison
    number: int

    @property
    def label(self) -> str:
        return self.comparison.labels[self.number]

    @property
    def trials(self) -> int:
        return len(self.comparison.results[self.number].trials)

    @property
    def parameters(self) -> int:
        return parameters_of(self.comparison.results[self.number])

    @property
    def model(self) -> dict:
        """The options of the model; an AMU's have the defaults of `Reading` where the row lacks them."""
        model = self.comparison.results[self.number].config["model"]
        return Reading()._asdict() | model if model["cell"] == "amu" else model

    @property
    def optimizer(self) -> str:
        return self.comparison.results[self.number].config["training"].get("optimizer", "unknown")

    @property
    def case(self) -> Case | None:
        """The case in which the row is judged; None unless it is an AMU with the truncated gradient.

        The truncated gradient is the paper's own algorithm. With output=memory, memory and output are not separate
        neurons, so such a row has no case either.
        """
        model = self.model
        if model["cell"] != "amu" or model.get("gradient") != "truncated" or model["output"] == "memory":
            return None
        return Case(reading_of(model), self.optimizer) if self.trials >= MIN_TRIALS else None

    def times(self) -> tuple[np.ndarray, np.ndarray]:
        return self.comparison.times(self.number, self.comparison.stop)

    def finals(self, metric: str) -> np.ndarray:
        """A metric on test data after training, (trials,); infinitely bad for a trial that diverged."""
        return final_values(self.comparison.results[self.number], f"test_{metric}")

    def text(self) -> str:
        """The row's label with its solved trials and its Kaplan-Meier median."""
        times, solved = self.times()
        middle = sequences_text(float(statistics.median_times(times, solved)))
        return f"{self.label} {solved.sum()}/{len(solved)}, median {middle}"


def case_name(reading: str, training: str) -> str:
    """A case by the names of its reading and training: "tframe (Adam)"."""
    return f"{reading} ({training})"


def find_cases(comparisons: list[Comparison], experiments: Iterable[Mapping]) -> list[Case]:
    """The cases with a row in any of these experiments, in order; if there is none, the first named reading with Adam.

    Named readings come first, in their order; then the others by name. In each reading, the trainings have the order of
    `OPTIMIZERS`.
    """
    found = []
    for comparison in fitting(comparisons, experiments):
        cases = [row.case for row in rows_of(comparison)]
        found += [case for case in dict.fromkeys(cases) if case is not None and case not in found]
    first = Case(next(iter(named_readings().values())), next(iter(OPTIMIZERS)))
    return sorted(found, key=_place) or [first]


def fitting(comparisons: list[Comparison], experiments: Iterable[Mapping]) -> list[Comparison]:
    """The comparisons that have criteria and the task settings of one of these experiments."""
    return [
        comparison
        for comparison in comparisons
        if comparison.criteria
        and any(settings.items() <= (OLDER | flat(comparison.task)).items() for settings in experiments)
    ]


def rows_of(comparison: Comparison, cell: str = "amu", optimizer: str | None = None) -> list[Row]:
    """The rows of a cell, those with most trials first; with `optimizer`, only those that it trained."""
    rows = [Row(comparison, number) for number in comparison.by_model]
    return [row for row in rows if row.model["cell"] == cell and optimizer in (None, row.optimizer)]


def _place(case: Case) -> tuple:
    """Sort key of a case."""
    trainings, named = list(OPTIMIZERS), list(named_readings().values())
    training = trainings.index(case.optimizer) if case.optimizer in trainings else len(trainings)
    reading = named.index(case.reading) if case.reading in named else len(named)
    return reading, case.reading.name, training, case.optimizer
