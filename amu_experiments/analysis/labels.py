"""The names of comparisons and the labels of their rows, from the settings in which they differ."""

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Collection

import yaml

from amu_experiments.analysis.reading import Reading, named_readings, reading_of
from amu_experiments.analysis.text import printable, setting_text
from amu_experiments.conf_files import conf_dir
from amu_experiments.selection import flat
from amu_experiments.store import Result

PROTOCOL = ("training.max_sequences", "training.stop", "training.evaluate_every", "training.select")
"""Settings that change what a number means; if rows differ in one, every label states it."""

ALIKE = 2**0.5
"""Models have about the same size if the largest has at most this factor times the parameters of the smallest."""

LONGEST_NAME = 120
"""Longest name of a comparison in characters; files are named after it."""


@functools.cache
def tuned() -> tuple[str, ...]:
    """Settings that tuning changes, as conf/tuning.yaml and conf/tuning/ name them.

    A label states them only if rows would have the same label without them.
    """
    plan = yaml.safe_load((conf_dir() / "tuning.yaml").read_bytes())
    axes = [yaml.safe_load(file.read_bytes()) for file in sorted((conf_dir() / "tuning").glob("*.yaml"))]
    common = (plan[name] for name in ("learning_rate", "clip_norm", "initial_range"))
    return tuple(dict.fromkeys(axis["key"] for axis in (*common, *axes)))


def settings_of(result: Result) -> dict[str, object]:
    """The settings of a row's model and training, as one level."""
    return flat({part: result.config[part] for part in ("model", "training")})


def _described(result: Result) -> dict[str, object]:
    """The settings of a row for its label; the name of a reading is in the place of its options."""
    settings, model = settings_of(result), result.config["model"]
    if model["cell"] != "amu":
        return settings
    names = {reading.emitting(): name for name, reading in named_readings().items()}
    name = names.get(reading_of(model).emitting())
    if name is None:
        return settings
    replaced = {f"model.{key}" for key in Reading._fields} - {"model.output"}
    return {"model.reading": name} | {key: value for key, value in settings.items() if key not in replaced}


def form_of(result: Result) -> dict[str, object]:
    """The settings of a row without its size and without those that tuning changes."""
    return {key: value for key, value in _described(result).items() if key not in (*tuned(), "model.units")}


def parameters_of(result: Result) -> int:
    """The number of parameters of one trial."""
    return int(result.trials["parameters"].iloc[0])


def row_labels(results: list[Result]) -> list[str]:
    """A label for each result: its model, and the settings that `compare` describes; if needed, the identity."""
    settings = [_described(result) for result in results]

    def of_model(row: int) -> list[int]:
        return [other for other, result in enumerate(results) if result.model == results[row].model]

    def differs(key: str, row: int) -> bool:
        others = range(len(results)) if key in PROTOCOL else of_model(row)
        return any(settings[other].get(key) != settings[row][key] for other in others)

    def label(row: int, left_out: Collection[str] = ()) -> str:
        own = {key: value for key, value in settings[row].items() if key not in left_out and differs(key, row)}
        stated = ", ".join(f"{printable(leaf(key))}={setting_text(value)}" for key, value in own.items())
        return f"{results[row].model} ({stated})" if stated else results[row].model

    def short(row: int) -> str:
        sizes = [parameters_of(results[other]) for other in of_model(row)]
        return label(row, (*tuned(), "model.units") if max(sizes) <= ALIKE * min(sizes) else tuned())

    shorts = [short(row) for row in range(len(results))]
    labels = [shorts[row] if shorts.count(shorts[row]) == 1 else label(row) for row in range(len(results))]
    return [
        own if labels.count(own) == 1 else f"{own} [{result.task}/{result.identity}]"
        for own, result in zip(labels, results, strict=True)
    ]


def comparison_names(results: list[Result]) -> list[str]:
    """A readable name for the task settings of each result: two_sequence-noise_free-T100-N3.

    The name has the task, its variant or form, and its sizes, which are the settings named by one letter (T, N). If
    several would have the same name, the settings in which they differ are added; a word is added without its key.
    Files have these names: they consist of letters, digits, dots, underscores and hyphens, have at most `LONGEST_NAME`
    characters before a hash, and differ even where case is ignored.
    """
    names = []
    for result in results:
        task = result.config["task"]
        variants = [str(task[key]) for key in ("variant", "form") if key in task]
        sizes = [f"{key}{value}" for key, value in task.items() if len(key) == 1]
        names.append("-".join([result.task, *variants, *sizes]))
    settings = [flat(result.config["task"]) for result in results]
    full_names = []
    for name, own in zip(names, settings, strict=True):
        others = [other for twin, other in zip(names, settings, strict=True) if twin == name]
        extra = [
            value if isinstance(value, str) and value.isidentifier() else f"{leaf(key)}{setting_text(value)}"
            for key, value in own.items()
            if any(other.get(key) != value for other in others)
        ]
        full_names.append(re.sub(r"[^A-Za-z0-9_.-]", "", "-".join([name, *extra])))
    counts = Counter(name.lower() for name in full_names)
    return [
        name
        if counts[name.lower()] == 1 and len(name) <= LONGEST_NAME
        else f"{name[:LONGEST_NAME]}-{hashlib.sha256(repr(own).encode(errors='replace')).hexdigest()[:6]}"
        for name, own in zip(full_names, settings, strict=True)
    ]


def leaf(key: str) -> str:
    """The last part of a dotted name."""
    return key.rpartition(".")[2]


def natural(text: str) -> list:
    """Sort key that puts T50 before T100."""
    parts = re.split(r"([0-9]+)", text)
    return [(len(part.lstrip("0")), part.lstrip("0")) if place % 2 else part for place, part in enumerate(parts)]
