"""Leases: who trains which trials, among the processes and machines that share a store.

A stack is a group of trials that are trained together. While it is trained, its folder has a file `.lease`, the lease,
which names the machine and the process. A thread, the heartbeat, renews its date every SECONDS_OF_A_BEAT. A lease
expires if its process is gone from this machine, or if it has not been renewed for SECONDS_OF_SILENCE by the clock of
the file server. A second lease, in the folder of the configuration, is held only while a process chooses a stack or
removes the configuration.

On one machine each lease is also a lock (flock) on the folder. It ends with its process, so another process of the
machine waits for it without polling. Between machines such a lock means nothing: a network file system may grant it on
every machine. Every write to the store happens under a lease.
"""

import errno
import fcntl
import json
import os
import platform
import random
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from amu_experiments import files, store
from amu_experiments.config import definition
from amu_experiments.files import UnusableError, set_aside, write_text
from amu_experiments.stack_files import stack_folder, trials_of

LEASE = ".lease"

SECONDS_OF_A_BEAT = 20
"""A process renews the date of its leases this often."""

SECONDS_OF_SILENCE = 300
"""A lease that has not been renewed for this long has expired: its machine has died, or its process was stopped."""

LONGEST_PAUSE = 5
"""Seconds, at most, between two polls of the lease of another machine."""

NETWORK = re.compile(
    r"nfs\d?|lustre|gpfs|beegfs\w*|ceph|cifs|smb\d?|smbfs|afs|fuse|fuse\..+|glusterfs|panfs|pvfs2|orangefs"
)
"""The types of file systems that several machines may share, as /proc/self/mountinfo names them."""

JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
"""Variables in which schedulers give the number of a job: Slurm, PBS, LSF, Grid Engine."""


class LeaseLostError(RuntimeError):
    """Another process has taken over a stack that this process was training."""


@dataclass(frozen=True)
class Lease:
    """The trials that a process may train, and the state of the others.

    trials: a stack for this process alone; empty if every requested trial is finished or in training.
    elsewhere: folders of stacks with requested trials that other processes are training.
    set_aside: a line about each damaged file or folder that was renamed.
    file: the lease of the stack, and what this process wrote into it; None without a stack.
    """

    trials: list[int]
    elsewhere: list[Path]
    set_aside: list[str]
    file: tuple[Path, bytes] | None = None

    def verify(self) -> None:
        """Raise LeaseLostError if another process has taken over, or OSError if the stack's folder is gone."""
        path, mine = self.file
        try:
            ours = path.read_bytes() == mine
        except FileNotFoundError:
            os.stat(path.parent)
            ours = False
        if not ours:
            raise LeaseLostError(path.parent.name)


@contextmanager
def acquire(folder: Path, config: dict, wanted: Iterable[int]) -> Iterator[Lease]:
    """Lease the first stack of requested trials that is free, until the block ends.

    Makes the configuration's folder if it is new, renames damaged files in it, and removes the partial files of killed
    processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with exclusive(folder):
            # Running stacks are listed before finished ones. A stack that finishes in between is then in both lists,
            # and no process trains it again. In the other order it could be in neither.
            running = _running(folder)
            damaged, finished = _repair(folder, config)
            _clean(folder, running)
            missing = set(wanted) - finished
            elsewhere = [stack for stack in running if any(trial in trials_of(stack) for trial in missing)]
            free_trials = {trial for trial in missing if not any(trial in trials_of(stack) for stack in running)}
            lease = Lease([], elsewhere, damaged)
            if stacks := store.missing_stacks(folder, free_trials, finished):
                path = stack_folder(folder, stacks[0])
                path.mkdir(exist_ok=True)
                free = held.enter_context(locked(path, wait=False))
                if free and (mine := held.enter_context(_held(path / LEASE, wait=False))):
                    lease = Lease(stacks[0], elsewhere, damaged, (path / LEASE, mine))
                else:  # this process slept for minutes while it chose
                    lease = Lease([], [path], damaged)
        yield lease


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lease of a configuration's folder: no other process, on any machine, chooses a stack in it."""
    with locked(folder), _held(folder / LEASE):
        yield


def wait_for(stack: Path) -> None:
    """Return once no process is training this stack."""
    with suppress(FileNotFoundError):
        with locked(stack):
            pass
        pause = 0.1
        while leased(stack):
            time.sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE)


def holder(stack: Path) -> str:
    """Who is training a stack, in words: "another process", or the host and the job if it is another machine's."""
    found = _read(stack / LEASE)
    if not found or found.owner.get("machine") in (None, files.machine()):
        return "another process"
    job = f", job {found.owner['job']}" if found.owner.get("job") else ""
    return f"a process on {found.owner.get('host')} ({found.owner.get('process')}{job})"


def leased(stack: Path) -> bool:
    """Whether a process, perhaps on another machine, has the lease of a stack."""
    found = _read(stack / LEASE)
    return found is not None and found.is_valid()


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold this machine's lock of a folder. If another process holds it, wait for it, or yield False if not `wait`.

    On a file system without locks it yields True, and only the lease file decides.
    """
    file = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = True
        except BlockingIOError:
            mine = False
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL):
                raise OSError(error.errno, f"cannot be locked ({error.strerror})", str(folder)) from error
            mine = True
        yield mine
    finally:
        os.close(file)


def network_type(folder: Path) -> str | None:
    """The type of the file system that a folder is on, if other machines may share it; None for a local disk."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not on macOS
        return None
    place, found = os.path.realpath(folder), ("", "")
    for line in lines:
        mount, _, system = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), mount.split()[4])
        if (place + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(found[0]):
            found = point, system.split()[0]
    return found[1] if NETWORK.fullmatch(found[1]) else None


# The file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """A lease file as it is now: its contents, its owner and its date."""

    path: Path
    data: bytes
    owner: dict
    dated: float

    def is_valid(self) -> bool:
        process = self.owner.get("process")
        if self.owner.get("machine") == files.machine() and type(process) is int and not files.is_running(process):
            return False
        return files.server_time(self.path.parent) - self.dated < SECONDS_OF_SILENCE


def _read(path: Path) -> _Found | None:
    """A lease file; None if there is none. A file without a legible owner is one that is being written."""
    try:
        with open(path, "rb") as file:
            data, dated = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    try:
        owner = json.loads(data)
    except (ValueError, RecursionError):
        owner = None
    return _Found(path, data, owner if isinstance(owner, dict) else {}, dated)


@contextmanager
def _held(path: Path, wait: bool = True) -> Iterator[bytes | None]:
    """Hold a lease file, with a heartbeat, while the block lasts. Yields its contents.

    If another process holds it, wait for it, or yield None if not `wait`.
    """
    pause = 0.01
    while (mine := _create(path)) is None:
        if not wait:
            yield None
            return
        if not _freed(path):
            time.sleep(random.uniform(pause / 2, pause))
            pause = min(1.3 * pause, 0.2)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, mine, ended), daemon=True)
    thread.start()
    try:
        yield mine
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            if path.read_bytes() == mine:
                path.unlink()


def _create(path: Path) -> bytes | None:
    """Make a lease file and return its contents; None if there is one already."""
    owner = {"machine": files.machine(), "host": platform.node(), "process": os.getpid()}
    owner |= {"job": next(filter(None, map(os.environ.get, JOBS)), None), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    data = json.dumps(owner | {"token": secrets.token_hex(8)}).encode()
    partial = files.partial_path(path, os.getpid())
    try:
        with open(partial, "wb") as file:
            file.write(data)
        return data if _placed(partial, path) else None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def _placed(partial: Path, path: Path) -> bool:
    """Give a file a second name, a hard link; returns False if a file has that name already.

    The link makes the whole file appear at once, so a killed process leaves no lease without an owner.
    """
    try:
        os.link(partial, path)
    except FileExistsError:
        return os.stat(partial).st_nlink == 2  # the link was made, but the answer was lost, and the request repeated
    except OSError:  # a file system without links
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        with open(file, "wb") as opened:
            opened.write(partial.read_bytes())
    return True


def _freed(path: Path) -> bool:
    """Remove a lease file if it has expired; returns whether there is no lease now."""
    while (found := _read(path)) and not found.is_valid():
        aside = files.partial_path(path, os.getpid())
        with suppress(FileNotFoundError):
            path.rename(aside)
            # After we read the file, another process may have replaced it with its own lease. Put that one back.
            if aside.read_bytes() != found.data:
                _placed(aside, path)
            aside.unlink()
    return found is None


def _beat(path: Path, mine: bytes, ended: threading.Event) -> None:
    """Renew the date of a lease file until the event, unless another process has taken it over."""
    while not ended.wait(SECONDS_OF_A_BEAT):
        with suppress(OSError):  # a file server may be away for a while
            if path.read_bytes() == mine:
                os.utime(path)


# The folder -------------------------------------------------------------------------------------------------------


def _repair(folder: Path, config: dict) -> tuple[list[str], set[int]]:
    """Rename damaged files and stacks, and write config.yaml if it is missing.

    Returns a line about each renamed file or folder, and the trials that need no training. Raises OSError if a file
    cannot be read, for example without permission: it may be undamaged.
    """
    damaged: list[UnusableError | OSError] = []
    if os.path.lexists(folder / "config.yaml"):
        try:
            store.read_config(folder)
        except UnusableError as error:
            damaged.append(error)
    damaged += store.not_folders(folder)
    finished = {trial for stack in store.finished_stacks(folder, damaged) for trial in trials_of(stack)}
    for error in damaged:
        if isinstance(error, OSError):
            raise error
    lines = [f"{error}; set aside as {set_aside(error.path).name}" for error in damaged]
    if not (folder / "config.yaml").exists():
        write_text(folder / "config.yaml", yaml.safe_dump(definition(config), sort_keys=False))
    return lines, finished


def _running(folder: Path) -> list[Path]:
    """The stacks in training. Removes expired leases."""
    running = []
    for stack in store.stacks_in(folder):
        with locked(stack, wait=False) as mine:
            if not mine or not _freed(stack / LEASE):
                running.append(stack)
    return running


def _clean(folder: Path, running: Iterable[Path]) -> None:
    """Remove what killed processes left in the folder and in stacks that are not in training."""
    stacks = store.stacks_in(folder)
    files.remove_partial([folder, *stacks])
    for stack in set(stacks).difference(running):
        if (stack / "trials.csv").exists():
            with suppress(OSError):  # there is none, or it cannot be deleted, and does no harm
                (stack / "checkpoint.pt").unlink()
