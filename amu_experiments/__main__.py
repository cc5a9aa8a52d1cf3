"""Where the commands start: Ctrl-C during the imports of a command ends it without a traceback."""

import os
import sys


def run() -> None:
    """The command amu-run, also as `python -m amu_experiments`."""
    try:
        from amu_experiments.cli import command
    except KeyboardInterrupt:
        _interrupted("amu-run")
    command()


def report() -> int:
    """The command amu-report; its exit status."""
    try:
        from amu_experiments.analysis.report import main
    except KeyboardInterrupt:
        _interrupted("amu-report")
    return main()


def _interrupted(name: str) -> None:
    print(f"{name}: interrupted", file=sys.stderr, flush=True)
    os._exit(130)


if __name__ == "__main__":
    run()
