"""Tries the readings of the auxiliary memory unit that its paper's abstract leaves open, with equal budgets.

    python scripts/reconstruct.py

One factor at a time departs from the shipped default, and what is emitted is crossed with the gradient. Each reading is
trained on four experiments of conf/tuning.yaml, on its tuning trials, with the same learning rates, and the best of
these stands for it, chosen as in tune.py. The log-rank test of its trials against those of the LSTM as tune.py tuned
it, on the same trials, says whether the reading is ahead, behind or undecided there (at 5 %, not corrected for the
number of readings). A reading changes a conclusion where that differs from the default's. The default stands unless a
reading solves significantly more trials over all experiments (Fisher's exact test at 5 %).

Writes reconstruction.csv, a row for each reading; reconstruction.md, the same to read; and reconstruction-all.csv, all
that was trained. Trials that exist are not trained again.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact
from tune import judge, ranked, read_plan, trained

from amu_experiments import store
from amu_experiments.analysis.statistics import logrank
from amu_experiments.analysis.tables import Table, times_to
from amu_experiments.overrides import Composer, conf_dir

EXPERIMENTS = ("embedded_reber", "two_sequence_3a", "two_sequence_3c", "adding")
LEARNING_RATES = (0.001, 0.003, 0.01)
SIGNIFICANT = 0.05

DEFAULT, REFERENCE = "default", "tuned LSTM"
TRUNCATED = {"model.gradient": "truncated"}
READINGS = {
    DEFAULT: {},
    **{f"output={output}": {"model.output": output} for output in ("neuron", "linear", "memory")},
    "gradient=truncated": TRUNCATED,
    **{
        f"gradient=truncated, output={output}": TRUNCATED | {"model.output": output}
        for output in ("neuron", "linear", "memory")
    },
    "output_in_product=false": {"model.output_in_product": "false"},
    "neurons_per_unit=2": {"model.neurons_per_unit": 2},
    "neurons_per_unit=4": {"model.neurons_per_unit": 4},
    "initial_range=1": {"model.initial_range": 1.0},
    "initial_range=2": {"model.initial_range": 2.0},
}
"""Settings beside the default of conf/model/amu.yaml: gradient=full, output=auto, output_in_product=true,
neurons_per_unit=3, initial_range=0.5."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-dir", type=Path, default=conf_dir(), help="with tuning.yaml; %(default)s")
    parser.add_argument("--out", type=Path, default=Path("results/paper"), help="%(default)s")
    # One folder deeper than results that amu-report reads, and not that of tune.py, which may be running.
    parser.add_argument("--results-dir", type=Path, default=Path("results/runs/reconstruction"), help="%(default)s")
    parser.add_argument("--threads", type=int, help="processor threads; all if not given")
    options = parser.parse_args(arguments)
    plan = read_plan(options.config_dir)
    composer = Composer(options.config_dir)
    experiments = [name for name in EXPERIMENTS if name in plan["experiments"]]
    rows = []
    for experiment in experiments:
        reference = None
        for reading in (REFERENCE, *READINGS):
            tried = [try_out(composer, each, options) for each in configurations(plan, experiment, reading)]
            best = tried[ranked(dict(enumerate(tried)))[0]]
            reference = reference or best
            verdict = against(best, reference) if reading != REFERENCE else ""
            for row in tried:
                told = {key: value for key, value in row.items() if key != "times"}
                rows.append({"reading": reading, "experiment": experiment} | told)
                rows[-1] |= {"best": row is best, "against_lstm": verdict if row is best else ""}
            print(f"{experiment}: {reading}: {shown(best | {'against_lstm': verdict})}", flush=True)
    write(pd.DataFrame(rows), options.out)


def configurations(plan: dict, experiment: str, reading: str) -> list[list[str]]:
    """The overrides of every configuration that is tried for a reading; of the tuned LSTM there is only one."""
    trials = [f"trials={plan['trials']}", f"seed={plan['seed']}"]
    if reading == REFERENCE:
        return [[f"experiment={experiment}/lstm", *trials]]
    settings = [f"{key}={value}" for key, value in READINGS[reading].items()]
    lines = [f"experiment={experiment}/base", "model=amu", *settings, *trials]
    return [[*lines, f"training.learning_rate={rate}"] for rate in LEARNING_RATES]


def try_out(composer: Composer, lines: Sequence[str], options: argparse.Namespace) -> dict:
    """What became of a configuration's trials: see `tune.judge`, and `times`, censored."""
    with composer.ready():
        config = composer.load(lines)
    result = trained(config | {"results_dir": str(options.results_dir), "threads": options.threads})
    training = config["training"]
    stop, cap = training["stop"], training["max_sequences"]
    row = {"learning_rate": training["learning_rate"], "parameters": int(result.trials["parameters"].iloc[0])}
    return row | judge(result, stop, cap) | {"times": times_to(result, stop, cap)}


def against(row: Mapping, reference: Mapping) -> str:
    """Whether trials meet the criterion earlier than those of the reference: ahead, behind or undecided."""
    if logrank(*row["times"], *reference["times"]) >= SIGNIFICANT:
        return "undecided"
    return "ahead" if ranked({0: reference, 1: row})[0] == 1 else "behind"


def summary(tried: pd.DataFrame) -> pd.DataFrame:
    """One row for each reading: the best learning rate's results in each experiment, and whose conclusions change."""
    best = tried[tried["best"]]
    rows = []
    for reading, of_reading in best.groupby("reading", sort=False):
        row = {"reading": reading, "solved": of_reading["solved"].sum(), "trials": of_reading["trials"].sum()}
        for _, one in of_reading.iterrows():
            for column in ("solved", "median_sequences", "learning_rate", "against_lstm"):
                row[f"{one['experiment']}_{column}"] = one[column]
        rows.append(row)
    table = pd.DataFrame(rows)
    verdicts = [column for column in table if column.endswith("_against_lstm")]
    default = table[table["reading"] == DEFAULT].iloc[0]
    table["changes"] = [
        ", ".join(name.removesuffix("_against_lstm") for name in verdicts if row[name] not in ("", default[name]))
        for _, row in table.iterrows()
    ]
    return table


def best_reading(table: pd.DataFrame) -> str:
    """The reading of the AMU with most trials solved over all experiments, then the smallest product of medians."""
    readings = table[table["reading"] != REFERENCE].copy()
    medians = readings[[column for column in table if column.endswith("median_sequences")]]
    readings["pace"] = np.log(medians.to_numpy(float)).sum(axis=1)
    return readings.sort_values(["solved", "pace"], ascending=[False, True], kind="stable")["reading"].iloc[0]


def choice(table: pd.DataFrame) -> tuple[str, float]:
    """The reading to ship, and the p of the test that it rests on: the best one against the default."""
    best = best_reading(table)
    rows = table.set_index("reading").loc[[best, DEFAULT], ["solved", "trials"]]
    p = fisher_exact([[solved, trials - solved] for solved, trials in rows.to_numpy()]).pvalue
    return (best if p < SIGNIFICANT else DEFAULT), float(p)


def write(tried: pd.DataFrame, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    table = readable(tried)
    numbers = tried.replace(math.inf, math.nan)
    for name, frame in (("reconstruction", table.text), ("reconstruction-all", numbers)):
        store.write_text(out / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
    store.write_text(out / "reconstruction.md", table.markdown())
    print(f"Written to {out}. {verdict(summary(tried))}")


def verdict(table: pd.DataFrame) -> str:
    """What the study chooses, in words."""
    chosen, p = choice(table)
    return (
        f"Most trials solved over all, then the least sequences: {best_reading(table)} (Fisher's exact test of its "
        f"trials solved against the default's: p = {p:.3g}). Shipped: {chosen}."
    )


def readable(tried: pd.DataFrame) -> Table:
    """The study to read: solved, median and place against the LSTM of every reading in every experiment."""
    best = tried[tried["best"]].assign(text=lambda rows: [shown(row) for _, row in rows.iterrows()])
    wide = best.pivot(index="reading", columns="experiment", values="text")[list(dict.fromkeys(best["experiment"]))]
    numbers = summary(tried)
    text = wide.loc[numbers["reading"]].reset_index()
    text["solved of all"] = [f"{solved}/{trials}" for solved, trials in numbers[["solved", "trials"]].to_numpy()]
    text["changes the conclusion in"] = numbers["changes"].to_numpy()
    rates = ", ".join(map(str, LEARNING_RATES))
    caption = (
        "Readings of the auxiliary memory unit beside the default (gradient=full, output=auto, output_in_product=true, "
        "neurons_per_unit=3, initial_range=0.5): trials that met the criterion that ends training, Kaplan-Meier median "
        "of the sequences until then (n.r.: under half are estimated to), and whether that is ahead of the LSTM "
        f"as tuned (log-rank test at {SIGNIFICANT:.0%}, uncorrected). Best of the learning rates {rates} each. "
        f"{verdict(numbers)}"
    )
    return Table("reconstruction", caption, numbers, text)


def shown(row: Mapping) -> str:
    median = "n.r." if math.isinf(row["median_sequences"]) else f"{row['median_sequences']:,.0f}"
    place = f" ({row['against_lstm']})" if row["against_lstm"] else ""
    return f"{row['solved']}/{row['trials']}, {median}{place}"


if __name__ == "__main__":
    main()
