"""Where runs live: which trials exist, which are missing, and reading and writing what was found.

A configuration has a folder, <results_dir>/<task>/<model>/<identity>/, with config.yaml and a folder for each stack
of trials that was trained together, trials-<first>-<last>/. A stack is finished once its trials.csv is there; that
file is written last, and every file appears whole or not at all.

Nothing is believed that is not as it was written. The checksums of a finished stack are in its sums.json (a stack
without one was written before they were kept, and need only be legible), that of a checkpoint stands at its head, and
a configuration must have the identity that its folder is named after.

Processes that share a store keep out of each other's way by locks on folders (flock), which end with the process that
holds them: that of a configuration's folder for the moment in which it is decided who trains what, and that of a
stack's folder for as long as the stack is trained. Nothing but reading is done without one.
"""

import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from pandas.api.types import is_numeric_dtype

from amu_experiments.config import SCHEMA_VERSION, definition, identity, model_folder, task_folder

_STACK = re.compile(r"trials-(\d+)-(\d+)")

_COLUMNS = {
    "trials.csv": {"trial", "status", "sequences", "seconds", "parameters"},
    "history.csv": {"trial", "sequences"},
}
"""The tables of a finished stack, and what every one of them has."""


class UnusableError(ValueError):
    """Something in the store is not as it was written, or not for this version; the message names it and says why."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path


@dataclass(frozen=True)
class Result:
    """All finished trials of one configuration.

    trials: a row per trial; history: a row per trial and evaluation; both sorted by trial.
    """

    task: str
    model: str
    identity: str
    config: dict
    trials: pd.DataFrame
    history: pd.DataFrame
    folder: Path


@dataclass(frozen=True)
class Claim:
    """What a process may train, and what it found.

    trials: a stack for this process alone; none where all that is wanted is finished or being trained.
    elsewhere: the folders of stacks with wanted trials that other processes are training.
    set_aside: a line about each thing that was found damaged.
    """

    trials: list[int]
    elsewhere: list[Path]
    set_aside: list[str]


def folder_of(config: dict) -> Path:
    """Where the trials of this configuration are kept; its number of units must be known."""
    return Path(config["results_dir"], task_folder(config), model_folder(config), identity(config))


def stack_folder(folder: Path, trials: list[int]) -> Path:
    return folder / f"trials-{trials[0]}-{trials[-1]}"


# Who trains what --------------------------------------------------------------------------------------------------


@contextmanager
def claim(folder: Path, config: dict, wanted: Iterable[int]) -> Iterator[Claim]:
    """Take the first stack of wanted trials that nobody has, for as long as the block lasts.

    Makes the configuration's folder where it is new, sets aside what is damaged in it, and removes what processes that
    were killed have left there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with locked(folder):
            damaged = _mend(folder, config)
            running = _tidy(folder)
            missing = set(wanted) - finished_trials(folder)
            elsewhere = [stack for stack in running if any(trial in _trials_of(stack) for trial in missing)]
            free = {trial for trial in missing if not any(trial in _trials_of(stack) for stack in running)}
            stacks = missing_stacks(folder, free)
            if stacks:
                path = stack_folder(folder, stacks[0])
                path.mkdir(exist_ok=True)
                held.enter_context(locked(path))
        yield Claim(stacks[0] if stacks else [], elsewhere, damaged)


def wait_for(stack: Path) -> None:
    """Return once no process is training this stack."""
    with suppress(FileNotFoundError), locked(stack):
        pass


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a folder's lock, once no other process does; without `wait`, yields False where one does."""
    file = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = True
        except BlockingIOError:
            mine = False
        except OSError as error:
            raise OSError(error.errno, f"cannot be locked ({error.strerror})", str(folder)) from error
        yield mine
    finally:
        os.close(file)


def finished_trials(folder: Path) -> set[int]:
    """The trials that need not be trained again; what is damaged counts for nothing."""
    return {trial for stack in _finished(folder, left_out=[]) for trial in _trials_of(stack)}


def missing_stacks(folder: Path, wanted: Iterable[int]) -> list[list[int]]:
    """The wanted trials that are not finished, in stacks of consecutive numbers.

    An interrupted stack comes back as it was, so that it can go on from its checkpoint.
    """
    missing = set(wanted) - finished_trials(folder)
    interrupted, fresh = [], []
    for stack in _stacks(folder, "checkpoint.pt"):
        trials = _trials_of(stack)
        if trials and missing.issuperset(trials):
            interrupted.append(list(trials))
            missing -= set(trials)
    for trial in sorted(missing):
        if fresh and fresh[-1][-1] == trial - 1:
            fresh[-1].append(trial)
        else:
            fresh.append([trial])
    return sorted(interrupted + fresh)


def set_aside(path: Path) -> Path:
    """Rename what is damaged, so that it is neither read nor lost; its new path."""
    names = itertools.chain([f"damaged-{path.name}"], (f"damaged-{n}-{path.name}" for n in itertools.count(2)))
    return path.rename(next(new for new in map(path.with_name, names) if not os.path.lexists(new)))


def _mend(folder: Path, config: dict) -> list[str]:
    """Set aside what is damaged and write config.yaml where there is none; a line about each thing set aside.

    What only cannot be read, as where that is not permitted, may be sound: that is an error.
    """
    damaged: list[UnusableError | OSError] = []
    if os.path.lexists(folder / "config.yaml"):
        try:
            read_config(folder)
        except UnusableError as error:
            damaged.append(error)
    damaged += [UnusableError(path, "is no folder") for path in _named_as_stacks(folder) if not path.is_dir()]
    _finished(folder, damaged)
    for error in damaged:
        if isinstance(error, OSError):
            raise error
    lines = [f"{error}; set aside as {set_aside(error.path).name}" for error in damaged]
    if not (folder / "config.yaml").exists():
        write_text(folder / "config.yaml", yaml.safe_dump(definition(config), sort_keys=False))
    return lines


def _tidy(folder: Path) -> list[Path]:
    """Remove what killed processes have left, and find the stacks that are being trained.

    What is half written in a folder whose lock can be had is nobody's.
    """
    running = []
    _remove(folder.glob(".*.part"))
    for stack in _stacks(folder):
        with locked(stack, wait=False) as mine:
            if not mine:
                running.append(stack)
                continue
            _remove(stack.glob(".*.part"))
            if (stack / "trials.csv").exists():
                _remove(stack.glob("checkpoint.pt"))
    return running


def _remove(paths: Iterable[Path]) -> None:
    """Where that is possible: what stays does no harm."""
    for path in paths:
        with suppress(OSError):
            path.unlink()


# Writing ----------------------------------------------------------------------------------------------------------


def finish_stack(
    stack: Path, history: pd.DataFrame, trials: pd.DataFrame, numbers: np.ndarray, parameters: np.ndarray
) -> None:
    """Write what was found, final parameters (R, P) of trials (R,) included; then the stack's trials are finished."""
    weights = io.BytesIO()
    np.savez(weights, trial=numbers, parameters=parameters)
    tables = {
        name: table.to_csv(index=False, float_format="%.7g").encode()
        for name, table in (("history.csv", history), ("trials.csv", trials))
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


def write_checkpoint(stack: Path, data: bytes) -> None:
    write_bytes(stack / "checkpoint.pt", _checkpoint_head(data, f" {stack.parent.name}") + data)


def read_checkpoint(stack: Path) -> bytes:
    """What `write_checkpoint` was given; ValueError if that is not what is there.

    A checkpoint without a checksum, or without its configuration's identity behind it, was written before these were
    kept.
    """
    data = (stack / "checkpoint.pt").read_bytes()
    if not data.startswith(b"sha256 "):
        return data
    head, _, data = data.partition(b"\n")
    head += b"\n"
    if head == _checkpoint_head(data):
        return data
    if head != _checkpoint_head(data, f" {stack.parent.name}"):
        raise ValueError(f"not as it was written for {stack.parent.name}")
    return data


def _checkpoint_head(data: bytes, owner: str = "") -> bytes:
    return f"sha256 {hashlib.sha256(owner.encode() + data).hexdigest()}{owner}\n".encode()


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all, and survives a loss of power once this returns.

    Raises an OSError that names the file.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            _sync(path.parent)
        finally:
            with suppress(OSError):
                partial.unlink()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sync(folder: Path) -> None:
    """Have the names in a folder survive a loss of power, where its file system can do that and this process may."""
    try:
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM):
            raise


# Reading ----------------------------------------------------------------------------------------------------------


def read_results(results_dir: str | os.PathLike, left_out: list[UnusableError | OSError] | None = None) -> list[Result]:
    """Everything finished under a results folder, sorted by folder.

    left_out: takes what cannot be used, to go on with the rest; where it is not given, that is an error.
    """
    results = []
    for folder in _configurations(results_dir, left_out):
        try:
            result = read_result(folder, left_out)
            results += [] if result is None else [result]
        except (UnusableError, OSError) as error:
            if left_out is None:
                raise
            left_out.append(error)
    return results


def unfinished(results_dir: str | os.PathLike) -> list[Path]:
    """The folders of stacks under a results folder that are in training, or were interrupted."""
    found = []
    for folder in _configurations(results_dir, []):
        with suppress(OSError):  # which reading the results tells
            found += [stack for stack in _stacks(folder) if not os.path.lexists(stack / "trials.csv")]
    return found


def _configurations(results_dir: str | os.PathLike, left_out: list | None) -> list[Path]:
    """The folders of configurations, sorted; `left_out` takes errors of those that cannot be read."""
    folders = [Path(results_dir)] if os.path.lexists(results_dir) else []
    for _ in ("task", "model", "identity"):
        folders = [inner for folder in folders for inner in _folders_in(folder, left_out)]
    return folders


def read_result(folder: Path, left_out: list[UnusableError | OSError] | None = None) -> Result | None:
    """The finished trials of one configuration's folder, or None where there are none.

    left_out: takes the stacks that cannot be used, to go on with the others. Raises UnusableError for a configuration
    that cannot be.
    """
    if left_out is not None:
        strange = [path for path in _named_as_stacks(folder, "trials-") if not _STACK.fullmatch(path.name)]
        left_out += [UnusableError(path, "not named as a stack of trials is") for path in strange]
    stacks = _finished(folder, left_out)
    if not stacks:
        return None
    # Stacks may overlap; a trial comes out the same in each, so the first one read stands for all.
    history = pd.concat([table.assign(stack=n) for n, (_, table) in enumerate(stacks.values())], ignore_index=True)
    first = history.groupby("trial")["stack"].transform("min")
    history = history[history["stack"] == first].drop(columns="stack")
    trials = pd.concat([table for table, _ in stacks.values()], ignore_index=True)
    return Result(
        task=folder.parent.parent.name,
        model=folder.parent.name,
        identity=folder.name,
        config=read_config(folder),
        trials=trials.drop_duplicates("trial").sort_values("trial", ignore_index=True),
        history=history.sort_values(["trial", "sequences"], ignore_index=True),
        folder=folder,
    )


def read_config(folder: Path) -> dict:
    """The configuration of a folder; UnusableError where it is not that of this folder, or of another schema."""
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_bytes())
        version = config.get("schema_version")
        place = folder.parent.parent.name, folder.parent.name, folder.name
        same = version == SCHEMA_VERSION and (task_folder(config), model_folder(config), identity(config)) == place
    except FileNotFoundError:
        raise UnusableError(path, "not there") from None
    except IsADirectoryError:
        raise UnusableError(path, "is a folder") from None
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError, yaml.YAMLError):
        raise UnusableError(path, "holds no configuration") from None
    if version != SCHEMA_VERSION:
        raise UnusableError(path, f"made with schema version {version}, this is {SCHEMA_VERSION}")
    if not same:
        raise UnusableError(path, f"not the configuration of {'/'.join(place)}")
    return config


def read_weights(folder: Path) -> dict[int, np.ndarray]:
    """The final flat parameters (P,) of every finished trial of one configuration's folder."""
    weights: dict[int, np.ndarray] = {}
    for stack in _finished(folder, left_out=[]):
        try:
            with np.load(stack / "weights.npz", allow_pickle=False) as kept:
                weights = dict(zip(kept["trial"].tolist(), kept["parameters"], strict=True)) | weights
        except (
            FileNotFoundError,
            IsADirectoryError,
            ValueError,
            KeyError,
            EOFError,
            zipfile.BadZipFile,
        ) as error:
            raise UnusableError(stack, f"weights.npz cannot be read ({type(error).__name__})") from error
    return weights


def read_stack(stack: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trials and the history of a finished stack; UnusableError where it is not as it was written."""
    if (stack / "sums.json").exists():
        _check_sums(stack)
    tables = []
    for name, columns in _COLUMNS.items():
        try:
            table = pd.read_csv(stack / name)
        except (FileNotFoundError, IsADirectoryError, ValueError) as error:
            raise UnusableError(stack, f"{name} cannot be read ({type(error).__name__})") from error
        if columns - set(table):
            raise UnusableError(stack, f"{name} has no {', '.join(sorted(columns - set(table)))}")
        texts = [
            column for column in table.columns.drop("status", errors="ignore") if not is_numeric_dtype(table[column])
        ]
        if texts and len(table):
            raise UnusableError(stack, f"{name} has no numbers in {', '.join(texts)}")
        tables.append(table)
    trials, history = tables
    named = _trials_of(stack)
    if len(trials) != named.stop - named.start or trials["trial"].tolist() != list(named):
        raise UnusableError(stack, "trials.csv does not hold the trials that the folder is named after")
    return trials, history


def _check_sums(stack: Path) -> None:
    """UnusableError if a file is not the one whose checksum was kept."""
    try:
        sums = json.loads((stack / "sums.json").read_bytes())
    except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
        sums = None
    if not isinstance(sums, dict):
        sums = {}
    owner = sums.pop("identity", stack.parent.name)
    if not sums.keys() >= _COLUMNS.keys() or not all(re.fullmatch(r"[\w.]+", name) for name in sums):
        raise UnusableError(stack, "sums.json is not as it was written")
    if owner != stack.parent.name:
        raise UnusableError(stack, f"belongs to the configuration {owner}")
    for name, kept in sums.items():
        try:
            data = (stack / name).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            raise UnusableError(stack, f"{name} is gone") from None
        if hashlib.sha256(data).hexdigest() != kept:
            raise UnusableError(stack, f"{name} is not as it was written")


def _finished(folder: Path, left_out: list | None) -> dict[Path, tuple[pd.DataFrame, pd.DataFrame]]:
    """Finished stacks, each with its trials and history; `left_out` takes those that cannot be used, or not be read."""
    finished = {}
    for stack in _stacks(folder, "trials.csv"):
        try:
            finished[stack] = read_stack(stack)
        except (UnusableError, OSError) as error:
            if left_out is None:
                raise
            left_out.append(error)
    return finished


def _stacks(folder: Path, with_file: str = "") -> list[Path]:
    """The folders of stacks, all or those with this file, or something in its place."""
    return [path for path in _named_as_stacks(folder) if path.is_dir() and os.path.lexists(path / with_file)]


def _named_as_stacks(folder: Path, named: str = "") -> list[Path]:
    """What has the name of a stack, or one that begins like this; OSError where the folder cannot be read."""
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    return [path for path in paths if (path.name.startswith(named) if named else _STACK.fullmatch(path.name))]


def _folders_in(folder: Path, left_out: list | None) -> list[Path]:
    """The folders in a folder; `left_out` takes the error where it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        if left_out is None:
            raise
        left_out.append(error)
        return []


def _trials_of(stack: Path) -> range:
    first, last = map(int, _STACK.fullmatch(stack.name).groups())
    return range(first, last + 1)
