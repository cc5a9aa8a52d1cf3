"""Prints the experiments with the best results at a long lag T, to be compared at a longer one.

    python -m amu_experiments.studies.longest two_sequence_3c/lstm two_sequence_3c/gru ... --lag 1000 --count 3

A line for each of the best --count experiments, the best first. The rule is that of tuning: more trials that met the
criterion, then the smaller Kaplan-Meier median of sequences, then the smaller loss. Trials that are missing in
--results-dir are trained first.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from amu_experiments.command_line import whole
from amu_experiments.conf_files import experiments
from amu_experiments.overrides import Composer
from amu_experiments.plan import prepare
from amu_experiments.studies.arguments import start
from amu_experiments.studies.tuning import judge, ranked, trained


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m amu_experiments.studies.longest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", nargs="+", help="names of files in conf/experiment")
    parser.add_argument("--lag", type=whole(1), required=True, help="T of the trials")
    parser.add_argument("--count", type=whole(1), default=3, help="number of lines (%(default)s)")
    parser.add_argument("--results-dir", type=Path, default=Path("results/runs"), help="store of runs (%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings that all have")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.experiment) - set(experiments()):
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}")
    composer, found = Composer(), {}
    for name in chosen.experiment:
        with composer.ready():
            config = composer.load([f"experiment={name}", f"task.T={chosen.lag}", *chosen.set])
        training = config["training"]
        result = trained(prepare(config | {"results_dir": str(chosen.results_dir), "threads": 1}))
        found[name] = judge(result, training["stop"], training["max_sequences"])
    print("\n".join(ranked(found)[: chosen.count]))


if __name__ == "__main__":
    start(main)
