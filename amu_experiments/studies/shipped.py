"""Chooses the reading of the auxiliary memory unit for model=amu, from the results of tuning.

    python -m amu_experiments.studies.shipped

The candidates are the readings that tuning.yaml tunes in full, with the truncated gradient. The rule chooses the one
that solves the largest share of its final tuning trials, in the mean over the experiments that have all candidates and
over their trainings. If shares are equal, it chooses the one with the smaller mean of median / budget; a median that is
not reached counts as 1. Test data and the trials of reports play no part.

Reads tuning/<experiment>-<model>.csv in --out; writes readings_shipped.csv, a row for each candidate, the best first,
and its caption as JSON.
"""

import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import pandas as pd

from amu_experiments import files
from amu_experiments.conf_files import conf_dir
from amu_experiments.studies.arguments import option_parser
from amu_experiments.studies.readings import outcome
from amu_experiments.studies.tuning import models_of, tuning_plan

TRUNCATED = {"model.gradient": "truncated"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = option_parser("shipped", __doc__, out="results/paper", results_dir="results/runs", trains=False)
    out = parser.parse_args(arguments).out
    table = candidates(tuning_plan(conf_dir()), out / "tuning")
    caption = (
        "The readings of the auxiliary memory unit that were tuned in full, with the truncated gradient. A cell has "
        "the trials that met the criterion, of the final tuning trials of the best configuration, and their "
        "Kaplan-Meier median in sequences (n.r.: under half). Share: of trials solved, in the mean over the columns. "
        f"model=amu is the first by share, then by median / budget: {table['reading'].iloc[0]}."
    )
    files.write_text(out / "readings_shipped.csv", table.to_csv(index=False, float_format="%.3f"))
    files.write_text(out / "readings_shipped.json", json.dumps({"caption": caption}, indent=1) + "\n")
    print(f"{table.to_string(index=False)}\nWritten to {out}. model=amu is {table['reading'].iloc[0]}.")


def candidates(plan: Mapping, tables: Path) -> pd.DataFrame:
    """A row for each candidate, the best first: its results by experiment, their mean share, and mean time.

    tables: the folder of the tables of tuning.py. Raises SystemExit if one is missing.
    """
    rows: dict[str, dict] = {}
    readings = set(truncated(plan["models"]).values())
    for experiment in plan["experiments"]:
        models = models_of(plan, experiment)
        own = truncated(models)
        for name, reading in own.items() if set(own.values()) == readings else ():
            training = models[name].get("training")
            column = f"{experiment} {training}" if training else experiment
            rows.setdefault(reading, {})[column] = best_final(tables / f"{experiment}-{name}.csv")
    found = []
    for reading, finals in rows.items():
        # Fractions: rounding must not decide between equal shares.
        shares = [Fraction(int(final["solved"]), int(final["trials"])) for final in finals.values()]
        times = [min(final["median_sequences"] / final["max_sequences"], 1) for final in finals.values()]
        words = {column: outcome(final) for column, final in finals.items()}
        means = {"share": float(sum(shares) / len(shares)), "median / budget": sum(times) / len(times)}
        found.append({"reading": reading} | words | means)
    return pd.DataFrame(found).sort_values(["share", "median / budget"], ascending=[False, True], kind="stable")


def truncated(models: Mapping[str, Mapping]) -> dict[str, str]:
    """By model, the reading from which its settings differ only by the truncated gradient; others are left out."""
    found = {name: model for name, model in models.items() if "reading" in model}
    return {
        name: model["reading"] for name, model in found.items() if model["settings"] == model["options"] | TRUNCATED
    }


def best_final(path: Path) -> dict[str, float]:
    """The final trials of the configuration that tuning chose, which is the first of its table."""
    try:
        row = pd.read_csv(path).fillna({"final_median_sequences": math.inf}).iloc[0]
    except FileNotFoundError:
        raise SystemExit(f"{path}: missing; tune this experiment first") from None
    finals = {name.removeprefix("final_"): value for name, value in row.items() if name.startswith("final_")}
    return finals | {"max_sequences": row["max_sequences"]}


if __name__ == "__main__":
    main()
