"""What a configuration may say: each key's type and range, a run's identity and the names of its folders.

The yaml files in conf/ are the schema: a key's default tells its type, and the rules below what is allowed
beyond that. A cell or a task of one's own therefore needs no entry here.
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf

SCHEMA_VERSION = 1
"""Part of every identity; counted up when the same configuration comes to mean something else."""


class ConfigurationError(ValueError):
    """What was asked for cannot be run; the message names the key, the value and what is allowed."""


# Rules ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """What a value must be: its type, what is allowed in words, and a test of the value in that type."""

    kind: type
    words: str
    test: Callable[[Any], object] = lambda value: True
    optional: bool = False

    def read(self, value: Any) -> Any:
        """The value in the rule's type (1e5 is a whole number, 1997 a text); ValueError if not allowed."""
        if value is None and self.optional:
            return None
        if self.kind is float and type(value) is int:
            value = float(value)
        elif self.kind is int and type(value) is float and value.is_integer():
            value = int(value)
        elif self.kind is str and type(value) is int:
            value = str(value)
        if not isinstance(value, self.kind) or (isinstance(value, bool) and self.kind not in (bool, object)):
            raise ValueError("wrong type")
        if isinstance(value, float) and not abs(value) <= LARGEST:
            raise ValueError("not finite in single precision")
        if not self.test(value):
            raise ValueError("not allowed")
        return value


LARGEST, LEAST = 3e38, 1e-37
"""Of the numbers that single precision can hold."""


def whole(low: int, high: int = 10**9) -> Rule:
    return Rule(int, f"a whole number from {low} to {high}", lambda value: low <= value <= high)


def one_of(*choices: str) -> Rule:
    return Rule(str, f"one of {', '.join(choices)}", lambda value: value in choices)


def optional(rule: Rule) -> Rule:
    """The rule, or null."""
    return replace(rule, words=f"{rule.words}, or null", optional=True)


NUMBER = Rule(float, f"a number, {LARGEST:g} at most in size")
RATE = Rule(float, f"a number above 0 (from {LEAST:g} to 1e+30)", lambda value: LEAST <= value <= 1e30)
POSITIVE = Rule(float, f"a number above 0 (from {LEAST:g} to {LARGEST:g})", lambda value: value >= LEAST)
FRACTION = Rule(float, "a number from 0 to below 1", lambda value: 0 <= value < 1)
PROPER_FRACTION = Rule(float, "a number between 0 and 1", lambda value: LEAST <= value < 1)
TEXT = Rule(str, "text that is not empty", lambda value: value.strip() != "")
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

CELL_RULES = {
    "amu": {
        "neurons_per_unit": whole(1, 1000),
        "gradient": one_of("truncated", "full"),
        "output": one_of("auto", "neuron", "linear", "memory"),
        "initial_range": POSITIVE,
    },
    "lstm": {"forget_bias": NUMBER, "initial_range": POSITIVE},
    "gru": {"initial_range": POSITIVE},
    "rnn": {"initial_range": POSITIVE},
    "lstm97": {
        "block_size": whole(1, 1000),
        "biases": one_of("none", "gates", "hidden", "all"),
        "gradient": one_of("truncated", "full"),
        "input_bias*": NUMBER,
        "output_bias*": NUMBER,
        "initial_range": POSITIVE,
    },
}
"""For the keys under `model` of each cell here, by `model.cell`."""

SQUARED_ERRORS = ("squared_error", "half_squared_error")

TASK_RULES = {
    "embedded_reber": {
        "strings": whole(1, 10**6),
        "targets": one_of("next", "legal"),
        "loss": one_of("cross_entropy", *SQUARED_ERRORS),
    },
    "two_sequence": {
        "variant": one_of("noise_free", "noisy_input", "noisy_target"),
        "T": whole(1, 10**6),
        "N": whole(1, 10**6),
        "variance": POSITIVE,
        "target_variance": POSITIVE,
        "targets.*": NUMBER,
        "tolerance.*": POSITIVE,
        "squash": one_of("linear", "logistic"),
        "loss": one_of(*SQUARED_ERRORS),
        "validation_size": whole(1, 10**6),
        "test_size": whole(1, 10**6),
    },
    "adding": {
        "form": one_of("modern", "1997"),
        "T": whole(2, 10**6),
        "tolerance": POSITIVE,
        "window": whole(1, 10**6),
        "squash": one_of("linear", "logistic"),
        "loss": one_of(*SQUARED_ERRORS),
        "validation_size": whole(1, 10**6),
        "test_size": whole(1, 10**6),
    },
    "multiplication": {
        "T": whole(11, 10**6),
        "tolerance": POSITIVE,
        "window": whole(1, 10**6),
        "squash": one_of("linear", "logistic"),
        "loss": one_of(*SQUARED_ERRORS),
        "validation_size": whole(1, 10**6),
        "test_size": whole(1, 10**6),
    },
    "temporal_order": {
        "variant": one_of("6a", "6b"),
        "T": whole(1, 10**6),
        "positions.*": whole(1, 100),
        "tolerance": POSITIVE,
        "window": whole(1, 10**6),
        "loss": one_of("cross_entropy", *SQUARED_ERRORS),
        "validation_size": whole(1, 10**6),
        "test_size": whole(1, 10**6),
    },
    "long_lag": {
        "variant": one_of("2a", "2b", "2c"),
        "p": whole(2, 10**6),
        "q": whole(1, 10**6),
        "trigger_probability": PROPER_FRACTION,
        "tolerance.*": POSITIVE,
        "loss": one_of("cross_entropy", *SQUARED_ERRORS),
        "validation_size": whole(1, 10**6),
        "test_size": whole(1, 10**6),
    },
    "copy_memory": {
        "T": whole(1, 10**6),
        "remembered": whole(1, 10**6),
        "symbols": whole(2, 10**6),
        "validation_size": whole(1, 10**6),
        "test_size": whole(1, 10**6),
    },
    "time_series": {"name": optional(TEXT), "path": optional(TEXT), "validation_share": PROPER_FRACTION},
}
"""For the keys under `task` of each problem here, by `task.problem`; * stands for anything."""

BY_DEFAULT = {
    bool: Rule(bool, "true or false"),
    int: Rule(int, "a whole number"),
    float: NUMBER,
    str: Rule(str, "text"),
    type(None): Rule(object, "a single value", lambda value: not isinstance(value, list | Mapping), optional=True),
}
"""For a key without a rule of its own, by the type of its default."""


# Checking ---------------------------------------------------------------------------------------------------


def plain(config: DictConfig | Mapping) -> dict:
    """The configuration as dicts, lists and scalars, with references to other keys resolved."""
    if isinstance(config, DictConfig):
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return dict(config)


def check(config: Mapping, reference: Mapping) -> dict:
    """The configuration with every value in its proper type, once all keys and values are found allowed.

    reference: every key there is, with its default, which tells the type of a key that has no rule. A default
        {} is open to any keys.

    Sequences come in whole batches: max_sequences and evaluate_every are rounded up to multiples of
    batch_size.

    Raises ConfigurationError for the first key that is unknown, of a wrong type or out of range, and for
    values that do not go together.
    """
    rules = _rules(reference)

    def checked(key: str, value: Any, default: Any) -> Any:
        if isinstance(default, Mapping):
            if not isinstance(value, Mapping):
                raise _refusal(key, value, f"a group of keys ({', '.join(default)})" if default else "a group of keys")
            for name in value:
                if default and name not in default:
                    raise unknown_key(_join(key, name), value[name], reference)
            inner = default or {name: {} if isinstance(value[name], Mapping) else None for name in value}
            return {str(name): checked(_join(key, name), value[name], inner[name]) for name in value}
        if isinstance(default, list):
            if not isinstance(value, list):
                raise _refusal(key, value, "a list")
            item = default[0] if default else None
            return [checked(f"{key}[{i}]", value[i], item) for i in range(len(value))]
        rule = next((rule for pattern, rule in rules.items() if fnmatchcase(key, pattern)), BY_DEFAULT[type(default)])
        try:
            return rule.read(value)
        except (ValueError, OverflowError):
            raise _refusal(key, value, rule.words) from None

    config = checked("", config, reference)
    training = config["training"]
    for name in ("max_sequences", "evaluate_every"):
        training[name] = math.ceil(training[name] / training["batch_size"]) * training["batch_size"]
    _check_together(config)
    return config


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
        f"{key}={spell(value)}: no such key; {owners.get(place, place)} has {', '.join(section)}"
        + did_you_mean(_nearest_key(key, reference))
    )


def did_you_mean(word: str | None) -> str:
    return f" (did you mean {word}?)" if word else ""


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that was probably meant."""
    return next(iter(difflib.get_close_matches(word, list(words), n=1)), None)


def spell(value: Any) -> str:
    """A value as it is written on the command line, cut short where it is very long."""
    text = json.dumps(value) if isinstance(value, bool | list | dict | None) or _seems_a_number(value) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _seems_a_number(value: Any) -> bool:
    """Whether a text reads like a number, so that only quotes tell the two apart."""
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def _refusal(key: str, value: Any, words: str) -> ConfigurationError:
    return ConfigurationError(f"{key}={spell(value)}: must be {words}")


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else str(name)


def _rules(reference: Mapping) -> dict[str, Rule]:
    """The rules for the keys of this model and this task."""
    cell, problem = reference["model"].get("cell"), reference["task"].get("problem")
    return {
        **RULES,
        **{f"model.{name}": rule for name, rule in CELL_RULES.get(cell, {}).items()},
        **{f"task.{name}": rule for name, rule in TASK_RULES.get(problem, {}).items()},
        "task.criteria.*": CONDITION,
        "model.cell": Rule(str, f"{cell} here (model=NAME chooses another)", lambda value: value == cell),
        "task.problem": Rule(str, f"{problem} here (task=NAME chooses another)", lambda value: value == problem),
    }


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
    training, model, task = config["training"], config["model"], config["task"]
    if config["seed"] + config["trials"] > 2**31:
        raise ConfigurationError(
            f"seed={config['seed']}, trials={config['trials']}: the last trial's number must be 2147483647 at most"
        )
    if model["units"] is None and model["parameters"] is None:
        raise ConfigurationError("model.units=null, model.parameters=null: one of them must be a number")
    if model.get("output_in_product") is False and model.get("neurons_per_unit") == 1:
        raise ConfigurationError("model.neurons_per_unit=1: must be 2 or more with model.output_in_product=false")
    if training["optimizer"] == "adam" and training["momentum"] != 0:
        raise ConfigurationError(
            f"training.momentum={training['momentum']}: must be 0 with adam; rmsprop and sgd have a momentum"
        )
    if config["backend"] == "fused" and config["device"] != "cpu":
        raise ConfigurationError(f"backend=fused: works on device=cpu only, and device={config['device']}")
    name, path = task.get("name"), task.get("path")
    if task["problem"] == "time_series" and (name is None) == (path is None):
        raise ConfigurationError(
            f"task.name={spell(name)}, task.path={spell(path)}: give one, the name of a data set of the "
            "UCR/UEA archive or the path of your own NAME_TRAIN.ts"
        )
    criteria = _criteria(task)
    # A task that keeps its criteria in its code, not in its yaml, has to check the name itself.
    if "criteria" in task and training["stop"] not in [*criteria, None]:
        words = f"one of {', '.join(criteria)}, or null" if criteria else "null: this task has no criteria"
        raise _refusal("training.stop", training["stop"], words)


def _criteria(task: Mapping) -> list[str]:
    """The names of a task's criteria: of all, or of the group that another key of the task selects."""
    section = task.get("criteria") or {}
    groups = [value for value in task.values() if isinstance(value, str) and value in section]
    return list(section[groups[0]] if groups else section)


def in_a_line(error: Exception) -> str:
    """An error that a user can mend, as the line that is shown."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    return f"not enough memory ({text or 'none left'})" if isinstance(error, MemoryError) else text


# Identity ---------------------------------------------------------------------------------------------------


def definition(config: Mapping) -> dict:
    """The part of a configuration that a trial's outcome depends on, beside the trial's number.

    Left out: trials, seed, backend, device, instructions, threads, results_dir, checkpoint_minutes, and
    model.parameters, which has done its work once model.units is known. Raises ValueError where that is not known.
    """
    if not isinstance(config["model"]["units"], int):
        raise ValueError("model.units must be known before a run has an identity")
    return {
        "schema_version": config.get("schema_version", SCHEMA_VERSION),
        "task": dict(config["task"]),
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
    if task.get("path"):
        return _folder_name(re.sub(r"(_TRAIN)?\.ts$", "", PurePath(task["path"]).name))
    return _folder_name(task.get("name") or task["problem"])


def model_folder(config: Mapping) -> str:
    """A short name for the model: that of its cell."""
    return _folder_name(config["model"]["cell"])


def _canonical(value: Any) -> Any:
    """Equal numbers made alike: 1.0 becomes 1, -0.0 becomes 0."""
    if isinstance(value, Mapping):
        return {str(name): _canonical(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _folder_name(name: str) -> str:
    """In snake case and safe as a folder's name: JapaneseVowels becomes japanese_vowels, ../x becomes x."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return re.sub(r"[^a-z0-9_-]+", "_", words).strip("_-")[:60] or "unnamed"
