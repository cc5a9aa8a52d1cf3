"""Order and titles of the experiments in this project's report, for the page, report.md and the README.

The order is that of `experiments` in conf/tuning.yaml. The title is the first sentence of a base.yaml in
conf/experiment/.
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from amu_experiments.analysis.comparison import Comparison
from amu_experiments.analysis.labels import leaf
from amu_experiments.analysis.text import setting_text
from amu_experiments.conf_files import conf_dir, description
from amu_experiments.selection import flat


class Experiment(NamedTuple):
    """An experiment of the paper: its name, its title, and its task settings as one level, without `task.`."""

    name: str
    title: str
    settings: dict[str, object]

    def differences(self, comparison: Comparison) -> dict[str, object]:
        """The settings of a comparison's task that the experiment does not have, in the comparison's order.

        Older rows may lack settings, so a missing one is no difference. Neither is `contents`, which identifies data
        that a task makes, unless the data come from files.
        """
        made = {"contents"} if self.settings["problem"] != "time_series" else set()
        own = {key: value for key, value in flat(comparison.task).items() if key not in made}
        return {key: value for key, value in own.items() if key not in self.settings or self.settings[key] != value}


LONG = 10
"""A size is far from that of the experiment if it is at least this many times as large."""


class Heading(NamedTuple):
    """The heading of a comparison and its place among all comparisons, as a sort key.

    between: whether the comparison differs from its experiment in sizes, none of which is far from the experiment's.
    """

    text: str
    place: tuple
    between: bool = False


@functools.cache
def paper_experiments() -> tuple[Experiment, ...]:
    """The experiments in conf/tuning.yaml, in order."""
    folder, names = conf_dir() / "experiment", _read(conf_dir() / "tuning.yaml")["experiments"]
    files = {name: folder / name / "base.yaml" for name in names}
    return tuple(Experiment(name, description(file), _settings(file)) for name, file in files.items())


def heading(comparison: Comparison) -> Heading:
    """The title of a comparison's experiment, with the settings that differ; else the comparison's name, at the end.

    A comparison belongs to an experiment if it differs from it only in sizes, the settings named by one letter, and in
    settings of conf/answers, which depend on the training. If several experiments fit, it belongs to the nearest.
    """
    found, own = [], flat(comparison.task)
    for place, experiment in enumerate(paper_experiments()):
        differences = experiment.differences(comparison)
        of_training = _answers(str(experiment.settings["problem"]))
        answers = {key for settings in of_training.values() for key in settings} & differences.keys()
        sizes = {key: value for key, value in differences.items() if key not in answers}
        if all(len(key) == 1 for key in sizes):
            text = titled(experiment.title, sizes)
            if answers:
                names = [name for name, settings in of_training.items() if settings.items() <= own.items()]
                text = (
                    f"{text}, with the loss and output layer for training={names[0]}"
                    if names
                    else titled(text, differences)
                )
            usual = {key: experiment.settings.get(key) for key in sizes}
            known = [key for key in sizes if isinstance(sizes[key], int) and isinstance(usual[key], int)]
            far = [sizes[key] >= LONG * usual[key] for key in known]
            found.append((len(differences), place, bool(answers), text, bool(far) and not any(far)))
    if not found:
        return Heading(comparison.name, (len(paper_experiments()), False))
    _, place, other_answers, text, between = min(found)
    return Heading(text, (place, other_answers), between)


def titled(title: str, differences: Mapping[str, object]) -> str:
    """A title with other settings: "Adding problem, T = 100" with T: 500 becomes "Adding problem, T = 500"."""
    for key, value in differences.items():
        stated = f"{leaf(key)} = {value if isinstance(value, int) else setting_text(value)}"
        title, count = re.subn(rf"\b{re.escape(key)} = \w+", lambda _, text=stated: text, title)
        title = title if count else f"{title}, {stated}"
    return title


@functools.cache
def _answers(problem: str) -> dict[str, dict[str, object]]:
    """The settings of conf/answers for a problem, by training: loss and output layer."""
    files = sorted((conf_dir() / "answers" / problem).glob("*.yaml"))
    return {file.stem: flat(_read(file)) for file in files}


def _settings(file: Path) -> dict[str, object]:
    """The task settings of a yaml file, on top of those of the tasks that its defaults name."""
    content, settings = _read(file), {}
    for entry in content.get("defaults", []):
        # Other entries are options that a run may choose: a model, or the settings of conf/answers.
        task = entry.get("override /task") if isinstance(entry, Mapping) else entry
        if task is not None and task != "_self_":
            settings |= _settings(conf_dir() / "task" / f"{task}.yaml")
    return settings | flat(content.get("task", {}))


def _read(file: Path) -> dict:
    return yaml.safe_load(file.read_text(encoding="utf-8"))
