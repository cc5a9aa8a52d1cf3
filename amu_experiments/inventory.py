"""amu-run --list and --remove: list the stored runs that meet conditions, or remove them."""

import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from amu_experiments import leases, store
from amu_experiments.command_line import Parser
from amu_experiments.console import say
from amu_experiments.files import UnusableError
from amu_experiments.options import ConfigurationError, format_error
from amu_experiments.selection import matching, named_settings
from amu_experiments.stack_files import trials_of


@dataclass(frozen=True)
class Stored:
    """A configuration in the store.

    settings: as `selection.named_settings`. finished, solved: numbers of trials. unfinished: numbers of trials that are
    in training or were interrupted.
    """

    folder: Path
    settings: dict[str, Any]
    finished: int
    solved: int
    unfinished: int


def main(arguments: Sequence[str]) -> int:
    """Run the command. Exit status: 0; 1 if a removal was refused; raises ConfigurationError for a wrong condition."""
    parser = Parser("amu-run", usage="amu-run (--list | --remove [--yes]) [results_dir=DIR] [KEY=VALUE ...]")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--list", action="store_true", help="list the stored runs")
    action.add_argument("--remove", action="store_true", help="remove stored runs, after you confirm")
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    parser.add_argument("conditions", nargs="*", help='such as task=adding, model=lstm,gru, "training.max_sequences<5"')
    options = parser.parse_intermixed_args(arguments)
    places = [line for line in options.conditions if line.startswith("results_dir=")]
    where = [line for line in options.conditions if line not in places]
    root = Path(places[-1].partition("=")[2] if places else "results/runs").expanduser()
    if not root.is_dir():
        raise ConfigurationError(f"results_dir={root}: no such folder")
    left_out: list[UnusableError | OSError] = []
    found = stored(root, left_out)
    chosen = [found[place] for place in matching([each.settings for each in found], where)]
    lines = [f"Left out: {format_error(error)}" for error in left_out]
    say("\n".join([table(chosen) if chosen else f"No such runs in {root}.", *lines]))
    if options.list or not chosen:
        return 0
    if not where:
        raise ConfigurationError("--remove: name the runs, such as identity=5f57c0b0931a or task=adding model=lstm")
    return _remove(chosen, options.yes)


def stored(root: Path, left_out: list[UnusableError | OSError]) -> list[Stored]:
    """Every configuration of a store, also without finished trials; `left_out` takes an error for each unusable one."""
    found = []
    for folder in store.configurations(root, left_out):
        try:
            config = store.read_config(folder)
            tables = [trials for trials, _ in store.finished_stacks(folder, left_out).values()]
        except (UnusableError, OSError) as error:
            left_out.append(error)
            continue
        trials = pd.concat(tables).drop_duplicates("trial") if tables else pd.DataFrame({"trial": [], "status": []})
        begun = {trial for stack in store.unfinished_stacks(folder) for trial in trials_of(stack)}
        settings = named_settings(*folder.parts[-3:], config)
        solved = int((trials["status"] == "solved").sum())
        found.append(Stored(folder, settings, len(trials), solved, len(begun - set(trials["trial"]))))
    return found


def table(runs: list[Stored]) -> str:
    """The runs as plain text, with each setting in which runs of the same task and model differ."""
    rows = []
    for run in runs:
        alike = [other.settings for other in runs if other.folder.parent == run.folder.parent]
        own = [
            f"{key}={value}"
            for key, value in run.settings.items()
            if key != "identity" and any(other.get(key) != value for other in alike)
        ]
        rows.append(
            {name: run.settings[name] for name in ("task", "model", "identity")}
            | {"trials": run.finished, "solved": run.solved, "unfinished": run.unfinished, "settings": " ".join(own)}
        )
    rows = pd.DataFrame(rows)
    widest = max(map(len, rows["settings"]))
    rows["settings"] = rows["settings"].str.ljust(widest)
    text = rows.rename(columns={"settings": "settings".ljust(widest)}).to_string(index=False)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _remove(runs: list[Stored], sure: bool) -> int:
    count = sum(run.finished + run.unfinished for run in runs)
    question = f"Remove {len(runs)} run{'s' * (len(runs) > 1)} with {count} trials for ever?"
    if not sure:
        if not sys.stdin.isatty():
            print(f"amu-run: {question} There is no terminal to ask; add --yes", file=sys.stderr)
            return 1
        say(f"{question} [y/N] ", end="")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            say("Nothing was removed.")
            return 1
    status = 0
    for run in runs:
        try:
            remove(run.folder)
        except BlockingIOError as error:
            print(f"amu-run: {format_error(error)}", file=sys.stderr)
            status = 1
        else:
            say(f"Removed: {run.folder}")
    return status


def remove(folder: Path) -> None:
    """Remove the folder of a configuration, and then empty folders above it.

    Raises BlockingIOError, and removes nothing, if a process is training one of its stacks (trials trained together).
    """
    with ExitStack() as held:
        held.enter_context(leases.exclusive(folder))
        for stack in store.stacks_in(folder):
            if not held.enter_context(leases.locked(stack, wait=False)) or leases.leased(stack):
                raise BlockingIOError(11, "is in training, and was not removed", str(stack))
        shutil.rmtree(folder)
    for above in (folder.parent, folder.parent.parent):
        if not any(above.iterdir()):
            above.rmdir()
