"""The command line of the studies: their options, and how they start and stop."""

import argparse
from collections.abc import Callable
from pathlib import Path

from amu_experiments.conf_files import conf_dir
from amu_experiments.interrupts import stop_on_signals


def option_parser(study: str, description: str, *, out: str, results_dir: str, trains: bool) -> argparse.ArgumentParser:
    """A parser with the options that studies share: --results-dir and --out, with these defaults.

    trains: whether the study trains networks; it then has --config-dir and --threads, too.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m amu_experiments.studies.{study}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results-dir", type=Path, default=Path(results_dir), help="store of runs (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder to write to (%(default)s)")
    if trains:
        parser.add_argument("--config-dir", type=Path, default=conf_dir(), help="with tuning.yaml and experiment/")
        parser.add_argument("--threads", type=positive, help="processor threads; default: all")
    return parser


def positive(text: str) -> int:
    """A whole number of 1 or more, as argparse reads it."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number of 1 or more")
    return int(text)


def start(main: Callable[[], None]) -> None:
    """Run the main function of a study that trains networks; a signal stops it, and its processes, with one line."""
    with stop_on_signals():
        try:
            main()
        except KeyboardInterrupt:
            raise SystemExit("Stopped; the same command continues from here.") from None
