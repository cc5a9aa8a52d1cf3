"""How a running stack tells how far it is: a bar on a terminal, a plain line now and then anywhere else."""

import errno
import os
import sys
import time

SECONDS_BETWEEN_LINES = 30


unheard: list[OSError] = []
"""Why standard output cannot be written to any more, unless nobody reads it."""


def say(text: str, end: str = "\n") -> None:
    """A line on standard output; where that is gone, or its disk full, what is being done goes on in silence.

    Letters that its encoding does not have are written as escapes.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        if error.errno != errno.EPIPE:
            unheard.append(OSError(error.errno, error.strerror, "standard output"))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress:
    """Sequences seen, trials that met the criterion, sequences per second of all trials together, time left.

    Args:
        title: what is being trained.
        trials: how many.
        sequences: of each trial, at most.
        done: of each trial, when the stack was resumed.
        criterion: the one that ends a trial, or None.
    """

    def __init__(self, title: str, trials: int, sequences: int, done: int, criterion: str | None):
        self.title, self.trials, self.sequences, self.criterion = title, trials, sequences, criterion
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=sequences, initial=done, desc=title, unit="seq", leave=False, miniters=1)
        self.started = self.told = time.monotonic()
        self.learned = 0

    def advance(self, count: int, active: int) -> None:
        """`count` more sequences of each of the `active` trials."""
        self.learned += count * active
        if self.bar is not None:
            self.bar.update(count)

    def tell(self, sequences: int, met: int) -> None:
        """Where each trial stands, and how many met the criterion so far."""
        now = time.monotonic()
        rate = self.learned / max(now - self.started, 1e-9)
        solved = f"{self.criterion} {met}/{self.trials}" if self.criterion else f"{self.trials} trials"
        if self.bar is not None:
            self.bar.set_postfix_str(f"{solved}, {rate:,.0f} sequences/s of all trials")
        elif now - self.told > SECONDS_BETWEEN_LINES:
            self.told = now
            left = (self.sequences - sequences) * (now - self.started) * self.trials / max(self.learned, 1)
            say(
                f"{self.title}: {sequences:,} of at most {self.sequences:,} sequences, {solved}, "
                f"{rate:,.0f} sequences/s, at most {_duration(left)} left"
            )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
