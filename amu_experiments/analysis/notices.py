"""Notes for readers of a report before they compare rows: a line for each kind of difference between rows."""

import json
from collections.abc import Iterable
from pathlib import Path

from amu_experiments.analysis.comparison import Comparison
from amu_experiments.files import UnusableError
from amu_experiments.store import Result

MOST_LABELS = 4
"""Maximum number of rows that a line names."""

UNKNOWN = "not recorded"
"""The text for stacks whose provenance is missing, or does not state version and instructions of the arithmetic."""


def notices(
    comparisons: list[Comparison],
    made: list[tuple[Result, Path, dict | None]],
    left_out: Iterable[UnusableError | OSError],
) -> list[str]:
    """Lines about rows with different budgets, different trials, missing stacks, missing histories or mixed numerics.

    Args:
        comparisons: all comparisons of the report.
        made: every stack with its provenance, from `store.read_provenances`.
        left_out: an error for each file or folder that was not used.
    """
    paths = [Path(getattr(error, "path", None) or error.filename or "") for error in left_out]
    lines = []
    for comparison in comparisons:
        lines += [*_different_budgets(comparison), *_different_trials(comparison)]
        lines += [*_missing_stacks(comparison, paths), *_missing_histories(comparison)]
    return lines + _mixed_numerics(made)


def _different_budgets(comparison: Comparison) -> list[str]:
    rows: dict[int, list[str]] = {}
    for label, result in zip(comparison.labels, comparison.results, strict=True):
        rows.setdefault(result.config["training"]["max_sequences"], []).append(label)
    if len(rows) == 1:
        return []
    groups = "; ".join(f"{most:,} in {_few(rows[most])}" for most in sorted(rows))
    usual = max(rows, key=lambda most: (len(rows[most]), most))
    return [
        f"{comparison.name}: each family of tests mixes budgets of sequences: {groups}; to report one budget, add "
        f'--where "training.max_sequences == {usual}"'
    ]


def _different_trials(comparison: Comparison) -> list[str]:
    rows: dict[tuple, list[str]] = {}
    for label, result in zip(comparison.labels, comparison.results, strict=True):
        rows.setdefault(tuple(result.trials["trial"]), []).append(label)
    if len(rows) == 1:
        return []
    groups = "; ".join(f"{_ranges(trials)} of {_few(labels)}" for trials, labels in rows.items())
    return [f"{comparison.name}: rows have different trials: {groups}"]


def _few(labels: list[str]) -> str:
    """These labels, or their number if there are many."""
    return ", ".join(labels) if len(labels) <= MOST_LABELS else f"{len(labels)} rows"


def _missing_stacks(comparison: Comparison, left_out: list[Path]) -> list[str]:
    most, lines = max(len(result.trials) for result in comparison.results), []
    for label, result in zip(comparison.labels, comparison.results, strict=True):
        inside = [path.relative_to(result.folder).parts for path in left_out if result.folder in path.parents]
        names = sorted({parts[0] for parts in inside if parts[0].startswith("trials-")})
        missing = [name for name in names if result.folder / name not in result.stacks]
        if missing and len(result.trials) < most:
            count = f"{len(result.trials)} trials, another row {most}"
            lines.append(f"{comparison.name}: {label} has {count}: left out {', '.join(missing)}")
    return lines


def _missing_histories(comparison: Comparison) -> list[str]:
    lines = []
    for label, result in zip(comparison.labels, comparison.results, strict=True):
        # A trial can diverge before its first evaluation.
        trials = result.trials.loc[result.trials["status"] != "diverged", "trial"]
        missing = trials[~trials.isin(result.history["trial"])]
        if len(missing):
            lines.append(f"{comparison.name}: {label} has no history of trial {_ranges(missing)}: not in its curves")
    return lines


def _mixed_numerics(made: list[tuple[Result, Path, dict | None]]) -> list[str]:
    kinds: dict[Path, dict[str, list[str]]] = {}
    for result, stack, provenance in made:
        kinds.setdefault(result.folder, {}).setdefault(_numerics(provenance), []).append(stack.name)
    return [
        f"{'/'.join(folder.parts[-3:])} mixes numerics: "
        + "; ".join(f"{kind} in {', '.join(stacks)}" for kind, stacks in of_folder.items())
        for folder, of_folder in kinds.items()
        if len(of_folder) > 1
    ]


def _numerics(provenance: dict | None) -> str:
    numerics = (provenance or {}).get("numerics")
    if not numerics:
        return UNKNOWN
    return ", ".join(f"{name} {_value(value)}" for name, value in sorted(numerics.items()))


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _ranges(trials: Iterable[int]) -> str:
    """Ascending numbers as ranges: "0-9, 12"."""
    ranges: list[list[int]] = []
    for trial in trials:
        if ranges and ranges[-1][1] == trial - 1:
            ranges[-1][1] = trial
        else:
            ranges.append([trial, trial])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
