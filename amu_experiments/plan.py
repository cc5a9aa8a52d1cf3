"""From a configuration to a run: device, data, units, memory and place are checked before anything is written."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from amu_experiments import store
from amu_experiments.memory import check_memory
from amu_experiments.network import count_parameters, settled
from amu_experiments.options import ConfigurationError, in_a_line, spell
from amu_experiments.tasks import make_task


@dataclass(frozen=True)
class Run:
    """Trials of a configuration that can be trained here.

    config: complete, with the number of units and, for data given by path, their digest.
    folder: where the trials of this configuration are kept.
    trials: their numbers, ascending.
    """

    config: dict
    folder: Path
    trials: list[int]


def wanted_trials(config: Mapping) -> list[int]:
    return list(range(config["seed"], config["seed"] + config["trials"]))


def prepare(config: dict) -> Run:
    """The run that a configuration asks for, with this process set up for it.

    Raises ConfigurationError for mistakes that only the data or the machine show. Nothing is written.
    """
    try:
        config = _resolved(config)
    except (OSError, ValueError) as error:
        raise ConfigurationError(in_a_line(error)) from error
    return Run(config, store.folder_of(config), wanted_trials(config))


def _resolved(config: dict) -> dict:
    if config["device"] != "cpu":
        _check_device(config["device"], config["backend"])
    threads = config["threads"] or os.cpu_count()
    torch.set_num_threads(threads)
    if config["backend"] != "torch" and config["device"] == "cpu":
        from amu_experiments.cells.kernels import set_threads

        set_threads(threads)
    task = make_task(config["task"], [0])
    model = settled(config["model"], task)
    config = config | {"model": model, "task": config["task"] | task.contents}
    config |= {"results_dir": str(_results_folder(config))}
    check_memory(config, task, count_parameters(model, task, model["units"]))
    return config


def _check_device(device: str, backend: str) -> None:
    """ValueError if this machine does not have the device, or the backend does not run on it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:200]
        raise ValueError(f"device={device}: not available here ({reason}); take device=cpu") from None
    if backend == "fused":
        raise ValueError(f"backend=fused runs on the CPU only; device={device} takes torch or auto")


def _results_folder(config: dict) -> Path:
    """The folder of results, ~ expanded; ValueError if it cannot be made, or must be written to and cannot."""
    results_dir = config["results_dir"]
    try:
        folder = Path(results_dir).expanduser()
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"results_dir={spell(results_dir)}: no name for a folder ({reason})") from None
    if not nearest.is_dir():
        raise ValueError(f"results_dir={spell(results_dir)}: {nearest} is a file; give a folder, which may be new")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return folder
    except OSError as error:
        reason = error.strerror
    found = store.finished_trials(store.folder_of(config | {"results_dir": folder}))
    if not found.issuperset(wanted_trials(config)):
        told = f"{nearest} is not to be written to ({reason}); give another folder"
        raise ValueError(f"results_dir={spell(results_dir)}: {told}")
    return folder
