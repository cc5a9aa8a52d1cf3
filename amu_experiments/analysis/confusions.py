"""The table of a comparison's confusion matrices on test data."""

import pandas as pd

from amu_experiments.analysis.comparison import Comparison
from amu_experiments.analysis.labels import natural
from amu_experiments.analysis.tables import Table
from amu_experiments.analysis.text import printable

MOST_CLASSES = 12
"""With more classes, readers get a list of the most frequent confusions; the CSV has the matrices."""

MOST_PAIRS = 10
"""Maximum number of confusions in this list, for each row of the comparison."""


def confusion_table(comparison: Comparison, confusions: dict[str, pd.DataFrame]) -> Table | None:
    """The matrices of all rows, each the sum over its trials; None if no row has one.

    confusions: by identity, as from `store.read_confusions`.
    """
    parts = []
    for row, result in enumerate(comparison.results):
        if (table := confusions.get(result.identity)) is not None and len(table):
            summed = table.groupby(["true_class", "answered_class"], as_index=False)["answers"].sum()
            summed["share"] = summed["answers"] / summed.groupby("true_class")["answers"].transform("sum")
            named = {"model": comparison.labels[row], "identity": result.identity, "trials": table["trial"].nunique()}
            parts.append(summed.assign(**named))
    if not parts:
        return None
    numbers = pd.concat(parts, ignore_index=True)
    numbers = numbers[["model", "identity", "trials", "true_class", "answered_class", "answers", "share"]]
    classes = sorted({*numbers["true_class"], *numbers["answered_class"]}, key=lambda name: natural(name.lower()))
    caption = (
        f"{comparison.name}: confusion matrices on test data, summed over n trials. Diverged trials have none, "
        "and neither have trials of older releases, which did not store any. "
    )
    if len(classes) <= MOST_CLASSES:
        text = _matrices(numbers, classes)
        caption += "Each number is the percentage of a true class that got this answer; empty: none did."
    else:
        text = _pairs(numbers)
        caption += (
            f"With {len(classes)} classes, only the {MOST_PAIRS} most frequent confusions of each model are listed, as "
            "the percentage of the true class that got this answer. The CSV file has all numbers."
        )
    return Table(f"{comparison.name}-confusion", caption, numbers, text, words=("true class", "answer"))


def _matrices(numbers: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """A row for each model and true class, a column for each answered class."""
    wide = numbers.pivot(index=["model", "true_class"], columns="answered_class", values="share")
    trials = numbers.groupby("model")["trials"].first()
    rows = []
    for model in numbers["model"].unique():
        for true in classes:
            if (model, true) in wide.index:
                shares = wide.loc[model, true].reindex(classes)
                rows.append([model, str(trials[model]), printable(true), *map(_percentage, shares)])
    return pd.DataFrame(rows, columns=["model", "n", "true class", *_columns(classes)])


def _columns(classes: list[str]) -> list[str]:
    """A column for each class; those whose names look alike get a number."""
    shown = [printable(name) for name in classes]
    return [f"as {name}" + f" ({place})" * (shown.count(name) > 1) for place, name in enumerate(shown, start=1)]


def _pairs(numbers: pd.DataFrame) -> pd.DataFrame:
    """The most frequent confusions of each model."""
    wrong = numbers[numbers["true_class"] != numbers["answered_class"]]
    ranked = wrong.sort_values(["share", "true_class", "answered_class"], ascending=[False, True, True])
    rows = []
    for model, trials in numbers.groupby("model", sort=False)["trials"].first().items():
        most = ranked[ranked["model"] == model].head(MOST_PAIRS)
        pairs = most[["true_class", "answered_class", "share"]].to_numpy().tolist()
        listed = [[printable(true), printable(answer), _percentage(share)] for true, answer, share in pairs]
        rows += [[model, str(trials), *pair] for pair in listed or [["none confused", "", ""]]]
    return pd.DataFrame(rows, columns=["model", "n", "true class", "answer", "%"])


def _percentage(share: float) -> str:
    """A percentage with one decimal; "<0.1" or ">99.9" if it rounds to 0 or 100 but is not; "" for NaN."""
    if pd.isna(share):
        return ""
    text = f"{share:.1%}".rstrip("%")
    if text == "0.0":
        return "<0.1"
    return ">99.9" if text == "100.0" and share < 1 else text
