"""A cache of compiled code on disk. Every entry is verified before it is used.

An entry is one file. Its name is the SHA-256 of everything the code depends on: the sources, the sizes, the types of
the arguments, the processor and the versions of the compiler. The file repeats this key, and has a checksum of its
contents. A file that is cut, damaged or has another key is a miss, and the code is compiled again. An entry is written
to a temporary file, which is then renamed, so processes that write at the same time cannot mix their code.
"""

import hashlib
import os
import platform
import threading
import time
from contextlib import suppress
from pathlib import Path

FORMAT = b"amu_experiments compiled code 1\n"

MOST_ENTRIES = 600
"""Maximum number of entries in a folder; the least recently used are removed."""

SECONDS_OF_A_WRITE = 3600
"""The writer of a temporary file that is older than this has ended."""


def folder() -> Path:
    """AMU_CACHE_DIR, or a folder among the user's caches."""
    given = os.environ.get("AMU_CACHE_DIR")
    return (
        Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "amu_experiments"
    )


def load(key: str) -> bytes | None:
    """The entry of this key, a SHA-256, or None."""
    path = folder() / f"{key}.code"
    with suppress(OSError):
        payload = _verified(path.read_bytes(), key)
        if payload is not None:
            os.utime(path)
            return payload
    return None


def save(key: str, payload: bytes) -> None:
    """Write an entry; if that fails, this process uses its code without an entry."""
    into = folder()
    with suppress(OSError):
        into.mkdir(parents=True, exist_ok=True)
        part = into / f".{key}.{platform.node()}.{os.getpid()}.{threading.get_ident()}.part"
        try:
            part.write_bytes(FORMAT + _head(key, payload) + payload)
            os.replace(part, into / f"{key}.code")
        finally:
            part.unlink(missing_ok=True)
        _remove_old(into)


def _head(key: str, payload: bytes) -> bytes:
    return f"{key} {hashlib.sha256(payload).hexdigest()}\n".encode()


def _verified(data: bytes, key: str) -> bytes | None:
    """The payload of an entry, or None if the file is damaged or belongs to another key."""
    size = len(FORMAT) + len(_head(key, b""))
    payload = data[size:]
    return payload if data[:size] == FORMAT + _head(key, payload) else None


def _remove_old(folder: Path) -> None:
    entries, now = [], time.time()
    for entry in os.scandir(folder):
        with suppress(OSError):  # another process removed it
            if entry.name.endswith(".code"):
                entries.append((entry.stat().st_mtime, entry.path))
            elif entry.name.endswith(".part") and now - entry.stat().st_mtime > SECONDS_OF_A_WRITE:
                os.unlink(entry.path)
    for _, path in sorted(entries)[: max(len(entries) - MOST_ENTRIES, 0)]:
        with suppress(OSError):
            os.unlink(path)
