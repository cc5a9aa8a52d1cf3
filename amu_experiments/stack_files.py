"""The folder of a stack (trials trained together), trials-<first>-<last>/: results, weights, checkpoint, provenance.

The history is history.csv, or history.csv.gz in a small copy (studies/export.py).

A stack is finished if it has trials.csv, which is written last. Its sums.json has the checksums of the other files; a
stack without it was written before checksums existed, and is only checked for values that make sense. The first line
of a checkpoint is its checksum.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from amu_experiments.files import UnusableError, read_bytes, read_table, write_bytes, write_text

STACK_NAME = re.compile(r"trials-(\d+)-(\d+)")

COLUMNS = {
    "trials.csv": {"trial", "status", "sequences", "seconds", "parameters"},
    "history.csv": {"trial", "sequences", "seconds", "loss"},
}
"""The tables of a finished stack, and the columns that each must have."""

HISTORIES = ("history.csv", "history.csv.gz")
"""The names that the file with the history may have."""

CONFUSION = ("trial", "true_class", "answered_class", "answers")
"""The columns of confusion.csv, the confusion matrices on test data. A diverged trial, which has no test, has none."""

STATUSES = ("finished", "solved", "diverged")
"""How a trial can end. Records of training store the index in this tuple."""

LARGEST = 2**53
"""Whole numbers up to here are exact in a table of floating-point numbers."""


def stack_folder(folder: Path, trials: list[int]) -> Path:
    """The folder of these trials, consecutive numbers, in the folder of their configuration."""
    return folder / f"trials-{trials[0]}-{trials[-1]}"


def trials_of(stack: Path) -> range:
    """The trials that a stack's folder is named after."""
    first, last = map(int, STACK_NAME.fullmatch(stack.name).groups())
    return range(first, last + 1)


# Results ----------------------------------------------------------------------------------------------------------


def finish_stack(
    stack: Path,
    history: pd.DataFrame,
    trials: pd.DataFrame,
    numbers: np.ndarray,
    parameters: np.ndarray,
    confusion: pd.DataFrame | None = None,
) -> None:
    """Write the results of a stack, with the final parameters (R, P) of its trials, numbers (R,).

    confusion: its confusion matrices; None if the task has no classes.
    """
    weights = io.BytesIO()
    np.savez(weights, trial=numbers, parameters=parameters)
    tables = {
        name: table.to_csv(index=False, float_format="%.7g").encode()
        for name, table in (("history.csv", history), ("trials.csv", trials), ("confusion.csv", confusion))
        if table is not None
    }
    write_stack(stack, {"weights.npz": weights.getvalue(), **tables})
    (stack / "checkpoint.pt").unlink(missing_ok=True)


def write_stack(stack: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a finished stack and their checksums, trials.csv after all others."""
    for name in files.keys() - {"trials.csv"}:
        write_bytes(stack / name, files[name])
    sums = {"identity": stack.parent.name} | {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    write_text(stack / "sums.json", json.dumps(sums, indent=1) + "\n")
    write_bytes(stack / "trials.csv", files["trials.csv"])


def read_stack(stack: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trials and the history of a finished stack; UnusableError if a file is damaged."""
    summed = os.path.lexists(stack / "sums.json")
    kept = _check_sums(stack) if summed else [name for name in HISTORIES if os.path.lexists(stack / name)]
    trials = read_table(stack / "trials.csv", COLUMNS["trials.csv"], ("status",), stack)
    history_name = next((name for name in HISTORIES if name in kept), HISTORIES[0])
    history = read_table(stack / history_name, COLUMNS["history.csv"], owner=stack)
    named = trials_of(stack)
    if len(trials) != named.stop - named.start or trials["trial"].tolist() != list(named):
        raise UnusableError(stack, "trials.csv does not hold the trials that the folder is named after")
    _check_trials(trials, stack)
    _check_history(history, named, stack, history_name)
    if not summed:
        _check_times(trials, stack)
        if os.path.lexists(stack / "weights.npz"):
            read_stack_weights(stack)
    for table, names in ((trials, ("trial", "sequences", "parameters")), (history, ("trial", "sequences"))):
        for name in names:
            if table[name].dtype != np.int64:
                table[name] = table[name].astype(np.int64)
    return trials, history


def read_stack_weights(stack: Path) -> dict[int, np.ndarray]:
    """The final flat parameters (P,) of each trial of a stack; UnusableError if the file is damaged."""
    data = read_bytes(stack / "weights.npz", stack)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            weights = dict(zip(arrays["trial"].tolist(), arrays["parameters"], strict=True))
    except Exception as error:  # damaged bytes raise errors of any kind
        raise UnusableError(stack, f"weights.npz cannot be read ({type(error).__name__})") from error
    if list(weights) != list(trials_of(stack)):
        raise UnusableError(stack, "weights.npz does not hold the trials that the folder is named after")
    return weights


def read_confusion(stack: Path) -> pd.DataFrame | None:
    """The confusion matrices of a stack, one row for each trial, true_class and answered_class that occurred.

    None if the stack has none: the task has no classes, or the stack was written before they were kept. Raises
    UnusableError if the file is damaged.
    """
    path, classes = stack / "confusion.csv", CONFUSION[1:3]
    if not os.path.lexists(path):
        return None
    table = read_table(path, CONFUSION, as_written=classes)
    if not table["trial"].isin(trials_of(stack)).all() or table.duplicated(["trial", *classes]).any():
        raise UnusableError(path, "has trials of another stack, or a cell of a matrix twice")
    if not _whole(table["answers"]).all():
        raise UnusableError(path, "answers must be whole numbers of 1 or more")
    return table.astype({"trial": np.int64, "answers": np.int64})


def are_times(met: pd.Series, sequences: pd.Series) -> bool:
    """Whether `met` can be the sequences after which trials met a criterion; NaN if a trial did not meet it."""
    return bool((met.isna() | (_whole(met) & (met <= sequences))).all())


def _check_sums(stack: Path) -> Collection[str]:
    """The names of the files with a checksum.

    Raises UnusableError if one does not match its checksum, or the stack belongs to another configuration.
    """
    try:
        sums = json.loads(read_bytes(stack / "sums.json"))
    except (ValueError, RecursionError):
        sums = None
    if not isinstance(sums, dict):
        sums = {}
    owner = sums.pop("identity", stack.parent.name)
    whole = "trials.csv" in sums and not sums.keys().isdisjoint(HISTORIES)
    if not whole or not all(re.fullmatch(r"[\w.]+", name) for name in sums):
        raise UnusableError(stack, "sums.json lacks checksums")
    if owner != stack.parent.name:
        raise UnusableError(stack, f"belongs to the configuration {owner}")
    for name, expected in sums.items():
        if not os.path.lexists(stack / name):
            raise UnusableError(stack, f"{name} is gone")
        if hashlib.sha256(read_bytes(stack / name, stack)).hexdigest() != expected:
            raise UnusableError(stack, f"{name} does not match its checksum")
    return sums


def _check_trials(trials: pd.DataFrame, stack: Path) -> None:
    """Raise UnusableError for values that training never writes."""
    if not trials["status"].isin(STATUSES).all():
        raise UnusableError(stack, f"trials.csv has a status other than {', '.join(STATUSES)}")
    for name in ("sequences", "parameters"):
        if not _whole(trials[name]).all():
            raise UnusableError(stack, f"trials.csv: {name} must be whole numbers of 1 or more")
    if not trials["seconds"].between(0, LARGEST).all():
        raise UnusableError(stack, "trials.csv: seconds must be numbers of 0 or more")
    if trials["parameters"].nunique() > 1:
        raise UnusableError(stack, "trials.csv has trials with different numbers of parameters")


def _check_history(history: pd.DataFrame, trials: range, stack: Path, name: str) -> None:
    """Raise UnusableError for values that training never writes."""
    if not history["trial"].isin(trials).all():
        raise UnusableError(stack, f"{name} has other trials than the folder is named after")
    if not _whole(history["sequences"]).all():
        raise UnusableError(stack, f"{name}: sequences must be whole numbers of 1 or more")
    if not history["seconds"].between(0, LARGEST).all():
        raise UnusableError(stack, f"{name}: seconds must be numbers of 0 or more")
    if history.duplicated(["trial", "sequences"]).any():
        raise UnusableError(stack, f"{name} has an evaluation twice")


def _check_times(trials: pd.DataFrame, stack: Path) -> None:
    """Raise UnusableError for a number of sequences after which no trial can have met a criterion.

    Only for a stack without checksums: in other stacks, a column with such a name may be a metric of a user's task.
    """
    for name in trials:
        if name.endswith("_sequences") and not are_times(trials[name], trials["sequences"]):
            raise UnusableError(
                stack, f"trials.csv: {name} must be whole numbers from 1 to the sequences of the trial, or empty"
            )


def _whole(values: pd.Series) -> np.ndarray:
    values = values.to_numpy(float)
    return (values >= 1) & (values <= LARGEST) & (np.floor(values) == values)


# Checkpoint and provenance ----------------------------------------------------------------------------------------


def write_checkpoint(stack: Path, data: bytes) -> None:
    write_bytes(stack / "checkpoint.pt", _checkpoint_head(data, f" {stack.parent.name}") + data)


def read_checkpoint(stack: Path) -> bytes:
    """The data that `write_checkpoint` wrote; ValueError if they do not match their checksum.

    An old checkpoint has no checksum, or one without the identity of its configuration.
    """
    data = (stack / "checkpoint.pt").read_bytes()
    if not data.startswith(b"sha256 "):
        return data
    head, _, data = data.partition(b"\n")
    if head + b"\n" not in (_checkpoint_head(data), _checkpoint_head(data, f" {stack.parent.name}")):
        raise ValueError(f"does not match its checksum for {stack.parent.name}")
    return data


def _checkpoint_head(data: bytes, owner: str = "") -> bytes:
    return f"sha256 {hashlib.sha256(owner.encode() + data).hexdigest()}{owner}\n".encode()


def read_provenance(stack: Path) -> dict:
    """The software, machine and command that trained a stack; UnusableError if the file is damaged.

    Texts `started`, `command`, `python` and `machine`; `packages`, names with versions; `commit`, a text or None;
    and, unless the stack is old, `numerics`, a dict with the version and the instructions of the arithmetic.
    """
    path = stack / "provenance.json"
    data = read_bytes(path)
    try:
        made = json.loads(data)
        texts = [made[name] for name in ("started", "command", "python", "machine")]
        texts += [*made["packages"].values(), made["commit"] or ""]
        sound = all(isinstance(text, str) for text in texts) and isinstance(made.get("numerics", {}), dict)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise UnusableError(path, "holds no provenance")
    return made
