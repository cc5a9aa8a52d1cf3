"""Where runs live: which trials exist, which are missing, and reading and writing what was found.

A configuration has a folder, <results_dir>/<task>/<model>/<identity>/, with config.yaml and a folder for each stack
of trials that was trained together, trials-<first>-<last>/. A stack is finished once its trials.csv is there; that
file is written last, and every file appears whole or not at all.
"""

import io
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from amu_experiments.config import definition, identity, model_folder, task_folder

_STACK = re.compile(r"trials-(\d+)-(\d+)")


@dataclass(frozen=True)
class Result:
    """All finished trials of one configuration.

    trials: a row per trial; history: a row per trial and evaluation; both sorted by trial.
    """

    task: str
    model: str
    identity: str
    config: dict
    trials: pd.DataFrame
    history: pd.DataFrame
    folder: Path


def folder_of(config: dict) -> Path:
    """Where the trials of this configuration are kept; its number of units must be known."""
    return Path(config["results_dir"], task_folder(config), model_folder(config), identity(config))


def stack_folder(folder: Path, trials: list[int]) -> Path:
    return folder / f"trials-{trials[0]}-{trials[-1]}"


def finished_trials(folder: Path) -> set[int]:
    """The trials that need not be trained again."""
    return {trial for stack in _finished(folder) for trial in pd.read_csv(stack / "trials.csv")["trial"]}


def missing_stacks(folder: Path, wanted: Iterable[int]) -> list[list[int]]:
    """The wanted trials that are not finished, in stacks of consecutive numbers.

    An interrupted stack comes back as it was, so that it can go on from its checkpoint.
    """
    missing = set(wanted) - finished_trials(folder)
    interrupted, fresh = [], []
    for path in sorted(folder.glob("trials-*/checkpoint.pt")):
        match = _STACK.fullmatch(path.parent.name)
        trials = range(int(match[1]), int(match[2]) + 1) if match else range(0)
        if trials and missing.issuperset(trials):
            interrupted.append(list(trials))
            missing -= set(trials)
    for trial in sorted(missing):
        if fresh and fresh[-1][-1] == trial - 1:
            fresh[-1].append(trial)
        else:
            fresh.append([trial])
    return sorted(interrupted + fresh)


def start_stack(folder: Path, config: dict, trials: list[int], provenance: dict) -> Path:
    """Make a stack's folder, and the configuration's where it is new."""
    stack = stack_folder(folder, trials)
    stack.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.yaml").exists():
        write_text(folder / "config.yaml", yaml.safe_dump(definition(config), sort_keys=False))
    write_text(stack / "provenance.json", json.dumps(provenance, indent=1) + "\n")
    return stack


def finish_stack(
    stack: Path, history: pd.DataFrame, trials: pd.DataFrame, numbers: np.ndarray, parameters: np.ndarray
) -> None:
    """Write what was found, final parameters (R, P) of trials (R,) included; then the stack's trials are finished."""
    weights = io.BytesIO()
    np.savez(weights, trial=numbers, parameters=parameters)
    write_bytes(stack / "weights.npz", weights.getvalue())
    write_text(stack / "history.csv", history.to_csv(index=False, float_format="%.7g"))
    write_text(stack / "trials.csv", trials.to_csv(index=False, float_format="%.7g"))
    (stack / "checkpoint.pt").unlink(missing_ok=True)


def read_result(folder: Path) -> Result | None:
    """The finished trials of one configuration's folder, or None where there are none."""
    stacks = _finished(folder)
    if not stacks:
        return None
    trials = pd.concat([pd.read_csv(stack / "trials.csv") for stack in stacks], ignore_index=True)
    history = pd.concat(
        [pd.read_csv(stack / "history.csv").assign(stack=number) for number, stack in enumerate(stacks)],
        ignore_index=True,
    )
    # Stacks may overlap; a trial comes out the same in each, so the first one read stands for all.
    first = history.groupby("trial")["stack"].transform("min")
    history = history[history["stack"] == first].drop(columns="stack")
    return Result(
        task=folder.parent.parent.name,
        model=folder.parent.name,
        identity=folder.name,
        config=yaml.safe_load((folder / "config.yaml").read_text()),
        trials=trials.drop_duplicates("trial").sort_values("trial", ignore_index=True),
        history=history.sort_values(["trial", "sequences"], ignore_index=True),
        folder=folder,
    )


def read_weights(folder: Path) -> dict[int, np.ndarray]:
    """The final flat parameters (P,) of every finished trial of one configuration's folder."""
    weights: dict[int, np.ndarray] = {}
    for stack in _finished(folder):
        with np.load(stack / "weights.npz", allow_pickle=False) as kept:
            weights = dict(zip(kept["trial"].tolist(), kept["parameters"], strict=True)) | weights
    return weights


def read_results(results_dir: str | os.PathLike) -> list[Result]:
    """Everything finished under a results folder, sorted by folder."""
    folders = sorted(path.parent for path in Path(results_dir).glob("*/*/*/config.yaml"))
    return [result for folder in folders if (result := read_result(folder)) is not None]


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all, and survives a loss of power once this returns."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _finished(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("trials-*/trials.csv"))
