"""Tries the readings of the auxiliary memory unit that the abstract of its paper leaves open, with equal budgets.

    python -m amu_experiments.studies.reconstruction

A reading differs from the default in one factor, or in the gradient and in what the unit emits. Each reading trains on
four experiments of conf/tuning.yaml, with their tuning trials and the same learning rates. The best learning rate
stands for the reading; tuning.py says how configurations are ranked. A log-rank test compares its trials with those of
the tuned LSTM, on the same data. It says whether the reading is ahead, behind or undecided (at 5 %, uncorrected for the
number of readings). A reading changes a conclusion if its result differs from that of the default. The default stands
unless a reading solves significantly more trials over all experiments (Fisher's exact test at 5 %).

Writes reconstruction.csv, a row for each reading; reconstruction.md, the same as text; reconstruction.json, its
caption; and reconstruction-all.csv, a row for each configuration. Trials that exist are not trained again.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact

from amu_experiments import files
from amu_experiments.analysis.comparison import times_to
from amu_experiments.analysis.statistics import logrank
from amu_experiments.analysis.tables import Table
from amu_experiments.analysis.text import p_text
from amu_experiments.overrides import Composer
from amu_experiments.studies.arguments import option_parser
from amu_experiments.studies.tuning import Options, judge, ranked, read_plan, trained

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
"""Settings that differ from the defaults of conf/model/amu.yaml: gradient=full, output=auto, output_in_product=true,
neurons_per_unit=3, initial_range=0.5."""


def main(arguments: Sequence[str] | None = None) -> None:
    # Not the store of tuning.py, which may run at the same time.
    parser = option_parser(
        "reconstruction", __doc__, out="results/paper", results_dir="results/runs/reconstruction", trains=True
    )
    options = Options(**vars(parser.parse_args(arguments)))
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
                measured = {key: value for key, value in row.items() if key != "times"}
                rows.append({"reading": reading, "experiment": experiment} | measured)
                rows[-1] |= {"best": row is best, "against_lstm": verdict if row is best else ""}
            print(f"{experiment}: {reading}: {shown(best | {'against_lstm': verdict})}", flush=True)
    write(pd.DataFrame(rows), options.out)


def configurations(plan: dict, experiment: str, reading: str) -> list[list[str]]:
    """The overrides of every configuration of a reading; the tuned LSTM has only one configuration."""
    trials = [f"trials={plan['trials']}", f"seed={plan['seed']}"]
    if reading == REFERENCE:
        return [[f"experiment={experiment}/lstm", *trials]]
    settings = [f"{key}={value}" for key, value in READINGS[reading].items()]
    lines = [f"experiment={experiment}/base", "model=amu", *settings, *trials]
    return [[*lines, f"training.learning_rate={rate}"] for rate in LEARNING_RATES]


def try_out(composer: Composer, lines: Sequence[str], options: Options) -> dict:
    """The results of a configuration: those of `tuning.judge`, and `times`, censored, for the log-rank test."""
    with composer.ready():
        config = composer.load(lines)
    result = trained(config | {"results_dir": str(options.results_dir), "threads": options.threads})
    training = config["training"]
    stop, cap = training["stop"], training["max_sequences"]
    row = {"learning_rate": training["learning_rate"], "parameters": int(result.trials["parameters"].iloc[0])}
    return row | judge(result, stop, cap) | {"times": times_to(result, stop, cap)}


def against(row: Mapping, reference: Mapping) -> str:
    """Whether the trials are ahead of the reference, behind it, or undecided."""
    if logrank(*row["times"], *reference["times"]) >= SIGNIFICANT:
        return "undecided"
    return "ahead" if ranked({0: reference, 1: row})[0] == 1 else "behind"


def summary(tried: pd.DataFrame) -> pd.DataFrame:
    """A row for each reading: its results in each experiment, and the experiments whose conclusion it changes."""
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
    """The reading that solves most trials over all experiments; if equal, the smallest product of medians."""
    readings = table[table["reading"] != REFERENCE].copy()
    medians = readings[[column for column in table if column.endswith("median_sequences")]]
    readings["pace"] = np.log(medians.to_numpy(float)).sum(axis=1)
    return readings.sort_values(["solved", "pace"], ascending=[False, True], kind="stable")["reading"].iloc[0]


def choice(table: pd.DataFrame) -> tuple[str, float]:
    """The reading to ship, and the p of the test behind it: the best reading against the default."""
    best = best_reading(table)
    rows = table.set_index("reading").loc[[best, DEFAULT], ["solved", "trials"]]
    p = fisher_exact([[solved, trials - solved] for solved, trials in rows.to_numpy()]).pvalue
    return (best if p < SIGNIFICANT else DEFAULT), float(p)


def write(tried: pd.DataFrame, out: Path) -> None:
    """Write the four files of the study, from a row for each configuration."""
    out.mkdir(parents=True, exist_ok=True)
    table = readable(tried)
    numbers = tried.replace(math.inf, math.nan)
    for name, frame in (("reconstruction", table.text), ("reconstruction-all", numbers)):
        files.write_text(out / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
    files.write_text(out / "reconstruction.md", table.markdown())
    files.write_text(out / "reconstruction.json", json.dumps({"caption": table.caption}, indent=1) + "\n")
    print(f"Written to {out}. {verdict(summary(tried))}")


def verdict(table: pd.DataFrame) -> str:
    """The choice of the study, as text."""
    chosen, p = choice(table)
    return (
        f"Most trials solved over all, then the least sequences: {best_reading(table)} (Fisher's exact test of its "
        f"trials solved against the default's: {p_text(p, 'p')}). Shipped: {chosen}."
    )


def readable(tried: pd.DataFrame) -> Table:
    """The study as text: solved, median and comparison with the LSTM, for every reading and experiment."""
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
    """The cell of a table: 5/5, 3,000 (ahead)."""
    median = "n.r." if math.isinf(row["median_sequences"]) else f"{row['median_sequences']:,.0f}"
    place = f" ({row['against_lstm']})" if row["against_lstm"] else ""
    return f"{row['solved']}/{row['trials']}, {median}{place}"


if __name__ == "__main__":
    main()
