"""Tunes the models of an experiment, each with the same number of configurations, and writes what it chooses.

    python -m amu_experiments.studies.tuning                     # every experiment in conf/tuning.yaml
    python -m amu_experiments.studies.tuning adding gun_point    # these
    python -m amu_experiments.studies.tuning adding --continue   # use the results that results/paper/tuning holds
    python -m amu_experiments.studies.tuning --defaults          # write the experiments untuned, train nothing

A configuration has a value on each axis of the model: the learning rate, one more setting, and the norm to which
gradients are clipped. conf/tuning.yaml and conf/tuning/ list the values; base.yaml in the experiment's folder holds its
protocol. The command amu-tune does the same for any task and any models. Each configuration trains on tuning trials,
which no report uses. Validation data alone rank the configurations; test data play no part. The order is: most trials
that met the criterion, then the smaller Kaplan-Meier median of sequences, then the lower median validation loss. A task
without a criterion has the loss alone. The criterion of multiplication uses the latest training sequences, each
measured before the network learns from it.

The search begins with quasi-random configurations, the points of a Halton sequence among the values that each axis
starts with. Then it tries, one at a time, an untried neighbour of the best configuration, or of the second best if all
neighbours of the best are tried, and so on. Every model of an experiment gets the same number of configurations. The
best few then get more trials, and the results of all their trials decide: with few trials, the configuration with the
best results is often only lucky. While the best configuration of a model has an untried neighbour, all models get more
configurations, up to a limit. A model that solved no trial does not extend the search if another model solved some.
Trials that exist are not trained again, so a stopped search continues where it was.

Writes <model>.yaml next to base.yaml, and <out>/<experiment>-<model>.csv with every configuration.
"""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from omegaconf import OmegaConf
from scipy import stats

from amu_experiments import files, store
from amu_experiments.analysis.comparison import final_values, times_to
from amu_experiments.analysis.labels import leaf
from amu_experiments.analysis.statistics import median_time
from amu_experiments.analysis.text import metric_text, sequences_text, setting_text
from amu_experiments.conf_files import choices, named_readings
from amu_experiments.console import duration, say
from amu_experiments.overrides import Composer
from amu_experiments.plan import Run, prepare
from amu_experiments.studies.arguments import Options, chosen_experiments, option_parser, read_plan, start
from amu_experiments.studies.axes import PARTS, axes_of
from amu_experiments.training import train_missing

Point = tuple[int, ...]
"""A configuration, as the index of its value on each axis."""


def main(arguments: Sequence[str] | None = None) -> None:
    # The store of tuning trials is one folder deeper than amu-report reads, so no report uses these trials.
    parser = option_parser(
        "tuning", __doc__, out="results/paper/tuning", results_dir="results/runs/tuning", trains=True
    )
    parser.add_argument("--defaults", action="store_true", help="write the experiments untuned, train nothing")
    chosen = vars(parser.parse_args(arguments))
    names, defaults = chosen.pop("experiment"), chosen.pop("defaults")
    options = Options(**chosen)
    plan = tuning_plan(options.config_dir)
    for name in chosen_experiments(parser, plan, names):
        if defaults:
            for model in models_of(plan, name):
                write_experiment(options.config_dir, plan, name, model, {}, "Defaults, not tuned.")
        else:
            tune(plan, name, options)


def tuning_plan(config_dir: Path) -> dict:
    """The plan in tuning.yaml of a folder like conf/, each model with its axes; SystemExit if it is not one.

    If a model names a reading, the reading's options are its `options`, and they are also in its `settings`.
    """
    parts = ("experiments", "models", *PARTS, "first", "configurations", "most")
    plan = read_plan(config_dir / "tuning.yaml", parts)
    files = choices("model", str(config_dir))
    for name, model in plan["models"].items():
        options = yaml.safe_load(files[model["model"]].read_bytes())
        model["axes"] = axes_of(plan, model["model"], options.get("initial_range"), config_dir)
        if reading := model.get("reading"):
            known = named_readings(config_dir)
            if reading not in known:
                raise SystemExit(f"{config_dir / 'tuning.yaml'}: {name}: no reading {reading}, only {', '.join(known)}")
            model["options"] = known[reading]
            model["settings"] = known[reading] | model["settings"]
    return plan


def most_trials(plan: dict) -> int:
    """The number of trials that a model gets at most.

    Each added configuration can bring one more finalist.
    """
    more = plan["most"] - plan["configurations"]
    return plan["most"] * plan["trials"] + (plan["finalists"] + more) * (plan["final_trials"] - plan["trials"])


def models_of(plan: dict, experiment: str) -> dict[str, dict]:
    """The models of an experiment, each with its settings: those that the experiment names, or the plan's `everywhere`.

    Each model appears once for every training of the experiment. For the first training of the plan, it has the name
    <model>. For another, it has the name <model>_<training>, and its axes start at the values that the plan gives for
    that training.
    """
    default, *_ = trainings = plan.get("trainings", {"default": {}})
    found = {}
    for training in plan["experiments"][experiment].get("trainings", [default]):
        start = trainings[training].get("start", {})
        for name in plan["experiments"][experiment].get("models", plan.get("everywhere", plan["models"])):
            model = plan["models"][name]
            if training != default:
                axes = [axis | {"start": start.get(axis["key"], axis["start"])} for axis in model["axes"]]
                model = model | {"title": f"{model['title']}, {training}", "training": training, "axes": axes}
            found[name if training == default else f"{name}_{training}"] = model
    return found


def tune(plan: dict, experiment: str, options: Options) -> None:
    """Tune all models of an experiment; write the choices and all configurations.

    An experiment may have numbers of its own in place of the plan's (search: {trials: 2, most: 12}).
    """
    plan = plan | plan["experiments"][experiment].get("search", {})
    searches = {model: Search(plan, experiment, model, options) for model in models_of(plan, experiment)}
    count = max(plan["configurations"], *(len(search.tried) for search in searches.values()))
    while True:
        for search in searches.values():
            search.extend(count)
            search.choose()
        able = [model for model, search in searches.items() if search.finals[search.ranking()[0]]["solved"]]
        edges = [model for model in able or searches if searches[model].at_edge()]
        if count >= plan["most"] or not edges:
            break
        count += 1
        say(f"{experiment}: one more configuration per model; a neighbour of the best is untried ({', '.join(edges)}).")
    for model, search in searches.items():
        store_choice(plan, experiment, model, search, options)
    if not any(search.has_trained for search in searches.values()):
        say(f"{experiment}: nothing was trained; all trials existed.")


def store_choice(plan: dict, experiment: str, model: str, search: "Search", options: Options) -> None:
    """Write the choice as an experiment and all configurations as CSV, the best first."""
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [search.tried[point] | final_columns(search, point) for point in search.ranking()]
    path = options.out / f"{experiment}-{model}.csv"
    text = pd.DataFrame(rows).replace(math.inf, math.nan).to_csv(index=False, float_format="%.6g")
    files.write_text(path, text)
    best = search.finals[search.ranking()[0]]
    comment = f"The best of {len(search.tried)} configurations: "
    if search.criterion is None:
        comment += f"validation loss {metric_text(best['loss'])}."
    elif best["solved"]:
        median = f", median {best['median_sequences']:,.0f} sequences" if best["median_sequences"] < math.inf else ""
        comment += f"{best['solved']} of {best['trials']} trials met {search.criterion}{median}."
    else:
        comment += f"none met {search.criterion}, and this one has the lowest validation loss."
    if search.at_edge():
        comment += " A neighbour of it is untried and may be better; more configurations would try it."
    if ends := search.ends():
        comment += f" It is at the end of the values of {' and '.join(ends)}."
    chosen = {axis["key"]: best[axis["key"]] for axis in search.axes}
    write_experiment(options.config_dir, plan, experiment, model, chosen, f"{comment} All are in {path.name}.")
    say(f"{experiment} {model}: {comment}")


def final_columns(search: "Search", point: Point) -> dict[str, float]:
    """The results of all trials of one of the best configurations, as columns final_...; {} for any other."""
    measured = ("trials", "diverged", "solved", "median_sequences", "loss")
    return {f"final_{key}": search.finals[point][key] for key in measured} if point in search.finals else {}


def write_experiment(config_dir: Path, plan: dict, experiment: str, model: str, chosen: Mapping, origin: str) -> None:
    """Write experiment/<experiment>/<model>.yaml with the settings of the model and the chosen values.

    origin: where the values come from, in sentences for the file's comment.
    """
    of_model = models_of(plan, experiment)[model]
    title = of_model["title"][0].upper() + of_model["title"][1:]
    lines = [
        "# @package _global_",
        textwrap.fill(f"{title}. {origin}", 118, initial_indent="# ", subsequent_indent="# "),
        "defaults:",
        f"  - /experiment/{experiment}/base",
        f"  - override /model: {of_model['model']}",
        *([f"  - override /training: {of_model['training']}"] if "training" in of_model else []),
        "  - _self_",
        "",
        *(f"{group}: {in_braces(keys)}" for group, keys in sorted(nested({**of_model["settings"], **chosen}).items())),
    ]
    files.write_text(config_dir / "experiment" / experiment / f"{model}.yaml", "\n".join(lines).rstrip() + "\n")


def nested(settings: Mapping) -> dict:
    """{"task.T": 5} as {"task": {"T": 5}}."""
    config = OmegaConf.create()
    for key, value in settings.items():
        OmegaConf.update(config, key, value)
    return OmegaConf.to_container(config)


def in_braces(keys: Mapping) -> str:
    """A group of keys as one line of yaml: {learning_rate: 0.01}."""
    return yaml.safe_dump(keys, default_flow_style=True, sort_keys=False, width=math.inf).strip()


# Selection --------------------------------------------------------------------------------------------------------


def judge(result: store.Result, criterion: str | None, cap: int) -> dict[str, float]:
    """The values that rank a configuration: trials that met the criterion, median sequences until then, median loss.

    A diverged trial counts as unsolved, with infinite loss. Without a criterion, `solved` is 0 and the median is
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
    """Points from best to worst: by trials solved, then median sequences, then loss; if equal, the first tried."""
    return sorted(tried, key=lambda p: (-tried[p]["solved"], tried[p]["median_sequences"], tried[p]["loss"]))


def neighbours(point: Point, sizes: Sequence[int]) -> list[Point]:
    """The neighbours of a point, one step down or up on one axis; those along the first axis come first.

    sizes: the number of values on each axis.
    """
    moved = [(axis, point[axis] + step) for axis in range(len(point)) for step in (-1, 1)]
    return [(*point[:axis], index, *point[axis + 1 :]) for axis, index in moved if 0 <= index < sizes[axis]]


def next_point(ranking: Sequence[Point], sizes: Sequence[int]) -> Point:
    """The first untried neighbour of the best point, else of the second best, and so on.

    sizes: as in `neighbours`. Raises ValueError if all points are tried.
    """
    for point in ranking:
        for near in neighbours(point, sizes):
            if near not in ranking:
                return near
    raise ValueError(f"all {' x '.join(map(str, sizes))} configurations are tried; give the axes more values")


def at_edge(ranking: Sequence[Point], sizes: Sequence[int]) -> bool:
    """Whether a neighbour of the best point is untried."""
    return not set(neighbours(ranking[0], sizes)) <= set(ranking)


class Search:
    """The search for one model in one experiment: the configurations tried, their results, and the next one."""

    def __init__(self, plan: dict, experiment: str, model: str, options: Options):
        of_model = models_of(plan, experiment)[model]
        self.name = f"{experiment} {model}"
        self.axes = of_model["axes"]
        self.sizes = [len(axis["values"]) for axis in self.axes]
        self.tried: dict[Point, dict] = {}
        self.finals: dict[Point, dict] = {}
        self.trials, self.finalists, self.final_trials = plan["trials"], plan["finalists"], plan["final_trials"]
        self.most_trials = most_trials(plan)
        count = plan["configurations"]
        self.first = first_points(self.axes, plan["first"] if plan["first"] < count else max(count // 2, 1))
        self.composer = Composer(options.config_dir)
        choices = {"experiment": f"{experiment}/base", "seed": plan["seed"]}
        choices |= {group: of_model[group] for group in ("model", "training") if group in of_model}
        self.settings = choices | of_model["settings"] | options.machine
        self.place = {"results_dir": str(options.results_dir), "threads": options.threads}
        self.criterion: str | None = None
        self.has_trained = False
        path = options.out / f"{experiment}-{model}.csv"
        self.recorded = read_record(path, self.axes) if options.go_on and path.exists() else {}
        for point, trials in self.recorded:
            if trials == self.trials:
                self.tried[point] = self.try_out(point, trials)

    def extend(self, count: int) -> None:
        """Try configurations until `count` are tried."""
        while len(self.tried) < count:
            untried = [point for point in self.first if point not in self.tried]
            point = untried[0] if untried else next_point(self.ranking(), self.sizes)
            self.tried[point] = self.try_out(point, self.trials)

    def choose(self) -> None:
        """Train more trials of the best few configurations; their results decide."""
        best = ranked(self.tried)[: self.finalists]
        self.finals = {point: self.try_out(point, self.final_trials) for point in best}

    def try_out(self, point: Point, trials: int) -> dict:
        """The results of a configuration with this number of trials, trained unless they are recorded."""
        values = {axis["key"]: axis["values"][index] for axis, index in zip(self.axes, point, strict=True)}
        settings = self.settings | values | {"trials": trials}
        with self.composer.ready():
            config = self.composer.load([f"{key}={json.dumps(value)}" for key, value in settings.items()])
        training = config["training"]
        self.criterion = training["stop"]
        recorded = self.recorded.get((point, trials))
        if recorded and recorded["max_sequences"] == training["max_sequences"]:
            return recorded
        run = prepare(config | self.place)
        self.has_trained |= bool(store.missing_stacks(run.folder, run.trials))
        result = trained(run)
        if not self.tried:
            self.estimate(result, training["max_sequences"])
        row = values | {
            "max_sequences": training["max_sequences"],
            "parameters": int(result.trials["parameters"].iloc[0]),
            **judge(result, self.criterion, training["max_sequences"]),
        }
        words = {"median_sequences": sequences_text(row["median_sequences"]), "loss": metric_text(row["loss"])}
        text = ", ".join(f"{leaf(key)} {setting_text(value)}" for key, value in (row | words).items())
        say(f"{self.name} {'final' if point in self.tried else len(self.tried) + 1}: {text}")
        return row

    def estimate(self, result: store.Result, most: int) -> None:
        """Say how long the search takes at most, at the speed of its first configuration, without the compile time.

        most: sequences of a trial at most.
        """
        speed = result.trials["sequences"].sum() / max(result.trials["seconds"].max(), 1e-9)
        time = duration(self.most_trials * most / speed)
        say(f"{self.name}: {speed:,.0f} sequences/s; at this speed, {self.most_trials} trials take {time} at most.")

    def ranking(self) -> list[Point]:
        """All points from best to worst: first those with final trials, then the others."""
        finals = ranked(self.finals)
        return finals + [point for point in ranked(self.tried) if point not in self.finals]

    def at_edge(self) -> bool:
        """Whether a neighbour of the choice is untried."""
        return at_edge(self.ranking(), self.sizes)

    def ends(self) -> list[str]:
        """The axes on which the choice has the first or the last value; null, no limit at all, is a natural end."""
        chosen = self.ranking()[0]
        places = [
            (axis, index) for axis, index in zip(self.axes, chosen, strict=True) if axis["values"][index] is not None
        ]
        return [leaf(axis["key"]) for axis, index in places if index in (0, len(axis["values"]) - 1)]


def read_record(path: Path, axes: Sequence[Mapping]) -> dict[tuple[Point, int], dict]:
    """The rows in a table of `store_choice`, as `Search.try_out` returned them, by point and number of trials."""
    table = pd.read_csv(path).fillna({"median_sequences": math.inf, "final_median_sequences": math.inf})
    recorded = {}
    for row in table.to_dict("records"):
        values = [row[axis["key"]] for axis in axes]
        point = tuple(
            axis["values"].index(None if math.isnan(value) else value) for axis, value in zip(axes, values, strict=True)
        )
        first = {key: value for key, value in row.items() if not key.startswith("final_")}
        first |= {axis["key"]: axis["values"][index] for axis, index in zip(axes, point, strict=True)}
        recorded[point, row["trials"]] = first
        if not math.isnan(row["final_trials"]):
            counts = {key: int(row[f"final_{key}"]) for key in ("trials", "diverged", "solved")}
            finals = {key: row[f"final_{key}"] for key in ("median_sequences", "loss")}
            recorded[point, counts["trials"]] = first | counts | finals
    return recorded


def first_points(axes: Sequence[Mapping], count: int) -> list[Point]:
    """The points that the search begins with: `count` different ones, or all that the axes' starting values have."""
    starts = [[axis["values"].index(value) for value in axis["start"]] for axis in axes]
    sizes = np.array([len(start) for start in starts])
    halton = stats.qmc.Halton(len(axes), scramble=False)
    found: dict[Point, None] = {}
    while len(found) < min(count, math.prod(sizes)):
        (unit,) = halton.random(1)
        found[tuple(start[index] for start, index in zip(starts, (unit * sizes).astype(int), strict=True))] = None
    return list(found)


def trained(run: Run) -> store.Result:
    """The trials of a run; missing ones are trained first."""
    result = train_missing(run)
    return replace(result, trials=result.trials[result.trials["trial"].isin(run.trials)])


if __name__ == "__main__":
    start(main)
