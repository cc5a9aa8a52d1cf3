"""From overrides, as they are written on a command line, to checked configurations.

Hydra composes the files in conf/; here its errors, and what it would let pass, become one line each. Unknown keys,
wrong types and wrong values of the keys that every run has are found before numpy or torch is imported.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from amu_experiments import numerics
from amu_experiments.config import RULES, check, check_options, check_stop, did_you_mean, nearest, plain
from amu_experiments.options import ConfigurationError, options_of, refusal, spell

GROUPS = ("task", "model", "experiment")

LAUNCHER = ("hydra/launcher", "hydra.launcher.")
"""Of Hydra's own keys those that are left to the user: how the jobs of a sweep are started."""

HEADED = "the first line of a task's file is # @package _global_, and its keys stand under task:"


def conf_dir() -> Path:
    """The folder of the yaml files: beside the modules where installed, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def choices(group: str, config_dir: str | None = None) -> dict[str, Path]:
    """The files of a group by the names that choose them, in conf/ and in config_dir, a folder like it."""
    folders = [Path(folder) / group for folder in (conf_dir(), config_dir) if folder is not None]
    files = [(folder, file) for folder in folders for file in sorted(folder.rglob("*.yaml")) if file.is_file()]
    return {file.relative_to(folder).with_suffix("").as_posix(): file for folder, file in files}


def experiments(config_dir: str | None = None) -> list[str]:
    """The names of all experiments. A file base.yaml is what the experiments of its folder have in common."""
    return [name for name in choices("experiment", config_dir) if PurePosixPath(name).name != "base"]


def description(file: Path) -> str:
    """The first sentence of a yaml file's comments."""
    text = file.read_text(encoding="utf-8", errors="replace")
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    text = " ".join(comment for comment in comments if not comment.startswith("@package"))
    return re.split(r"[.:] (?=[A-Z])|:? {3,}|:? (?=task=)", text)[0].rstrip(".:")


def load(*overrides: str) -> dict:
    """The checked configuration of one run: `load("task=adding", "seed=5")`; ConfigurationError if wrong."""
    (config,) = load_all(overrides)
    return config


def load_all(
    overrides: Sequence[str], sweep: bool = False, config_dir: str | None = None, show: bool = False
) -> list[dict]:
    """The checked configurations of all runs that a command asks for: one, or every combination of a sweep.

    show: nothing is trained. The rules in the classes of cell and task, which take torch's import, are then left out
        unless an override sets an option of theirs.

    Raises ConfigurationError, for the first thing that is wrong in any of them.
    """
    composer = Composer(config_dir)
    with composer.ready():
        parsed = _parse(overrides)
        for override in parsed:
            if override.is_interval_sweep():
                raise ConfigurationError(f"{override.input_line}: sweep over single values, 1,2,5 or range(0,30,10)")
            if override.is_sweep_override() and not sweep:
                raise ConfigurationError(f"{override.input_line}: several values are a sweep; add -m")
        try:
            (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        except (OmegaConfBaseException, ValueError):
            sweeps = ", ".join(override.input_line for override in parsed if override.is_sweep_override())
            raise ConfigurationError(f"{sweeps}: not understood; sweep over single values or over one range") from None
        if not jobs:
            sweeps = ", ".join(override.input_line for override in parsed if override.is_sweep_override())
            raise ConfigurationError(f"{sweeps}: the sweep is empty, since one of its keys has no value")
        loaded = [composer.load_keys(job) for job in jobs]
        own = (key for key in (override.key_or_group for override in parsed) if key.startswith(("model.", "task.")))
        return [config for config, _ in loaded] if show and RULES.keys() >= set(own) else check_by_class(loaded)


def check_by_class(loaded: Sequence[tuple[dict, dict]]) -> list[dict]:
    """The configurations, each given with its reference, with the options of cells and tasks checked by their classes.

    Tasks come first, which are fast to import. Raises ConfigurationError for the first wrong option.
    """
    # Cells and tasks import torch and numba, which then cannot change their instructions any more.
    for config, _ in loaded:
        numerics.fix(config["instructions"])
    from amu_experiments.tasks import task_class

    half_checked = []
    for config, reference in loaded:
        kind = _named("task.problem", task_class, config["task"]["problem"])
        config = check_options(config, reference, "task", options_of(kind, "__init__"))
        # A task that keeps its criteria in its code, not in its yaml, has to check the name itself.
        if "criteria" in config["task"]:
            check_stop(config, kind.criteria_of(config["task"]))
        half_checked.append((config, reference))
    from amu_experiments.cells import cell_class

    configs = []
    for config, reference in half_checked:
        kind = _named("model.cell", cell_class, config["model"]["cell"])
        configs.append(check_options(config, reference, "model", options_of(kind, "__init__", "shapes")))
    return configs


def _named(key: str, find: Callable[[str], type], name: str) -> type:
    """The class of this name; ConfigurationError, with the key, where there is none."""
    try:
        return find(name)
    except ValueError as error:
        raise ConfigurationError(f"{key}: {error}") from None


def forced(overrides: Sequence[str]) -> list[str]:
    """Overrides that are checked, such that Hydra also sets keys that are new in an open group."""
    keys = [line.partition("=")[0].lstrip("+~") for line in overrides]
    own = [key not in GROUPS and not key.startswith(("hydra.", "hydra/")) for key in keys]
    return [f"++{line}" if force else line for line, force in zip(overrides, own, strict=True)]


class Composer:
    """Composes and checks configurations; what the jobs of a sweep have in common is composed once."""

    def __init__(self, config_dir: str | None = None):
        self.config_dir = config_dir
        if config_dir:
            _check_aliases(Path(config_dir))
        self._search = [f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"] if config_dir else []
        self._composed: dict[tuple[str, ...], tuple[DictConfig, dict]] = {}

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Hydra can compose within; where one of its jobs is running it can already."""
        if GlobalHydra.instance().is_initialized():
            yield
        else:
            with initialize_config_dir(str(conf_dir()), job_name="amu-run", version_base="1.3"):
                yield

    def load(self, lines: Sequence[str]) -> dict:
        """The checked configuration that these overrides, none of them a sweep, describe."""
        (config,) = check_by_class([self.load_keys(lines)])
        return config

    def load_keys(self, lines: Sequence[str]) -> tuple[dict, dict]:
        """The configuration, checked but for the rules of its cell's and its task's class, and its reference."""
        overrides = _parse(lines)
        selecting, setting = [], []
        for override in overrides:
            if override.is_hydra_override():
                selecting.append(override.input_line)
            elif override.key_or_group in GROUPS:
                self._check_choice(override)
                selecting.append(f"{override.key_or_group}={override.get_value_element_as_str()}")
            else:
                setting.append(override)
        chosen = [override.key_or_group for override in overrides if override.value() is not None]
        if not {"task", "experiment"}.intersection(chosen):
            raise ConfigurationError("no task is given; write task=NAME (amu-run --help lists the tasks)")
        composed, groups = self._compose(*sorted(selecting))
        composed = composed.copy()
        for override in setting:
            _check_group(composed, override)
            _set(composed, override)
        reference = self.reference(groups["task"], groups["model"])
        config = check(_resolved(composed), reference)
        _check_intent(overrides, config)
        return config, reference

    def reference(self, task: str, model: str) -> dict:
        """Every key that a run of this task and this model has, with its default.

        Each file says so for its own part: a model's yaml which keys `model` has, a task's those of `task`,
        and config.yaml all others. So a key misspelt in a task's `training` is found like any other.
        """
        config, _ = self._compose("~task", f"model={model}")
        with_task, _ = self._compose(f"model={model}", f"task={task}")
        reference = _resolved(config) | {"task": _resolved(with_task)["task"]}
        for group, choice, key in (("model", model, "cell"), ("task", task, "problem")):
            if not isinstance(reference[group], dict) or not reference[group].get(key):
                raise ConfigurationError(
                    f"{group}={choice}: {group}/{choice}.yaml does not set {group}.{key}; "
                    + ("it begins with cell: NAME" if group == "model" else HEADED)
                )
            if not isinstance(reference[group][key], str):
                value = spell(reference[group][key])
                raise ConfigurationError(f"{group}.{key}={value}: {group}/{choice}.yaml must give the name of one")
        criteria = reference["task"].get("criteria", {})
        if not isinstance(criteria, dict):
            raise ConfigurationError(f"task.criteria={spell(criteria)}: task/{task}.yaml must give a group of keys")
        if isinstance(reference["task"].get("task"), dict):
            raise ConfigurationError(f"task={task}: task/{task}.yaml sets task.task; {HEADED}")
        return reference

    def _compose(self, *overrides: str) -> tuple[DictConfig, dict]:
        """What Hydra composes, open to any key, and which file it chose in each group."""
        if overrides not in self._composed:
            try:
                composed = compose("config", [*self._search, *overrides], return_hydra_config=True)
            except Exception as error:
                # A file of the user's own can make Hydra, OmegaConf and the yaml reader stumble in any way.
                chosen = ", ".join(line for line in overrides if not line.startswith("~"))
                known = isinstance(error, HydraException | OmegaConfBaseException | YAMLError) and str(error)
                raise ConfigurationError(_one_line(error) if known else f"{chosen}: {_one_line(error)}") from error
            groups = dict(composed.hydra.runtime.choices)
            OmegaConf.set_struct(composed, False)
            del composed["hydra"]
            self._composed[overrides] = composed, groups
        return self._composed[overrides]

    def _check_choice(self, override: Override) -> None:
        group, name = override.key_or_group, override.value()
        names = choices(group, self.config_dir)
        if name is None and group == "experiment":
            return
        if spell(name) not in names:
            known = ", ".join(names)
            known = f"choose one of {known}" if len(known) <= 150 else "amu-run --help lists them"
            near = did_you_mean(nearest(spell(name), names))
            raise ConfigurationError(f"{group}={spell(name)}: no such {group}; {known}{near}")


MOST_ALIASES = 50
"""Of a yaml file of the user's own: aliases inside each other multiply, and Hydra expands all of them."""


def _check_aliases(folder: Path) -> None:
    """ConfigurationError for a yaml file that repeats parts of itself too often to be expanded."""
    for file in sorted(folder.rglob("*.yaml")):
        try:
            events = yaml.parse(file.read_bytes(), yaml.CSafeLoader)
            aliases = sum(isinstance(event, yaml.AliasEvent) for event in events)
        except (OSError, YAMLError, ValueError, RecursionError):
            continue  # Hydra reports it if the file is used
        if aliases > MOST_ALIASES:
            raise ConfigurationError(f"{file}: {aliases} aliases (*name); at most {MOST_ALIASES} are expanded")


def _parse(lines: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them; ConfigurationError for one it cannot read or a key given twice."""
    loader = GlobalHydra.instance().config_loader()
    seen: dict[str, str] = {}
    overrides = []
    for line in lines:
        try:
            (override,) = OverridesParser.create(loader).parse_overrides([line])
        except HydraException:
            raise ConfigurationError(f"{' '.join(line.split())[:100]}: not understood; {_how_to_write(line)}") from None
        except RecursionError:
            raise ConfigurationError(f"{line[:80]} ...: too many brackets inside each other") from None
        except ValueError:
            raise ConfigurationError(f"{line[:80]} ...: a number with too many digits") from None
        key = override.key_or_group
        if key == "hydra.mode":
            raise ConfigurationError(f"{line}: a sweep is asked for with -m")
        if override.is_hydra_override() and not key.startswith(LAUNCHER):
            raise ConfigurationError(
                f"{line}: of Hydra's keys only {' and '.join(LAUNCHER)}* can be set; results are kept in results_dir, "
                "and --config-dir adds files of your own"
            )
        if override.is_delete():
            raise ConfigurationError(f"{line}: a key cannot be removed, only set, some of them to null")
        if override.package is not None:
            raise ConfigurationError(f"{line}: write {key}={line.partition('=')[2]}")
        if key in seen:
            raise ConfigurationError(f"{seen[key]} and {line}: {key} is given twice")
        seen[key] = line
        overrides.append(override)
    return overrides


def quoted(lines: Sequence[str]) -> list[str]:
    """Overrides with quotes around paths and names that Hydra's grammar cannot read: ~/runs, umlauts, brackets."""
    lines, readable = list(lines), OverridesParser.create()
    for place, line in enumerate(lines):
        key, _, value = line.partition("=")
        if key not in ("results_dir", "task.path", "task.name") or "${" in value:
            continue
        try:
            readable.parse_override(line)
        except (HydraException, ValueError, RecursionError):
            escaped = value.replace("\\", "\\\\").replace("'", "\\'")
            lines[place] = f"{key}='{escaped}'"
    return lines


def _how_to_write(line: str) -> str:
    """What is to be written in the place of an override that Hydra cannot read."""
    numbered = re.match(r"([\w.]+)\.(\d\w*)=(.*)", line)
    if numbered:
        place, name, value = numbered.groups()
        return f'a name that begins with a digit stands in braces, "{place}={{{name}: {value}}}"'
    return """write key=value; quotes around a value are for Hydra, and further ones for the shell, "key='> 0.9'\""""


def _check_group(config: DictConfig, override: Override) -> None:
    """ConfigurationError where a whole group is replaced by a value: its keys would be gone."""
    group = OmegaConf.select(config, override.key_or_group, throw_on_resolution_failure=False)
    if isinstance(group, DictConfig) and not isinstance(override.value(), dict):
        raise refusal(override.key_or_group, override.value(), f"a group of keys ({', '.join(map(str, group))})")


def _set(config: DictConfig, override: Override) -> None:
    """Set a value as Hydra does, but for a key or a type that does not fit too: `check` has more to say about it."""
    value = override.value()
    try:
        OmegaConf.update(config, override.key_or_group, value, merge=isinstance(value, dict))
    except (OmegaConfBaseException, LookupError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{override.input_line}: {_one_line(error)}") from error


def _resolved(config: DictConfig) -> dict:
    try:
        return plain(config)
    except OmegaConfBaseException as error:
        raise ConfigurationError(_one_line(error)) from error


def _check_intent(overrides: Sequence[Override], config: dict) -> None:
    """ConfigurationError for what would work but surely was not meant."""
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


def _one_line(error: Exception) -> str:
    text = " ".join((str(error) or str(error.__cause__ or type(error).__name__)).split())
    if "maximum recursion depth" in text:
        return "a file refers to itself, or to another that refers to it"
    return text if len(text) <= 500 else f"{text[:500]} ..."
