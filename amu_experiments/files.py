"""Writes and reads single files: a written file appears whole or not at all, and a file is checked when it is read."""

import errno
import fcntl
import io
import itertools
import os
import re
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

_PARTIAL = re.compile(r"\..+\.(\d{1,10})\.part")


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


def remove_partial(folders: Iterable[Path]) -> None:
    """Remove the partial files that killed processes left in these folders.

    A partial file has a process's number in its name. It is in use while that process runs on this machine, or while
    any process holds the file's lock.
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
    except PermissionError:  # the process belongs to another user
        return True
    return True


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
) -> pd.DataFrame:
    """A CSV file as a table; UnusableError if it breaks a rule below.

    Args:
        path: the file.
        required: columns that it must have.
        texts: columns that must have text in every row.
        owner: the path that an error names; None: `path`.
        numbers: whether every other column must contain only numbers.
    """
    data, name = read_bytes(path, owner), "" if owner is None else f"{path.name} "
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
    words = [each for each in others if not is_numeric_dtype(table[each]) or is_bool_dtype(table[each])]
    if words:
        raise UnusableError(owner, f"{name}has values that are not numbers in {', '.join(words)}")
    return table
