"""The cache never returns another function's code, whatever happens to processes, files or the disk."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from numba import njit

from amu_experiments import RNN
from amu_experiments.scans.compiling import CodeCache


def adds(n: int):
    """A compiled function that adds n. All have the same source and signature, and differ only in the captured n."""

    @njit
    def add(x):
        return x + n

    return add


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """cached(n): 1 + n from the function that adds n, and whether it had to be compiled."""
    monkeypatch.setenv("AMU_CACHE_DIR", str(tmp_path))

    def make(n: int):
        missed = []
        add = adds(n)
        add._cache = CodeCache(add.py_func, f"adds {n}", lambda: missed.append(n))
        return add(1), bool(missed)

    make.entries = lambda: sorted(tmp_path.rglob("*.code"))
    return make


def test_what_was_compiled_is_loaded(cached):
    assert cached(1) == (2, True)
    assert cached(1) == (2, False)
    assert cached(2) == (3, True)
    assert cached(2) == (3, False)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "another's", "folder", "text"])
def test_a_damaged_entry_is_compiled_anew(cached, damage):
    cached(1)
    (entry,) = cached.entries()
    data = entry.read_bytes()
    if damage == "another's":
        cached(2)
        other = next(path for path in cached.entries() if path != entry)
        other.replace(entry)
    elif damage == "folder":
        entry.unlink()
        entry.mkdir()
    else:
        flipped = data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
        entry.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "flipped": flipped, "text": b"x"}[damage])
    assert cached(1) == (2, True)
    assert cached(1) == (2, damage == "folder")


def test_a_writer_that_was_killed_leaves_no_entry(cached, monkeypatch):
    """An entry is renamed from a temporary file, which no process reads."""

    def killed(*_):
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(SystemExit):
            cached(1)
    assert cached.entries() == []
    assert cached(1) == (2, True)


def test_on_a_full_disk_code_is_used_without_an_entry(cached, monkeypatch):
    written = Path.write_bytes

    def full(path, data):
        with suppress(ValueError):
            written(path, data[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert cached(1) == (2, True)
        assert cached(2) == (3, True)
    assert cached.entries() == []
    assert cached(1) == (2, True)


def test_functions_that_are_saved_at_the_same_time_do_not_mix(cached, tmp_path, number):
    """Threads save different functions with the same source to one folder at the same time, and load them."""
    rounds, functions = number(8, 125), 8
    barrier = threading.Barrier(functions)

    def work(n):
        add = adds(n)
        add._cache = CodeCache(add.py_func, f"adds {n}")
        assert add(1) == n + 1
        code = next(iter(add.overloads.values()))
        for _ in range(rounds):
            barrier.wait()
            add._cache.save_overload(code.signature.args, code)
            fresh = adds(n)
            fresh._cache = CodeCache(fresh.py_func, f"adds {n}")
            assert fresh(1) == n + 1
        return True

    with ThreadPoolExecutor(functions) as pool:
        assert all(pool.map(work, range(functions)))


def test_the_least_recently_used_entries_are_removed(cached, monkeypatch):
    monkeypatch.setattr("amu_experiments.scans.cache.MOST_ENTRIES", 2)
    for n in (1, 2):
        cached(n)
    oldest = cached.entries()
    for path in oldest:
        os.utime(path, (1, 1))
    cached(3)
    cached(4)
    assert len(cached.entries()) == 2
    assert not set(oldest) & set(cached.entries())


def test_a_cell_is_compiled_once_with_one_message():
    """The process that compiles prints a message; the next process loads the code and prints nothing."""
    RNN(2, 1, backend="fused")(torch.ones(2, 1, 2))
    program = "import torch; from amu_experiments import RNN; RNN(2, 1, backend='fused')(torch.ones(2, 1, 2))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_compiling_a_cell_prints_its_duration(tmp_path):
    program = "import torch; from amu_experiments import RNN; RNN(2, 1, backend='fused')(torch.ones(2, 1, 2))"
    environment = os.environ | {"AMU_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    first, second = done.stderr.splitlines()
    assert first == "Compiling the rnn cell (2 inputs, 1 units) ..."
    assert second.startswith("Compiled the rnn cell (2 inputs, 1 units) in ")
