"""The command amu-tune: tunes models on a task, each with the same number of configurations, and writes experiments.

  amu-tune task=adding model=mgu,lstm
  amu-tune task=adding model=mgu,lstm training.max_sequences=20000 task.T=50
  amu-tune --config-dir my/conf experiment=adding/base model=atr,gru --name adding_atr

WORDS are those of amu-run. All but model=... are the protocol: they hold in tuning and in the experiments alike. Every
model has the same learning rates and the same limits of the gradient's norm, and one more setting of its own: the file
tuning/MODEL.yaml names it (python -m amu_experiments.studies.tuning --help says how the search goes). Tuning uses
validation data, and trials that no experiment has. A stopped command continues if it is given again.
"""

import argparse
import json
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amu_experiments import files
from amu_experiments.command_line import Parser, whole
from amu_experiments.conf_files import choices, conf_dir, description
from amu_experiments.console import failed, say, unheard
from amu_experiments.files import UnusableError
from amu_experiments.options import ConfigurationError, format_value
from amu_experiments.override_lines import parse, quoted
from amu_experiments.overrides import OWN, Composer

MACHINE = ("backend", "device", "instructions")
"""Keys that decide nothing but how a run is computed; they are no part of a protocol, and neither are PLACES."""

PLACES = ("results_dir", "threads")

NUMBERS = ("configurations", "most", "first", "trials", "finalists", "final_trials", "seed")
"""Numbers of the plan that the command line can change."""

MORE = ("configurations", "most")
"""Numbers that a later command for the same experiment may raise."""


@dataclass
class Protocol:
    """What a command says, apart from its flags.

    models: the names of their files. lines: all other words, as amu-run takes them. choices: the task, the experiment
    and the training that the words choose. settings: the keys that they set. machine, places: as MACHINE and PLACES.
    """

    models: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Any] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0; 1 if a file cannot be used, 2 for a wrong command, 130 if interrupted."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        tune_models(options)
        if unheard:
            raise unheard.pop()
    except (ConfigurationError, UnusableError, OSError, MemoryError, KeyboardInterrupt) as error:
        return failed("amu-tune", error, "; the same command continues")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser("amu-tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="WORDS", help="task=TASK model=MODEL,MODEL [key=value ...]")
    parser.add_argument(
        "--config-dir",
        type=Path,
        default=Path(OWN),
        help="a folder of your own with model/, task/ or tuning/ in it; gets the experiments (%(default)s)",
    )
    parser.add_argument("--name", help="name of the experiment (default: that of the task and _tuned)")
    parser.add_argument(
        "--out", type=Path, default=Path("results/report/tuning"), help="folder for the tuning tables (%(default)s)"
    )
    parser.add_argument("--configurations", type=whole(1), help="configurations of each model (20)")
    parser.add_argument(
        "--most",
        type=whole(1),
        help="limit, reached only while a model's best configuration has an untried neighbour (4 more)",
    )
    parser.add_argument("--first", type=whole(1), help="quasi-random configurations at the start (12)")
    parser.add_argument("--trials", type=whole(1), help="trials of each configuration (3)")
    parser.add_argument("--finalists", type=whole(1), help="best configurations, which get more trials (8)")
    parser.add_argument("--final-trials", type=whole(1), help="trials of each of these, --trials included (12)")
    parser.add_argument("--seed", type=whole(0), help="seed of the first trial of tuning (10000)")
    return parser


def tune_models(options: argparse.Namespace) -> None:
    """Check everything, say what it costs, then tune.

    Raises ConfigurationError before anything is written; OSError if a file cannot be written.
    """
    for flag, path in (("--config-dir", options.config_dir), ("--out", options.out)):
        if path.exists() and not path.is_dir():
            raise ConfigurationError(f"{flag} {path}: is a file; give a folder (a new one is made)")
    folder = str(options.config_dir) if options.config_dir.is_dir() else None
    composer = Composer(folder)
    with composer.ready():
        protocol = read_protocol(options.words)
        if "base" in protocol.models:
            raise ConfigurationError("model=base: the file base.yaml holds the protocol; give the model another name")
        configs = {model: composer.load([*protocol.lines, f"model={model}"]) for model in protocol.models}

        # Torch is imported after the instructions of this process are fixed.
        from amu_experiments.studies.tuning import Options, tune

        plan, name = plan_of(options), _name(options, protocol)
        titles = choices("model", folder)
        for model, config in configs.items():
            axes = _checked_axes(plan, model, config, protocol, composer)
            title = description(titles[model]) or model
            plan["models"][_key(model)] = {"title": title, "model": model, "settings": {}, "axes": axes}
        plan["experiments"] = {name: {"models": list(plan["models"])}}
        _check_numbers(plan, configs)
        _look_ahead(plan, configs.values(), protocol)

    base = options.config_dir / "experiment" / name / "base.yaml"
    _check_earlier(base, protocol, plan)
    for place in (base.parent, options.out):
        place.mkdir(parents=True, exist_ok=True)
    # The tables are written at the end: check now that this is possible.
    tempfile.TemporaryFile(dir=options.out).close()
    files.write_text(base, base_file(protocol, plan))
    say("\n".join(cost(plan, name, configs)))
    places = {"results_dir": "results/runs/tuning", "threads": None} | protocol.places
    store = Path(places["results_dir"]).expanduser()
    tune(plan, name, Options(options.config_dir, options.out, store, places["threads"], machine=protocol.machine))
    trials = next(iter(configs.values()))["trials"]
    say("\n".join(_next(options, plan, name, trials)))


# What the command says ------------------------------------------------------------------------------------------------


def read_protocol(words: Sequence[str]) -> Protocol:
    """What the words of a command say; ConfigurationError for words that amu-tune cannot use."""
    protocol = Protocol()
    for override in parse(quoted(words)):
        key, line = override.key_or_group, override.input_line
        if override.is_hydra_override():
            raise ConfigurationError(f"{line}: amu-tune starts no other processes; give it the key threads")
        if key == "model":
            values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [str(override.value())]
            if len(set(values)) < len(values):
                raise ConfigurationError(f"{line}: names a model twice")
            protocol.models = values
            continue
        if override.is_sweep_override():
            raise ConfigurationError(f"{line}: only model= takes several values; use one command for each of these")
        if key == "model.cell":
            raise ConfigurationError(
                f"{line}: amu-tune needs a file model/NAME.yaml with the line cell: {format_value(override.value())}"
            )
        group = protocol.settings
        if key in ("task", "experiment", "training") and not isinstance(override.value(), dict):
            group = protocol.choices
        elif key in MACHINE + PLACES:
            group = protocol.machine if key in MACHINE else protocol.places
        group[key] = override.value()
        protocol.lines.append(line)
    if not protocol.models:
        raise ConfigurationError("no model is given; write model=NAME or model=NAME,NAME")
    experiment = protocol.choices.get("experiment")
    if experiment is not None and not experiment.endswith("/base"):
        raise ConfigurationError(
            f"experiment={experiment}: has a model of its own; write experiment={experiment.partition('/')[0]}/base"
        )
    return protocol


def plan_of(options: argparse.Namespace) -> dict:
    """The plan in conf/tuning.yaml with the numbers of the command line, and no models yet."""
    from amu_experiments.studies.arguments import read_plan
    from amu_experiments.studies.axes import PARTS

    plan = read_plan(conf_dir() / "tuning.yaml", (*PARTS, *NUMBERS))
    extension = plan["most"] - plan["configurations"]
    plan |= {number: given for number in NUMBERS if (given := getattr(options, number)) is not None}
    if options.most is None:
        plan["most"] = plan["configurations"] + extension
    if plan["most"] < plan["configurations"]:
        raise ConfigurationError(f"--most {plan['most']}: must be {plan['configurations']} configurations or more")
    if plan["final_trials"] < plan["trials"]:
        raise ConfigurationError(
            f"--final-trials {plan['final_trials']}: must be {plan['trials']} or more, like --trials"
        )
    return {key: plan[key] for key in (*PARTS, *NUMBERS)} | {"models": {}}


def _name(options: argparse.Namespace, protocol: Protocol) -> str:
    chosen = protocol.choices
    parent = chosen.get("task") or chosen["experiment"].rpartition("/")[0]
    name = options.name if options.name is not None else re.sub(r"\W", "_", f"{parent}_tuned")
    if not re.fullmatch(r"\w{1,60}", name):
        raise ConfigurationError(f"--name {format_value(name)}: must be up to 60 letters, digits and _")
    if (conf_dir() / "experiment" / name).exists():
        raise ConfigurationError(f"--name {name}: this is an experiment of amu_experiments; give another name")
    return name


def _key(model: str) -> str:
    """The name of a model's file in experiment/: that of its file in model/, without folders."""
    return model.replace("/", "_")


# What is checked ------------------------------------------------------------------------------------------------------


def _checked_axes(plan: Mapping, model: str, config: Mapping, protocol: Protocol, composer: Composer) -> list[dict]:
    """The axes of a model; ConfigurationError if the words set one of them, or if the model refuses a value."""
    from amu_experiments.studies.axes import axes_of

    axes = axes_of(plan, model, config["model"].get("initial_range"), composer.config_dir)
    for axis in axes:
        key = axis["key"]
        if key in protocol.settings:
            value = format_value(protocol.settings[key])
            raise ConfigurationError(f"{key}={value}: amu-tune tries values of this key for {model}; leave it out")
        # Every model takes all learning rates and norms.
        for value in axis["values"] if key.startswith("model.") else []:
            try:
                composer.load([*protocol.lines, f"model={model}", f"{key}={json.dumps(value)}"])
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"{error}; the file tuning/{model}.yaml can name other values to try for {model}"
                ) from None
    return axes


def _check_numbers(plan: Mapping, configs: Mapping[str, Mapping]) -> None:
    """Raise ConfigurationError if a model has too few configurations, or reports would have trials of tuning."""
    for key, model in plan["models"].items():
        size = 1
        for axis in model["axes"]:
            size *= len(axis["values"])
        if size < plan["most"]:
            raise ConfigurationError(f"--most {plan['most']}: the axes of {key} have only {size} configurations")
    config = next(iter(configs.values()))
    first, last = plan["seed"], plan["seed"] + plan["final_trials"] - 1
    if config["seed"] <= last and first < config["seed"] + config["trials"]:
        raise ConfigurationError(
            f"seed={config['seed']}, trials={config['trials']}: tuning has the trials {first} to {last}, and an "
            "experiment must have others; give another --seed"
        )


def _look_ahead(plan: Mapping, configs: Iterable[dict], protocol: Protocol) -> None:
    """Raise ConfigurationError if data, device or RAM do not allow a run."""
    from amu_experiments.plan import prepare

    places = {"results_dir": "results/runs/tuning"} | protocol.places
    for config in configs:
        prepare(config | places | {"seed": plan["seed"], "trials": plan["final_trials"]})


def _check_earlier(base: Path, protocol: Protocol, plan: Mapping) -> None:
    """Raise ConfigurationError if this experiment was tuned in another way.

    More configurations than before are allowed, if all its models get them: a search with more begins anew and finds
    its trials in the store, so it ends like one that had them from the start.
    """
    if not base.exists():
        return
    earlier = files.read_text(base)
    if earlier == base_file(protocol, plan):
        return
    found = dict(re.findall(r"([a-z-]+) (\d+)", earlier.partition("# Tuned with: ")[2].partition("\n")[0]))
    numbers = {name: int(found.get(name.replace("_", "-"), 0)) for name in NUMBERS}
    if earlier != base_file(protocol, plan | numbers):
        raise ConfigurationError(f"{base}: has another protocol; give another --name, or remove this folder")
    changed = [name for name in NUMBERS if numbers[name] != plan[name]]
    if any(name not in MORE or plan[name] < numbers[name] for name in changed):
        flags = " ".join(f"--{name.replace('_', '-')} {numbers[name]}" for name in changed)
        raise ConfigurationError(f"{base}: was tuned with {flags}; give the same, or another --name")
    models = {path.stem for path in base.parent.glob("*.yaml")} - {base.stem}
    if left := sorted(models - plan["models"].keys()):
        raise ConfigurationError(
            f"{base}: {', '.join(left)} had at most {numbers['most']} configurations; for more, name every model of "
            "the experiment, or give another --name"
        )


# What is written ------------------------------------------------------------------------------------------------------


def base_file(protocol: Protocol, plan: Mapping) -> str:
    """base.yaml of the experiment: its protocol, and in a comment the numbers of tuning."""
    from amu_experiments.studies.tuning import in_braces, nested

    chosen = protocol.choices
    words = [f"{key}={format_value(value)}" for key, value in (chosen | protocol.settings).items()]
    numbers = ", ".join(f"{name.replace('_', '-')} {plan[name]}" for name in NUMBERS)
    defaults = [f"/experiment/{chosen['experiment']}"] if "experiment" in chosen else []
    defaults += [f"override /{group}: {chosen[group]}" for group in ("task", "training") if group in chosen]
    groups = [
        f"{key}: {in_braces(value) if isinstance(value, Mapping) else json.dumps(value)}"
        for key, value in nested(protocol.settings).items()
    ]
    lines = [
        "# @package _global_",
        f"# The protocol of amu-tune {' '.join(words)}.",
        f"# Tuned with: {numbers}.",
        "defaults:",
        *(f"  - {each}" for each in defaults),
        "  - _self_",
        *(["", *groups] if groups else []),
    ]
    return "\n".join(lines) + "\n"


def cost(plan: Mapping, name: str, configs: Mapping[str, Mapping]) -> list[str]:
    """What is tried and what it costs at most, as lines to print."""
    from amu_experiments.studies.tuning import most_trials

    more = f", up to {plan['most']} while the best of one has an untried neighbour"
    more = more if plan["most"] > plan["configurations"] else ""
    lines = [f"{name}: {plan['configurations']} configurations of each model{more}, on these axes:"]
    for key, model in plan["models"].items():
        axes = [f"{axis['key']} ({len(axis['values'])} values)" for axis in model["axes"]]
        lines.append(f"  {key}: {', '.join(axes)}")
        if len(axes) == 2:
            lines.append(
                f"  {key} has no initial_range and no file tuning/{key}.yaml: it is tuned on two axes, with as many "
                "configurations as the others"
            )
    trials, most = most_trials(plan), max(config["training"]["max_sequences"] for config in configs.values())
    total = len(configs) * trials * most
    lines.append(
        f"Each configuration gets {plan['trials']} trials, and the best {plan['finalists']} get "
        f"{plan['final_trials']}. At most {len(configs)} x {trials} trials x {most:,} sequences = {total:,} sequences."
    )
    return lines


def _next(options: argparse.Namespace, plan: Mapping, name: str, trials: int) -> list[str]:
    """What can be done with the files that were written; trials: those that a run of the protocol has."""
    experiments = ",".join(f"{name}/{key}" for key in plan["models"])
    words = ["amu-run", "--config-dir", str(options.config_dir), *(["-m"] if len(plan["models"]) > 1 else [])]
    words += [f"experiment={experiments}", f"trials={trials}"]
    lines = [f"All configurations are in {options.out}. The trials of a comparison:", f"  {shlex.join(words)}"]
    return lines + _unequal(options.config_dir / "experiment" / name, options.out, name)


def _unequal(folder: Path, out: Path, name: str) -> list[str]:
    """A line if models of this experiment, also of earlier commands, have different numbers of configurations."""
    tables = {path.stem: out / f"{name}-{path.stem}.csv" for path in sorted(folder.glob("*.yaml"))}
    counts = {key: len(files.read_table(path, numbers=False)) for key, path in tables.items() if path.exists()}
    if len(set(counts.values())) < 2:
        return []
    listed = ", ".join(f"{key} {count}" for key, count in counts.items())
    return [f"Unequal numbers of configurations: {listed}. Tune them in one command to compare them fairly."]
