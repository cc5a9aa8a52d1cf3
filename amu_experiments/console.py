"""Messages to the user, and the progress of trials in training: a bar on a terminal, lines elsewhere.

A command prints its messages. A program that imports the package gets them from Python's logging, within `quiet`.
"""

import errno
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from amu_experiments.options import ConfigurationError, format_error

SECONDS_BETWEEN_LINES = 30

LOGGER = "amu_experiments"
"""Name of the logger that gets the messages of a program: INFO, or WARNING for damaged files."""

_mode: ContextVar[str] = ContextVar("mode", default="command")
"""Who reads the messages: "command", the user of a terminal; "quiet" or "bar", a program."""

unheard: list[OSError] = []
"""The error, if standard output cannot be written to. A closed pipe is not an error: its reader has ended."""


@contextmanager
def quiet(bar: bool = False) -> Iterator[None]:
    """A block that prints nothing: messages go to the logger `LOGGER`. `bar`: progress is still shown, as a bar."""
    token = _mode.set("bar" if bar else "quiet")
    try:
        yield
    finally:
        _mode.reset(token)


def alert(text: str) -> None:
    """As `say`, for a message that a program must not miss: its logger prints it by default."""
    _say(text, urgent=True)


def say(text: str, end: str = "\n") -> None:
    """Print a line on standard output. If that fails, as on a full disk, the command continues without output.

    Characters that the encoding of standard output lacks are printed as escapes. Within `quiet`, the line is logged.
    """
    _say(text, end)


def note(text: str) -> None:
    """Print a line on standard error, if it is open."""
    if not _logged(text):
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """Print an error of a command on standard error, if a process still reads it."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def failed(command: str, error: BaseException, hint: str = "") -> int:
    """Print the line for the error that ends a command. Exit status: 2 for a wrong command, 130 if interrupted, else 1.

    hint: what a user can do after an interruption.
    """
    cause: BaseException | None = error
    while cause is not None:
        # A library may turn a KeyboardInterrupt into an error of its own, when its clean-up fails.
        if isinstance(cause, KeyboardInterrupt):
            complain(f"{command}: interrupted{hint}")
            return 130
        cause = cause.__cause__ or cause.__context__
    complain(f"{command}: {format_error(error)}")
    return 2 if isinstance(error, ConfigurationError) else 1


def _logged(text: str, urgent: bool = False) -> bool:
    """Whether a program gets the messages of this block; then this message is logged."""
    if _mode.get() == "command":
        return False
    import logging

    logging.getLogger(LOGGER).log(logging.WARNING if urgent else logging.INFO, text)
    return True


def _say(text: str, end: str = "\n", urgent: bool = False) -> None:
    if _logged(text, urgent):
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        if error.errno != errno.EPIPE:
            unheard.append(OSError(error.errno, error.strerror, "standard output"))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress:
    """Shows sequences, trials that met the criterion, sequences per second of all trials together, and time left.

    Args:
        title: names the run.
        trials: number of trials.
        sequences: maximum number of sequences of a trial.
        done: sequences of a trial before the checkpoint from which the stack resumes; 0 without a checkpoint.
        criterion: the criterion that ends a trial, or None.
    """

    def __init__(self, title: str, trials: int, sequences: int, done: int, criterion: str | None):
        self.title, self.trials, self.sequences, self.criterion = title, trials, sequences, criterion
        self.bar = None
        if _mode.get() == "bar" or (_mode.get() == "command" and sys.stderr.isatty()):
            with warnings.catch_warnings(action="ignore"):  # a notebook without ipywidgets gets a bar of text
                from tqdm.auto import tqdm  # in a notebook, a bar of the notebook

            self.bar = tqdm(total=sequences, initial=done, desc=title, unit="seq", leave=False, miniters=1)
        self.started = self.reported = time.monotonic()
        self.learned = 0

    def advance(self, count: int, active: int) -> None:
        """Count `count` more sequences for each of the `active` trials."""
        self.learned += count * active
        if self.bar is not None:
            self.bar.update(count)

    def report(self, sequences: int, met: int) -> None:
        """Show the sequences of each trial so far, and how many trials met the criterion."""
        now = time.monotonic()
        rate = self.learned / max(now - self.started, 1e-9)
        solved = f"{self.criterion} {met}/{self.trials}" if self.criterion else f"{self.trials} trials"
        if self.bar is not None:
            self.bar.set_postfix_str(f"{solved}, {rate:,.0f} sequences/s of all trials")
        elif now - self.reported > SECONDS_BETWEEN_LINES:
            self.reported = now
            left = (self.sequences - sequences) * (now - self.started) * self.trials / max(self.learned, 1)
            say(
                f"{self.title}: {sequences:,} of at most {self.sequences:,} sequences, {solved}, "
                f"{rate:,.0f} sequences/s, at most {duration(left)} left"
            )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def duration(seconds: float) -> str:
    """A time in the unit that a reader expects: 80 s, 40 min, 30 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.0f} h"
