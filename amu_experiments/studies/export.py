"""Copies stored runs in a form small enough for git; amu-report makes the same tables from the copy.

    python -m amu_experiments.studies.export --results-dir results/runs --out results/paper/runs
    amu-report --results-dir results/paper/runs --out results/paper

The copy is a store like any other. It has the same configurations and results of trials, and the same provenance,
except that its commands lack results_dir, a folder of one machine. A history has about 12 evaluations of each trial and
those at which a trial ended. It is compressed, history.csv.gz; pandas.read_csv opens it. The copy has no weights.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from amu_experiments.files import UnusableError, remove_partial, write_bytes
from amu_experiments.options import format_error
from amu_experiments.stack_files import read_provenance, read_stack, write_stack
from amu_experiments.store import read_config
from amu_experiments.studies.arguments import option_parser

EVALUATIONS = 12


def main(arguments: Sequence[str] | None = None) -> None:
    parser = option_parser("export", __doc__, out="results/paper/runs", results_dir="results/runs", trains=False)
    options = parser.parse_args(arguments)
    try:
        count = export(options.results_dir, options.out)
    except UnusableError as error:
        raise SystemExit(f"{parser.prog}: {error}; run the command that wrote it, to write it again") from None
    except ValueError as error:
        raise SystemExit(f"{parser.prog}: {error}") from None
    except OSError as error:
        raise SystemExit(f"{parser.prog}: {format_error(error)}") from None
    print(f"{count} stacks written to {options.out}")


def export(results_dir: Path, out: Path) -> int:
    """Copy all finished stacks of a store, and return their number.

    Raises ValueError if there are none, or if `out` has runs that the store does not have; UnusableError as in
    `copy`.
    """
    runs, others = (
        {path.parent.relative_to(root) for path in root.glob("*/*/*/config.yaml")} for root in (results_dir, out)
    )
    stacks = [path.parent for run in runs for path in (results_dir / run).glob("trials-*/trials.csv")]
    if not stacks:
        raise ValueError(f"no finished runs in {results_dir}")
    if others - runs:
        names = ", ".join(sorted(map(str, others - runs)))
        raise ValueError(f"{out} has runs that {results_dir} does not have; remove {names}")
    for stack in stacks:
        copy(stack, out / stack.relative_to(results_dir))
    return len(stacks)


def copy(stack: Path, to: Path) -> None:
    """Copy one stack and its configuration; UnusableError if a file is damaged. Damaged provenance is left out."""
    read_config(stack.parent)
    _, history = read_stack(stack)
    to.mkdir(parents=True, exist_ok=True)
    remove_partial([to.parent, to])
    write_bytes(to.parent / "config.yaml", (stack.parent / "config.yaml").read_bytes())
    try:
        made = read_provenance(stack)
        # results_dir exists on one machine only; without it, the command works on any.
        made["command"] = " ".join(word for word in made["command"].split(" ") if not word.startswith("results_dir="))
        write_bytes(to / "provenance.json", json.dumps(made, indent=1).encode() + b"\n")
    except UnusableError as error:
        print(f"Left out: {error}")
    table = thinned(history).to_csv(index=False, float_format="%.5g")
    whole = [path.name for name in ("confusion.csv", "trials.csv") if (path := stack / name).exists()]
    packed = gzip.compress(table.encode(), mtime=0)  # no time stamp: equal tables give equal bytes
    write_stack(to, {"history.csv.gz": packed} | {name: (stack / name).read_bytes() for name in whole})
    (to / "history.csv").unlink(missing_ok=True)  # of an earlier version


def thinned(history: pd.DataFrame) -> pd.DataFrame:
    """A history with fewer evaluations: some evenly spread, and all at which some trial ended."""
    times = np.sort(history["sequences"].unique())
    spread = times[np.linspace(0, len(times) - 1, min(len(times), EVALUATIONS)).round().astype(int)]
    ends = history.groupby("trial")["sequences"].max()
    return history[history["sequences"].isin({*spread, *ends})]


if __name__ == "__main__":
    main()
