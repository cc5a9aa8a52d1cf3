"""From the overrides of a command line to checked configurations.

Hydra composes the files in conf/. Each of its errors becomes one line. Mistakes that Hydra would accept are errors
here, in one line, too. Unknown keys, wrong types, and wrong values of the keys that every run has are found before
numpy or torch is imported.
"""

import codecs
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from amu_experiments import numerics
from amu_experiments.conf_files import GROUPS, check_anchors, choices, conf_dir
from amu_experiments.config import RULES, check, check_options, check_stop, did_you_mean, nearest, plain
from amu_experiments.options import ConfigurationError, format_value, one_line, options_of, refusal
from amu_experiments.override_lines import jobs_of, names_a_class, parse, quote, quoted

OWN = "my/conf"
"""The folder for a user's own configuration files that the README and amu-tune use."""

HEADED = "the first line of a task's file is # @package _global_, and its keys stand under task:"


def load(*overrides: str) -> dict:
    """The checked configuration of one run: `load("task=adding", "seed=5")`; ConfigurationError if wrong."""
    (config,) = load_all(overrides)
    return config


def load_all(
    overrides: Sequence[str], sweep: bool = False, config_dir: str | None = None, show: bool = False
) -> list[dict]:
    """The checked configurations of all runs of a command: one, or every combination of a sweep.

    show: the command only shows the configuration. The rules in the classes of cell and task, which need torch, are
        then skipped, unless an override sets one of their options.

    Raises ConfigurationError for the first mistake in any configuration.
    """
    return [config for _, config in load_jobs(overrides, sweep, config_dir, show)]


def load_jobs(
    overrides: Sequence[str], sweep: bool = False, config_dir: str | None = None, show: bool = False
) -> list[tuple[list[str], dict]]:
    """The overrides of each run of a command with its checked configuration; see `load_all`."""
    composer = Composer(config_dir)
    with composer.ready():
        jobs = jobs_of(overrides, sweep)
        own_class = names_a_class(overrides)  # of all jobs or of none
        loaded = [composer.load_keys(lines, own_class) for lines in jobs]
        own = (key for key in (line.partition("=")[0] for line in jobs[0]) if key.startswith(("model.", "task.")))
        unchecked = show and RULES.keys() >= set(own)
        configs = [config for config, _ in loaded] if unchecked else check_by_class(loaded)
        return list(zip(jobs, configs, strict=True))


def check_by_class(loaded: Sequence[tuple[dict, dict]]) -> list[dict]:
    """Let the classes of cells and tasks check their options; returns the configurations.

    loaded: each configuration with its reference (every allowed key with its default). Tasks are checked first, because
        they are fast to import. Raises ConfigurationError for the first wrong option.
    """
    # Cells and tasks import torch, which chooses its instructions once, at its first operation.
    for config, _ in loaded:
        numerics.fix(config["instructions"])
    from amu_experiments.tasks import task_class

    half_checked = []
    for config, reference in loaded:
        kind = _named("task.problem", task_class, config["task"]["problem"])
        config = check_options(config, reference, "task", options_of(kind, "__init__"))
        # A task with criteria in its code, not in its yaml, must check the name of the criterion itself.
        if "criteria" in config["task"]:
            check_stop(config, kind.criteria_of(config["task"]))
        half_checked.append((config, reference))
    from amu_experiments.cells import cell_class

    configs = []
    for config, reference in half_checked:
        kind = _named("model.cell", cell_class, config["model"]["cell"])
        configs.append(check_options(config, reference, "model", kind.annotations()))
    return configs


def _named(key: str, find: Callable[[str], type], name: str) -> type:
    """The class of this name; ConfigurationError, with the key, if there is none."""
    try:
        return find(name)
    except ValueError as error:
        raise ConfigurationError(f"{key}: {error}") from None


class Composer:
    """Composes and checks configurations; the common part of a sweep's jobs is composed once."""

    def __init__(self, config_dir: str | None = None):
        self.config_dir = config_dir
        self._search = [f"hydra.searchpath=[{quote(f'file://{Path(config_dir).resolve()}')}]"] if config_dir else []
        self._composed: dict[tuple[str, ...], tuple[bytes, dict]] = {}
        self._defaults_of: dict[tuple[str, ...], dict] = {}
        self._choices: dict[str, dict[str, Path]] = {}

    @contextmanager
    def ready(self) -> Iterator[None]:
        """A context in which Hydra can compose. A job of Hydra is such a context already."""
        if GlobalHydra.instance().is_initialized():
            yield
        else:
            for group in GROUPS:
                for file in choices(group, self.config_dir).values():
                    check_anchors(file)
            with initialize_config_dir(str(conf_dir()), job_name="amu-run", version_base="1.3"):
                yield

    def load(self, lines: Sequence[str]) -> dict:
        """The checked configuration of these overrides, none of which is a sweep."""
        (config,) = check_by_class([self.load_keys(quoted(lines), names_a_class(lines))])
        return config

    def load_keys(self, lines: Sequence[str], own_class: bool) -> tuple[dict, dict]:
        """The configuration, not yet checked by the classes of cell and task, and its reference (see `reference`)."""
        overrides = parse(lines)
        selecting, setting = ["~model"] * own_class, []
        for override in overrides:
            if override.is_hydra_override():
                selecting.append(override.input_line)
            elif override.key_or_group in GROUPS and not isinstance(override.value(), dict):
                self._check_choice(override)
                selecting.append(f"{override.key_or_group}={override.get_value_element_as_str()}")
            else:
                setting.append(override)
        chosen = [override.key_or_group for override in overrides if override.value() is not None]
        if not {"task", "experiment"}.intersection(chosen):
            raise ConfigurationError("no task is given; write task=NAME (amu-run --help lists the tasks)")
        composed, groups = self._compose(*sorted(selecting))
        for override in setting:
            _set(composed, override)
        reference = self.reference(groups["task"], groups.get("model"), config := _resolved(composed))
        config = check(config, reference)
        _check_intent(overrides, config)
        return config, reference

    def reference(self, task: str, model: str | None, config: Mapping) -> dict:
        """Every key that a run of this task and this model has, with its default.

        A model's yaml decides the keys of `model`, a task's yaml the keys of `task`, and config.yaml all others. So a
        misspelt key in the section `training` of a task's yaml is found like any other. Without a model, each key of
        `model` in the run's configuration is an option of the class model.cell.
        """
        choice = f"model={model}" if model else "~model"
        without_task = self._defaults(*sorted(("~task", choice)))
        with_task = self._defaults("~model", f"task={task}")  # one for all models
        reference = without_task | {"task": with_task["task"]}
        if model is None:
            cell = str(config["model"]["cell"])
            if "." not in cell:
                raise ConfigurationError(
                    f"model.cell={format_value(cell)}: is no MODULE.CLASS; write model=NAME instead"
                )
            reference["model"] = dict.fromkeys(config["model"]) | reference["model"] | {"cell": cell}
        for group, choice, key in (("model", model, "cell"), ("task", task, "problem")):
            if not isinstance(reference[group], dict) or not reference[group].get(key):
                raise ConfigurationError(
                    f"{group}={choice}: {group}/{choice}.yaml does not set {group}.{key}; "
                    + ("it begins with cell: NAME" if group == "model" else HEADED)
                )
            if not isinstance(reference[group][key], str):
                value = format_value(reference[group][key])
                raise ConfigurationError(f"{group}.{key}={value}: {group}/{choice}.yaml must give the name of one")
        criteria = reference["task"].get("criteria", {})
        if not isinstance(criteria, dict):
            raise ConfigurationError(
                f"task.criteria={format_value(criteria)}: task/{task}.yaml must give a group of keys"
            )
        if isinstance(reference["task"].get("task"), dict):
            raise ConfigurationError(f"task={task}: task/{task}.yaml sets task.task; {HEADED}")
        return reference

    def _defaults(self, *overrides: str) -> dict:
        """The configuration that Hydra composes, as a dict, which callers do not change."""
        if overrides not in self._defaults_of:
            self._defaults_of[overrides] = _resolved(self._compose(*overrides)[0])
        return self._defaults_of[overrides]

    def _compose(self, *overrides: str) -> tuple[DictConfig, dict]:
        """The configuration that Hydra composes, to which any key can be added, and the file chosen in each group.

        Each call makes a new copy from a pickle, which takes a sixth of the time of DictConfig.copy.
        """
        if overrides not in self._composed:
            try:
                composed = compose("config", [*self._search, *overrides], return_hydra_config=True)
            except Exception as error:
                # A user's file can make Hydra, OmegaConf and the yaml reader raise errors of any kind.
                chosen = ", ".join(line for line in overrides if not line.startswith("~"))
                known = isinstance(error, HydraException | OmegaConfBaseException | YAMLError) and str(error)
                raise ConfigurationError(
                    _format_hydra_error(error) if known else f"{chosen}: {_format_hydra_error(error)}"
                ) from error
            try:
                Plugins.instance()._instantiate(composed.hydra.launcher)
            except Exception as error:
                # A plugin can raise errors of any kind.
                raise ConfigurationError(f"hydra/launcher: {_format_hydra_error(error)}") from error
            groups = dict(composed.hydra.runtime.choices)
            OmegaConf.set_struct(composed, False)
            del composed["hydra"]
            self._composed[overrides] = pickle.dumps(composed), groups
        pickled, groups = self._composed[overrides]
        return pickle.loads(pickled), groups

    def _check_choice(self, override: Override) -> None:
        group, name = override.key_or_group, override.value()
        if group not in self._choices:
            self._choices[group] = choices(group, self.config_dir)
        names = self._choices[group]
        if name is None and group == "experiment":
            return
        if format_value(name) not in names:
            known = ", ".join(names)
            known = f"choose one of {known}" if len(known) <= 150 else "amu-run --help lists them"
            near = did_you_mean(nearest(format_value(name), names))
            if self.config_dir is None and Path(OWN, group, f"{name}.yaml").is_file():
                near = f" (it is in {OWN}: add --config-dir {OWN})"
            raise ConfigurationError(f"{group}={format_value(name)}: no such {group}; {known}{near}")
        if names[format_value(name)].read_bytes().startswith(codecs.BOM_UTF8):
            # Hydra would not recognise the first line as a comment.
            raise ConfigurationError(f"{names[format_value(name)]}: begins with a byte order mark; save it without one")


def _set(config: DictConfig, override: Override) -> None:
    """Set a value as Hydra does, even if its key or its type is wrong: `check` has the better message."""
    key, value, group = override.key_or_group, override.value(), None
    try:
        # If the old value cannot be resolved, that is no error: it is replaced below.
        with suppress(OmegaConfBaseException):
            group = None if isinstance(value, dict) else OmegaConf.select(config, key)
        if isinstance(group, DictConfig):
            # `check` comes too late: the next override may set a key of the replaced group.
            raise refusal(key, value, f"a group of keys ({', '.join(map(str, group))})")
        OmegaConf.update(config, key, value, merge=isinstance(value, dict))
    except ConfigurationError:
        raise
    except (OmegaConfBaseException, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{override.input_line}: {_format_hydra_error(error)}") from error


def _resolved(config: DictConfig) -> dict:
    try:
        return plain(config)
    except OmegaConfBaseException as error:
        raise ConfigurationError(_format_hydra_error(error)) from error


def _check_intent(overrides: Sequence[Override], config: dict) -> None:
    """Raise ConfigurationError for overrides that Hydra accepts but that are surely a mistake."""
    for override in overrides:
        if override.value() == {}:
            line = override.input_line
            raise ConfigurationError(f"{line}: changes nothing, since groups are merged; name the keys to change")
        if (override.is_add() or override.is_force_add()) and not override.is_hydra_override():
            line = override.input_line
            raise ConfigurationError(f"{line}: keys cannot be added; write {line.lstrip('+')}")
        units = config["model"]["units"]
        if override.key_or_group == "model.parameters" and override.value() is not None and units is not None:
            raise ConfigurationError(f"{override.input_line}: has no effect beside model.units={units}; give one")


def _format_hydra_error(error: Exception) -> str:
    text = str(error) or str(error.__cause__ or type(error).__name__)
    if where := re.search(r"\s*full_key: (\S*)\s*(object_type=\w+)?\s*$", text):
        text = f"{where[1]}: {text[: where.start()]}" if where[1] else text[: where.start()]
    if "hydra/launcher/submitit_slurm" in text:
        return "launcher=slurm needs hydra-submitit-launcher; pip install hydra-submitit-launcher"
    if "maximum recursion depth" in text:
        return "a file refers to itself, or to another that refers to it, or is nested too deeply"
    return one_line(text)
