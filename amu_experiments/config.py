"""The rules of a configuration: each key's type and range, a run's identity and the names of its folders.

The yaml files in conf/ are the schema: a key's default gives its type. The rules below are for the keys that every run
has. The rules for the options of a cell or a task are the annotations of its class (options.py).
"""

import difflib
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from types import NoneType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from amu_experiments.options import (
    BY_TYPE,
    FRACTION,
    LARGEST,
    POSITIVE,
    RATE,
    TEXT,
    ConfigurationError,
    Rule,
    check_option,
    format_value,
    one_of,
    optional,
    refusal,
    whole,
)

SCHEMA_VERSION = 1
"""Part of every identity. Increase it if the same configuration comes to mean a different run."""


# Rules ------------------------------------------------------------------------------------------------------

DEVICE = Rule(str, "cpu, cuda, cuda:NUMBER or mps", lambda value: re.fullmatch(r"cpu|mps|cuda(:\d+)?", value))
CONDITION = Rule(
    str,
    "a comparison (<, <=, ==, >=, >), a space and a number, such as '< 0.01', for task.criteria.NAME.METRIC",
    lambda value: (
        re.fullmatch(r"(<|<=|==|>=|>) +[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?", value.strip())
        and math.isfinite(float(value.strip().split()[1]))
    ),
)
SIGNAL = one_of("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "XCPU")

RULES = {
    "trials": whole(1, 10_000),
    "seed": whole(0, 2**31 - 1),
    "backend": one_of("auto", "fused", "torch"),
    "device": DEVICE,
    "instructions": one_of("portable", "native"),
    "threads": optional(whole(1, 1024)),
    "results_dir": TEXT,
    "processes": optional(whole(1, 1024)),
    "stop_seconds": Rule(float, "a number from 0.1 to 3600", lambda value: 0.1 <= value <= 3600),
    "training.batch_size": whole(1),
    "training.max_sequences": whole(1),
    "training.evaluate_every": whole(1),
    "training.stop": optional(TEXT),
    "training.select": one_of("last", "best"),
    "training.optimizer": one_of("adam", "rmsprop", "sgd"),
    "training.learning_rate": RATE,
    "training.momentum": FRACTION,
    "training.clip_norm": optional(POSITIVE),
    "training.checkpoint_minutes": POSITIVE,
    "model.units": optional(whole(1)),
    "model.parameters": optional(whole(1)),
    "model.layers": whole(1, 100),
}
"""The rules for the keys that every run has."""


def _single(value: Any) -> bool:
    return not (isinstance(value, list | Mapping) or (isinstance(value, float) and not abs(value) <= LARGEST))


BY_DEFAULT = {**BY_TYPE, NoneType: Rule(object, "a single value", _single, optional=True)}
"""The rule for a key without a rule of its own, by the type of its default."""

NUMERIC = Rule(object, "a number", lambda value: type(value) in (int, float))

OF_A_KIND = {
    bool: BY_TYPE[bool],
    int: NUMERIC,
    float: NUMERIC,
    str: Rule(object, "text", lambda value: type(value) in (str, int)),
    NoneType: Rule(object, "a single value", lambda value: not isinstance(value, list | Mapping), optional=True),
}
"""The rule for an option of a cell or a task before its class is imported, by the type of its default."""


# Checking ---------------------------------------------------------------------------------------------------


def plain(config: DictConfig | Mapping) -> dict:
    """The configuration as dicts (with strings as keys), lists and scalars; references to other keys are resolved."""
    if isinstance(config, DictConfig):
        return plain(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    return {str(name): plain(value) if isinstance(value, Mapping) else value for name, value in config.items()}


def check(config: Mapping, reference: Mapping) -> dict:
    """Check every key, and every value that can be checked without a class; returns the configuration.

    An option of a cell or a task only has to be of the same kind as its default: a number, a text, a list or a group.
    `check_options` checks the rest, which needs the class.

    reference: every allowed key with its default. The default gives the type of a key without a rule. A default {}
        allows any keys.

    Sequences come in whole batches: max_sequences and evaluate_every are rounded up to multiples of
    batch_size.

    Raises ConfigurationError for the first key that is unknown, of a wrong type or out of range, and for
    values that cannot be combined.
    """
    cell, problem = reference["model"].get("cell"), reference["task"].get("problem")
    rules = {
        **RULES,
        "model.cell": Rule(
            str,
            f"{cell} here (model=NAME chooses another, or MODULE.CLASS without model=)",
            lambda value: value == cell,
        ),
        "task.problem": Rule(str, f"{problem} here (task=NAME chooses another)", lambda value: value == problem),
    }

    def rule(key: str, default: Any) -> Rule:
        if key.startswith("stop_signals["):
            return SIGNAL
        if key.startswith("task.criteria."):
            return CONDITION
        by_type = OF_A_KIND if key.startswith(("model.", "task.")) else BY_DEFAULT
        return rules.get(key) or by_type[type(default)]

    config = _checked("", config, reference, reference, rule)
    training = config["training"]
    for name in ("max_sequences", "evaluate_every"):
        training[name] = math.ceil(training[name] / training["batch_size"]) * training["batch_size"]
    _check_together(config)
    return config


def check_options(config: Mapping, reference: Mapping, section: str, annotations: Mapping[str, Any]) -> dict:
    """Check the options of "task" or "model" by the annotations of its class; returns the configuration.

    Raises ConfigurationError for the first option that breaks its rule. An option without an annotation takes
    values of its default's type.
    """

    def checked(name: str, value: Any) -> Any:
        key = f"{section}.{name}"
        if key in RULES:
            return value
        if name in annotations:
            return check_option(key, value, annotations[name])
        return _checked(key, value, reference[section][name], reference, lambda _, default: BY_DEFAULT[type(default)])

    return {**config, section: {name: checked(name, value) for name, value in config[section].items()}}


def check_stop(config: Mapping, criteria: Iterable[str]) -> None:
    """Raise ConfigurationError unless training.stop is null or one of these criteria, which are the task's."""
    criteria = list(criteria)
    if config["training"]["stop"] not in [*criteria, None]:
        words = f"one of {', '.join(criteria)}, or null" if criteria else "null: this task has no criteria"
        raise refusal("training.stop", config["training"]["stop"], words)


def _checked(key: str, value: Any, default: Any, reference: Mapping, rule: Callable[[str, Any], Rule]) -> Any:
    """Check that a value has the form of its default, and that each single value in it obeys `rule(key, default)`."""
    if isinstance(default, Mapping):
        if not isinstance(value, Mapping):
            raise refusal(key, value, f"a group of keys ({', '.join(default)})" if default else "a group of keys")
        for name in value:
            if default and name not in default:
                raise unknown_key(_join(key, name), value[name], reference)
        if missing := [name for name in default if name not in value]:
            raise ConfigurationError(f"{key}={format_value(value)}: lacks {', '.join(missing)}")
        inner = default or {name: {} if isinstance(value[name], Mapping) else None for name in value}
        return {str(name): _checked(_join(key, name), value[name], inner[name], reference, rule) for name in value}
    if isinstance(default, list):
        if not isinstance(value, list):
            raise refusal(key, value, "a list")
        item = default[0] if default else None
        return [_checked(f"{key}[{i}]", value[i], item, reference, rule) for i in range(len(value))]
    if type(default) not in BY_DEFAULT:
        raise refusal(key, default, "a text, a number, true, false, null, a list or a group of keys in its yaml file")
    return rule(key, default).check(key, value)


def unknown_key(key: str, value: Any, reference: Mapping) -> ConfigurationError:
    """The error for an unknown key; it lists the keys of that section and suggests the most similar key of all."""
    while isinstance(value, Mapping) and len(value) == 1:
        ((name, value),) = value.items()
        key = _join(key, name)
    place, section = "", reference
    for name in key.split(".")[:-1]:
        if not isinstance(section.get(name), Mapping):
            break
        place, section = _join(place, name), section[name]
    owners = {
        "": "a run",
        "model": f"model {reference['model'].get('cell')}",
        "task": f"task {reference['task'].get('problem')}",
    }
    return ConfigurationError(
        f"{format_value(key)}={format_value(value)}: no such key; {owners.get(place, place)} has {', '.join(section)}"
        + did_you_mean(_nearest_key(key, reference))
    )


def did_you_mean(word: str | None) -> str:
    return f" (did you mean {word}?)" if word else ""


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The word of this list that the user probably meant; None if no word is similar."""
    return next(iter(difflib.get_close_matches(word, list(words), n=1)), None)


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else str(name)


def _nearest_key(key: str, reference: Mapping) -> str | None:
    """The key, in any section, whose last part is most similar to the last part of `key`."""
    by_name = {known.rpartition(".")[2]: known for known in reversed(list(_keys(reference)))}
    return by_name.get(nearest(key.rpartition(".")[2], by_name))


def _keys(section: Mapping, place: str = "") -> Iterator[str]:
    for name, value in section.items():
        yield _join(place, name)
        if isinstance(value, Mapping):
            yield from _keys(value, _join(place, name))


def _check_together(config: Mapping) -> None:
    """Raise ConfigurationError for values that are allowed one by one but cannot be combined."""
    training, model = config["training"], config["model"]
    if config["seed"] + config["trials"] > 2**31:
        raise ConfigurationError(
            f"seed={config['seed']}, trials={config['trials']}: the last trial's number must be 2147483647 at most"
        )
    if model["units"] is None and model["parameters"] is None:
        raise ConfigurationError("model.units=null, model.parameters=null: one of them must be a number")
    if training["optimizer"] == "adam" and training["momentum"] != 0:
        raise ConfigurationError(
            f"training.momentum={training['momentum']}: must be 0 with adam; rmsprop and sgd have a momentum"
        )
    if config["backend"] == "fused" and model.get("layers", 1) > 1:
        raise ConfigurationError(
            f"backend=fused: trains one layer only, and model.layers={model['layers']}; use auto or torch"
        )
    if config["backend"] == "fused" and config["device"] != "cpu":
        raise ConfigurationError(f"backend=fused: works on device=cpu only, and device={config['device']}")


# Identity ---------------------------------------------------------------------------------------------------


def definition(config: Mapping) -> dict:
    """The part of a configuration that, together with a trial's number, decides the trial's outcome.

    Left out: trials, seed, backend, device, instructions, threads, processes, results_dir, stop_signals,
    stop_seconds and checkpoint_minutes; model.parameters, because it only sets model.units; model.layers if it is 1, as
    in older runs; and task.path if task.name and task.contents identify the data.
    Raises ValueError if model.units is not known.
    """
    if not isinstance(config["model"]["units"], int):
        raise ValueError("model.units must be known before a run has an identity")
    task = dict(config["task"])
    if task.get("name") and task.get("contents"):
        task["path"] = None
    return {
        "schema_version": config.get("schema_version", SCHEMA_VERSION),
        "task": task,
        "model": {
            name: value
            for name, value in config["model"].items()
            if name != "parameters" and (name, value) != ("layers", 1)
        },
        "training": {name: value for name, value in config["training"].items() if name != "checkpoint_minutes"},
    }


def identity(config: Mapping) -> str:
    """Twelve hexadecimal digits that tell configurations apart (SHA-256 of the definition as JSON)."""
    text = json.dumps(_canonical(definition(config)), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def task_folder(config: Mapping) -> str:
    """A short name for the task: the name of its problem, or of its data set if the problem has several."""
    task = config["task"]
    if task.get("path") and not task.get("name"):
        return _folder_name(re.sub(r"(_TRAIN)?\.(ts|csv|npz)$", "", PurePath(task["path"]).name))
    return _folder_name(task.get("name") or _last_name(task["problem"]))


def model_folder(config: Mapping) -> str:
    """A short name for the model: the name of its cell."""
    return _folder_name(_last_name(config["model"]["cell"]))


def _last_name(name: str) -> str:
    """CLASS, if the name is MODULE.CLASS; any other name unchanged."""
    parts = name.split(".")
    return parts[-1] if all(part.isidentifier() for part in parts) else name


def _canonical(value: Any) -> Any:
    """The value with equal numbers written alike: 1.0 becomes 1, -0.0 becomes 0."""
    if isinstance(value, Mapping):
        return {str(name): _canonical(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _folder_name(name: str) -> str:
    """The name in snake case and safe as a folder's name: JapaneseVowels becomes japanese_vowels, ../x becomes x.

    Letters, marks and digits of any script stay. 60 bytes at most: files named after the folder get longer names.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    kept = "".join(c if c in "_-" or unicodedata.category(c)[0] in "LMN" else " " for c in words)
    return re.sub(" +", "_", kept).strip("_-").encode()[:60].decode(errors="ignore") or "unnamed"
