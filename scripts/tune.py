"""Tunes every model of an experiment with the same number of configurations, and writes what it chose.

    python scripts/tune.py                         # every experiment in conf/tuning.yaml
    python scripts/tune.py adding gun_point        # these
    python scripts/tune.py adding --continue       # go on from what results/paper/tuning says was tried
    python scripts/tune.py --defaults              # train nothing: write the experiments with the shipped defaults

A configuration is a learning rate and a value of one more setting, both from conf/tuning.yaml. It is trained on tuning
trials, which no report uses, and judged by validation data alone (test data is not looked at): by the trials that met
the criterion that ends training, then the Kaplan-Meier median of the sequences it took, then the median validation
loss, which alone decides where a task has no criterion. The criterion of multiplication is about the latest training
sequences, each measured before it is learned from.

First comes the grid. Then, one by one, the configuration beside the best one that has not been tried, or, where all
four beside it have, beside the second best, and so on. All models of an experiment get the same number. Then the best
few get more trials, since the luckiest of many configurations with few trials is seldom the best, and these trials
choose. The number of configurations is raised for all models while the choice of any lies at the edge of what was
tried, up to a limit; where some models met the criterion, one that never did has no best configuration and raises it
for nobody. Trials that exist are not trained again: a run that was stopped goes on, and one with a higher limit goes
further.

Writes <experiments>/<experiment>/<model>.yaml, the choice, and <out>/<experiment>-<model>.csv, all that was tried.
"""

import argparse
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from omegaconf import OmegaConf

from amu_experiments import store
from amu_experiments.analysis.statistics import median_time
from amu_experiments.analysis.tables import final_values, times_to
from amu_experiments.overrides import Composer, conf_dir
from amu_experiments.plan import prepare
from amu_experiments.training import train_missing

Point = tuple[int, ...]
"""A configuration by the places of its values on the two axes."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="*", help="from the plan; none: all of them")
    parser.add_argument("--defaults", action="store_true", help="write the experiments untuned, train nothing")
    parser.add_argument(
        "--continue", dest="go_on", action="store_true", help="take what the tables in --out hold for tried"
    )
    parser.add_argument("--plan", type=Path, default=conf_dir() / "tuning.yaml", help="%(default)s")
    parser.add_argument("--experiments", type=Path, default=conf_dir() / "experiment", help="%(default)s")
    parser.add_argument("--out", type=Path, default=Path("results/paper/tuning"), help="%(default)s")
    # One folder deeper than results that amu-report reads.
    parser.add_argument("--results-dir", type=Path, default=Path("results/runs/tuning"), help="%(default)s")
    parser.add_argument("--threads", type=int, help="processor threads; all if not given")
    options = parser.parse_args(arguments)
    plan = read_plan(options.plan)
    unknown = set(options.experiment) - set(plan["experiments"])
    if unknown:
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}; there are {', '.join(plan['experiments'])}")
    for name in options.experiment or plan["experiments"]:
        if options.defaults:
            for model in models_of(plan, name):
                write_experiment(options.experiments, plan, name, model, {}, "shipped defaults, not tuned")
        else:
            tune(plan, name, options)


def read_plan(path: Path) -> dict:
    """The plan in a file; SystemExit, with what is wrong, where it is none."""
    try:
        plan = yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SystemExit(f"--plan {path}: cannot be read ({' '.join(str(error).split())})") from error
    parts = ("experiments", "models", "configurations", "most")
    if not isinstance(plan, dict) or any(part not in plan for part in parts):
        raise SystemExit(f"--plan {path}: must have {', '.join(parts)}, as {conf_dir() / 'tuning.yaml'} has them")
    return plan


def models_of(plan: dict, experiment: str) -> dict[str, dict]:
    """The models of an experiment: all but those that are only on request, and those it names, with its settings."""
    named = plan["experiments"][experiment].get("models", {})
    return {
        name: model | {"settings": model["settings"] | named.get(name, {})}
        for name, model in plan["models"].items()
        if name in named or not model.get("on_request")
    }


def tune(plan: dict, experiment: str, options: argparse.Namespace) -> None:
    """Tune all models of an experiment, and write what was tried and chosen."""
    searches = {model: Search(plan, experiment, model, options) for model in models_of(plan, experiment)}
    count = max(plan["configurations"], *(len(search.tried) for search in searches.values()))
    while True:
        for search in searches.values():
            search.extend(count)
            search.choose()
        able = [search for search in searches.values() if search.finals[search.ranking()[0]]["solved"]]
        if count >= plan["most"] or not any(search.at_edge() for search in able or searches.values()):
            break
        count += 1
    for model, search in searches.items():
        store_choice(plan, experiment, model, search, options)


def store_choice(plan: dict, experiment: str, model: str, search: "Search", options: argparse.Namespace) -> None:
    """Write the choice as an experiment, and everything tried as CSV, best first."""
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [search.tried[point] | finals_of(search, point) for point in search.ranking()]
    path = options.out / f"{experiment}-{model}.csv"
    text = pd.DataFrame(rows).replace(math.inf, math.nan).to_csv(index=False, float_format="%.6g")
    store.write_text(path, text)
    best = search.finals[search.ranking()[0]]
    found = f"validation loss {best['loss']:.4g}"
    if search.criterion:
        found = f"{search.criterion} met by {best['solved']} of {best['trials']} trials"
        found += f", median {best['median_sequences']:,.0f} sequences" if best["median_sequences"] < math.inf else ""
    comment = f"chosen by scripts/tune.py from {len(search.tried)} configurations ({found})"
    if not best["solved"] and search.criterion:
        comment += ", of which none met it once; this one has the lowest validation loss"
    if search.at_edge():
        comment += ", still at the edge of what was tried"
    chosen = {axis["key"]: best[axis["key"]] for axis in search.axes}
    write_experiment(options.experiments, plan, experiment, model, chosen, f"{comment}. All of them: {path.name}")
    print(f"{experiment} {model}: {comment}", flush=True)


def finals_of(search: "Search", point: Point) -> dict:
    """What became of a configuration's trials among the best few, in columns of their own."""
    measured = ("trials", "diverged", "solved", "median_sequences", "loss")
    return {f"final_{key}": search.finals[point][key] for key in measured} if point in search.finals else {}


def write_experiment(folder: Path, plan: dict, experiment: str, model: str, chosen: Mapping, how: str) -> None:
    """Write conf/experiment/<experiment>/<model>.yaml; `how` its values came about is its comment."""
    of_experiment, of_model = plan["experiments"][experiment], models_of(plan, experiment)[model]
    comment = textwrap.fill(
        f"{of_experiment['title']}, {of_model['title']}: {how}.", 118, initial_indent="# ", subsequent_indent="# "
    )
    settings = nested({**of_experiment["settings"], **of_model["settings"], **chosen})
    parts = [
        f"# @package _global_\n{comment}\n"
        f"defaults:\n  - override /task: {of_experiment['task']}\n  - override /model: {of_model['model']}\n",
        *(yaml.safe_dump({key: value}, sort_keys=False) for key, value in settings.items()),
    ]
    (folder / experiment).mkdir(parents=True, exist_ok=True)
    store.write_text(folder / experiment / f"{model}.yaml", "\n".join(parts))


def nested(settings: Mapping) -> dict:
    """{"task.T": 5} as {"task": {"T": 5}}."""
    config = OmegaConf.create()
    for key, value in settings.items():
        OmegaConf.update(config, key, value)
    return OmegaConf.to_container(config)


# Selection --------------------------------------------------------------------------------------------------------


def judge(result: store.Result, criterion: str | None, cap: int) -> dict:
    """What selection goes by: trials that met the criterion, median sequences to it, median validation loss.

    Diverged trials count as unsolved with infinite loss. Without a criterion nothing is solved and the median is
    infinite.
    """
    solved, median = 0, math.inf
    if criterion is not None:
        times, met = times_to(result, criterion, cap)
        solved, median = int(met.sum()), median_time(times, met).value
    return {
        "trials": len(result.trials),
        "diverged": int((result.trials["status"] == "diverged").sum()),
        "solved": solved,
        "median_sequences": median,
        "loss": float(np.median(final_values(result, "loss"))),
    }


def ranked(tried: Mapping[Point, dict]) -> list[Point]:
    """Points from best to worst: by trials solved, then median sequences, then loss; the earlier tried if all tie."""
    return sorted(tried, key=lambda p: (-tried[p]["solved"], tried[p]["median_sequences"], tried[p]["loss"]))


def neighbours(point: Point) -> list[Point]:
    """The four points beside a point, those along the learning rate first."""
    i, j = point
    return [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]


def next_point(ranking: Sequence[Point], sizes: tuple[int, int]) -> Point:
    """The first point not tried beside the best one, else beside the second best, ...; axes have these sizes."""
    for point in ranking:
        for i, j in neighbours(point):
            if 0 <= i < sizes[0] and 0 <= j < sizes[1] and (i, j) not in ranking:
                return i, j
    raise ValueError(f"all {sizes[0]} x {sizes[1]} configurations have been tried; give the axes more values")


def at_edge(ranking: Sequence[Point]) -> bool:
    """Whether something beside the best point has not been tried."""
    return not set(neighbours(ranking[0])) <= set(ranking)


class Search:
    """The configurations of one model in one experiment: those tried, with what became of them, and the next."""

    def __init__(self, plan: dict, experiment: str, model: str, options: argparse.Namespace):
        of_experiment, of_model = plan["experiments"][experiment], models_of(plan, experiment)[model]
        self.name = f"{experiment} {model}"
        self.axes = of_model["axes"]
        self.tried: dict[Point, dict] = {}
        self.finals: dict[Point, dict] = {}
        self.trials, self.finalists, self.final_trials = plan["trials"], plan["finalists"], plan["final_trials"]
        self.grid = grid(self.axes)
        self.composer = Composer()
        chosen = {"task": of_experiment["task"], "model": of_model["model"], "seed": plan["seed"]}
        self.settings = chosen | of_experiment["settings"] | of_model["settings"]
        self.place = {"results_dir": str(options.results_dir), "threads": options.threads}
        self.criterion = None
        # What became of configurations, by their point and the number of trials.
        path = options.out / f"{experiment}-{model}.csv"
        self.recorded = read_record(path, self.axes) if options.go_on and path.exists() else {}
        for point, trials in self.recorded:
            if trials == self.trials:
                self.tried[point] = self.try_out(point, trials)

    def extend(self, count: int) -> None:
        """Try configurations until there are so many."""
        while len(self.tried) < count:
            sizes = tuple(len(axis["values"]) for axis in self.axes)
            untried = [point for point in self.grid if point not in self.tried]
            point = untried[0] if untried else next_point(self.ranking(), sizes)
            self.tried[point] = self.try_out(point, self.trials)

    def choose(self) -> None:
        """Give the best few more trials; those choose."""
        best = ranked(self.tried)[: self.finalists]
        self.finals = {point: self.try_out(point, self.final_trials) for point in best}

    def try_out(self, point: Point, trials: int) -> dict:
        values = {axis["key"]: axis["values"][place] for axis, place in zip(self.axes, point, strict=True)}
        settings = self.settings | values | {"trials": trials}
        with self.composer.ready():
            config = self.composer.load([f"{key}={value}" for key, value in settings.items()])
        training = config["training"]
        self.criterion = training["stop"]
        recorded = self.recorded.get((point, trials))
        if recorded and recorded["max_sequences"] == training["max_sequences"]:
            return recorded
        result = trained(config | self.place)
        row = values | {
            "max_sequences": training["max_sequences"],
            "parameters": int(result.trials["parameters"].iloc[0]),
            **judge(result, self.criterion, training["max_sequences"]),
        }
        told = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in row.items())
        print(f"{self.name} {'final' if point in self.tried else len(self.tried) + 1}: {told}", flush=True)
        return row

    def ranking(self) -> list[Point]:
        """All points from best to worst, those with more trials first: they are the best by the first ones."""
        finals = ranked(self.finals)
        return finals + [point for point in ranked(self.tried) if point not in self.finals]

    def at_edge(self) -> bool:
        """Whether something beside the choice has not been tried."""
        return at_edge(self.ranking())


def read_record(path: Path, axes: Sequence[Mapping]) -> dict[tuple[Point, int], dict]:
    """The rows that `store_choice` wrote, as `Search.try_out` returned them, by point and number of trials."""
    table = pd.read_csv(path).fillna({"median_sequences": math.inf, "final_median_sequences": math.inf})
    recorded = {}
    for row in table.to_dict("records"):
        point = tuple(axis["values"].index(row[axis["key"]]) for axis in axes)
        first = {key: value for key, value in row.items() if not key.startswith("final_")}
        first |= {axis["key"]: axis["values"][place] for axis, place in zip(axes, point, strict=True)}
        recorded[point, row["trials"]] = first
        if row["final_trials"] == row["final_trials"]:
            counts = {key: int(row[f"final_{key}"]) for key in ("trials", "diverged", "solved")}
            finals = {key: row[f"final_{key}"] for key in ("median_sequences", "loss")}
            recorded[point, counts["trials"]] = first | counts | finals
    return recorded


def grid(axes: Sequence[Mapping]) -> list[Point]:
    """The points where all configurations start."""
    rates, seconds = ([axis["values"].index(value) for value in axis["start"]] for axis in axes)
    return [(i, j) for i in rates for j in seconds]


def trained(config: dict) -> store.Result:
    """The trials that a configuration asks for, of which those that are missing are trained first."""
    run = prepare(config)
    result = train_missing(run)
    return replace(result, trials=result.trials[result.trials["trial"].isin(run.trials)])


if __name__ == "__main__":
    main()
