"""Rules for the values of options: the annotation of an argument is the rule of its option.

The options of a cell are the arguments of its `__init__` and `shapes`. The options of a task are the arguments of its
`__init__`:

    def __init__(self, trials, *, T: Annotated[int, whole(2, 1000)], loss: Literal["squared_error", "cross_entropy"]):

An annotation is Annotated[type, rule], Literal[texts], or bool, int, float, str alone; any of these `| None`; or a
Mapping or Sequence of these, in which every value must follow the rule. `Added` marks an option that was added later.
An argument with another annotation, or none, takes any value of the type of its default in the yaml file. Importing
this module imports neither numpy nor torch.
"""

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


class ConfigurationError(ValueError):
    """A configuration that cannot be run; the message names the key, the value and what is allowed."""


LARGEST, LEAST = 3e38, 1e-37
"""The largest and the least positive number allowed: single precision holds both."""


@dataclass(frozen=True)
class Rule:
    """A rule for a value: its type, the allowed values in words, and a test of a value of that type."""

    kind: type
    words: str
    test: Callable[[Any], object] = lambda value: True
    optional: bool = False

    def read(self, value: Any) -> Any:
        """The value in the rule's type (1e5 is a whole number, 1997 a text); ValueError if not allowed."""
        if value is None and self.optional:
            return None
        if isinstance(value, Integral | Real) and type(value) not in (bool, int, float):
            value = int(value) if isinstance(value, Integral) else float(value)  # numpy's numbers
        if self.kind is float and type(value) is int:
            value = float(value)
        elif self.kind is int and type(value) is float and value.is_integer():
            value = int(value)
        elif self.kind is str and type(value) is int:
            value = str(value)
        if not isinstance(value, self.kind) or (isinstance(value, bool) and self.kind not in (bool, object)):
            raise ValueError("wrong type")
        if self.kind is float and not abs(value) <= LARGEST:
            raise ValueError("not finite in single precision")
        if not self.test(value):
            raise ValueError("not allowed")
        return value

    def check(self, key: str, value: Any) -> Any:
        """As `read`; ConfigurationError with the key if not allowed."""
        try:
            return self.read(value)
        except (ValueError, OverflowError):
            raise refusal(key, value, self.words) from None


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

BY_TYPE = {bool: Rule(bool, "true or false"), int: Rule(int, "a whole number"), float: NUMBER, str: Rule(str, "text")}


@dataclass(frozen=True)
class Added:
    """Marks, in an annotation, an option that was added later; older runs behave as with the value `before`.

    A configuration leaves the option out if it has this value, so older runs keep their identity.
    """

    before: Any


# Annotations that many arguments share.
Positive = Annotated[float, POSITIVE]
Count = Annotated[int, whole(1, 10**6)]


@functools.cache
def options_of(kind: type, *methods: str) -> dict[str, Any]:
    """The annotation of every argument of these methods, a class's own before inherited ones."""
    found: dict[str, Any] = {}
    for method in reversed(methods):
        for owner in reversed(kind.__mro__):
            function = vars(owner).get(method)
            try:
                hints = get_type_hints(getattr(function, "__func__", function), include_extras=True)
            except (NameError, TypeError):
                continue  # not a function, or its annotations name types that only a type checker imports: no rule
            found |= {name: hint for name, hint in hints.items() if name != "return"}
    return found


def added_options(annotations: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were added later, with their values `before`."""
    marks = {name: getattr(annotation, "__metadata__", ()) for name, annotation in annotations.items()}
    return {name: mark.before for name, all_ in marks.items() for mark in all_ if isinstance(mark, Added)}


def without_added(options: Mapping[str, Any], annotations: Mapping[str, Any]) -> dict[str, Any]:
    """The options, without those that were added later and have their value `before`."""
    before = added_options(annotations)
    return {name: value for name, value in options.items() if name not in before or value != before[name]}


def check_option(key: str, value: Any, annotation: Any) -> Any:
    """The value in the type of the annotation; ConfigurationError, with the key, if it is not allowed."""
    rule = _rule(annotation)
    if rule is not None:
        return rule.check(key, value)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType) and NoneType in arguments:
        (annotation, *others) = [each for each in arguments if each is not NoneType]
        return value if value is None or others else check_option(key, value, annotation)
    if not (isinstance(origin, type) and arguments):
        return value
    if issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise refusal(key, value, "a group of keys")
        return {str(name): check_option(f"{key}.{name}", inner, arguments[-1]) for name, inner in value.items()}
    if issubclass(origin, Sequence):
        if not isinstance(value, list | tuple):
            raise refusal(key, value, "a list")
        return [check_option(f"{key}[{i}]", inner, arguments[0]) for i, inner in enumerate(value)]
    return value


def check_arguments(kind: type, methods: Iterable[str], arguments: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for an argument of a call that breaks its rule; plain types are not checked."""
    annotations = options_of(kind, *methods)
    for name, value in arguments.items():
        if name in annotations and annotations[name] not in BY_TYPE:
            check_option(name, value, annotations[name])


def _rule(annotation: Any) -> Rule | None:
    """The rule of a single value; None for a group, a list, or an annotation without a rule."""
    if get_origin(annotation) is Annotated:
        return next((each for each in annotation.__metadata__ if isinstance(each, Rule)), _rule(annotation.__origin__))
    if get_origin(annotation) is Literal:
        return one_of(*get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        inner, *others = [each for each in get_args(annotation) if each is not NoneType]
        rule = None if others else _rule(inner)
        return None if rule is None else optional(rule)
    return BY_TYPE.get(annotation) if isinstance(annotation, type) else None


def refusal(key: str, value: Any, words: str) -> ConfigurationError:
    return ConfigurationError(f"{key}={format_value(value)}: must be {words}")


def format_value(value: Any) -> str:
    """A value as on the command line; after 80 characters it is cut."""
    as_json = isinstance(value, bool | list | dict | None) or _seems_a_number(value)
    text = json.dumps(value, ensure_ascii=False) if as_json else str(value)
    text = _escaped(text[:1000])
    return text if len(text) <= 80 else f"{text[:77]}..."


def format_error(error: Exception) -> str:
    """The line that shows an error to the user."""
    if isinstance(error, OSError) and error.filename is not None:
        return one_line(f"{error.filename}: {error.strerror}")
    text = one_line(str(error))
    return f"not enough memory ({text or 'none left'})" if isinstance(error, MemoryError) else text


def one_line(text: str, room: int = 290) -> str:
    """A text as one line; if it has more than `room` characters, its middle is cut out, between words if possible."""
    text = _escaped(text[:10_000] if len(text) < 20_000 else f"{text[:10_000]} {text[-10_000:]}")
    if len(text) <= room:
        return text
    start, end = text[: room * 2 // 3], text[-(room - room * 2 // 3 - 5) :]
    start, end = start[: max(start.rfind(" "), len(start) - 40)], end[max(end.find(" ", 0, 40), 0) :]
    return f"{start.rstrip()} ... {end.lstrip()}"


def _escaped(text: str) -> str:
    """The text with single spaces, and with an escape such as \\x1b for each character that cannot be printed."""
    text = " ".join(text.split())
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _seems_a_number(value: Any) -> bool:
    """Whether a text reads like a number: it then needs quotes."""
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False
