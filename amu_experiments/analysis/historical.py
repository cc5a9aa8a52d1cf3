"""The LSTM of 1997 with the settings of 1997, compared with the numbers published in 1997."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd

from amu_experiments.analysis import statistics
from amu_experiments.analysis.comparison import Comparison, budget, criteria, times_to
from amu_experiments.analysis.tables import Table
from amu_experiments.analysis.text import sequences_text
from amu_experiments.selection import flat
from amu_experiments.store import Result

FACTOR = 2
"""Our mean agrees with a published mean if the larger is at most this factor times the smaller."""

SOLVED = 0.9
"""A mean can agree only if at least this share of trials met the criterion; the lowest published share is 97 %."""

TOO_FEW = "no: too few"

SETTINGS = {"model.cell": "lstm97", "training.optimizer": "sgd"}
"""The LSTM of 1997 with plain gradient descent."""


def historical_runs(results: list[Result], published: list[dict]) -> set[str]:
    """The identities of the results that have a row in `historical_table`."""
    return {
        result.identity
        for entry in published
        for row in entry["rows"]
        for settings in row.get("again", [])
        for result in results
        if _is_of(result, entry, settings)
    }


def historical_table(comparisons: list[Comparison], published: list[dict]) -> Table | None:
    """A row for each pair of a published mean of the LSTM of 1997 and a run that repeats its experiment.

    Args:
        comparisons: all comparisons.
        published: the entries of published.yaml. A row with `again` has a list of settings: first the settings of the
            source, then other settings that were tried. A run must have one of these settings and the
            task settings of the entry.

    Returns:
        The table, or None if there is no such run. A published mean without a run has a row without our numbers.
    """
    numbers = pd.DataFrame([row for entry in published for row in _rows_of(entry, comparisons)])
    if not numbers["trials"].any():
        return None
    rows = numbers.to_dict("records")  # a missing value is NaN
    text = pd.DataFrame(
        {
            "source": numbers["source"].str.rpartition(", ")[2],
            "task": numbers["task"],
            "method": numbers["method"],
            "but with": numbers["but_with"].replace("", "-"),
            "params": [f"{row['parameters_published']}" + _other_parameters(row) for row in rows],
            "criterion": numbers["criterion"],
            "budget here": [_text(row["budget"], sequences_text) for row in rows],
            "published mean": numbers["published_mean"].map(sequences_text),
            "solved here": [_share(row, row["solved"]) if row["trials"] else "not run" for row in rows],
            "solved by weaker test": [_share(row, row["weaker"]) for row in rows],
            "mean here": [_text(row["mean"], sequences_text) for row in rows],
            "range": [_range(row) for row in rows],
            "ratio": [_text(row["ratio"], "{:.3f}".format) for row in rows],
            "agrees": numbers["agrees"],
        }
    )
    weaker = dict.fromkeys(entry["weaker"] for entry in published if "weaker" in entry)
    remarks = {entry["remarks"]: entry["task"]["problem"] for entry in published if "remarks" in entry}
    caption = [
        "The LSTM of 1997 (model=lstm97) with the settings of Hochreiter & Schmidhuber 1997, compared to their means.",
        "But with: settings that differ from the published settings; such a row is about another network.",
        "Mean and range: sequences until the criterion was met, over the trials that met it. Ratio: mean here divided",
        f"by the published mean. Agrees: yes if at least {SOLVED:.0%} met it and the means differ at most by a factor",
        f"of {FACTOR}; in range if at least {SOLVED:.0%} met it and the published mean lies within the range here.",
        "Otherwise, too few met it within the budget, or those that did are faster or slower than published.",
        *(f"Weaker test: {metric} was 0 at an evaluation." for metric in weaker),
        *(f"{problem}: {remark}" for remark, problem in remarks.items()),
    ]
    return Table("lstm97-published", " ".join(caption), numbers, text)


def _rows_of(entry: dict, comparisons: list[Comparison]) -> Iterator[dict]:
    """The rows of one entry of published.yaml: one for each method, settings, run and criterion."""
    for row in entry["rows"]:
        means = {key: value for key, value in row.items() if isinstance(value, int) and key != "params"}
        for settings in row.get("again", []):
            results = [
                (comparison.name, result)
                for comparison in comparisons
                for result in comparison.results
                if _is_of(result, entry, settings)
            ]
            other = [f"{key}={value}" for key, value in settings.items() if row["again"][0].get(key) != value]
            for name, result in results or [(_problem(entry), None)]:
                for criterion, mean in means.items():
                    yield {
                        "source": entry["source"],
                        "task": name,
                        "method": row["method"],
                        "but_with": ", ".join(other),
                        "parameters_published": row["params"],
                        "criterion": criterion,
                        "published_mean": mean,
                    } | _ours(result, criterion, mean, entry.get("weaker"))


def _is_of(result: Result, entry: Mapping, settings: Mapping) -> bool:
    """Whether a result has the task settings of an entry and these settings of a row."""
    own = flat(result.config["task"]).items(), flat(result.config).items()
    return flat(entry["task"]).items() <= own[0] and (SETTINGS | settings).items() <= own[1]


def _ours(result: Result | None, criterion: str, published: float, weaker: str | None) -> dict:
    """The columns with our numbers for a run and a criterion; without a run, "not run".

    weaker: a metric; a trial meets the weaker test if this metric was 0 at an evaluation. None: there is no such test.
    """
    if result is None or criterion not in criteria(result):
        return {"trials": 0, "agrees": "not run"}
    times, solved = times_to(result, criterion, budget(result))
    times, count = times[solved], len(solved)
    ratio = times.mean() / published if len(times) else np.nan
    near = 1 / FACTOR <= ratio <= FACTOR
    if len(times) < SOLVED * count:
        agrees = TOO_FEW
    elif near or times.min() <= published <= times.max():
        agrees = "yes" if near else "in range"
    else:
        agrees = "no: faster" if ratio < 1 else "no: slower"
    share = statistics.success(solved)
    return {
        "parameters": int(result.trials["parameters"].iloc[0]),
        "budget": budget(result),
        "trials": count,
        "solved": len(times),
        "weaker": _met_weaker(result, weaker),
        "solved_share_low": share.low,
        "solved_share_high": share.high,
        "mean": times.mean() if len(times) else np.nan,
        "least": times.min() if len(times) else np.nan,
        "most": times.max() if len(times) else np.nan,
        "ratio": ratio,
        "agrees": agrees,
    }


def _met_weaker(result: Result, metric: str | None) -> float:
    """The number of trials in which a metric was 0 at an evaluation; nan if it was not measured."""
    if metric not in result.history:
        return np.nan
    lowest = result.history.groupby("trial")[metric].min()
    return int((lowest[lowest.index.isin(result.trials["trial"])] == 0).sum())


def _problem(entry: Mapping) -> str:
    task = entry["task"]
    return "-".join(str(value) if isinstance(value, str) else f"{key}{value}" for key, value in task.items())


def _other_parameters(row: Mapping) -> str:
    """Our number of parameters, if it differs from the published number."""
    ours = row["parameters"]
    return "" if np.isnan(ours) or ours == row["parameters_published"] else f" ({ours:.0f} here)"


def _share(row: Mapping, solved: float) -> str:
    return "-" if np.isnan(solved) else f"{solved:.0f}/{row['trials']}"


def _text(value: float, form: Callable[[float], str]) -> str:
    return "-" if np.isnan(value) else form(value)


def _range(row: Mapping) -> str:
    return "-" if np.isnan(row["least"]) else f"{sequences_text(row['least'])} to {sequences_text(row['most'])}"
