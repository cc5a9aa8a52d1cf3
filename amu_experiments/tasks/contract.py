"""Checks a user's own task: shapes, types and names, before anything is written."""

from collections.abc import Mapping

import numpy as np

from amu_experiments.options import ConfigurationError
from amu_experiments.own_code import in_one_line, place_of
from amu_experiments.tasks.task import Sequences, Task, random_generator

SPLITS = ("train", "validation", "test")

FEW = 3
"""Sequences that are drawn of a stream."""


def check_task(key: str, task: Task) -> None:
    """Raise ConfigurationError if the data or the metrics of a task break the contract of `Task`.

    The message is one line, with the key and with the place in the user's file.
    """
    kind = type(task)
    with in_one_line(f"{key}: sets()", kind.sets):
        data, method = task.sets(random_generator(0, "sets")), kind.sets
    if data is None:
        with in_one_line(f"{key}: draw()", kind.draw):
            data = {split: task.draw(random_generator(0, split), FEW, split) for split in SPLITS}
            method = kind.draw
    where = place_of(Exception(), method)
    if not isinstance(data, Mapping) or not set(SPLITS) <= set(data):
        raise ConfigurationError(f"{key}: sets() must return a dict with {', '.join(SPLITS)}, or None{where}")
    for split in SPLITS:
        if wrong := _wrong(task, data[split]):
            raise ConfigurationError(f"{key}: {method.__name__}() for {split}: {wrong}{where}")
    tested = data["test"]
    with in_one_line(f"{key}: measure()", kind.measure):
        metrics = task.measure(np.array(tested.targets, np.float32), tested)
        names = list(metrics)
        for name in task.metrics:
            if name in metrics:
                float(metrics[name])
    if missing := [name for name in task.metrics if name not in names]:
        raise ConfigurationError(
            f"{key}: measure() returns {', '.join(map(str, names)) or 'nothing'}: must have {', '.join(missing)}, "
            f"as `metrics` says{place_of(Exception(), kind.measure)}"
        )


def _wrong(task: Task, sequences: Sequences) -> str | None:
    """What breaks the contract of `Sequences` in those of one trial; None if nothing does."""
    if not isinstance(sequences, Sequences):
        return f"{type(sequences).__name__} must be Sequences(inputs, lengths, targets)"
    arrays = {name: np.asarray(getattr(sequences, name)) for name in ("inputs", "lengths", "targets")}
    inputs, lengths, targets = arrays.values()
    if inputs.ndim != 3 or inputs.shape[2] != task.input_size:
        return f"inputs are {inputs.shape}: must be (sequences, steps, {task.input_size}), as input_size says"
    B, T, _ = inputs.shape
    if lengths.shape != (B,) or lengths.dtype.kind not in "iu":
        return f"lengths are {lengths.shape} of {lengths.dtype}: must be ({B},) and whole numbers"
    if B and not 1 <= lengths.min() <= lengths.max() <= T:
        return f"lengths are from {lengths.min()} to {lengths.max()}: must be from 1 to {T}, the steps of the inputs"
    answers = T if task.answer == "every" else 1
    if targets.shape != (B, answers, task.output_size):
        return f'targets are {targets.shape}: must be {(B, answers, task.output_size)} with answer = "{task.answer}"'
    for name in ("inputs", "targets"):
        if arrays[name].dtype.kind not in "fiub" or not np.isfinite(arrays[name]).all():
            return f"{name} must be finite real numbers"
    if task.loss.endswith("cross_entropy") and B and not 0 <= targets.min() <= targets.max() <= 1:
        return f"targets are from {targets.min():g} to {targets.max():g}: must be from 0 to 1 with {task.loss}"
    return None
