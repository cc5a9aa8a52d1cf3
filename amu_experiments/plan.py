"""From a configuration to a run: device, data, units, RAM and folder are checked before anything is written."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from amu_experiments import store
from amu_experiments.cells import cell_class, written_class
from amu_experiments.network import count_parameters, make_cell, resolved
from amu_experiments.options import ConfigurationError, format_error, format_value, options_of, without_added
from amu_experiments.own_code import KEY, code_of
from amu_experiments.tasks import make_task
from amu_experiments.tasks.contract import check_task
from amu_experiments.tasks.task import Task

BYTES = 4
"""Size of a number in single precision."""

COPIES = 6
"""Arrays in RAM of the size of the parameters: the parameters, the optimiser's two moments, the best parameters, and
two temporary arrays while the others are created."""


@dataclass(frozen=True)
class Run:
    """Trials of a configuration that can be trained here.

    config: complete, with the number of units, the digest of data given by path, and those of users' own cells and
        tasks (own_code.py). An option that was added later is left out if it has the value of older runs
        (`options.Added`).
    folder: contains the results of all trials of this configuration.
    trials: their numbers, ascending.
    """

    config: dict
    folder: Path
    trials: list[int]


def wanted_trials(config: Mapping) -> list[int]:
    return list(range(config["seed"], config["seed"] + config["trials"]))


def prepare(config: dict) -> Run:
    """The run of a configuration; also sets the number of threads of this process.

    Raises ConfigurationError if the data or this machine do not allow the run. Writes nothing.
    """
    try:
        config = _resolved(config)
    except (OSError, ValueError) as error:
        raise ConfigurationError(format_error(error)) from error
    return Run(config, store.folder_of(config), wanted_trials(config))


def _resolved(config: dict) -> dict:
    if config["device"] != "cpu":
        _check_device(config["device"], config["backend"])
    threads = config["threads"] or os.cpu_count()
    torch.set_num_threads(threads)
    if config["backend"] != "torch" and config["device"] == "cpu":
        from amu_experiments.scans.threads import set_threads

        set_threads(threads)
    task = make_task(config["task"], [0])
    kind = cell_class(config["model"]["cell"])
    cell, problem = config["model"]["cell"], config["task"]["problem"]
    model = without_added(resolved(config["model"], task), kind.annotations()) | code_of(written_class(cell), cell)
    data = without_added(config["task"], options_of(type(task), "__init__")) | task.contents
    data |= code_of(type(task), problem)
    config = config | {"model": model, "task": data}
    config |= {"results_dir": str(_results_folder(config))}
    _check_ram(config, task, count_parameters(model, task, model["units"]))
    if KEY in data:
        check_task(f"task.problem={problem}", task)
    if KEY in model:
        make_cell(model, task, model["units"])  # some mistakes in a user's class show only with more than one unit
    return config


def _check_device(device: str, backend: str) -> None:
    """Raise ValueError if the device is not available, or the backend does not run on it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:200]
        raise ValueError(f"device={device}: not available here ({reason}); use device=cpu") from None
    if backend == "fused":
        raise ValueError(f"backend=fused runs only on the CPU; with device={device} use torch or auto")


def _results_folder(config: dict) -> Path:
    """The folder of results, ~ expanded. Raises ValueError if trials are missing and cannot be written there."""
    results_dir = config["results_dir"]
    try:
        folder = Path(results_dir).expanduser()
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"results_dir={format_value(results_dir)}: not the name of a folder ({reason})") from None
    if not nearest.is_dir():
        raise ValueError(
            f"results_dir={format_value(results_dir)}: {nearest} is a file; give a folder (a new one is made)"
        )
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return folder
    except OSError as error:
        reason = error.strerror
    found = store.finished_trials(store.folder_of(config | {"results_dir": folder}))
    if not found.issuperset(wanted_trials(config)):
        raise ValueError(
            f"results_dir={format_value(results_dir)}: {nearest} cannot be written to ({reason}); give another folder"
        )
    return folder


# RAM ----------------------------------------------------------------------------------------------------------


def _check_ram(config: Mapping, task: Task, parameters: int) -> None:
    """Raise ValueError, with both sizes and the settings that decide them, if a run needs more RAM than is free.

    config: complete, with the number of units; parameters: their number in one trial. This is a lower bound: a run that
    passes may still be too large, but a run that is refused is too large for certain.
    """
    trials, units = config["trials"], config["model"]["units"]
    networks = trials * parameters * COPIES * BYTES
    # RAM holds the most sequences during the test, or during training if batches are large. The sequences of a split,
    # or of a batch, are drawn trial by trial and then copied into one array of all trials.
    sequences = task.training_size + task.validation_size + 2 * max(task.test_size, config["training"]["batch_size"])
    steps, width = task.steps or 1, task.input_size + (task.output_size if task.answer == "every" else 0)
    data = trials * (sequences * steps * width + task.window) * BYTES
    free = free_ram()
    if networks + data <= free:
        return
    if networks > data:
        cause = f"trials={trials}, model.units={units} ({parameters:,} parameters in each network)"
        less = "fewer trials or units"
    else:
        shape = f"{sequences:,} sequences of {steps:,} steps of {width:,} numbers in each"
        cause = f"trials={trials} and the settings of task and training.batch_size ({shape})"
        less = "fewer trials, or fewer or shorter sequences"
    raise ValueError(f"{cause} need at least {_size(networks + data)} of RAM, and {_size(free)} are free; use {less}")


def free_ram() -> int:
    """Bytes that this process can still take: the system's free RAM, or less if its control group allows less."""
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


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if count < 1024 or unit == "PiB":
            break
        count /= 1024
    return f"{count:,.1f} {unit}"
