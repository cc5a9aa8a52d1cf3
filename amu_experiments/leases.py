"""Leases: who trains which trials, among the processes that share a store.

A lease is a lock (flock) on a stack's folder, held as long as the stack is trained. A second lock, on the folder of the
configuration, is held only for the moment in which a process chooses a stack. Both end with the process that holds
them. Every write to the store happens under a lock.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from amu_experiments import store
from amu_experiments.config import definition
from amu_experiments.files import UnusableError, set_aside, write_text
from amu_experiments.stack_files import stack_folder, trials_of


@dataclass(frozen=True)
class Lease:
    """The trials that a process may train, and the state of the others.

    trials: a stack for this process alone; empty if every requested trial is finished or in training.
    elsewhere: folders of stacks with requested trials that other processes are training.
    set_aside: a line about each damaged file or folder that was renamed.
    """

    trials: list[int]
    elsewhere: list[Path]
    set_aside: list[str]


@contextmanager
def acquire(folder: Path, config: dict, wanted: Iterable[int]) -> Iterator[Lease]:
    """Lease the first stack of requested trials that is free, until the block ends.

    Makes the configuration's folder if it is new, renames damaged files in it, and removes the partial files of killed
    processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with locked(folder):
            damaged = _repair(folder, config)
            running = _clean(folder)
            missing = set(wanted) - store.finished_trials(folder)
            elsewhere = [stack for stack in running if any(trial in trials_of(stack) for trial in missing)]
            free = {trial for trial in missing if not any(trial in trials_of(stack) for stack in running)}
            stacks = store.missing_stacks(folder, free)
            if stacks:
                path = stack_folder(folder, stacks[0])
                path.mkdir(exist_ok=True)
                held.enter_context(locked(path))
        yield Lease(stacks[0] if stacks else [], elsewhere, damaged)


def wait_for(stack: Path) -> None:
    """Return once no process is training this stack."""
    with suppress(FileNotFoundError), locked(stack):
        pass


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a folder. If another process holds it, wait for it, or yield False if not `wait`."""
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


def _repair(folder: Path, config: dict) -> list[str]:
    """Rename damaged files and stacks, and write config.yaml if it is missing; returns a line about each renamed one.

    Raises OSError if a file cannot be read, for example without permission: it may be undamaged.
    """
    damaged: list[UnusableError | OSError] = []
    if os.path.lexists(folder / "config.yaml"):
        try:
            store.read_config(folder)
        except UnusableError as error:
            damaged.append(error)
    damaged += store.not_folders(folder)
    store.finished_stacks(folder, damaged)
    for error in damaged:
        if isinstance(error, OSError):
            raise error
    lines = [f"{error}; set aside as {set_aside(error.path).name}" for error in damaged]
    if not (folder / "config.yaml").exists():
        write_text(folder / "config.yaml", yaml.safe_dump(definition(config), sort_keys=False))
    return lines


def _clean(folder: Path) -> list[Path]:
    """Remove the partial files of killed processes, and return the stacks in training.

    If we can take a folder's lock, its partial files have no owner.
    """
    running = []
    _remove(folder.glob(".*.part"))
    for stack in store.stacks_in(folder):
        with locked(stack, wait=False) as mine:
            if not mine:
                running.append(stack)
                continue
            _remove(stack.glob(".*.part"))
            if (stack / "trials.csv").exists():
                _remove(stack.glob("checkpoint.pt"))
    return running


def _remove(paths: Iterable[Path]) -> None:
    """Delete files; a file that cannot be deleted does no harm."""
    for path in paths:
        with suppress(OSError):
            path.unlink()
