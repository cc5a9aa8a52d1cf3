"""The table of lags: in each case, the AMU on the two-sequence problem beside its rivals, with tests."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from amu_experiments.analysis import statistics
from amu_experiments.analysis.cases import Case, Row, case_name
from amu_experiments.analysis.claims import CLASSIFICATION, RIVALS
from amu_experiments.analysis.comparison import Comparison
from amu_experiments.analysis.evidence import Results, race, rivals_of, rows_by_lag
from amu_experiments.analysis.tables import Table
from amu_experiments.analysis.text import outcome_text, p_text
from amu_experiments.analysis.verdicts import SIGNIFICANT

TESTED = (
    "p: two-sided log-rank test of the AMU against this rival, Holm-corrected for both problems, all lags and all "
    f"cases of this table. If p < {SIGNIFICANT}, the AMU is ahead or behind."
)

NAMES = {"noise_free": "3a", "noisy_target": "3c"}
"""The problems by the names that Hochreiter & Schmidhuber 1997 gave them."""

CAPTION = (
    "The AMU with the truncated gradient, in each case, on the two-sequence problems 3a (noise-free) and 3c (noisy "
    "targets), beside the LSTM, the GRU and the RNN with the same training. Each entry: the trials that met the stop "
    "criterion, of all trials, and the Kaplan-Meier median of the training sequences until then (n.r.: not reached). "
    f"{TESTED}"
)


def lags_table(comparisons: list[Comparison], cases: Iterable[Case]) -> Table | None:
    """A row for each problem, lag and case with runs of the AMU; None if there are none."""
    rows = list(_rows(Results(comparisons, {}), list(cases)))
    if not rows:
        return None
    numbers, tests = pd.DataFrame(rows), [f"p_{cell}" for cell in RIVALS]
    p_values = numbers[tests].to_numpy(dtype=float, copy=True)
    p_values[~np.isnan(p_values)] = statistics.holm(p_values[~np.isnan(p_values)])
    numbers[tests] = p_values
    return Table("claims-lags", CAPTION, numbers, lags_text(numbers), words=("problem", "case"))


def lags_text(numbers: pd.DataFrame) -> pd.DataFrame:
    """The table for readers, from its numbers."""
    rows = numbers.to_dict("records")
    return pd.DataFrame(
        {
            "problem": numbers["problem"].map(NAMES),
            "T": numbers["T"].map("{:,}".format),
            "case": [case_name(row["reading"], row["training"]) for row in rows],
            "amu": [_outcome(row, "amu") for row in rows],
            **{cell: [_beside(row, cell) for row in rows] for cell in RIVALS},
        }
    )


def _rows(results: Results, cases: list[Case]) -> Iterator[dict]:
    for experiment in CLASSIFICATION:
        by_case = [rows_by_lag(results, experiment, case, RIVALS) for case in cases]
        for T in sorted({T for rows in by_case for T in rows}):
            for case, rows in zip(cases, by_case, strict=True):
                if T in rows:
                    names = {"problem": experiment["variant"], "T": T, "reading": case.reading.name}
                    yield names | {"training": case.training} | _beside_rivals(rows[T])


def _beside_rivals(row: Row) -> dict:
    numbers = _numbers(row, "amu")
    for cell in RIVALS:
        numbers[f"p_{cell}"] = np.nan
        for rival in rivals_of(row, (cell,)):
            test = race("", row, rival)
            numbers |= _numbers(rival, cell) | {f"p_{cell}": test.p, f"ahead_of_{cell}": test.ahead}
    return numbers


def _numbers(row: Row, cell: str) -> dict:
    times, solved = row.times()
    return {
        f"identity_{cell}": row.comparison.results[row.number].identity,
        f"solved_{cell}": int(solved.sum()),
        f"trials_{cell}": len(solved),
        f"median_sequences_{cell}": float(statistics.median_times(times, solved)),
    }


def _outcome(row: Mapping, cell: str) -> str:
    return outcome_text(row[f"solved_{cell}"], row[f"trials_{cell}"], row[f"median_sequences_{cell}"])


def _beside(row: Mapping, cell: str) -> str:
    """A rival's outcome, and the test of the AMU against it; "not run" without the rival."""
    p = row[f"p_{cell}"]
    if np.isnan(p):
        return "not run"
    side = "" if p >= SIGNIFICANT else ", ahead" if row[f"ahead_of_{cell}"] else ", behind"
    return f"{_outcome(row, cell)}; {p_text(p, 'p')}{side}"
