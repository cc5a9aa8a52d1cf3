"""From the overrides of a command line to checked configurations.

Hydra composes the files in conf/. Each of its errors becomes one line. Mistakes that Hydra would accept are errors
here, in one line, too. Unknown keys, wrong types, and wrong values of the keys that every run has are found before
numpy or torch is imported.
"""

import codecs
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from amu_experiments import numerics
from amu_experiments.conf_files import GROUPS, check_anchors, choices, conf_dir
from amu_experiments.config import RULES, check, check_options, check_stop, did_you_mean, nearest, plain
from amu_experiments.options import ConfigurationError, format_value, one_line, options_of, refusal

LAUNCHER = ("hydra/launcher", "hydra.launcher.")
"""The keys of Hydra that a user can set: how the jobs of a sweep are started."""

TEXTS = ("results_dir", "task.path", "task.name")
"""Keys whose values are strings with any characters."""

GRAMMAR = re.compile(r"[\w/\-\\+.$%*@?|:\s]*", re.ASCII)
"""Values that Hydra reads without quotes."""

LONGEST = 20_000
"""Maximum number of characters in an override; Hydra's parser takes a second for so many."""

MOST_JOBS = 100_000
"""Maximum number of runs in a sweep."""

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
    composer = Composer(config_dir)
    with composer.ready():
        parsed = parse(quoted(overrides))
        for override in parsed:
            if override.is_interval_sweep():
                raise ConfigurationError(f"{override.input_line}: sweep over single values, 1,2,5 or range(0,30,10)")
            if override.is_sweep_override() and not sweep:
                raise ConfigurationError(f"{override.input_line}: several values are a sweep; add -m")
        if (count := math.prod(map(_alternatives, parsed))) > MOST_JOBS:
            raise ConfigurationError(f"a sweep of {format_value(count)} runs; one command starts {MOST_JOBS:,} at most")
        own_class = names_a_class(overrides)
        common = [override.input_line for override in parsed if not override.is_sweep_override()]
        sweeps = [override for override in parsed if override.is_sweep_override()]
        try:
            (jobs,) = BasicSweeper.split_arguments(sweeps, max_batch_size=None)
        except (OmegaConfBaseException, ValueError):
            lines = ", ".join(override.input_line for override in sweeps)
            raise ConfigurationError(f"{lines}: not understood; sweep over single values or over one range") from None
        if not jobs:
            lines = ", ".join(override.input_line for override in sweeps)
            raise ConfigurationError(f"{lines}: the sweep is empty, since one of its keys has no value")
        loaded = [composer.load_keys([*common, *job], own_class) for job in jobs]
        own = (key for key in (override.key_or_group for override in parsed) if key.startswith(("model.", "task.")))
        return [config for config, _ in loaded] if show and RULES.keys() >= set(own) else check_by_class(loaded)


def names_a_class(lines: Sequence[str]) -> bool:
    """Whether overrides give model.cell=MODULE.CLASS and no model: such a run has no file of model/."""
    given = {key.lstrip("+"): value for key, _, value in (line.partition("=") for line in lines)}
    return "model" not in given and "." in given.get("model.cell", "")


def check_by_class(loaded: Sequence[tuple[dict, dict]]) -> list[dict]:
    """Let the classes of cells and tasks check their options; returns the configurations.

    loaded: each configuration with its reference. Tasks are checked first, because they are fast to import. Raises
        ConfigurationError for the first wrong option.
    """
    # Cells and tasks import torch, which then cannot change its instructions any more.
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


def _alternatives(override: Override) -> float:
    """The number of values of an override; 1 for a range that never ends, which the sweeper refuses."""
    value = override.value()
    if override.is_range_sweep() and value.step:
        return max(math.ceil((value.stop - value.start) / value.step), 0)
    return len(value.list) if override.is_choice_sweep() and isinstance(value, ChoiceSweep) else 1


def forced(overrides: Sequence[str]) -> list[str]:
    """Checked overrides, changed so that Hydra also sets new keys in a group that allows any keys."""
    keys = [line.partition("=")[0].lstrip("+~") for line in overrides]
    own = [key not in GROUPS and not key.startswith(("hydra.", "hydra/")) for key in keys]
    lines = [f"++{line}" if force else line for line, force in zip(quoted(overrides), own, strict=True)]
    return [*lines, "~model"] if names_a_class(overrides) else lines


class Composer:
    """Composes and checks configurations; the common part of a sweep's jobs is composed once."""

    def __init__(self, config_dir: str | None = None):
        self.config_dir = config_dir
        self._search = [f"hydra.searchpath=[{quote(f'file://{Path(config_dir).resolve()}')}]"] if config_dir else []
        self._composed: dict[tuple[str, ...], tuple[DictConfig, dict]] = {}

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
        """The configuration, not yet checked by the classes of its cell and its task, and its reference."""
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
        composed = composed.copy()
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
        without_task, _ = self._compose(*sorted(("~task", choice)))
        with_task, _ = self._compose("~model", f"task={task}")  # one for all models
        reference = _resolved(without_task) | {"task": _resolved(with_task)["task"]}
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

    def _compose(self, *overrides: str) -> tuple[DictConfig, dict]:
        """The configuration that Hydra composes, to which any key can be added, and the file chosen in each group."""
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
            self._composed[overrides] = composed, groups
        return self._composed[overrides]

    def _check_choice(self, override: Override) -> None:
        group, name = override.key_or_group, override.value()
        names = choices(group, self.config_dir)
        if name is None and group == "experiment":
            return
        if format_value(name) not in names:
            known = ", ".join(names)
            known = f"choose one of {known}" if len(known) <= 150 else "amu-run --help lists them"
            near = did_you_mean(nearest(format_value(name), names))
            raise ConfigurationError(f"{group}={format_value(name)}: no such {group}; {known}{near}")
        if names[format_value(name)].read_bytes().startswith(codecs.BOM_UTF8):
            # Hydra would not recognise the first line as a comment.
            raise ConfigurationError(f"{names[format_value(name)]}: begins with a byte order mark; save it without one")


def parse(lines: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them; ConfigurationError for one it cannot read or a key given twice."""
    loader = GlobalHydra.instance().config_loader()
    seen: dict[str, str] = {}
    overrides = []
    for line in lines:
        if len(line) > LONGEST:
            raise ConfigurationError(
                f"{format_value(line)}: has {len(line):,} characters; {LONGEST:,} at most are read"
            )
        try:
            (override,) = OverridesParser.create(loader).parse_overrides([line])
        except (HydraException, ValueError, RecursionError):
            raise ConfigurationError(f"{format_value(line)}: not understood; {_how_to_write(line)}") from None
        key = override.key_or_group
        if not key:
            raise ConfigurationError(f"{format_value(line)}: not understood; {_how_to_write(line)}")
        if key == "hydra.mode":
            raise ConfigurationError(f"{line}: a sweep needs the flag -m")
        if override.is_hydra_override() and (not key.startswith(LAUNCHER) or key.startswith("hydra.launcher._")):
            raise ConfigurationError(
                f"{line}: of Hydra's keys only {' and '.join(LAUNCHER)}* can be set; results go to results_dir, "
                "and --config-dir adds files of your own"
            )
        if override.is_delete():
            raise ConfigurationError(f"{line}: a key cannot be removed, only set, some of them to null")
        if override.package is not None:
            raise ConfigurationError(f"{line}: write {key}={line.partition('=')[2]}")
        for each in _leaves(key, override.value()):
            if each in seen:
                raise ConfigurationError(
                    f"{format_value(seen[each])} and {format_value(line)}: {format_value(each)} is given twice"
                )
            seen[each] = line
        overrides.append(override)
    return overrides


def _leaves(key: str, value: object) -> list[str]:
    """The keys that an override sets: its own key, or the keys in its braces."""
    if not (isinstance(value, dict) and value):
        return [key]
    return [leaf for name, inner in value.items() for leaf in _leaves(f"{key}.{name}", inner)]


def quote(text: str) -> str:
    """The text in quotes, as Hydra reads it: only quotes, and backslashes before them, are escaped."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


def quoted(lines: Sequence[str]) -> list[str]:
    """Overrides with quotes around values that Hydra cannot read without them: ~/runs, résultats, a(b."""
    return [_quoted_value(line) for line in lines]


def _quoted_value(line: str) -> str:
    head, equals, value = line.partition("=")
    if GRAMMAR.fullmatch(value) or not (head and equals) or value.startswith(("'", '"')) or "${" in value:
        return line
    if head.lstrip("+") in TEXTS and "," not in value and not re.fullmatch(r"\[.*\]|\{.*\}|\w+\(.*\)", value):
        return f"{head}={quote(value)}"
    if re.search(r"""[][(){}'"]""", value):
        return line
    parts = [part if GRAMMAR.fullmatch(part) else quote(part) for part in value.split(",")]
    return f"{head}={','.join(parts)}"


def _how_to_write(line: str) -> str:
    """Advice on an override that Hydra cannot read."""
    if re.search(r"\d{4301}", line):
        return "a number has 4,300 digits at most"
    if re.search(r"[(\[{]{50}", line):
        return "it is nested too deeply"
    head, _, value = line.partition("=")
    if head in TEXTS and value and len(line) <= 80:
        return f'write "{head}={quote(value)}"'
    numbered = re.match(r"([\w.]+)\.(\d\w*)=(.*)", line)
    if numbered:
        place, name, value = numbered.groups()
        return f'a name that begins with a digit stands in braces, "{place}={{{name}: {value}}}"'
    return """write key=value; quotes around a value are for Hydra, and further ones for the shell, "key='> 0.9'\""""


def _set(config: DictConfig, override: Override) -> None:
    """Set a value as Hydra does, even if its key or its type is wrong: `check` has the better message."""
    key, value, group = override.key_or_group, override.value(), None
    try:
        # What cannot be resolved will be replaced.
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
    if "maximum recursion depth" in text:
        return "a file refers to itself, or to another that refers to it, or is nested too deeply"
    return one_line(text)
