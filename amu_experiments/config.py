"""What a configuration may say: each key's type and range, a run's identity and the names of its folders.

The yaml files in conf/ are the schema: a key's default tells its type. The rules below are those of the keys that
every run has; a cell's and a task's own options have theirs in the annotations of their class (options.py).
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
"""Part of every identity; counted up when the same configuration comes to mean something else."""


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

RULES = {
    "trials": whole(1, 10_000),
    "seed": whole(0, 2**31 - 1),
    "backend": one_of("auto", "fused", "torch"),
    "device": DEVICE,
    "instructions": one_of("portable", "native"),
    "threads": optional(whole(1, 1024)),
    "results_dir": TEXT,
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
}
"""For the keys that every run has."""


def _single(value: Any) -> bool:
    return not (isinstance(value, list | Mapping) or (isinstance(value, float) and not abs(value) <= LARGEST))


BY_DEFAULT = {**BY_TYPE, NoneType: Rule(object, "a single value", _single, optional=True)}
"""For a key without a rule of its own, by the type of its default."""

NUMERIC = Rule(object, "a number", lambda value: type(value) in (int, float))

OF_A_KIND = {
    bool: BY_TYPE[bool],
    int: NUMERIC,
    float: NUMERIC,
    str: Rule(object, "text", lambda value: type(value) in (str, int)),
    NoneType: Rule(object, "a single value", lambda value: not isinstance(value, list | Mapping), optional=True),
}
"""For an option of a cell or a task, by the type of its default: all that is known before its class is imported."""


# Checking ---------------------------------------------------------------------------------------------------


def plain(config: DictConfig | Mapping) -> dict:
    """The configuration as dicts with texts as keys, lists and scalars, with references to other keys resolved."""
    if isinstance(config, DictConfig):
        return plain(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    return {str(name): plain(value) if isinstance(value, Mapping) else value for name, value in config.items()}


def check(config: Mapping, reference: Mapping) -> dict:
    """The configuration with every key found known, and every value that needs no class found allowed.

    A cell's and a task's own options are only checked to be of the kind that their defaults are of (numbers, texts,
    lists, groups); the rest is `check_options`, which needs their class.

    reference: every key there is, with its default, which tells the type of a key that has no rule. A default
        {} is open to any keys.

    Sequences come in whole batches: max_sequences and evaluate_every are rounded up to multiples of
    batch_size.

    Raises ConfigurationError for the first key that is unknown, of a wrong type or out of range, and for
    values that do not go together.
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
    """The checked configuration with the options of "task" or "model" checked by the annotations of its class.

    Raises ConfigurationError for the first that breaks its rule. An option without an annotation takes values of its
    default's type.
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
    """ConfigurationError unless training stops at one of these criteria, those of the task, or at none."""
    criteria = list(criteria)
    if config["training"]["stop"] not in [*criteria, None]:
        words = f"one of {', '.join(criteria)}, or null" if criteria else "null: this task has no criteria"
        raise refusal("training.stop", config["training"]["stop"], words)


def _checked(key: str, value: Any, default: Any, reference: Mapping, rule: Callable[[str, Any], Rule]) -> Any:
    """The value with the keys and the form of its default, each single value in it as `rule(key, default)` has it."""
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
    """The error for a key that is not there: it tells the keys that are, and the nearest of all."""
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
    """The one of `words` that was probably meant."""
    return next(iter(difflib.get_close_matches(word, list(words), n=1)), None)


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else str(name)


def _nearest_key(key: str, reference: Mapping) -> str | None:
    """The key whose last name is most like that of `key`, wherever it stands."""
    by_name = {known.rpartition(".")[2]: known for known in reversed(list(_keys(reference)))}
    return by_name.get(nearest(key.rpartition(".")[2], by_name))


def _keys(section: Mapping, place: str = "") -> Iterator[str]:
    for name, value in section.items():
        yield _join(place, name)
        if isinstance(value, Mapping):
            yield from _keys(value, _join(place, name))


def _check_together(config: Mapping) -> None:
    """ConfigurationError for values that are fine one by one and cannot work together."""
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
    if config["backend"] == "fused" and config["device"] != "cpu":
        raise ConfigurationError(f"backend=fused: works on device=cpu only, and device={config['device']}")


# Identity ---------------------------------------------------------------------------------------------------


def definition(config: Mapping) -> dict:
    """The part of a configuration that a trial's outcome depends on, beside the trial's number.

    Left out: trials, seed, backend, device, instructions, threads, results_dir, checkpoint_minutes, and what has done
    its work: model.parameters once model.units is known, and task.path once task.name and task.contents say which data
    these are. Raises ValueError where model.units is not known.
    """
    if not isinstance(config["model"]["units"], int):
        raise ValueError("model.units must be known before a run has an identity")
    task = dict(config["task"])
    if task.get("name") and task.get("contents"):
        task["path"] = None
    return {
        "schema_version": config.get("schema_version", SCHEMA_VERSION),
        "task": task,
        "model": {name: value for name, value in config["model"].items() if name != "parameters"},
        "training": {name: value for name, value in config["training"].items() if name != "checkpoint_minutes"},
    }


def identity(config: Mapping) -> str:
    """Twelve hexadecimal digits that tell configurations apart (SHA-256 of the definition as JSON)."""
    text = json.dumps(_canonical(definition(config)), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def task_folder(config: Mapping) -> str:
    """A short name for the task: that of the problem, or of the data set where the problem serves many."""
    task = config["task"]
    if task.get("path") and not task.get("name"):
        return _folder_name(re.sub(r"(_TRAIN)?\.ts$", "", PurePath(task["path"]).name))
    return _folder_name(task.get("name") or _last_name(task["problem"]))


def model_folder(config: Mapping) -> str:
    """A short name for the model: that of its cell."""
    return _folder_name(_last_name(config["model"]["cell"]))


def _last_name(name: str) -> str:
    """The class of MODULE.CLASS; any other name as it is."""
    parts = name.split(".")
    return parts[-1] if all(part.isidentifier() for part in parts) else name


def _canonical(value: Any) -> Any:
    """Equal numbers made alike: 1.0 becomes 1, -0.0 becomes 0."""
    if isinstance(value, Mapping):
        return {str(name): _canonical(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _folder_name(name: str) -> str:
    """In snake case and safe as a folder's name: JapaneseVowels becomes japanese_vowels, ../x becomes x.

    Letters, marks and digits of any script stay. 60 bytes at most: files named after the folder get longer names.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    kept = "".join(c if c in "_-" or unicodedata.category(c)[0] in "LMN" else " " for c in words)
    return re.sub(" +", "_", kept).strip("_-").encode()[:60].decode(errors="ignore") or "unnamed"
