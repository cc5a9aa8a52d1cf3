"""Screens the readings of the auxiliary memory unit that the abstract of its paper leaves open, with equal budgets.

    python -m amu_experiments.studies.readings                    # every experiment of conf/readings.yaml
    python -m amu_experiments.studies.readings two_sequence_3a    # this one
    python -m amu_experiments.studies.readings --continue         # use the results that --out/readings holds

A reading is a combination of the AMU's options in conf/readings.yaml. All readings train with the same configurations,
quasi-random points (a Halton sequence) of learning rate and initial range. All of them use the same trials, which
neither tuning nor a report uses. The best configuration stands for the reading; tuning.py says how configurations are
ranked. Test data play no part.

The score of a reading in an experiment is the share of the budget that its trials save: the mean over trials of
1 - (sequences to the criterion) / (budget), 0 for a trial that did not meet it. The score of a reading is the mean over
the experiments.

The main effect of an option is the mean difference of the score between readings that differ in this option alone. The
interaction of two options is the mean difference between the effect of one at two values of the other. Intervals are
bootstrap percentiles over the pairs, or quadruples, of readings. They say how much an effect varies over the other
options, not over other seeds.

This choice of a reading is a search that no rival of the AMU has. Its budget comes on top of that of tuning, which is
the same for all models; the tables state it. Two kinds of readings are tuned in full: the readings that the plan names,
and the readings with the best scores. If scores are equal, the reading with fewer neurons a unit is chosen.

Writes readings/tried.csv, a row for each configuration, as soon as a reading is done; then readings.csv, a row for each
reading; readings_effects.csv and readings_interactions.csv; and a caption of each table as JSON.
"""

import itertools
import json
import math
import multiprocessing
from collections.abc import Mapping, Sequence
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from amu_experiments import files
from amu_experiments.analysis.comparison import times_to
from amu_experiments.analysis.labels import leaf
from amu_experiments.analysis.statistics import CONFIDENCE, RESAMPLES
from amu_experiments.analysis.text import outcome_text
from amu_experiments.cells.amu import AMU
from amu_experiments.overrides import Composer
from amu_experiments.plan import prepare
from amu_experiments.studies.arguments import Options, chosen_experiments, option_parser, read_plan, start
from amu_experiments.studies.tuning import judge, ranked, trained

Reading = tuple
"""The values of a reading's options, in the order of the plan."""

PARTS = ("seed", "trials", "configurations", "ranges", "options", "experiments", "named", "best")
"""Required keys of the plan, readings.yaml."""

RECORD = "readings/tried.csv"
"""The table of all configurations, in the folder for tables."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = option_parser("readings", __doc__, out="results/paper", results_dir="results/runs/readings", trains=True)
    chosen = vars(parser.parse_args(arguments))
    names = chosen.pop("experiment")
    options = Options(**chosen)
    plan = read_plan(options.config_dir / "readings.yaml", PARTS)
    names = chosen_experiments(parser, plan, names)
    record = options.out / RECORD
    tried = current(plan, pd.read_csv(record) if record.exists() else pd.DataFrame())
    if not options.go_on:
        tried = tried[~tried["experiment"].isin(names)]
    # Processes that train readings, forked from a server without threads: threads do not survive a fork.
    with multiprocessing.get_context("forkserver").Pool(options.threads) as pool:
        for name in names:
            tried = screen(plan, name, tried, options, pool)
    write(plan, pd.read_csv(record), options.out)  # rounded as in the record, so that it gives the same tables


# Readings and configurations --------------------------------------------------------------------------------------


def readings(options: Mapping[str, Sequence]) -> list[Reading]:
    """Every combination of the options' values that the AMU allows and that repeats no other."""
    return [values for values in itertools.product(*options.values()) if is_allowed(options, values)]


def is_allowed(options: Mapping[str, Sequence], values: Reading) -> bool:
    try:
        AMU(1, 1, backend="torch", **{leaf(key): value for key, value in zip(options, values, strict=True)})
    except ValueError:
        return False
    return True


def points(plan: Mapping) -> list[dict[str, float]]:
    """The configurations: a Halton sequence over the logarithms of the ranges, the same in every study."""
    low, high = np.log(np.array(list(plan["ranges"].values()), float)).T
    unit = stats.qmc.Halton(len(low), scramble=False).random(plan["configurations"] + 1)[1:]  # the first is the corner
    values = np.exp(stats.qmc.scale(unit, low, high))
    return [{key: float(f"{value:.3g}") for key, value in zip(plan["ranges"], row, strict=True)} for row in values]


def current(plan: Mapping, tried: pd.DataFrame) -> pd.DataFrame:
    """The rows of the record whose configurations, trials and budget are those of the plan."""
    keys, known = ["experiment", *plan["options"]], points(plan)
    if not {*keys, *plan["ranges"]} <= set(tried):
        return pd.DataFrame({"experiment": []})

    def is_current(rows: pd.DataFrame) -> bool:
        experiment = plan["experiments"].get(rows["experiment"].iloc[0])
        if experiment is None or len(rows) != experiment.get("best", plan)["configurations"]:
            return False
        budget = experiment.get("settings", {}).get("training.max_sequences", rows["max_sequences"].iloc[0])
        same = (rows["trials"] == plan["trials"]) & (rows["max_sequences"] == budget)
        return bool(same.all()) and all(point in known for point in rows[list(plan["ranges"])].to_dict("records"))

    return tried.groupby(keys, sort=False).filter(is_current)


def screen(plan: dict, name: str, tried: pd.DataFrame, options: Options, pool: Pool) -> pd.DataFrame:
    """The record with the rows of every reading in an experiment; readings that it lacks are trained.

    Raises SystemExit if the experiment takes its configurations from another one that the record lacks.
    """
    keys, best = list(plan["options"]), plan["experiments"][name].get("best")
    done = recorded(tried, name, keys)
    earlier = recorded(tried, best["of"], keys) if best else {}
    jobs = []
    for reading in readings(plan["options"]):
        if best and reading not in earlier:
            raise SystemExit(f"{name}: needs the results of {best['of']}; screen this experiment first")
        if reading not in done:
            tries = best_points(plan, earlier[reading], best["configurations"]) if best else points(plan)
            jobs.append((plan, name, reading, tries, options))
    for rows in pool.imap_unordered(train, jobs):
        found = pd.DataFrame(rows)
        tried = found if tried.empty else pd.concat([tried, found], ignore_index=True)
        record = options.out / RECORD
        record.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(record, tried.to_csv(index=False, float_format="%.6g"))
    return tried


def recorded(tried: pd.DataFrame, name: str, keys: Sequence[str]) -> dict[Reading, list[dict]]:
    """The rows of an experiment in the record, by reading."""
    if tried.empty:
        return {}
    rows = tried[tried["experiment"] == name]
    return {reading: part.to_dict("records") for reading, part in rows.groupby(list(keys), sort=False)}


def best_points(plan: Mapping, rows: Sequence[dict], count: int) -> list[dict[str, float]]:
    """The configurations of the best `count` of these rows."""
    best = ranked(dict(enumerate(without_nan(rows))))[:count]
    return [{key: rows[index][key] for key in plan["ranges"]} for index in best]


def without_nan(rows: Sequence[dict]) -> list[dict]:
    """The rows with infinity in place of NaN: a table stores an infinite median or loss as NaN."""
    return [row | {k: math.inf for k in ("median_sequences", "loss") if math.isnan(row[k])} for row in rows]


def train(job: tuple[dict, str, Reading, Sequence[dict], Options]) -> list[dict]:
    """The rows of a reading in an experiment, one for each configuration, trained unless the store has them.

    job: the plan, the experiment, the reading, its configurations, and the options of the study.
    """
    plan, name, reading, tries, options = job
    experiment = plan["experiments"][name]
    chosen = dict(zip(plan["options"], reading, strict=True))
    common = {"experiment": f"{experiment.get('base', name)}/base", "model": "amu", "seed": plan["seed"]}
    common |= {"trials": plan["trials"]} | plan.get("settings", {}) | experiment.get("settings", {}) | chosen
    composer = Composer(options.config_dir)
    rows = []
    for point in tries:
        with composer.ready():
            config = composer.load([f"{key}={json.dumps(value)}" for key, value in (common | point).items()])
        result = trained(prepare(config | {"results_dir": str(options.results_dir), "threads": 1}))
        stop, cap = config["training"]["stop"], config["training"]["max_sequences"]
        times, met = times_to(result, stop, cap)
        row = {"experiment": name} | chosen | point | {"max_sequences": cap}
        row |= {"parameters": int(result.trials["parameters"].iloc[0])} | judge(result, stop, cap)
        rows.append(row | {"score": float(np.where(met, 1 - times / cap, 0).mean())})
    best = rows[ranked(dict(enumerate(rows)))[0]]
    print(f"{name}: {', '.join(map(str, reading))}: {outcome(best)}", flush=True)
    return [row | {"best": row is best} for row in rows]


# Scores and effects -----------------------------------------------------------------------------------------------


def scores(plan: Mapping, tried: pd.DataFrame) -> pd.DataFrame:
    """The score of each reading that every experiment tried: index the options, columns the experiments and mean.

    Sorted by mean, the best first; with equal means, the reading with fewer neurons first.
    """
    best = tried[tried["best"]]
    wide = best.pivot(index=list(plan["options"]), columns="experiment", values="score").dropna()
    wide = wide[[name for name in plan["experiments"] if name in wide]]
    wide = wide.assign(mean=wide.mean(axis=1)).sort_index()
    return wide.sort_values("mean", ascending=False, kind="stable")


def effects(plan: Mapping, table: pd.DataFrame) -> pd.DataFrame:
    """The main effect of each option from one value to the next, in each experiment and in the mean."""
    rows = []
    for key, values in plan["options"].items():
        for before, after in itertools.pairwise(values):
            gains = difference(table, key, before, after)
            if len(gains):
                change = f"{leaf(key)}: {spelled(before)} to {spelled(after)}"
                rows.append({"option": change, "pairs": len(gains)} | estimated(gains))
    return pd.DataFrame(rows)


def interactions(plan: Mapping, table: pd.DataFrame) -> pd.DataFrame:
    """The interaction of each pair of options, the largest first, in the mean over the experiments."""
    rows = []
    for key, other in itertools.combinations(plan["options"], 2):
        for one, two in itertools.product(*(itertools.pairwise(plan["options"][each]) for each in (key, other))):
            gains = difference(difference(table, key, *one), other, *two)[["mean"]]
            if len(gains):
                changes = {"option": f"{leaf(key)}: {spelled(one[0])} to {spelled(one[1])}"}
                changes |= {"with": f"{leaf(other)}: {spelled(two[0])} to {spelled(two[1])}"}
                rows.append(changes | {"quadruples": len(gains)} | estimated(gains))
    found = pd.DataFrame(rows)
    return found.sort_values("mean", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def difference(table: pd.DataFrame, key: str, before: object, after: object) -> pd.DataFrame:
    """table at key=after minus table at key=before, for every combination of the other options that has both."""

    def part(value: object) -> pd.DataFrame:
        rows = table[table.index.get_level_values(key) == value]
        return rows.set_axis(pd.MultiIndex.from_frame(rows.index.to_frame().assign(**{key: 0})))

    return (part(after) - part(before)).dropna()


def estimated(gains: pd.DataFrame) -> dict[str, float]:
    """The mean of each column; of the column `mean` also the limits of its interval."""
    row = gains.mean().to_dict()
    low, high = math.nan, math.nan
    if len(gains) > 1:
        drawn = np.random.default_rng(0).integers(len(gains), size=(RESAMPLES, len(gains)))
        beyond = (1 - CONFIDENCE) / 2
        low, high = np.quantile(gains["mean"].to_numpy()[drawn].mean(axis=1), [beyond, 1 - beyond])
    return row | {"low": float(low), "high": float(high)}


def chosen_readings(plan: Mapping, table: pd.DataFrame) -> dict[str, Reading]:
    """The readings to tune in full, by name: the readings that the plan names, and best_1, best_2, ...."""
    named = {name: tuple(reading[key] for key in plan["options"]) for name, reading in plan["named"].items()}
    best = [reading for reading in table.index if reading not in named.values()][: plan["best"]]
    return named | {f"best_{number}": reading for number, reading in enumerate(best, start=1)}


# Tables -----------------------------------------------------------------------------------------------------------


def write(plan: dict, tried: pd.DataFrame, out: Path) -> None:
    """Write the tables of the readings that all experiments have tried."""
    table = scores(plan, tried)
    chosen = chosen_readings(plan, table)
    by_experiment = tried.groupby("experiment", sort=False)["max_sequences"].max()
    budgets = ", ".join(f"{name} {budget:,}" for name, budget in by_experiment.items())
    budget = (
        f"{plan['configurations']} configurations of each reading (quasi-random in "
        f"{' and '.join(f'{leaf(key)} {low:g} to {high:g}' for key, (low, high) in plan['ranges'].items())}), "
        f"{plan['trials']} trials each, from seed {plan['seed']}; budgets in sequences: {budgets}"
    )
    captions = {
        "readings": (
            "Screening of the readings of the auxiliary memory unit, truncated gradient, trained by Adam. A cell has "
            "the trials that met the criterion that ends training, and their Kaplan-Meier median in sequences (n.r.: "
            "under half), for "
            f"the best configuration of the reading. The rivals have no such search. {budget}. Score: the share of the "
            f"budget that the trials save, in the mean over the experiments. Tuned in full: {', '.join(chosen)}."
        ),
        "readings_effects": (
            "Main effects of the options on the score: mean differences between readings that differ in this option "
            f"alone, with the {CONFIDENCE:.0%} bootstrap interval of the mean over these pairs."
        ),
        "readings_interactions": (
            "Interactions of the options: mean differences between the effect of one option at two values of the "
            f"other, the largest first, with {CONFIDENCE:.0%} bootstrap intervals over quadruples of readings."
        ),
    }
    frames = {
        "readings": in_words(plan, tried, table, chosen),
        "readings_effects": effects(plan, table),
        "readings_interactions": interactions(plan, table),
    }
    for name, frame in frames.items():
        files.write_text(out / f"{name}.csv", frame.to_csv(index=False, float_format="%.3f"))
        files.write_text(out / f"{name}.json", json.dumps({"caption": captions[name]}, indent=1) + "\n")
    print(f"Written to {out}. Tuned in full:")
    for name, reading in chosen.items():
        text = ", ".join(f"{leaf(key)}={spelled(value)}" for key, value in zip(plan["options"], reading, strict=True))
        print(f"  {name}: {text}")


def in_words(plan: Mapping, tried: pd.DataFrame, table: pd.DataFrame, chosen: Mapping[str, Reading]) -> pd.DataFrame:
    """The table for readers: a row for each reading, the best first."""
    names = {reading: name for name, reading in chosen.items()}
    best = tried[tried["best"]].set_index([*plan["options"], "experiment"])
    rows = []
    for reading, score in table.iterrows():
        row = {"reading": names.get(reading, "")}
        row |= {leaf(key): spelled(value) for key, value in zip(plan["options"], reading, strict=True)}
        row |= {name: outcome(best.loc[(*reading, name)]) for name in table.columns.drop("mean")}
        rows.append(row | {"score": score["mean"]})
    return pd.DataFrame(rows)


def outcome(row: Mapping) -> str:
    return outcome_text(row["solved"], row["trials"], row["median_sequences"])


def spelled(value: object) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool | np.bool_) else str(value)


if __name__ == "__main__":
    start(main)
