"""Does a run fit into memory? What it needs is reckoned before anything is drawn, and compared with what is free."""

import os
from collections.abc import Mapping
from pathlib import Path

from amu_experiments.tasks.task import Task

NUMBER = 4
"""Bytes of a number in single precision."""

COPIES = 6
"""Of a stack's parameters: themselves, the optimiser's two running means, the best, and two while they are made."""


def check_memory(config: Mapping, task: Task, parameters: int) -> None:
    """ValueError, with both figures and what decides them, where the run needs more memory than is free.

    config: complete, its number of units known; parameters: of one trial. Only what is needed in any case is counted:
    a run that is let through may still turn out too large, one that is refused would have.
    """
    trials, units = config["trials"], config["model"]["units"]
    networks = trials * parameters * COPIES * NUMBER
    sequences = _sequences(task, config["training"]["batch_size"])
    data = trials * sequences * (task.steps or 1) * _width(task) * NUMBER + trials * task.window * NUMBER
    free = free_memory()
    if networks + data <= free:
        return
    if networks > data:
        cause = f"trials={trials}, model.units={units} ({parameters:,} parameters in each network)"
        less = "fewer trials or units"
    else:
        shape = f"{sequences:,} sequences of {task.steps or 1:,} steps of {_width(task):,} numbers in each"
        cause = f"trials={trials} and what task and training.batch_size say ({shape})"
        less = "fewer trials, or fewer or shorter sequences"
    raise ValueError(
        f"{cause} need {_size(networks + data)} of memory at least, and {_size(free)} are free here; take {less}"
    )


def free_memory() -> int:
    """Bytes that this process can still take: what the system has left, or less where its control group allows less."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no control group, or one without a limit
        return free


def _sequences(task: Task, batch_size: int) -> int:
    """How many sequences of a trial are in memory when most are: at the test, or in training with large batches.

    Those of a split are drawn trial by trial and then copied into one array of all trials; so is a batch.
    """
    return task.training_size + task.validation_size + 2 * max(task.test_size, batch_size)


def _width(task: Task) -> int:
    """Numbers that a time step of a sequence takes: its inputs and, where each step is answered, its targets."""
    return task.input_size + (task.output_size if task.answer == "every" else 0)


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if count < 1024 or unit == "PiB":
            break
        count /= 1024
    return f"{count:,.1f} {unit}"
