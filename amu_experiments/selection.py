"""Selects results by conditions on their settings, such as "training.max_sequences >= 50000"."""

import math
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from amu_experiments.config import did_you_mean, nearest
from amu_experiments.options import ConfigurationError, format_value
from amu_experiments.store import Result

_CONDITION = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=|==|!=|=|<|>)\s*(.*?)\s*", re.DOTALL)

_ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}

_CONSTANTS = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class Condition:
    """A condition on one setting: its key, one of < <= > >= == !=, and the values to compare it with."""

    key: str
    sign: str
    values: tuple[Any, ...]

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Whether it holds for these flat settings; it holds for none without the key."""
        if self.key not in settings:
            return False
        value = settings[self.key]
        if self.sign in _ORDER:
            return _is_number(value) and _ORDER[self.sign](value, self.values[0])
        same = any(_same(value, other) for other in self.values)
        return same if self.sign == "==" else not same


def read_condition(text: str) -> Condition:
    """The condition that a text states: KEY SIGN VALUE; == and != take several values, with commas.

    Raises ConfigurationError for a text of another form, and for <, <=, > or >= without a number.
    """
    found = _CONDITION.fullmatch(text)
    if not found or not found[3]:
        raise ConfigurationError(
            f"{format_value(text)}: is not a condition; write KEY, a sign (<, <=, ==, !=, >=, >) and a value, such as "
            '"training.max_sequences >= 50000" or "model == lstm,gru"'
        )
    key, sign, value = found.groups()
    sign = "==" if sign == "=" else sign
    if sign not in _ORDER:
        return Condition(key, sign, tuple(map(_value, value.split(","))))
    number = _value(value)
    if not _is_number(number):
        raise ConfigurationError(f"{format_value(text)}: {sign} needs a number")
    return Condition(key, sign, (number,))


def select(results: list[Result], where: Iterable[str]) -> list[Result]:
    """The results for which every condition holds.

    A key is one of the configuration, such as training.learning_rate, or task, model or identity. Raises
    ConfigurationError for a text that is not a condition, and for a key that no result has.
    """
    return [results[index] for index in matching(list(map(settings_of, results)), where)]


def matching(settings: list[dict[str, Any]], where: Iterable[str]) -> list[int]:
    """As `select`, for settings from `named_settings`: the indices of those for which every condition holds."""
    conditions = [read_condition(text) for text in where]
    known = {key for own in settings for key in own}
    for condition in conditions:
        if settings and condition.key not in known:
            by_leaf = {key.rpartition(".")[2]: key for key in sorted(known, reverse=True)}
            near = by_leaf.get(nearest(condition.key.rpartition(".")[2], by_leaf))
            raise ConfigurationError(f"{format_value(condition.key)}: no run has this key{did_you_mean(near)}")
    return [index for index, own in enumerate(settings) if all(condition.holds(own) for condition in conditions)]


def settings_of(result: Result) -> dict[str, Any]:
    """The settings of a result, as `named_settings`."""
    return named_settings(result.task, result.model, result.identity, result.config)


def named_settings(task: str, model: str, identity: str, config: Mapping) -> dict[str, Any]:
    """The names of a run's folders, task, model and identity, and its configuration as one level."""
    own = {part: config[part] for part in ("task", "model", "training")}
    return {"task": task, "model": model, "identity": identity} | flat(own)


def flat(settings: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: {"task": {"T": 100}} becomes {"task.T": 100}."""
    level = {}
    for key, value in settings.items():
        level |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return level


def _value(text: str) -> Any:
    """A number, true, false or null, or else the text."""
    text = text.strip().strip("\"'")
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        return text
    return text if math.isnan(number) else number


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(value: Any, other: Any) -> bool:
    """Whether a setting equals a value; the text "1997" equals the number 1997."""
    if _is_number(value) and _is_number(other):
        return value == other
    if isinstance(value, bool) or value is None or isinstance(other, bool) or other is None:
        return value is other
    return str(value) == (f"{other:g}" if _is_number(other) else str(other))
