"""Writes and reads single files: a written file appears whole or not at all, and a file is checked when it is read."""

import errno
import gzip
import hashlib
import io
import itertools
import os
import platform
import re
import stat
import zlib
from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

_PARTIAL = re.compile(r"\..+\.([\w-]+)\.(\d{1,10})\.part", re.ASCII)

SECONDS_OF_A_WRITE = 3600
"""A partial file that is older has no owner, on whatever machine it was begun."""


class UnusableError(ValueError):
    """A file or folder is missing, damaged, or of another version; the message names it and says why."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path


# Writing ----------------------------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all. Once this returns, the file survives a loss of power.

    Raises an OSError that names the file.
    """
    partial = partial_path(path, os.getpid())
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
    """Make the names in a folder survive a loss of power, if its file system and its permissions allow that."""
    try:
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM):
            raise


def partial_path(path: Path, process: int) -> Path:
    """The name of a file while a process of this machine writes it: machine and process are part of the name."""
    return path.with_name(f".{path.name}.{machine()}.{process}.part")


def remove_partial(folders: Iterable[Path]) -> None:
    """Remove the partial files in these folders whose process is gone from this machine, and old ones.

    A process of another machine cannot be seen, so its partial files stay for SECONDS_OF_A_WRITE.
    """
    for folder in folders:
        for path in folder.glob(".*.part"):
            named = _PARTIAL.fullmatch(path.name)
            if not named or path.is_symlink() or not path.is_file():
                continue
            with suppress(OSError):
                gone = named[1] == machine() and not is_running(int(named[2]))
                if gone or server_time(folder) - path.stat().st_mtime > SECONDS_OF_A_WRITE:
                    path.unlink()


@cache
def machine() -> str:
    """A name for this machine, used in file names. It changes at each boot, and differs between containers.

    The number of a process is unique only here: two machines may have the same host name, and each container of a
    machine numbers its own processes.
    """
    parts = [platform.node()]
    with suppress(OSError):  # not on macOS
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    name = re.sub(r"[^a-zA-Z0-9-]", "-", parts[0])[:20]
    return f"{name}-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:8]}"


def is_running(process: int) -> bool:
    """Whether this machine runs a process with this number. A zombie has ended."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # the process belongs to another user
        return True
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it ended just now, or there is no /proc, as on macOS
        return not Path("/proc/self/stat").exists()
    return state not in "ZX"


def server_time(folder: Path) -> float:
    """The time now, in seconds, by the clock that dates the files in a folder: that of the file server."""
    path = partial_path(folder / "clock", os.getpid())
    try:
        path.touch()
        return path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that it is not read and not lost; returns its new path."""
    names = itertools.chain([f"damaged-{path.name}"], (f"damaged-{n}-{path.name}" for n in itertools.count(2)))
    return path.rename(next(new for new in map(path.with_name, names) if not os.path.lexists(new)))


# Reading ----------------------------------------------------------------------------------------------------------


def read_bytes(path: Path, owner: Path | None = None) -> bytes:
    """The contents of a regular file; UnusableError if there is none. The error names `owner`, if given."""
    name = "" if owner is None else f"{path.name} "
    try:
        # Reading a pipe or a device may never end.
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


def read_text(path: Path) -> str:
    """The contents of a text file; UnusableError if it is missing or not UTF-8."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError:
        raise UnusableError(path, "is not a text file") from None


def read_table(
    path: Path,
    required: Iterable[str] = (),
    texts: Collection[str] = (),
    owner: Path | None = None,
    numbers: bool = True,
    as_written: Collection[str] = (),
) -> pd.DataFrame:
    """A CSV file as a table; UnusableError if it breaks a rule below.

    Args:
        path: the file; if its name ends in .gz, it is compressed.
        required: columns that it must have.
        texts: columns that must have text in every row.
        owner: the path that an error names; None: `path`.
        numbers: whether every other column must contain only numbers.
        as_written: columns of any text; in other columns, words such as null stand for a missing value.
    """
    data, name = read_bytes(path, owner), "" if owner is None else f"{path.name} "
    owner = owner or path
    try:
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        table = pd.read_csv(
            io.BytesIO(data),
            dtype=dict.fromkeys(texts, str),
            converters=dict.fromkeys(as_written, str),
            low_memory=False,
        )
    except (ValueError, OverflowError, EOFError, gzip.BadGzipFile, zlib.error) as error:
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
    others = table.columns.drop([*texts, *as_written], errors="ignore") if numbers and len(table) else []
    words = [each for each in others if not is_numeric_dtype(table[each]) or is_bool_dtype(table[each])]
    if words:
        raise UnusableError(owner, f"{name}has values that are not numbers in {', '.join(words)}")
    return table
