"""Compiling in a separate thread, with a message to the user."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context

from amu_experiments.console import note
from amu_experiments.scans.recurrence import Recurrence


class Notice:
    """Tells the user that a cell is being compiled, and how long it took; nothing if it is loaded from the cache."""

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
    """Call in a thread and wait, so that Ctrl-C and signals act at once, not only after native code returns.

    If a signal ends the wait, the thread goes on and finishes its work.
    """
    called: Future = Future()

    def call():
        try:
            called.set_result(function(*arguments))
        except BaseException as error:
            called.set_exception(error)

    threading.Thread(target=copy_context().run, args=(call,), daemon=True).start()
    called.result()
