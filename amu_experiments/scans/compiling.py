"""Compiling: a message for whoever waits, and a thread of its own."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context

from amu_experiments.console import note
from amu_experiments.scans.recurrence import Recurrence


class Notice:
    """Says that a cell is being compiled, and how long it took; nothing where it is only loaded."""

    def __init__(self, recurrence: Recurrence):
        self._cell = f"the {recurrence.name} cell ({recurrence.inputs} inputs, {recurrence.outputs} units)"
        self._began: float | None = None

    def compiling(self) -> None:
        if self._began is None:
            self._began = time.monotonic()
            note(f"Compiling {self._cell} ...")

    def done(self) -> None:
        if self._began is not None:
            note(f"Compiled {self._cell} in {time.monotonic() - self._began:.1f} s.")


def beside(function: Callable, *arguments) -> None:
    """Call in a thread and wait for it, for Ctrl-C and signals to act at once and not when native code returns.

    Whoever leaves the wait so leaves the thread to itself, which ends what it does.
    """
    called: Future = Future()

    def call():
        try:
            called.set_result(function(*arguments))
        except BaseException as error:
            called.set_exception(error)

    threading.Thread(target=copy_context().run, args=(call,), daemon=True).start()
    called.result()
