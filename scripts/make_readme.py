"""Writes the parts of README.md that state results, from the tables in results/paper, so that no number is typed.

    python scripts/make_readme.py

Between the lines <!-- NAME --> and <!-- end of NAME --> stands what the function of that name makes.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from amu_experiments.analysis.tables import Table, sequences_text
from amu_experiments.config import identity
from amu_experiments.overrides import Composer, conf_dir
from amu_experiments.training import prepare

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "results" / "paper"
PAGE = "results/paper/index.html"

CLAIMED = ("embedded_reber", "embedded_reber_legal", "two_sequence_3a", "two_sequence_3c")
"""The experiments that the paper's claims are about, by their names in conf/experiment."""

LAGS = (100, 200, 500, 1000)
LAG_MODELS = ("amu", "amu_full", "lstm", "gru", "rnn", "lstm97")


def main() -> None:
    path = ROOT / "README.md"
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")


def rewritten(readme: str) -> str:
    """The README with every marked part made anew."""
    parts: dict[str, Callable[[], str]] = {
        "claims": claims,
        "comparison": comparison,
        "lags": lags,
        "others": others,
        "historical": historical,
        "speed": speed,
    }
    for name, make in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        readme = re.sub(f"{begin}\n.*?{end}", lambda _, b=begin, e=end, m=make: f"{b}\n{m()}{e}", readme, flags=re.S)
    return readme


# The parts ----------------------------------------------------------------------------------------------------------


def claims() -> str:
    """The verdict on each claim of the paper, and how many findings it rests on."""
    verdicts = pd.read_csv(PAPER / "tables" / "claims.csv")
    text = pd.DataFrame(
        {
            "claim": [f"[{claim}]({PAGE}#claim-{claim})" for claim in verdicts["claim"]],
            "statement": verdicts["statement"],
            "verdict": verdicts["verdict"],
            "for, against, open": [
                f"{row.findings_supported}, {row.findings_contradicted}, "
                f"{row.findings_undecided + row.findings_missing}"
                for row in verdicts.itertuples()
            ],
        }
    )
    return written(
        text, "Verdicts by written rules; the numbers count findings, which the page gives with their tests."
    )


def comparison() -> str:
    """Every model in the experiments that the claims are about: solved, median, p."""
    rows = []
    for model, name in titles("models").items():
        found = [row_of(f"{experiment}/{model}") for experiment in CLAIMED]
        row = {"model": name.removeprefix("the "), "params": "; ".join(unique(each["parameters"] for each in found))}
        for experiment, each in zip(CLAIMED, found, strict=True):
            row[titles("experiments")[experiment].removesuffix(", T = 100")] = f"{shown(each)}{p_text(each)}"
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
    return written(pd.DataFrame(rows), caption)


def lags() -> str:
    """Success and median on the two-sequence problem by lag."""
    rows = []
    for experiment in CLAIMED[2:]:
        for model in LAG_MODELS:
            row = {"problem": experiment.rpartition("_")[2], "model": titles("models")[model].removeprefix("the ")}
            for T in LAGS:
                row[f"T = {T}"] = shown(row_of(f"{experiment}/{model}", f"task.T={T}"))
            rows.append(row)
    return written(pd.DataFrame(rows), "The two-sequence problem over longer lags, with the settings tuned at T = 100.")


def others() -> str:
    """The other experiments, a row each: what was solved, or where that is not the question, how well it was done."""
    rows = []
    for experiment, title in titles("experiments").items():
        if experiment in CLAIMED:
            continue
        configs = {model: config_of(f"{experiment}/{model}") for model in LAG_MODELS}
        found = [solved_row(config) for config in configs.values() if config["training"]["stop"]]
        if any(row["solved"] for row in found):
            values = [shown(row) for row in found]
        else:
            values = [f"{accuracy_row(config)['median']:.3f}" for config in configs.values()]
        names = [titles("models")[model].removeprefix("the ") for model in LAG_MODELS]
        rows.append({"problem": title, **dict(zip(names, values, strict=True))})
    caption = (
        "The other experiments: as above, and where no model met the criterion, or there is none, the median of the "
        f"trials' accuracy on test data. [Tables with intervals and tests]({PAGE})."
    )
    return written(pd.DataFrame(rows), caption)


def historical() -> str:
    """How the LSTM of 1997 compares with its published means, in words."""
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
    """What scripts/benchmark.py measured."""
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
    return written(text, f"{caption} [All that was measured](results/paper/speed.csv).")


# Where numbers come from --------------------------------------------------------------------------------------------


def titles(part: str) -> dict[str, str]:
    """How tuning.yaml calls its models, or its experiments."""
    plan = yaml.safe_load((conf_dir() / "tuning.yaml").read_text())
    return {name: each["title"] for name, each in plan[part].items()}


def row_of(experiment: str, *overrides: str) -> pd.Series:
    """The row that a file of conf/experiment has in the tables, for the criterion that ends its training."""
    return solved_row(config_of(experiment, *overrides))


def config_of(experiment: str, *overrides: str) -> dict:
    composer = shared_composer()
    with composer.ready():
        return prepare(composer.load([f"experiment={experiment}", *overrides]))


def solved_row(config: dict) -> pd.Series:
    return the_row("criteria", config, "criterion", config["training"]["stop"])


def accuracy_row(config: dict) -> pd.Series:
    return the_row("metrics", config, "metric", "test_accuracy")


def the_row(kind: str, config: dict, column: str, value: str) -> pd.Series:
    """The only row of a configuration that has this value in all tables of a kind; LookupError where it is missing."""
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


def p_text(row: pd.Series) -> str:
    p = row["p_holm"]
    return "" if pd.isna(p) else ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"


def unique(values) -> list[str]:
    return list(dict.fromkeys(map(str, values)))


def written(text: pd.DataFrame, caption: str) -> str:
    return Table("", caption, text, text.astype(str)).markdown(marked=True)


if __name__ == "__main__":
    main()
