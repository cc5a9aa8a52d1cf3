"""Copies stored runs without the parts that are too large for git; amu-report makes the same tables from the copy.

    python scripts/export_runs.py --results-dir results/runs --out results/paper/runs
    amu-report --results-dir results/paper/runs --out results/paper

The copy is a store like any other. Configurations, results of trials and provenance are unchanged. A history has about
12 evaluations of each trial, and every evaluation at which a trial ended. Weights are not copied.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from amu_experiments.options import in_a_line
from amu_experiments.store import (
    UnusableError,
    read_config,
    read_provenance,
    read_stack,
    remove_partial,
    write_bytes,
    write_stack,
)

EVALUATIONS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results-dir", type=Path, default=Path("results/runs"), help="the runs (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/paper/runs"), help="the copy (%(default)s)")
    options = parser.parse_args()
    folders = {path.parent.relative_to(options.results_dir) for path in options.results_dir.glob("*/*/*/config.yaml")}
    stacks = [path.parent for folder in folders for path in (options.results_dir / folder).glob("trials-*/trials.csv")]
    if not stacks:
        raise SystemExit(f"export_runs: no finished runs in {options.results_dir}")
    others = {path.parent.relative_to(options.out) for path in options.out.glob("*/*/*/config.yaml")} - folders
    if others:
        names = ", ".join(sorted(map(str, others)))
        raise SystemExit(f"export_runs: {options.out} holds runs that {options.results_dir} does not; remove {names}")
    try:
        for stack in stacks:
            copy(stack, options.out / stack.relative_to(options.results_dir))
    except UnusableError as error:
        raise SystemExit(f"export_runs: {error}; the command that made it makes it anew") from None
    except OSError as error:
        raise SystemExit(f"export_runs: {in_a_line(error)}") from None
    print(f"{len(stacks)} stacks written to {options.out}")


def copy(stack: Path, to: Path) -> None:
    """Copy one stack and its configuration. Raises UnusableError if a file of them is damaged."""
    read_config(stack.parent)
    _, history = read_stack(stack)
    to.mkdir(parents=True, exist_ok=True)
    remove_partial([to.parent, to])
    write_bytes(to.parent / "config.yaml", (stack.parent / "config.yaml").read_bytes())
    try:
        read_provenance(stack)
        write_bytes(to / "provenance.json", (stack / "provenance.json").read_bytes())
    except UnusableError as error:
        print(f"Left out: {error}")
    table = thinned(history).to_csv(index=False, float_format="%.5g")
    write_stack(to, {"history.csv": table.encode(), "trials.csv": (stack / "trials.csv").read_bytes()})


def thinned(history: pd.DataFrame) -> pd.DataFrame:
    """A history with fewer evaluations: evenly spread ones, and every one at which a trial ended."""
    times = history["sequences"].sort_values().unique()
    spread = (
        times[np.linspace(0, len(times) - 1, min(len(times), EVALUATIONS)).round().astype(int)] if len(times) else []
    )
    ends = history.groupby("trial")["sequences"].max()
    return history[history["sequences"].isin({*spread, *ends})]


if __name__ == "__main__":
    main()
