"""Jobs of compiled code, shared out to threads. The number of threads changes no result."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

SMALL = 200_000
"""Multiplications below which a call stays on the caller's thread: waking another one takes longer."""

_threads: int | None = None
_pool: tuple[int, int, ThreadPoolExecutor] | None = None
_STARTING = threading.Lock()


def set_threads(threads: int | None) -> None:
    """How many threads the scans use (None: all cores)."""
    global _threads
    _threads = threads


def shared(work: Callable[[int, int], None], jobs: int, multiplications: float) -> None:
    """Call work(begin, end) for ranges that together cover all jobs; the threads take the next range when free."""
    if multiplications < SMALL or (threads := min(number_of_threads(), jobs)) <= 1:
        work(0, jobs)
        return
    ranges = min(4 * threads, jobs)
    ends = iter([jobs * i // ranges for i in range(ranges + 1)])
    taken, begin = threading.Lock(), next(ends)

    def take():
        nonlocal begin
        while True:
            with taken:
                first, last = begin, next(ends, None)
                if last is None:
                    return
                begin = last
            work(first, last)

    others = [_executor(threads - 1).submit(take) for _ in range(threads - 1)]
    take()
    for other in others:
        other.result()


def number_of_threads() -> int:
    return _threads or os.cpu_count() or 1


def _executor(threads: int) -> ThreadPoolExecutor:
    """A pool of this process (threads do not survive a fork) with at least this many threads."""
    global _pool
    with _STARTING:
        if _pool is None or _pool[0] != os.getpid() or _pool[1] < threads:
            _pool = os.getpid(), threads, ThreadPoolExecutor(threads, "scan")
        return _pool[2]
