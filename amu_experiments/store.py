"""Where runs live: the folder of a configuration, its finished and missing trials, and the results of all of them.

A configuration has a folder, <results_dir>/<task>/<model>/<identity>/. It contains config.yaml and a folder for each
stack of trials that was trained together (stack_files.py). Every file is verified before it is used: config.yaml must
have the identity that its folder is named after.
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from amu_experiments.config import SCHEMA_VERSION, identity, model_folder, task_folder
from amu_experiments.files import UnusableError, read_bytes
from amu_experiments.stack_files import (
    LARGEST,
    STACK_NAME,
    read_confusion,
    read_provenance,
    read_stack,
    read_stack_weights,
    trials_of,
)

_IDENTITY = re.compile(r"[0-9a-f]{12}")

_MOST_LEVELS = 20
"""Maximum number of nested levels in a configuration."""

_MOST_LEVELS_READ = 100
"""Maximum number of nested levels in a yaml file, so that a configuration with too many gets a message of its own."""

_MOST_ALIASES = 20
"""Maximum number of aliases in a yaml file. We write none; nested aliases can turn a small file into a huge
configuration."""


@dataclass(frozen=True, repr=False)
class Result:
    """All finished trials of one configuration.

    trials: a row per trial; history: a row per trial and evaluation; both sorted by trial. stacks: the folders of
    the stacks that were read.
    """

    task: str
    model: str
    identity: str
    config: dict
    trials: pd.DataFrame
    history: pd.DataFrame
    folder: Path
    stacks: list[Path] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Result({self.task}/{self.model}/{self.identity}: {len(self.trials)} trials)"


def folder_of(config: dict) -> Path:
    """The folder of a configuration; its number of units must be known."""
    return Path(config["results_dir"], task_folder(config), model_folder(config), identity(config))


# Trials of a configuration ----------------------------------------------------------------------------------------


def finished_trials(folder: Path) -> set[int]:
    """The trials that need no training; damaged stacks are ignored."""
    return {trial for stack in finished_stacks(folder, left_out=[]) for trial in trials_of(stack)}


def missing_stacks(folder: Path, wanted: Iterable[int], finished: set[int] | None = None) -> list[list[int]]:
    """The requested trials that are not finished, in stacks of consecutive numbers.

    An interrupted stack keeps its trials, so that training can resume from its checkpoint. finished: the result of
    `finished_trials`, if it is known.
    """
    missing = set(wanted) - (finished_trials(folder) if finished is None else finished)
    interrupted, fresh = [], []
    for stack in stacks_in(folder, "checkpoint.pt"):
        trials = trials_of(stack)
        if trials and missing.issuperset(trials):
            interrupted.append(list(trials))
            missing -= set(trials)
    for trial in sorted(missing):
        if fresh and fresh[-1][-1] == trial - 1:
            fresh[-1].append(trial)
        else:
            fresh.append([trial])
    return sorted(interrupted + fresh)


def finished_stacks(folder: Path, left_out: list | None) -> dict[Path, tuple[pd.DataFrame, pd.DataFrame]]:
    """The finished stacks of a configuration's folder, each with its trials and its history.

    left_out: takes the error of each stack that cannot be used; None: the first error is raised.
    """
    finished = {}
    for stack in stacks_in(folder, "trials.csv"):
        try:
            finished[stack] = read_stack(stack)
        except (UnusableError, OSError) as error:
            if left_out is None:
                raise
            left_out.append(error)
    return finished


def stacks_in(folder: Path, with_file: str = "") -> list[Path]:
    """The folders of all stacks, or of those that have this file (or a folder or a link with this name)."""
    return [path for path in _named_as_stacks(folder) if path.is_dir() and os.path.lexists(path / with_file)]


def not_folders(folder: Path) -> list[UnusableError]:
    """An error for each file that has the name of a stack's folder."""
    return [UnusableError(path, "is not a folder") for path in _named_as_stacks(folder) if not path.is_dir()]


def _named_as_stacks(folder: Path, start: str = "") -> list[Path]:
    """The paths with a stack's name, or with a name that begins with `start`; OSError if the folder is unreadable."""
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    return [path for path in paths if (path.name.startswith(start) if start else STACK_NAME.fullmatch(path.name))]


def read_result(folder: Path, left_out: list[UnusableError | OSError] | None = None) -> Result | None:
    """The finished trials in the folder of a configuration; None if there are none.

    left_out: takes the error of each stack that cannot be used; None: the first error is raised. Raises UnusableError
    if the configuration cannot be used.
    """
    if left_out is not None:
        strange = [path for path in _named_as_stacks(folder, "trials-") if not STACK_NAME.fullmatch(path.name)]
        left_out += [UnusableError(path, "is not named like a stack, trials-FIRST-LAST") for path in strange]
        left_out += not_folders(folder)
    stacks = finished_stacks(folder, left_out)
    if left_out is not None:
        stacks = _with_the_same_columns(stacks, left_out)
    if not stacks:
        if left_out is not None and (os.path.lexists(folder / "config.yaml") or stacks_in(folder, "trials.csv")):
            read_config(folder)  # raises the error of a damaged configuration
        return None
    config = read_config(folder)
    _check_values(config, folder / "config.yaml")
    trials, history = (_joined([tables[place] for tables in stacks.values()]) for place in (0, 1))
    return Result(
        task=folder.parent.parent.name,
        model=folder.parent.name,
        identity=folder.name,
        config=config,
        trials=trials.sort_values("trial", ignore_index=True),
        history=history.sort_values(["trial", "sequences"], ignore_index=True),
        folder=folder,
        stacks=list(stacks),
    )


def _joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rows of several stacks. Stacks may overlap; a trial is the same in each, so its first stack is used."""
    table = pd.concat([table.assign(stack=n) for n, table in enumerate(tables)], ignore_index=True)
    return table[table["stack"] == table.groupby("trial")["stack"].transform("min")].drop(columns="stack")


def read_weights(folder: Path) -> dict[int, np.ndarray]:
    """The final flat parameters (P,) of every finished trial of a configuration's folder."""
    weights: dict[int, np.ndarray] = {}
    for stack in finished_stacks(folder, left_out=[]):
        weights = read_stack_weights(stack) | weights
    return weights


def _with_the_same_columns(stacks: Mapping[Path, tuple], left_out: list) -> dict[Path, tuple]:
    """The stacks with the columns that most stacks have: tables with other columns cannot be joined without gaps."""
    common = [common_columns([list(tables[place]) for tables in stacks.values()]) for place in (0, 1)]
    same = {}
    for stack, tables in stacks.items():
        try:
            same[stack] = tuple(
                select_columns(table, columns, stack, name, left_out)
                for table, columns, name in zip(tables, common, ("trials.csv", "history.csv"), strict=True)
            )
        except UnusableError as error:
            left_out.append(error)
    return same


def common_columns(tables: Sequence[list[str]]) -> list[str]:
    """The columns that more than half of these tables have."""
    counts = Counter(itertools.chain.from_iterable(tables))
    return [column for column, count in counts.items() if count > len(tables) / 2]


def select_columns(table: pd.DataFrame, columns: list[str], path: Path, name: str, left_out: list) -> pd.DataFrame:
    """A table with only these columns, in the table's own order; `left_out` takes an error that names the others.

    Raises UnusableError if a column is missing.
    """
    lacking = [column for column in columns if column not in table]
    if lacking:
        raise UnusableError(path, f"{name} has no {', '.join(lacking)}, unlike the results beside it")
    extra = [column for column in table if column not in columns]
    if not extra:
        return table
    left_out.append(UnusableError(path, f"{name} has {', '.join(extra)}, unlike the results beside it: not shown"))
    return table.drop(columns=extra)


# All configurations -----------------------------------------------------------------------------------------------


def read_results(results_dir: str | os.PathLike, left_out: list[UnusableError | OSError] | None = None) -> list[Result]:
    """All finished trials under a results folder, sorted by folder.

    left_out: takes the error of each part that cannot be used; None: the first error is raised.
    """
    results = []
    for folder in configurations(results_dir, left_out):
        try:
            result = read_result(folder, left_out)
            results += [] if result is None else [result]
        except (UnusableError, OSError) as error:
            if left_out is None:
                raise
            left_out.append(error)
    return results


def read_confusions(results: Iterable[Result], left_out: list[UnusableError | OSError]) -> dict[str, pd.DataFrame]:
    """The confusion matrices of results by identity, as in confusion.csv; without results that have none.

    left_out: takes the error of each file that cannot be used.
    """
    confusions = {}
    for result in results:
        tables = []
        for stack in result.stacks:
            try:
                tables.append(read_confusion(stack))
            except (UnusableError, OSError) as error:
                left_out.append(error)
        if kept := [table for table in tables if table is not None]:
            confusions[result.identity] = _joined(kept)
    return confusions


def read_provenances(
    results: Iterable[Result], left_out: list[UnusableError | OSError]
) -> list[tuple[Result, Path, dict | None]]:
    """Every stack of these results with its provenance; None if it cannot be used: `left_out` takes the error."""
    made: list[tuple[Result, Path, dict | None]] = []
    for result in results:
        for stack in result.stacks:
            try:
                made.append((result, stack, read_provenance(stack)))
            except (UnusableError, OSError) as error:
                left_out.append(error)
                made.append((result, stack, None))
    return made


def unfinished(results_dir: str | os.PathLike) -> list[Path]:
    """The folders of stacks that are in training or were interrupted, under a results folder.

    A stack whose trials are all finished in other stacks is not included, since no run will resume it.
    """
    found = []
    for folder in configurations(results_dir, []):
        with suppress(OSError):  # `read_results` reports it
            found += unfinished_stacks(folder)
    return found


def unfinished_stacks(folder: Path) -> list[Path]:
    """As `unfinished`, in the folder of one configuration; OSError if it cannot be read."""
    begun = [stack for stack in stacks_in(folder) if not os.path.lexists(stack / "trials.csv")]
    finished = finished_trials(folder) if begun else set()
    return [stack for stack in begun if not finished.issuperset(trials_of(stack))]


def configurations(results_dir: str | os.PathLike, left_out: list | None) -> list[Path]:
    """The folders of configurations, sorted; a file where a folder is expected adds an error to `left_out`.

    A results folder may contain another one, such as that of tuning. Its folders are one level deeper, so its model
    folders are where we expect identities. We skip them: they have neither the name of an identity nor a config.yaml.
    """
    found = [Path(results_dir)] if os.path.lexists(results_dir) else []
    if found and not os.path.isdir(results_dir) and left_out is not None:
        left_out.append(UnusableError(found[0], "is not a folder"))
    for _ in ("task", "model", "identity"):
        found = [inner for folder in found if os.path.isdir(folder) for inner in _paths_in(folder, left_out)]
    if left_out is not None:
        strange = [path for path in found if _IDENTITY.fullmatch(path.name) and not os.path.isdir(path)]
        left_out += [UnusableError(path, "is not a folder") for path in strange]
    return [path for path in found if os.path.isdir(path) and _is_configuration(path)]


def _is_configuration(folder: Path) -> bool:
    return _IDENTITY.fullmatch(folder.name) is not None or os.path.lexists(folder / "config.yaml")


def _paths_in(folder: Path, left_out: list | None) -> list[Path]:
    """The paths in a folder, sorted; `left_out` takes the error if the folder cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        if left_out is None:
            raise
        left_out.append(error)
        return []


# config.yaml ------------------------------------------------------------------------------------------------------


def read_config(folder: Path) -> dict:
    """The configuration of a folder; UnusableError if it has another identity than the folder, or another schema."""
    path = folder / "config.yaml"
    data = read_bytes(path)
    try:
        config = _read_yaml(data)
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


def _read_yaml(data: bytes) -> object:
    """The contents of a yaml file; YAMLError for a wrong file, and for one with many aliases or levels."""
    # libyaml takes an eighth of the time, but it ends the process if a file has 100,000 levels.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    level = aliases = 0
    for event in yaml.parse(data, loader):
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if level > _MOST_LEVELS_READ or aliases > _MOST_ALIASES:
            raise yaml.YAMLError("too many levels or aliases")
    return yaml.load(data, loader)


def _check_values(config: Mapping, path: Path) -> None:
    """Raise UnusableError if tables and figures cannot be made with this configuration."""
    model, training = config["model"], config["training"]
    if not _is_nested(config):
        raise UnusableError(path, f"has a key that is not text, or more than {_MOST_LEVELS} levels")
    numbers = {"model.units": model["units"]}
    numbers |= {f"training.{name}": training.get(name) for name in ("max_sequences", "evaluate_every")}
    for key, value in numbers.items():
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise UnusableError(path, f"{key}={value}: must be a whole number of 1 or more")


def _is_nested(value: object, level: int = 0) -> bool:
    """Whether all keys are strings, and there are not too many levels."""
    if isinstance(value, Mapping):
        keys = all(isinstance(key, str) for key in value)
        return keys and level < _MOST_LEVELS and all(_is_nested(inner, level + 1) for inner in value.values())
    if isinstance(value, list):
        return level < _MOST_LEVELS and all(_is_nested(inner, level + 1) for inner in value)
    return True
