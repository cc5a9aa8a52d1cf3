"""Writes the results in README.md from the tables in results/paper.

    python scripts/make_readme.py

The function NAME writes the part between the lines <!-- NAME --> and <!-- end of NAME -->.
"""

import re
from functools import cache
from pathlib import Path

import pandas as pd

from amu_experiments.analysis.tables import Table
from amu_experiments.analysis.text import p_text, sequences_text
from amu_experiments.analysis.verdicts import readings_text, summary, verdicts_by_case
from amu_experiments.config import identity
from amu_experiments.overrides import Composer, conf_dir, description
from amu_experiments.plan import prepare
from amu_experiments.studies.tuning import read_plan

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "results" / "paper"
PAGE = "results/paper/index.html"

CLAIMED = ("embedded_reber", "embedded_reber_legal", "two_sequence_3a", "two_sequence_3c")
"""The experiments that test the paper's claims, by their names in conf/experiment."""

LAGS = (100, 200, 500, 1000)


def main() -> None:
    path = ROOT / "README.md"
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")


def rewritten(readme: str) -> str:
    """The README with every marked part written again."""
    for part in (claims, comparison, lags, others, historical, speed):
        begin, end = f"<!-- {part.__name__} -->", f"<!-- end of {part.__name__} -->"
        written = f"{begin}\n{part()}{end}"
        readme = re.sub(f"{begin}\n.*?{end}", lambda _, text=written: text, readme, flags=re.S)
    return readme


# The parts ----------------------------------------------------------------------------------------------------------


def claims() -> str:
    """The verdict on each claim of the paper, in a column for each case."""
    verdicts = pd.read_csv(PAPER / "tables" / "claims.csv")
    text = verdicts_by_case(verdicts)
    text["claim"] = [f"[{claim}]({PAGE}#claim-{claim})" for claim in text["claim"]]
    caption = " ".join([*summary(verdicts)[1:], readings_text(verdicts)])
    return Table("", caption, text, text, words=tuple(text)).markdown(marked=True)


def comparison() -> str:
    """Every model in the experiments that test the claims: solved, median, p."""
    rows = []
    for model, name in model_names().items():
        found = [row_of(f"{experiment}/{model}") for experiment in CLAIMED]
        row = {"model": name, "params": "; ".join(unique(each["parameters"] for each in found))}
        for experiment, each in zip(CLAIMED, found, strict=True):
            row[title(experiment).removesuffix(", T = 100")] = f"{shown(each)}{p_of(each)}"
        rows.append(row)
    references = [row_of(f"{experiment}/amu") for experiment in CLAIMED]
    caps = [f"{config_of(f'{experiment}/amu')['training']['max_sequences']:,}" for experiment in CLAIMED]
    caption = (
        f"Trials that met the criterion ({', '.join(unique(row['criterion'] for row in references))}) of all trials, "
        "the Kaplan-Meier median of the sequences until then (n.r.: not reached) and p of the log-rank test against "
        "the first row, Holm-corrected for the tests of a column (for a claim, for all of its tests). At most "
        f"{', '.join(unique(caps))} sequences, T = 100. Learning rate and one more setting of each model were tuned "
        f"with equal numbers of configurations, on other trials. [All experiments]({PAGE})."
    )
    return markdown(pd.DataFrame(rows), caption)


def lags() -> str:
    """Success and median on the two-sequence problem by lag."""
    rows = []
    for experiment in CLAIMED[2:]:
        for model in common_models():
            row = {"problem": experiment.rpartition("_")[2], "model": model_names()[model]}
            for T in LAGS:
                row[f"T = {T}"] = shown(row_of(f"{experiment}/{model}", f"task.T={T}"))
            rows.append(row)
    return markdown(
        pd.DataFrame(rows), "The two-sequence problem over longer lags, with the settings tuned at T = 100."
    )


def others() -> str:
    """A row for each other experiment: the trials solved, or if no model solved any, the accuracy."""
    rows = []
    models = common_models()
    for experiment in plan()["experiments"]:
        if experiment in CLAIMED:
            continue
        configs = [config_of(f"{experiment}/{model}") for model in models]
        found = [solved_row(config) for config in configs if config["training"]["stop"]]
        if any(row["solved"] for row in found):
            values = [shown(row) for row in found]
        else:
            values = [f"{accuracy_row(config)['median']:.3f}" for config in configs]
        names = [model_names()[model] for model in models]
        rows.append({"problem": title(experiment), **dict(zip(names, values, strict=True))})
    caption = (
        "The other experiments: as above, and where no model met the criterion, or there is none, the median of the "
        f"trials' accuracy on test data. [Tables with intervals and tests]({PAGE})."
    )
    return markdown(pd.DataFrame(rows), caption)


def historical() -> str:
    """The LSTM of 1997 beside its published means, in words."""
    table = pd.read_csv(PAPER / "tables" / "lstm97-published.csv")
    run = table[(table["trials"] > 0) & table["but_with"].isna()]
    counts = run["agrees"].value_counts().reindex(["yes", "in range", "no"], fill_value=0)
    failed = ", ".join(unique(run.loc[run["agrees"] == "no", "task"].str.partition("-")[0].str.replace("_", " ")))
    return (
        "The one network here with published numbers, the [LSTM of 1997 with its settings of 1997]"
        f"(results/paper/tables/lstm97-published.md), meets {counts['yes']} of {len(run)} published means that were "
        f"run again within a factor of two with at least nine of ten trials solved; {counts['in range']} more lie "
        "within the range of its trials; "
        f"{counts['no']} are not met ({failed}).\n"
    )


def speed() -> str:
    """The measurements of scripts/benchmark.py."""
    measured = pd.read_csv(PAPER / "speed.csv")
    ratios = measured[measured["meaning"].eq("times faster")]
    text = pd.DataFrame(
        {
            "training step": ratios["what"],
            "microseconds a sequence": ratios["value"].map("{:.1f}".format),
            "against": ratios["against"],
            "times as fast": [f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}" for ratio in ratios["ratio"]],
        }
    )
    words = {"ns/step": "time", "byte/step": "memory"}
    others = [
        f"{row.what}: {row.ratio:.2f} times the {words.get(row.unit, row.unit)} per step that {row.against} takes."
        if row.against == row.against
        else f"{row.what}: {row.value:.2f} {row.unit}."
        for row in measured.itertuples()
        if row.unit == "s" or row.meaning == "times as much per step"
    ]
    caption = f"{' '.join(others)} Medians, all in one run on {measured['machine'][0]}, {measured['software'][0]}."
    return markdown(text, f"{caption} [All that was measured](results/paper/speed.csv).")


# Sources ----------------------------------------------------------------------------------------------------------


@cache
def plan() -> dict:
    return read_plan(conf_dir())


def model_names() -> dict[str, str]:
    """The names of the models in tables, by their names in tuning.yaml."""
    return {name: model["title"].removeprefix("the ") for name, model in plan()["models"].items()}


def common_models() -> list[str]:
    """The models that every experiment has."""
    return [name for name, model in plan()["models"].items() if not model.get("on_request")]


def title(experiment: str) -> str:
    """The title of an experiment: the first sentence of its base.yaml."""
    return description(conf_dir() / "experiment" / experiment / "base.yaml")


def row_of(experiment: str, *overrides: str) -> pd.Series:
    """The row of an experiment in the tables, for the criterion that ends its trials."""
    return solved_row(config_of(experiment, *overrides))


def config_of(experiment: str, *overrides: str) -> dict:
    composer = shared_composer()
    with composer.ready():
        return prepare(composer.load([f"experiment={experiment}", *overrides])).config


def solved_row(config: dict) -> pd.Series:
    return the_row("criteria", config, "criterion", config["training"]["stop"])


def accuracy_row(config: dict) -> pd.Series:
    return the_row("metrics", config, "metric", "test_accuracy")


def the_row(kind: str, config: dict, column: str, value: str) -> pd.Series:
    """The one row of a configuration with this value, in all tables of a kind. Raises LookupError if it is missing."""
    rows = tables(kind)
    rows = rows[rows["identity"].eq(identity(config)) & rows[column].eq(value)]
    if len(rows) != 1:
        raise LookupError(f"{len(rows)} rows for {value} of {identity(config)} in {PAPER / 'tables'}/*-{kind}.csv")
    return rows.iloc[0]


@cache
def shared_composer() -> Composer:
    return Composer()


@cache
def tables(kind: str) -> pd.DataFrame:
    paths = (PAPER / "tables").glob(f"*-{kind}.csv")
    return pd.concat([pd.read_csv(path, dtype={"identity": str}) for path in paths])


# As text ------------------------------------------------------------------------------------------------------------


def shown(row: pd.Series) -> str:
    median = sequences_text(row["median_sequences"]).replace("not reached", "n.r.")
    return f"{row['solved']}/{row['trials']}, {median}"


def p_of(row: pd.Series) -> str:
    return "" if pd.isna(row["p_holm"]) else f", {p_text(row['p_holm'], 'p')}"


def unique(values) -> list[str]:
    return list(dict.fromkeys(map(str, values)))


def markdown(text: pd.DataFrame, caption: str) -> str:
    return Table("", caption, text, text.astype(str)).markdown(marked=True)


if __name__ == "__main__":
    main()
