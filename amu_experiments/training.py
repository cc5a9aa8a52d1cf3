"""The loop: trains the missing trials of a run, one stack at a time, and keeps what happened.

It knows no model's and no task's name. A run that is interrupted at any point and started again gives the rows of an
uninterrupted one.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from amu_experiments import numerics, store
from amu_experiments.console import Progress, say
from amu_experiments.interrupts import postponed_signals
from amu_experiments.options import ConfigurationError
from amu_experiments.plan import Run, prepare
from amu_experiments.stack import Stack

SECONDS_BETWEEN_LOOKS = 0.5
"""How long a stretch of learning may take: signals, the clock and the progress bar are looked at in between."""

FIRST_STRETCH = 16
"""Sequences of a trial; few, since nothing is known yet of its pace."""


def run(config: dict) -> None:
    """Train the missing ones of the trials asked for, and print a table of all of them."""
    run = prepare(config)
    missing, asked = len(set(run.trials) - store.finished_trials(run.folder)), len(run.trials)
    if missing == 0:
        say(f"All {asked} trials asked for exist already: nothing to train.")
    elif missing < asked:
        say(f"{asked - missing} of {asked} trials exist already; training {missing}.")
    try:
        result = train_missing(run)
    except OSError:
        # The store cannot be put in order, but it has the trials.
        if missing:
            raise
        result = store.read_result(run.folder, left_out=[])
    from amu_experiments.analysis.tables import run_table

    say(run_table(result))
    say(f"Kept in {run.folder}")


def train_missing(run: Run) -> store.Result:
    """Train those trials of a run that are missing, and return all that its configuration has.

    However many processes ask for the same trials at a time, each trial is trained by one of them. Trials that another
    process trains are waited for, after everything else.
    """
    while True:
        with store.claim(run.folder, run.config, run.trials) as claim:
            for line in claim.set_aside:
                say(f"Damaged: {line}")
            if claim.trials:
                train_stack(replace(run, trials=claim.trials))
                continue
        if not claim.elsewhere:
            return store.read_result(run.folder)
        say(f"{claim.elsewhere[0].name} is being trained by another process: waiting for it.")
        store.wait_for(claim.elsewhere[0])


def train_stack(run: Run) -> None:
    """Train the claimed trials of a run as one stack, from its checkpoint if there is one, and write the results.

    Raises OSError if a checkpoint cannot be written: training on would put ever more work at stake.
    """
    path = store.stack_folder(run.folder, run.trials)
    with postponed_signals() as interrupted:
        stack = resumed(run, path)
        made = provenance() | {"backend": stack.network.backend, "numerics": numerics.used(stack.network.backend)}
        store.write_text(path / "provenance.json", json.dumps(made, indent=1) + "\n")
        train(stack, path, interrupted)
    if stack.active:
        store.write_checkpoint(path, stack.dump())
        say(f"Stopped at {stack.sequences:,} sequences; the same command goes on from there.")
    if interrupted:
        raise KeyboardInterrupt


def train(stack: Stack, path: Path, interrupted: list[int]) -> None:
    """Train until no trial is left, and write the results; or until there is an entry in `interrupted`."""
    every, saved = 60 * stack.training["checkpoint_minutes"], time.monotonic()
    title = f"{path.parents[2].name} {path.parents[1].name}"
    progress = Progress(title, len(stack.trials), stack.maximum, stack.sequences, stack.training["stop"])
    stretch = FIRST_STRETCH
    with closing(progress):
        while stack.active and not interrupted:
            began = time.monotonic()
            count = stack.learn(stretch)
            stretch = int(count * SECONDS_BETWEEN_LOOKS / max(time.monotonic() - began, 1e-6))
            progress.advance(count, len(stack.active))
            if stack.evaluation_is_due():
                stack.evaluate()
                progress.tell(stack.sequences, stack.solved)
            if stack.active and time.monotonic() - saved > every:
                store.write_checkpoint(path, stack.dump())
                saved = time.monotonic()
    if not stack.active:
        store.finish_stack(path, stack.history_table(), stack.trials_table(), *stack.weights_table())


def resumed(run: Run, path: Path) -> Stack:
    """A stack as its checkpoint has it, or at its beginning if there is none that can be used.

    Raises ConfigurationError if the checkpoint was made with another backend, whose roundings differ.
    """
    stack = Stack(run)
    checkpoint = path / "checkpoint.pt"
    if not checkpoint.exists():
        return stack
    try:
        backend = stack.load(store.read_checkpoint(path))
    except ValueError as error:
        say(f"Damaged: {checkpoint}: {error}; set aside as {store.set_aside(checkpoint).name}. Starting anew.")
        return stack
    if backend != stack.network.backend:
        raise ConfigurationError(
            f"backend={run.config['backend']}: this is {stack.network.backend} here, and {checkpoint} was made with "
            f"{backend}; go on with backend={backend}, or remove the checkpoint to start anew"
        )
    say(f"Going on from the checkpoint at {stack.sequences:,} sequences.")
    return stack


def provenance() -> dict:
    """What a stack was made with; none of it changes a trial's identity."""
    packages = ("amu-experiments", "torch", "numpy", "numba", "hydra-core")
    try:
        folder = str(Path(__file__).parent)
        git = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        commit = git.stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or not in a checkout
        commit = None
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "commit": commit,
    }
