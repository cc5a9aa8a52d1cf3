"""The training loop: trains missing trials, one stack (trials trained together) at a time, and writes results.

It knows no model and no task by name. A run may be interrupted at any point: started again, it gives the same rows as
an uninterrupted run.
"""

import importlib.metadata
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

from amu_experiments import files, leases, numerics, stack_files, store
from amu_experiments.confusion import stack_confusions
from amu_experiments.console import Progress, alert, say
from amu_experiments.interrupts import postponed_signals, stop
from amu_experiments.plan import Run, prepare
from amu_experiments.stack import Stack

SECONDS_OF_A_STRETCH = 0.5
"""Duration of one stretch, a call of `Stack.learn`; signals, the clock and the progress bar wait until it ends."""

FIRST_STRETCH = 16
"""Sequences of each trial in the first stretch: few, since the speed of learning is not known yet."""

NO_MEMORY = re.compile("out of memory|allocate memory|ALLOC_FAILED")
"""What torch says if a device has too little memory. Few devices have an error of their own for this."""

command: ContextVar[str | None] = ContextVar("command", default=None)
"""The command that provenance names; None: that of this process."""


def run(config: dict) -> store.Result:
    """Train the requested trials that are missing, and return all trials of their configuration.

    Raises MemoryError if the memory of the device does not suffice.
    """
    run = prepare(config)
    missing, requested = len(set(run.trials) - store.finished_trials(run.folder)), len(run.trials)
    if missing == 0:
        say(f"All {requested} requested trials already exist: nothing to train.")
    elif missing < requested:
        say(f"{requested - missing} of {requested} trials already exist; training {missing}.")
    if missing and (system := leases.network_type(run.folder)):
        place, minutes = run.config["results_dir"], leases.SECONDS_OF_SILENCE // 60
        say(
            f"{place} is on a network file system ({system}): if a machine dies, others take over in {minutes} minutes."
        )
    try:
        return train_missing(run)
    except RuntimeError as error:
        said = [part for part in re.split(r"\. |\n", str(error)) if NO_MEMORY.search(part)]
        if not said:
            raise
        remedy = "use fewer trials or units, or a smaller training.batch_size"
        raise MemoryError(f"device={run.config['device']}: {said[0]}; {remedy}") from error
    except OSError:
        # The store cannot be written to. All trials exist, so reading is enough.
        if missing:
            raise
        return store.read_result(run.folder, left_out=[])


def train_missing(run: Run) -> store.Result:
    """Train the missing trials of a run, and return all trials of its configuration.

    If several processes request the same trials, one process trains each trial. The others train all other
    requested trials first, and then wait for that process.
    """
    while True:
        with leases.acquire(run.folder, run.config, run.trials) as lease:
            for line in lease.set_aside:
                alert(f"Damaged: {line}")
            if lease.trials:
                try:
                    train_stack(replace(run, trials=lease.trials), lease)
                except leases.LeaseLostError as lost:
                    say(f"Another process took over {lost}: this one did not renew its lease in time.")
                continue
        if not lease.elsewhere:
            return store.read_result(run.folder)
        who = leases.holder(lease.elsewhere[0])
        say(f"{who[0].upper()}{who[1:]} is training {lease.elsewhere[0].name}; waiting for it.")
        leases.wait_for(lease.elsewhere[0])


def train_stack(run: Run, lease: leases.Lease) -> None:
    """Train the leased trials of a run as one stack, from its checkpoint if it has one, and write the results.

    Raises OSError if a checkpoint cannot be written: without checkpoints, a failure would cost all the work. Raises
    LeaseLostError if another process has taken over the stack.
    """
    path = stack_files.stack_folder(run.folder, run.trials)
    signals = [signal.Signals[f"SIG{name}"] for name in run.config["stop_signals"]]
    with postponed_signals(signals, run.config["stop_seconds"]) as interrupted:
        stack = resumed(run, path)
        backend = stack.network.backend
        made = provenance() | {"backend": backend, "numerics": numerics.used(backend, run.config["device"])}
        files.write_text(path / "provenance.json", json.dumps(made, indent=1) + "\n")
        layers = run.config["model"].get("layers", 1)
        if layers > 1 and run.config["backend"] == "auto" and run.config["device"] == "cpu":
            say(f"model.layers={layers}: training runs in torch, with compiled layers if the cell has a compiled form.")
        train(stack, path, interrupted, lease)
    if stack.active:
        with suppress(leases.LeaseLostError):  # the new owner goes on from an earlier checkpoint
            write_checkpoint(stack, path, lease)
            say(f"Stopped at {stack.sequences:,} sequences; run the same command to resume.")
    if interrupted:
        stop(interrupted[0])


def train(stack: Stack, path: Path, interrupted: list[int], lease: leases.Lease) -> None:
    """Train until every trial has ended, and write the results; return earlier if `interrupted` gets an entry.

    The first checkpoint follows the first evaluation: a scheduler may end the process before checkpoint_minutes.
    """
    every, saved, first = 60 * stack.training["checkpoint_minutes"], time.monotonic(), True
    title = f"{path.parents[2].name} {path.parents[1].name}"
    progress = Progress(title, len(stack.trials), stack.maximum, stack.sequences, stack.training["stop"])
    stretch = FIRST_STRETCH
    with closing(progress):
        while stack.active and not interrupted:
            began = time.monotonic()
            count = stack.learn(stretch)
            stretch = int(count * SECONDS_OF_A_STRETCH / max(time.monotonic() - began, 1e-6))
            progress.advance(count, len(stack.active))
            if stack.evaluation_is_due():
                stack.evaluate()
                progress.report(stack.sequences, stack.solved)
                saved, first = -math.inf if first else saved, False
            if stack.active and time.monotonic() - saved > every:
                write_checkpoint(stack, path, lease)
                saved = time.monotonic()
    if not stack.active:
        lease.verify()
        tables = stack.history_table(), stack.trials_table(), *stack.weights_table(), stack_confusions(stack)
        stack_files.finish_stack(path, *tables)


def write_checkpoint(stack: Stack, path: Path, lease: leases.Lease) -> None:
    lease.verify()
    stack_files.write_checkpoint(path, stack.dump())


def resumed(run: Run, path: Path) -> Stack:
    """The stack of a run, in the state of its checkpoint; a new stack if it has no valid checkpoint.

    Raises ConfigurationError if the checkpoint was computed with another backend or other instructions.
    """
    stack = Stack(run)
    checkpoint = path / "checkpoint.pt"
    if not checkpoint.exists():
        return stack
    try:
        made = stack.load(stack_files.read_checkpoint(path))
    except ValueError as error:
        alert(f"Damaged: {checkpoint}: {error}; set aside as {files.set_aside(checkpoint).name}. Starting again.")
        return stack
    if not numerics.named_in_full(checkpoint, run.config, stack.network.backend, made):
        say("The checkpoint does not fully name its instructions: earlier steps may be rounded differently.")
    say(f"Resuming from the checkpoint at {stack.sequences:,} sequences.")
    return stack


def provenance() -> dict:
    """The software, machine and command that train a stack; none of it is part of a run's identity."""
    packages = ("amu-experiments", "torch", "numpy", "llvmlite", "hydra-core")
    try:
        folder = str(Path(__file__).parent)
        git = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        commit = git.stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # git is missing, or this is no checkout
        commit = None
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command.get() or " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "commit": commit,
    }
