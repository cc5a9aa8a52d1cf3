"""A cache of compiled code on disk. Every entry is verified before it is used.

An entry is one file. Its name is the SHA-256 of everything the code depends on: the sources, the sizes, the types of
the arguments, the processor and the versions of the compiler. The file repeats this key, and has a checksum of its
contents. A file that is cut, damaged or has another key is a miss, and the code is compiled again. An entry is written
to a temporary file, which is then renamed, so processes that write at the same time cannot mix their code.
"""

import hashlib
import os
import pickle
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba.core import serialize
from numba.core.caching import CompileResultCacheImpl, FunctionCache

FORMAT = b"amu_experiments compiled code 1\n"

MOST_ENTRIES = 600
"""Most entries in a folder; the least recently used are removed."""

SECONDS_OF_A_WRITE = 3600
"""The writer of a temporary file that is older than this has ended."""


class CodeCache:
    """The cache of one numba dispatcher; numba calls `load_overload` before it compiles and `save_overload` after.

    Args:
        function: the Python function that is compiled.
        key: everything the code depends on (sources, sizes, settings), except its signature and the machine.
        missed: called if there is no entry, just before numba compiles.

    Raises RuntimeError if numba finds no folder for a cache.
    """

    def __init__(self, function: Callable, key: str, missed: Callable[[], None] = lambda: None):
        # Numba looks for a writable folder: NUMBA_CACHE_DIR, __pycache__, or one in the home folder.
        located = FunctionCache(function)
        self.cache_path = located.cache_path
        self._folder = Path(located.cache_path)
        self._results: CompileResultCacheImpl = located._impl
        self._key = f"{key} {function.__qualname__}"
        self._missed = missed

    def load_overload(self, signature, target):
        """The compiled function of this signature, or None."""
        target.refresh()
        key = self._digest(signature, target)
        path = self._folder / f"{key}.code"
        with suppress(OSError):
            payload = _verified(path.read_bytes(), key)
            if payload is not None:
                os.utime(path)
                return self._results.rebuild(target, pickle.loads(payload))
        self._missed()
        return None

    def save_overload(self, signature, compiled) -> None:
        """Write an entry; if that fails, this process uses the code without an entry."""
        if not self._results.check_cachable(compiled):
            return
        key = self._digest(signature, compiled.target_context)
        payload = serialize.dumps(self._results.reduce(compiled))
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            part = self._folder / f".{key}.{platform.node()}.{os.getpid()}.part"
            try:
                part.write_bytes(FORMAT + _head(key, payload) + payload)
                os.replace(part, self._folder / f"{key}.code")
            finally:
                part.unlink(missing_ok=True)
            _remove_old(self._folder)

    def flush(self) -> None:
        """Does nothing: numba requires it, but entries never become stale, since other code has another key."""

    def _digest(self, signature, target) -> str:
        parts = (
            self._key,
            signature,
            target.codegen().magic_tuple(),
            numba.__version__,
            llvmlite.__version__,
            np.__version__,
            platform.python_version(),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


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
