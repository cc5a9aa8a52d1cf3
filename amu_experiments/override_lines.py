"""The overrides of a command line, one by one: what Hydra reads, and one line for each mistake."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from amu_experiments.conf_files import GROUPS
from amu_experiments.options import ConfigurationError, format_value

LAUNCHER = ("hydra/launcher", "hydra.launcher.")
"""The keys of Hydra that a user can set: how the jobs of a sweep are started."""

TEXTS = ("results_dir", "task.path", "task.name")
"""Keys whose values are strings with any characters."""

GRAMMAR = re.compile(r"[\w/\-\\+.$%*@?|:\s]*", re.ASCII)
"""Values that Hydra reads without quotes."""

LONGEST = 20_000
"""Maximum number of characters in an override; Hydra's parser takes a second for this many."""

MOST_JOBS = 100_000
"""Maximum number of runs in a sweep."""


def jobs_of(overrides: Sequence[str], sweep: bool) -> list[list[str]]:
    """The overrides of each run of a command: one run, or every combination of a sweep.

    Raises ConfigurationError for an override that Hydra cannot read, and for a sweep without runs or with too many.
    """
    parsed = parse(quoted(overrides))
    for override in parsed:
        if override.is_interval_sweep():
            raise ConfigurationError(f"{override.input_line}: sweep over single values, 1,2,5 or range(0,30,10)")
        if override.is_sweep_override() and not sweep:
            raise ConfigurationError(f"{override.input_line}: several values are a sweep; add -m")
    if (count := math.prod(map(_alternatives, parsed))) > MOST_JOBS:
        raise ConfigurationError(f"a sweep of {format_value(count)} runs; one command starts {MOST_JOBS:,} at most")
    loader = GlobalHydra.instance().config_loader()  # it lists files for glob(*)
    sweeps = [replace(override, config_loader=loader) for override in parsed if override.is_sweep_override()]
    lines = ", ".join(override.input_line for override in sweeps)
    try:
        (combinations,) = BasicSweeper.split_arguments(sweeps, max_batch_size=None)
    except (OmegaConfBaseException, ValueError):
        raise ConfigurationError(f"{lines}: not understood; sweep over single values or over one range") from None
    if not combinations:
        raise ConfigurationError(f"{lines}: the sweep is empty, since one of its keys has no value")
    jobs = []
    for values in map(iter, combinations):
        jobs.append([next(values) if each.is_sweep_override() else each.input_line for each in parsed])
    return jobs


def parse(lines: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them; ConfigurationError for one it cannot read or a key given twice."""
    seen: dict[str, str] = {}
    overrides = []
    for line in lines:
        if len(line) > LONGEST:
            raise ConfigurationError(
                f"{format_value(line)}: has {len(line):,} characters; {LONGEST:,} at most are read"
            )
        try:
            override = _parsed(line)
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


@lru_cache(maxsize=10_000)
def _parsed(line: str) -> Override:
    """An override as Hydra reads it. The jobs of a sweep have most of their overrides in common."""
    (override,) = OverridesParser.create().parse_overrides([line])
    return override


def _leaves(key: str, value: object) -> list[str]:
    """The keys that an override sets: its own key, or the keys in its braces."""
    if not (isinstance(value, dict) and value):
        return [key]
    return [leaf for name, inner in value.items() for leaf in _leaves(f"{key}.{name}", inner)]


def _alternatives(override: Override) -> float:
    """The number of values of an override; 1 for a range that never ends, which the sweeper refuses."""
    value = override.value()
    if override.is_range_sweep() and value.step:
        return max(math.ceil((value.stop - value.start) / value.step), 0)
    return len(value.list) if override.is_choice_sweep() and isinstance(value, ChoiceSweep) else 1


def names_a_class(lines: Sequence[str]) -> bool:
    """Whether overrides give model.cell=MODULE.CLASS and no model: such a run has no file of model/."""
    given = {key.lstrip("+"): value for key, _, value in (line.partition("=") for line in lines)}
    return "model" not in given and "." in given.get("model.cell", "")


def forced(overrides: Sequence[str]) -> list[str]:
    """Checked overrides, changed so that Hydra also sets new keys in a group that allows any keys."""
    keys = [line.partition("=")[0].lstrip("+~") for line in overrides]
    own = [key not in GROUPS and not key.startswith(("hydra.", "hydra/")) for key in keys]
    lines = [f"++{line}" if force else line for line, force in zip(quoted(overrides), own, strict=True)]
    return [*lines, "~model"] if names_a_class(overrides) else lines


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
