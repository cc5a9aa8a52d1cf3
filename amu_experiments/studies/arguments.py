"""The command line of the studies: their options, and how they start and stop."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from amu_experiments.command_line import whole
from amu_experiments.conf_files import conf_dir
from amu_experiments.interrupts import stop_on_signals


@dataclass(frozen=True)
class Options:
    """Where a study that trains networks reads and writes.

    Args:
        config_dir: folder with the study's plan and experiment/.
        out: folder for tables.
        results_dir: store of the trials.
        threads: processor threads; None: all.
        go_on: whether the results in the tables of `out` replace training.
        machine: further keys of every run that affect only how it is computed, such as device.
    """

    config_dir: Path
    out: Path
    results_dir: Path
    threads: int | None = None
    go_on: bool = False
    machine: Mapping[str, Any] = field(default_factory=dict)


def option_parser(study: str, description: str, *, out: str, results_dir: str, trains: bool) -> argparse.ArgumentParser:
    """A parser with the options that studies share: --results-dir and --out, with these defaults.

    trains: whether the study trains; the parser then has --config-dir, --threads, --continue and experiments, too.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m amu_experiments.studies.{study}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results-dir", type=Path, default=Path(results_dir), help="store of runs (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder to write to (%(default)s)")
    if trains:
        parser.add_argument("--config-dir", type=Path, default=conf_dir(), help="folder like conf/ (%(default)s)")
        parser.add_argument("--threads", type=whole(1), help="processor threads; default: all")
        parser.add_argument("experiment", nargs="*", help="experiments of the plan; none: all of them")
        parser.add_argument(
            "--continue", dest="go_on", action="store_true", help="use the results in the tables of --out"
        )
    return parser


def read_plan(path: Path, parts: Sequence[str]) -> dict:
    """The plan of a study, a yaml file with these parts. Raises SystemExit if the file is missing or is not a plan."""
    try:
        plan = yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SystemExit(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(plan, dict) or any(part not in plan for part in parts):
        raise SystemExit(f"{path}: must have {', '.join(parts)}, like {conf_dir() / path.name}")
    return plan


def chosen_experiments(parser: argparse.ArgumentParser, plan: dict, names: Sequence[str]) -> list[str]:
    """The experiments of the plan with these names, or all; exits with an error for an unknown name."""
    if unknown := set(names) - set(plan["experiments"]):
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}; choose from {', '.join(plan['experiments'])}")
    return [name for name in plan["experiments"] if not names or name in names]


def start(main: Callable[[], None]) -> None:
    """Run the main function of a study that trains networks; a signal stops it, and its processes, with one line."""
    with stop_on_signals():
        try:
            main()
        except KeyboardInterrupt:
            raise SystemExit("Stopped; the same command continues from here.") from None
