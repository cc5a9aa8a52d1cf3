"""The cache never returns another function's code, whatever happens to processes, files or the disk."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from llvmlite import ir

from amu_experiments import RNN
from amu_experiments.scans.machine import Machine
from amu_experiments.scans.vectors import I64, Code, Numbers


def module_that_adds(n: int) -> ir.Module:
    """A function that adds n to the number at an address. All have the same name and arguments."""
    module = ir.Module("adds")
    code = Code(module, "add", 1, 1, internal=False)
    numbers = Numbers(code, code.arguments[0], I64)
    numbers[0] = numbers[0] + n
    code.done()
    return module


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """cached(n): 1 + n from the function that adds n, and whether it had to be compiled."""
    monkeypatch.setenv("AMU_CACHE_DIR", str(tmp_path))

    def make(n: int, name: str = ""):
        missed, number = [], np.array([1])
        code = Machine().compile(f"adds {n} {name}", lambda: module_that_adds(n), lambda: missed.append(n))
        code.function("add", 1)(number.ctypes.data)
        return number[0], bool(missed)

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


def test_functions_that_are_saved_at_the_same_time_do_not_mix(cached, number):
    """Threads save functions to one folder at the same time, two of them the same one, and load them."""
    rounds, threads = number(8, 125), 8
    barrier = threading.Barrier(threads)

    def work(thread):
        n = thread // 2
        for i in range(rounds):
            barrier.wait()
            assert cached(n, f"round {i}")[0] == n + 1
            assert cached(n, f"round {i}") == (n + 1, False)
        return True

    with ThreadPoolExecutor(threads) as pool:
        assert all(pool.map(work, range(threads)))


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
