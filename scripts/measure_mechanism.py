"""Measures the mechanism of stored runs (error flow, gradient conflict, memory traces) and writes it as CSV.

    python scripts/measure_mechanism.py
    python scripts/measure_mechanism.py --task two_sequence --task adding --sequences 4

Reads the configuration and final weights of each run, and trains nothing. Writes flow.csv, trials.csv and traces.csv;
`amu_experiments.mechanism.measure` explains their columns.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from amu_experiments.mechanism import measure
from amu_experiments.store import read_results, read_weights, write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results-dir", type=Path, default=Path("results/runs"), help="the runs (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/paper/mechanism"), help="the tables (%(default)s)")
    parser.add_argument("--task", action="append", help="only the runs of this task; may be given more than once")
    parser.add_argument("--sequences", type=int, default=8, help="sequences measured for each trial (%(default)s)")
    parser.add_argument("--threads", type=int, help="processor threads")
    options = parser.parse_args()
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads {options.threads}: must be at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    left_out: list = []
    results = read_results(options.results_dir, left_out)
    for error in left_out:
        print(f"Left out: {error}")
    results = [result for result in results if options.task is None or result.task in options.task]
    if not results:
        raise SystemExit(f"measure_mechanism: no finished runs in {options.results_dir}")
    measured = []
    for result in tqdm(results):
        try:
            measured.append(measure(result, read_weights(result.folder), options.sequences))
        except (OSError, ValueError) as error:  # damaged weights, or changed data of the user
            print(f"Left out: {error}")
    if not measured:
        raise SystemExit("measure_mechanism: nothing could be measured")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("flow", "trials", "traces"):
        table = pd.concat([tables[name] for tables in measured], ignore_index=True)
        write_text(options.out / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
    print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
