"""Signals, such as Ctrl-C and SIGTERM: they stop the command at any time, and training at the end of its step."""

import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from amu_experiments.console import say
from amu_experiments.options import format_error

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Signals that stop the command. With submitit, Slurm sends SIGUSR2 before the time limit of a job."""

SECONDS_TO_END = 0.5
"""After a signal, KeyboardInterrupt is raised at this interval: an import may lose the first one."""


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Let each signal raise KeyboardInterrupt, repeatedly, and yield a list of the signals that came.

    After the block a signal ends the process at once: an interpreter that shuts down cannot report an exception.
    """
    handled, came = _handled(SIGNALS), []

    def stop(number, frame):
        came.append(number)
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_END, SECONDS_TO_END)
        raise KeyboardInterrupt

    def unraisable(lost, before=sys.unraisablehook):
        # Python cannot raise it out of a finaliser or the callback of a weak reference; the next alarm raises it again.
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            before(lost)

    for each in handled:
        signal.signal(each, stop)
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        yield came
    finally:
        sys.unraisablehook = hook
        _stop_alarm()
        for each in handled:
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def postponed_signals(signals: Iterable[int], seconds: float) -> Iterator[list[int]]:
    """Yield a list that gets the number of the first of these signals, which does nothing else for some seconds.

    A step that takes longer, such as compiling, then gets a KeyboardInterrupt. A second signal acts at once.
    """
    interrupted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # the calling program handles signals
        return
    before = _handled(signals)

    def note(number, frame):
        interrupted.append(number)
        restore()
        # Repeated, since native code may lose the exception.
        signal.setitimer(signal.ITIMER_REAL, seconds, SECONDS_TO_END)

    def restore():
        for each, handler in before.items():
            signal.signal(each, handler)

    alarm = signal.signal(signal.SIGALRM, signal.default_int_handler)
    for each in before:
        signal.signal(each, note)
    try:
        yield interrupted
    except KeyboardInterrupt:
        _stop_alarm()
        say(
            "Stopped in the middle of a step; run the same command to resume from the last checkpoint, if there is one."
        )
        raise
    except Exception as error:
        if not interrupted:
            raise
        _stop_alarm()
        say(f"Stopped, with an error: {format_error(error)}")
        raise KeyboardInterrupt from error
    finally:
        restore()
        _stop_alarm()
        signal.signal(signal.SIGALRM, alarm)


def stop(number: int) -> None:
    """Raise KeyboardInterrupt, after training has stopped for this signal.

    If the calling program has a handler for the signal, it is called first. The handler of submitit asks Slurm to
    requeue the job, and then ends this process.
    """
    handler = signal.getsignal(number)
    if callable(handler) and getattr(handler, "__module__", None) != __name__:
        handler(number, None)
    raise KeyboardInterrupt


def _handled(signals: Iterable[int]) -> dict:
    """The signals and their handlers, except ignored signals: nohup and a shell's & make a process ignore some."""
    handlers = {each: signal.getsignal(each) for each in signals}
    return {each: handler for each, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}


def _stop_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
