"""The problems, one module each; `make_task` finds the problem that a configuration names."""

import inspect
from collections.abc import Iterable, Mapping

from amu_experiments.options import ConfigurationError, added_options, check_option, format_value, options_of
from amu_experiments.own_code import KEY, check_code
from amu_experiments.registry import find_class
from amu_experiments.tasks.task import Task


def task_class(problem: str) -> type[Task]:
    """The task in tasks/<problem>.py, the entry point <problem>, or the class MODULE.CLASS; ValueError if missing."""
    return find_class("amu_experiments.tasks", problem, Task)


def make_task(options: Mapping, trials: Iterable[int]) -> Task:
    """The task of the section `task` of a configuration, for the trials with these numbers.

    Raises ValueError, which names the key and the accepted values, for an unknown problem, an unknown or missing
    option, a value that is not allowed, or names of classes that do not fit the outputs.
    """
    options = dict(options)
    problem, digest = options.pop("problem", None), options.pop(KEY, None)
    try:
        kind = task_class(str(problem))
    except ValueError as error:
        raise ValueError(f"task.problem: {error}") from None
    check_code(f"task.problem={problem}", digest, kind, str(problem))
    annotations = options_of(kind, "__init__")
    options = added_options(annotations) | options
    known = {k: v for k, v in inspect.signature(kind.__init__).parameters.items() if k not in ("self", "trials")}
    for name in options:
        if name not in known:
            raise ValueError(f"task.{name} is not an option of {problem}, which has {', '.join(known)}")
    for name, argument in known.items():
        if name not in options and argument.default is argument.empty:
            raise ValueError(f"task.{name} is missing: {problem} needs {', '.join(known)}")
    checked = {name: check_option(f"task.{name}", value, annotations.get(name)) for name, value in options.items()}
    task = kind(trials, **checked)
    if task.classes is not None:
        _check_classes(f"task.problem={problem}", task)
    return task


def _check_classes(key: str, task: Task) -> None:
    """Raise ConfigurationError unless there is one name for each output, and no name twice."""
    advice = "give one name for each output, or classes = None"
    if isinstance(task.classes, str) or not isinstance(task.classes, Iterable):
        raise ConfigurationError(f"{key}: classes is {task.classes!r}: {advice}")
    names = [str(name) for name in task.classes]
    if len(names) != task.output_size:
        raise ConfigurationError(
            f"{key}: classes has {_counted(len(names), 'name')}, and the network has "
            f"{_counted(task.output_size, 'output')}: {advice}"
        )
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise ConfigurationError(f"{key}: classes has the name {format_value(twice[0])} twice: {advice}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def criteria_of(options: Mapping) -> Mapping:
    """The criteria {name: {metric: condition}} that apply with a task's options; ValueError if they are missing.

    For a problem that no longer exists, all entries of `criteria` apply. The same holds for a problem MODULE.CLASS:
    results may come from other people, and reading them must not run code from the current folder.
    """
    problem = str(options.get("problem"))
    try:
        kind = Task if "." in problem else task_class(problem)
    except ValueError:
        kind = Task
    return kind.criteria_of(options)
