"""The main result of a comparison for the page: one figure, and a small table that answers which model is better."""

import pandas as pd

from amu_experiments.analysis.comparison import Comparison, condition
from amu_experiments.analysis.picture import Drawn
from amu_experiments.analysis.tables import Table
from amu_experiments.analysis.text import metric_text, printable, sequences_text

ACCURACY = "test_accuracy"
"""The metric of the small table, if the task has it; otherwise its first metric."""

EXPLANATION = (
    "For each experiment you see one figure and one small table. If any trial met the criterion of the experiment, the "
    "figure shows the share of trials that met it, and the table has the number of these trials and the median of "
    "their training sequences until then (Kaplan-Meier; n.r.: not reached). Otherwise figure and table show a metric. "
    "p: probability of a difference from the reference row as large as this one or larger if both rows were equal "
    "(log-rank test of times, Mann-Whitney test of metrics, Holm's correction). "
    "Open the section below a figure for intervals, parameters, other criteria and other metrics."
)
"""How to read figure and table, once for all comparisons."""


def decided_by_criterion(comparison: Comparison) -> bool:
    """Whether any trial met the main criterion, which ends trials; if not, a metric says which model is better."""
    if not comparison.criteria:
        return False
    criterion, rows = comparison.stop, range(len(comparison.results))
    return any(comparison.times(row, criterion)[1].any() for row in rows)


def main_picture(comparison: Comparison, pictures: list[Drawn]) -> Drawn | None:
    """The share of trials solved, or the metric on validation data; None without pictures."""
    # The first picture of a task with criteria is the share solved; the next one is the metric.
    place = int(bool(comparison.criteria) and not decided_by_criterion(comparison))
    return pictures[place] if len(pictures) > place else None


def main_table(comparison: Comparison, tables: list[Table]) -> Table | None:
    """The main result and p of each row; None if the comparison has no table of criteria or metrics.

    Args:
        comparison: the comparison.
        tables: its tables, from `tables.tables`.
    """
    found = {table.name.removeprefix(f"{comparison.name}-"): table for table in tables}
    if "criteria" in found and (decided_by_criterion(comparison) or "metrics" not in found):
        return _by_criterion(comparison, found["criteria"])
    return _by_metric(comparison, found["metrics"]) if "metrics" in found else None


def _by_criterion(comparison: Comparison, table: Table) -> Table:
    criterion = comparison.stop
    numbers = table.numbers[table.numbers["criterion"] == criterion]
    text = pd.DataFrame(
        {
            "model": numbers["model"],
            "solved": [f"{row.solved}/{row.trials}" for row in numbers.itertuples()],
            "median": [sequences_text(median).replace("not reached", "n.r.") for median in numbers["median_sequences"]],
            **_p(table, numbers),
        }
    )
    return Table(f"{comparison.name}-main", f"Criterion {condition(comparison.task, criterion)}", numbers, text)


def _by_metric(comparison: Comparison, table: Table) -> Table:
    metrics = table.numbers["metric"]
    metric = ACCURACY if (metrics == ACCURACY).any() else metrics.iloc[0]
    numbers = table.numbers[metrics == metric]
    text = pd.DataFrame(
        {
            "model": numbers["model"],
            "n": numbers["trials"].map(str),
            "median": numbers["median"].map(metric_text),
            **_p(table, numbers),
        }
    )
    words = printable(metric.removeprefix("test_").replace("_", " "))
    return Table(f"{comparison.name}-main", f"{words.capitalize()} on test data", numbers, text)


def _p(table: Table, rows: pd.DataFrame) -> dict[str, pd.Series]:
    """The column p; nothing for a table without tests."""
    return {"p": table.text.loc[rows.index, "p (Holm)"]} if "p (Holm)" in table.text else {}
