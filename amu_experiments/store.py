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
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from amu_experiments.config import SCHEMA_VERSION, definition, identity, model_folder, task_folder

_STACK = re.compile(r"trials-(\d+)-(\d+)")

_IDENTITY = re.compile(r"[0-9a-f]{12}")

_PARTIAL = re.compile(r"\..+\.(\d{1,10})\.part")

_COLUMNS = {
    "trials.csv": {"trial", "status", "sequences", "seconds", "parameters"},
    "history.csv": {"trial", "sequences", "seconds", "loss"},
}
"""The tables of a finished stack, and what every one of them has."""

_STATUSES = ("solved", "finished", "diverged")

_LARGEST = 2**53
"""Whole numbers up to here are exact in a table of floating-point numbers."""

_DEEPEST = 20
"""Levels of a configuration."""

_MOST_ALIASES = 20
"""Of a YAML file. We write none; many of them, nested, make a small file a huge configuration."""


class UnusableError(ValueError):
    """Something in the store is not as it was written, or not for this version; the message names it and says why."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path


@dataclass(frozen=True)
class Result:
    """All finished trials of one configuration.

    trials: a row per trial; history: a row per trial and evaluation; both sorted by trial. stacks: the folders that
    they were read from.
    """

    task: str
    model: str
    identity: str
    config: dict
    trials: pd.DataFrame
    history: pd.DataFrame
    folder: Path
    stacks: list[Path] = field(default_factory=list)


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
    damaged += _no_folders(folder)
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
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
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


def remove_partial(folders: Iterable[Path]) -> None:
    """Remove what `write_bytes` left in these folders when its process was killed.

    A partial file has an owner while the process of its number runs here, or any process holds its lock.
    """
    for folder in folders:
        for path in folder.glob(".*.part"):
            number = _PARTIAL.fullmatch(path.name)
            if not number or _running(int(number[1])) or path.is_symlink() or not path.is_file():
                continue
            with suppress(OSError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def _running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


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
    """The folders of stacks under a results folder that are in training, or were interrupted.

    Without those whose trials are all finished in other stacks: nobody will go on with them.
    """
    found = []
    for folder in _configurations(results_dir, []):
        with suppress(OSError):  # which reading the results tells
            begun = [stack for stack in _stacks(folder) if not os.path.lexists(stack / "trials.csv")]
            if begun:
                finished = finished_trials(folder)
                found += [stack for stack in begun if not finished.issuperset(_trials_of(stack))]
    return found


def _configurations(results_dir: str | os.PathLike, left_out: list | None) -> list[Path]:
    """The folders of configurations, sorted; `left_out` takes what is there and cannot be one."""
    found = [Path(results_dir)] if os.path.lexists(results_dir) else []
    if found and not os.path.isdir(results_dir) and left_out is not None:
        left_out.append(UnusableError(found[0], "is no folder"))
    for _ in ("task", "model", "identity"):
        found = [inner for folder in found if os.path.isdir(folder) for inner in _paths_in(folder, left_out)]
    if left_out is not None:
        strange = [path for path in found if _IDENTITY.fullmatch(path.name) and not os.path.isdir(path)]
        left_out += [UnusableError(path, "is no folder") for path in strange]
    return [path for path in found if os.path.isdir(path)]


def read_result(folder: Path, left_out: list[UnusableError | OSError] | None = None) -> Result | None:
    """The finished trials of one configuration's folder, or None where there are none.

    left_out: takes the stacks that cannot be used, to go on with the others. Raises UnusableError for a configuration
    that cannot be.
    """
    if left_out is not None:
        strange = [path for path in _named_as_stacks(folder, "trials-") if not _STACK.fullmatch(path.name)]
        left_out += [UnusableError(path, "not named as a stack of trials is") for path in strange]
        left_out += _no_folders(folder)
    stacks = _finished(folder, left_out)
    if left_out is not None:
        stacks = _with_the_same_columns(stacks, left_out)
    if not stacks:
        if left_out is not None and os.path.lexists(folder / "config.yaml"):
            read_config(folder)
        return None
    config = read_config(folder)
    _check_values(config, folder / "config.yaml")
    # Stacks may overlap; a trial comes out the same in each, so the first one read stands for all.
    history = pd.concat([table.assign(stack=n) for n, (_, table) in enumerate(stacks.values())], ignore_index=True)
    first = history.groupby("trial")["stack"].transform("min")
    history = history[history["stack"] == first].drop(columns="stack")
    trials = pd.concat([table for table, _ in stacks.values()], ignore_index=True)
    return Result(
        task=folder.parent.parent.name,
        model=folder.parent.name,
        identity=folder.name,
        config=config,
        trials=trials.drop_duplicates("trial").sort_values("trial", ignore_index=True),
        history=history.sort_values(["trial", "sequences"], ignore_index=True),
        folder=folder,
        stacks=list(stacks),
    )


def _with_the_same_columns(stacks: Mapping[Path, tuple], left_out: list) -> dict[Path, tuple]:
    """The stacks whose tables have the columns that most stacks have; joined with others they would have gaps."""
    common = [common_columns([list(tables[place]) for tables in stacks.values()]) for place in (0, 1)]
    same = {}
    for stack, tables in stacks.items():
        try:
            same[stack] = tuple(
                with_columns(table, columns, stack, name, left_out)
                for table, columns, name in zip(tables, common, ("trials.csv", "history.csv"), strict=True)
            )
        except UnusableError as error:
            left_out.append(error)
    return same


def common_columns(tables: Sequence[list[str]]) -> list[str]:
    """The columns that more than half of these tables have."""
    counts = Counter(itertools.chain.from_iterable(tables))
    return [column for column, count in counts.items() if count > len(tables) / 2]


def with_columns(table: pd.DataFrame, columns: list[str], path: Path, name: str, left_out: list) -> pd.DataFrame:
    """A table with these columns alone, in its own order; `left_out` is told of others.

    Raises UnusableError where the table lacks any.
    """
    lacking = [column for column in columns if column not in table]
    if lacking:
        raise UnusableError(path, f"{name} has no {', '.join(lacking)}, unlike the results beside it")
    extra = [column for column in table if column not in columns]
    if not extra:
        return table
    left_out.append(UnusableError(path, f"{name} has {', '.join(extra)}, unlike the results beside it: not shown"))
    return table.drop(columns=extra)


def read_config(folder: Path) -> dict:
    """The configuration of a folder; UnusableError where it is not that of this folder, or of another schema."""
    path = folder / "config.yaml"
    data = _read_bytes(path)
    try:
        config = yaml.load(data, _Loader)
        version = config.get("schema_version")
        place = folder.parent.parent.name, folder.parent.name, folder.name
        same = version == SCHEMA_VERSION and (task_folder(config), model_folder(config), identity(config)) == place
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError, OverflowError, yaml.YAMLError):
        raise UnusableError(path, "holds no configuration") from None
    if version != SCHEMA_VERSION:
        raise UnusableError(path, f"made with schema version {version}, this is {SCHEMA_VERSION}")
    if not same:
        raise UnusableError(path, f"not the configuration of {'/'.join(place)}")
    return config


class _Loader(yaml.SafeLoader):
    """A loader that gives up on a file with many aliases."""

    aliases = 0

    def compose_node(self, parent, index):
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.aliases > _MOST_ALIASES:
            raise yaml.YAMLError("too many aliases")
        return super().compose_node(parent, index)


def _check_values(config: Mapping, path: Path) -> None:
    """UnusableError for a configuration whose tables and figures could not be made."""
    model, training = config["model"], config["training"]
    if not _is_nested(config):
        raise UnusableError(path, f"has a key that is no text, or more than {_DEEPEST} levels")
    numbers = {"model.units": model["units"]}
    numbers |= {f"training.{name}": training.get(name) for name in ("max_sequences", "evaluate_every")}
    for key, value in numbers.items():
        if type(value) is not int or not 1 <= value <= _LARGEST:
            raise UnusableError(path, f"{key} is no whole number from 1 on ({value})")


def _is_nested(value: object, level: int = 0) -> bool:
    """Whether mappings in mappings have texts for keys, and are not too deep."""
    if isinstance(value, Mapping):
        keys = all(isinstance(key, str) for key in value)
        return keys and level < _DEEPEST and all(_is_nested(inner, level + 1) for inner in value.values())
    if isinstance(value, list):
        return level < _DEEPEST and all(_is_nested(inner, level + 1) for inner in value)
    return True


def read_weights(folder: Path) -> dict[int, np.ndarray]:
    """The final flat parameters (P,) of every finished trial of one configuration's folder."""
    weights: dict[int, np.ndarray] = {}
    for stack in _finished(folder, left_out=[]):
        weights = _weights_of(_read_bytes(stack / "weights.npz", stack), stack) | weights
    return weights


def _weights_of(data: bytes, stack: Path) -> dict[int, np.ndarray]:
    """The flat parameters (P,) of each trial of a stack, from its weights.npz; UnusableError for anything else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            weights = dict(zip(arrays["trial"].tolist(), arrays["parameters"], strict=True))
    except Exception as error:  # bytes of any kind can make it stumble in any way
        raise UnusableError(stack, f"weights.npz cannot be read ({type(error).__name__})") from error
    if list(weights) != list(_trials_of(stack)):
        raise UnusableError(stack, "weights.npz does not hold the trials that the folder is named after")
    return weights


def read_provenance(stack: Path) -> dict:
    """What a stack was made with, as training wrote it; UnusableError for anything else.

    Texts `started`, `command`, `python` and `machine`; `packages`, names with versions; `commit`, a text or None;
    where it was recorded, `numerics`, a dict of what decides about roundings.
    """
    path = stack / "provenance.json"
    data = _read_bytes(path)
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


def read_provenances(
    results: Iterable[Result], left_out: list[UnusableError | OSError]
) -> list[tuple[Result, Path, dict | None]]:
    """Every stack of these results with what it was made with; None, which `left_out` is told of, if that is lost."""
    made: list[tuple[Result, Path, dict | None]] = []
    for result in results:
        for stack in result.stacks:
            try:
                made.append((result, stack, read_provenance(stack)))
            except (UnusableError, OSError) as error:
                left_out.append(error)
                made.append((result, stack, None))
    return made


def read_stack(stack: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trials and the history of a finished stack; UnusableError where it is not as it was written."""
    summed = os.path.lexists(stack / "sums.json")
    if summed:
        _check_sums(stack)
    trials = read_table(stack / "trials.csv", _COLUMNS["trials.csv"], ("status",), stack)
    history = read_table(stack / "history.csv", _COLUMNS["history.csv"], owner=stack)
    named = _trials_of(stack)
    if len(trials) != named.stop - named.start or trials["trial"].tolist() != list(named):
        raise UnusableError(stack, "trials.csv does not hold the trials that the folder is named after")
    _check_trials(trials, stack)
    _check_history(history, named, stack)
    if not summed:
        _check_times(trials, stack)
        if os.path.lexists(stack / "weights.npz"):
            _weights_of(_read_bytes(stack / "weights.npz", stack), stack)
    whole = {"trial": np.int64, "sequences": np.int64}
    return trials.astype(whole | {"parameters": np.int64}), history.astype(whole)


def read_table(
    path: Path,
    required: Iterable[str] = (),
    texts: Collection[str] = (),
    owner: Path | None = None,
    numbers: bool = True,
) -> pd.DataFrame:
    """A CSV file as a table.

    Args:
        path: the file.
        required: columns that it must have.
        texts: those of them that hold text in every row.
        owner: what an error names, where that is not the file.
        numbers: whether every other column must hold numbers.

    Raises UnusableError for anything else.
    """
    data, name = _read_bytes(path, owner), "" if owner is None else f"{path.name} "
    owner = owner or path
    try:
        table = pd.read_csv(io.BytesIO(data), dtype=dict.fromkeys(texts, str), low_memory=False)
    except (ValueError, OverflowError) as error:
        raise UnusableError(owner, f"{name}cannot be read ({type(error).__name__})") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise UnusableError(owner, f"{name}has rows with more values than it has columns")
    lacking = set(required) - set(table)
    if lacking:
        raise UnusableError(owner, f"{name}has no {', '.join(sorted(lacking))}")
    if not data.endswith(b"\n"):
        raise UnusableError(owner, f"{name}is cut off")
    empty = [column for column in texts if column in table and table[column].isna().any()]
    if empty:
        raise UnusableError(owner, f"{name}has rows without {', '.join(empty)}")
    others = table.columns.drop(list(texts), errors="ignore") if numbers and len(table) else []
    words = [column for column in others if not _numbers(table[column])]
    if words:
        raise UnusableError(owner, f"{name}has no numbers in {', '.join(words)}")
    return table


def read_text(path: Path) -> str:
    """A text file; UnusableError for anything else."""
    try:
        return _read_bytes(path).decode()
    except UnicodeDecodeError:
        raise UnusableError(path, "is no text") from None


def _numbers(values: pd.Series) -> bool:
    return is_numeric_dtype(values) and not is_bool_dtype(values)


def _check_trials(trials: pd.DataFrame, stack: Path) -> None:
    """UnusableError for values that no training gives."""
    if not trials["status"].isin(_STATUSES).all():
        raise UnusableError(stack, f"trials.csv has a status other than {', '.join(_STATUSES)}")
    for name in ("sequences", "parameters"):
        if not _whole(trials[name]).all():
            raise UnusableError(stack, f"trials.csv has {name} that are no whole number from 1 on")
    if not trials["seconds"].between(0, _LARGEST).all():
        raise UnusableError(stack, "trials.csv has seconds that are no number from 0 on")
    if trials["parameters"].nunique() > 1:
        raise UnusableError(stack, "trials.csv has trials with different numbers of parameters")


def _check_history(history: pd.DataFrame, trials: range, stack: Path) -> None:
    """UnusableError for values that no training gives."""
    if not history["trial"].isin(trials).all():
        raise UnusableError(stack, "history.csv has other trials than the folder is named after")
    if not _whole(history["sequences"]).all():
        raise UnusableError(stack, "history.csv has sequences that are no whole number from 1 on")
    if not history["seconds"].between(0, _LARGEST).all():
        raise UnusableError(stack, "history.csv has seconds that are no number from 0 on")
    if history.duplicated(["trial", "sequences"]).any():
        raise UnusableError(stack, "history.csv has an evaluation twice")


def _check_times(trials: pd.DataFrame, stack: Path) -> None:
    """UnusableError for a time at which a criterion cannot have been met.

    Of a stack without checksums: in another, a column with such a name may be a metric of a task of one's own.
    """
    for name in trials:
        if name.endswith("_sequences") and not are_times(trials[name], trials["sequences"]):
            raise UnusableError(stack, f"trials.csv has {name} that are no time within the sequences of the trial")


def are_times(met: pd.Series, sequences: pd.Series) -> bool:
    """Whether these can be the sequences after which trials met a criterion, NaN where they did not."""
    return bool((met.isna() | (_whole(met) & (met <= sequences))).all())


def _whole(values: pd.Series) -> pd.Series:
    values = values.astype(float)
    return values.between(1, _LARGEST) & (values % 1 == 0)


def _read_bytes(path: Path, owner: Path | None = None) -> bytes:
    """What a file holds; UnusableError, of the file or of its `owner`, where there is none, or no file."""
    name = "" if owner is None else f"{path.name} "
    try:
        # Nothing else has an end: a pipe, a device.
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a folder" if path.is_dir() else "no file"
            raise UnusableError(owner or path, f"{name}is {kind}")
        return path.read_bytes()
    except FileNotFoundError:
        raise UnusableError(owner or path, f"{name}is not there") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise UnusableError(owner or path, f"{name}cannot be read ({error.strerror})") from None
        raise


def _check_sums(stack: Path) -> None:
    """UnusableError if a file is not the one whose checksum was kept."""
    try:
        sums = json.loads(_read_bytes(stack / "sums.json"))
    except (ValueError, RecursionError):
        sums = None
    if not isinstance(sums, dict):
        sums = {}
    owner = sums.pop("identity", stack.parent.name)
    if not sums.keys() >= _COLUMNS.keys() or not all(re.fullmatch(r"[\w.]+", name) for name in sums):
        raise UnusableError(stack, "sums.json is not as it was written")
    if owner != stack.parent.name:
        raise UnusableError(stack, f"belongs to the configuration {owner}")
    for name, kept in sums.items():
        if not os.path.lexists(stack / name):
            raise UnusableError(stack, f"{name} is gone")
        if hashlib.sha256(_read_bytes(stack / name, stack)).hexdigest() != kept:
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


def _no_folders(folder: Path) -> list[UnusableError]:
    """An error for each thing that has the name of a stack and is no folder."""
    return [UnusableError(path, "is no folder") for path in _named_as_stacks(folder) if not path.is_dir()]


def _paths_in(folder: Path, left_out: list | None) -> list[Path]:
    """What is in a folder; `left_out` takes the error where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        if left_out is None:
            raise
        left_out.append(error)
        return []


def _trials_of(stack: Path) -> range:
    first, last = map(int, _STACK.fullmatch(stack.name).groups())
    return range(first, last + 1)
