"""Commands in processes of their own, which tests can stop, kill and run side by side.

They are forked from a process that has imported everything (conftest.py), so that one starts in a fraction of a second.
"""

import multiprocessing
import os
import resource
import signal
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from amu_experiments import training
from amu_experiments.cli import command, main
from amu_experiments.stack import Stack
from amu_experiments.tune import main as tune_main

PROCESSES = multiprocessing.get_context("forkserver")


class Command:
    """A running command: what it writes is in the file `out`."""

    started: list["Command"] = []

    def __init__(self, out: Path, target, *arguments):
        self.out = out
        self.process = PROCESSES.Process(target=_redirected, args=(out, target, *arguments), daemon=True)
        self.process.start()
        self.started.append(self)

    def signal(self, number: int) -> None:
        """Send a signal, unless the command has ended by now."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def end(self, seconds: float = 120) -> int:
        """The exit status, or minus the signal that ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "still running"
        return self.process.exitcode

    @classmethod
    def kill_all(cls) -> None:
        """Those that have been stopped too, for which an end would otherwise be waited in vain."""
        while cls.started:
            cls.started.pop().process.kill()

    @property
    def ended(self) -> bool:
        return self.process.exitcode is not None

    @property
    def told(self) -> str:
        return self.out.read_text() if self.out.exists() else ""


def wait_until(fact, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def slowness() -> float:
    """Wall time divided by processor time of a busy loop: about 1 on an idle machine."""
    began, cpu = time.monotonic(), time.process_time()
    while time.process_time() - cpu < 0.05:
        pass
    return (time.monotonic() - began) / 0.05


@contextmanager
def in_time(seconds: float = 2):
    """Check that the block takes at most this time, multiplied by `slowness` on a busy machine, plus 0.3 seconds."""
    before, began = slowness(), time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < 0.3 + seconds * max(before, slowness())


def _redirected(out: Path, target, *arguments) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & has it ignored
    with open(out, "a", buffering=1) as file:
        sys.stdout = sys.stderr = file
        sys.exit(target(*arguments))


# What they do -------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    return main(arguments)


def run_as_program(cache: str | None, *arguments: str) -> None:
    """As the console script, which handles signals; with a cache of compiled code of its own, unless it is None."""
    if cache is not None:
        os.environ["AMU_CACHE_DIR"] = cache
    sys.argv = ["amu-run", *arguments]
    command()


def run_with_small_files(*arguments: str) -> int:
    """As `run`, where no file can have more than 2000 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    return main(arguments)


def train(*configs: dict) -> None:
    """As the command does, without the time it takes to understand what is asked for; tells which stacks it trains."""
    train_stack = training.train_stack

    def told(run, lease):
        print(f"trains {run.trials}")
        train_stack(run, lease)

    training.train_stack = told
    for config in configs:
        training.run(config)


def train_and_be_killed(config: dict, calls: int) -> None:
    """Train, and be killed just before the call with this number among those that change the store."""
    kill_before(calls)
    train(config)


def tune(folder: Path, calls: int, *arguments: str) -> int:
    """amu-tune in a folder, killed just before the call with this number among those that change files."""
    os.chdir(folder)
    kill_before(calls)
    return tune_main(arguments)


def kill_before(calls: int) -> None:
    """Let this process be killed just before the call with this number among those that change files."""
    left = calls

    def counted(call):
        def count_down(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return count_down

    for name in ("mkdir", "fsync", "replace", "unlink", "rename"):
        setattr(os, name, counted(getattr(os, name)))


def train_slowly(config: dict, seconds: float = 60) -> None:
    """Train with evaluations that take this many seconds, as a step can that compiles something."""
    evaluate = Stack.evaluate

    def dawdle(self):
        print("evaluates")
        time.sleep(seconds)
        evaluate(self)

    Stack.evaluate = dawdle
    sys.exit(interruptible(config))


def train_under_a_scheduler(config: dict) -> None:
    """Train in a program with a handler of its own for SIGUSR2, like that of submitit, which starts the job again."""

    def start_again(number, frame):
        print("starts again")
        sys.exit(7)

    signal.signal(signal.SIGUSR2, start_again)
    train(config)


def fake_job(lines: list[str], log: str) -> None:
    """A job of a sweep that does what its seed says. It writes its arguments into its log first."""
    log, words = Path(log), iter(("first signal", "second signal", "further signal"))
    signal.signal(signal.SIGTERM, lambda number, frame: log.write_text(next(words)))
    log.write_text(" ".join(lines))
    match lines[-2].removeprefix("seed="):
        case "0" | "1":  # ends only if the other one runs at the same time
            wait_until(lambda: all((log.parent / name).exists() for name in ("0.log", "1.log")))
        case "2":
            os.kill(os.getpid(), signal.SIGKILL)
        case "3":
            sys.exit(3)
        case "4":  # goes on at the first signal
            wait_until(lambda: log.read_text() == "second signal")


def interruptible(config: dict) -> int:
    try:
        train(config)
    except KeyboardInterrupt:
        return 130
    return 0
