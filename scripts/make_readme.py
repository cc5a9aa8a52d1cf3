"""Writes the results in README.md from the tables in results/paper.

    python scripts/make_readme.py

The function NAME writes the part between the lines <!-- NAME --> and <!-- end of NAME -->.
"""

import re
from functools import cache
from pathlib import Path

import pandas as pd

from amu_experiments.analysis.cases import OPTIMIZERS
from amu_experiments.analysis.claims import GENERATION, LONG
from amu_experiments.analysis.evidence import Generated
from amu_experiments.analysis.headings import paper_experiments, titled
from amu_experiments.analysis.historical import FACTOR, SOLVED, TOO_FEW
from amu_experiments.analysis.lags import TESTED, lags_text
from amu_experiments.analysis.reading import shipped_reading
from amu_experiments.analysis.tables import Table
from amu_experiments.analysis.text import listing, metric_text, outcome_text
from amu_experiments.analysis.verdicts import nearest, readings_text, summary, verdicts_by_case
from amu_experiments.conf_files import conf_dir
from amu_experiments.config import identity
from amu_experiments.overrides import Composer
from amu_experiments.plan import prepare
from amu_experiments.studies.tuning import models_of, tuning_plan

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "results" / "paper"
PAGE = "results/paper/index.html"

LAGS = dict.fromkeys(("two_sequence_3a", "two_sequence_3c"), [{}, {"T": 1000}, {"T": 3000}])
"""Experiments with several columns in the tables of readings: the settings that differ."""


def main() -> None:
    path = ROOT / "README.md"
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")


def rewritten(readme: str) -> str:
    """The README with a new text in every marked part."""
    for part in (claims, readings, experiments, generation, historical, speed):
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
    caption = " ".join([*summary(verdicts)[1:], nearest(verdicts), readings_text(verdicts)])
    return Table("", caption, text, text, words=tuple(text)).markdown(marked=True)


def readings() -> str:
    """For each training, the trials solved by the unit in its readings and by its rivals."""
    titles, parts = {experiment.name: experiment.title for experiment in paper_experiments()}, []
    columns = [(name, sizes) for name in judged() for sizes in LAGS.get(name, [{}])]
    for training in plan()["trainings"]:
        parts.append(f"Trained by {OPTIMIZERS[training]}:\n")
        rows: dict[str, dict[str, str]] = {}
        for experiment, sizes in columns:
            title = titled(titles[experiment], sizes)
            for name, model in models_of(plan(), experiment).items():
                if training == model.get("training", next(iter(plan()["trainings"]))):
                    row = solved_rows(config_of(f"{experiment}/{name}", *overrides(sizes)))
                    label = model["title"].removeprefix("the ").removesuffix(f", {training}")
                    rows.setdefault(label, {})[title] = shown(row.iloc[0]) if len(row) else ""
        table = pd.DataFrame([{"model": label} | row for label, row in rows.items()])
        parts.append(markdown(table.loc[:, table.ne("").any()]))
    caption = (
        "Each entry: the trials that met the criterion, of all trials, and the median of the training sequences until "
        "then (n.r.: not reached); empty: not run. At T = 1000 and 3000, models have the settings tuned at T = 100; "
        "T = 3000 is for the three models with the best results at T = 1000.\n"
    )
    lags = pd.read_csv(PAPER / "tables" / "claims-lags.csv")
    far = lags_text(lags[lags["T"] == LONG]).drop(columns="T").rename(columns=model_names() | {"amu": "AMU"})
    return "\n".join(
        [
            *parts,
            caption,
            f"The AMU beside its rivals at T = {LONG}:\n",
            markdown(far, f"{TESTED} [The page]({PAGE}) has all lags, and intervals.", ("problem", "case")),
        ]
    )


def experiments() -> str:
    """A row for each experiment: the trials solved and the median or, if no model solved any, the accuracy."""
    rows, names = [], {model: name.replace(", memory emitted", "") for model, name in model_names().items()}
    others = {*judged(), *(experiment.name for experiment in GENERATION)}
    for experiment in paper_experiments():
        if experiment.name in others:
            continue
        models = models_of(plan(), experiment.name)
        configs = [config_of(f"{experiment.name}/{model}") for model in models]
        found = [solved_row(config) for config in configs if config["training"]["stop"]]
        if any(row["solved"] for row in found):
            values = [shown(row) for row in found]
        else:
            found = [accuracy_row(config) for config in configs]
            values = [f"{row['median']:.3f}" for row in found]
        sizes = [row["parameters"] for row in found]
        row = {
            "problem": experiment.title,
            "parameters": f"{min(sizes):,} to {max(sizes):,}",
            "sequences at most": f"{configs[0]['training']['max_sequences']:,}",
        }
        rows.append(row | dict(zip(map(names.get, models), values, strict=True)))
    caption = (
        "Each entry is as in the tables above. In adding and multiplication, the AMU emits its memory. If no model met "
        "the criterion, or the problem has none: the median of the trials' accuracy on test data. Intervals and "
        f"p-values are on [the page]({PAGE})."
    )
    table = pd.DataFrame(rows)
    models = [name for name in dict.fromkeys(names.values()) if name in table]
    return markdown(table[[*table.columns.difference(models, sort=False), *models]].fillna(""), caption)


def generation() -> str:
    """A row for each experiment in which networks generate: the median of the metric that the claim rests on."""
    titles, rows = {experiment.name: experiment.title for experiment in paper_experiments()}, []
    for experiment in GENERATION:
        models = models_of(plan(), experiment.name)
        found = generated_rows(experiment)
        if len(found) == len(models):
            sizes = [row["parameters"] for row in found.values()]
            row = {
                "problem": titles[experiment.name],
                "metric": experiment.metric,
                "trials": str(min(row["trials"] for row in found.values())),
                "parameters": f"{min(sizes):,} to {max(sizes):,}",
            }
            rows.append(row | {model_names()[name]: metric_text(found[name]["median"]) for name in models})
    if not rows:
        return "These experiments have no results yet.\n"
    caption = (
        "Each entry: the median of the trials' metric on test data; waveforms and letters are those of training. For "
        "grammatical and letters_right, higher is "
        f"better; for the others, lower. All metrics, intervals and p-values are on [the page]({PAGE})."
    )
    return markdown(pd.DataFrame(rows).fillna(""), caption)


def historical() -> str:
    """The LSTM of 1997 and its published means, compared in words."""
    table = pd.read_csv(PAPER / "tables" / "lstm97-published.csv")
    run = table[(table["trials"] > 0) & table["but_with"].isna()]
    counts = run["agrees"].value_counts()
    words = {
        "yes": f"agree (within a factor of {FACTOR}, and at least {SOLVED:.0%} of the trials solved)",
        "in range": "in the range of our trials",
        "no: faster": "reached sooner here",
        "no: slower": "reached later here",
        TOO_FEW: "not reached by enough trials within the budget",
    }
    found = ", ".join(f"{counts[key]} {text}" for key, text in words.items() if key in counts)
    failed = ", ".join(unique(run.loc[run["agrees"] == TOO_FEW, "task"].str.partition("-")[0].str.replace("_", " ")))
    return (
        "Hochreiter & Schmidhuber 1997 have published mean numbers of training sequences of their LSTM. "
        f"[{len(run)} of its means](results/paper/tables/lstm97-published.md) were measured again, with its settings: "
        f"{found} ({failed}). The table has the budgets; some are less than twice the published mean.\n"
    )


def speed() -> str:
    """The measurements of scripts/benchmark.py, in words."""
    measured = pd.read_csv(PAPER / "speed.csv")
    ratios = measured[measured["meaning"].eq("times faster")]
    of_layers = ratios["what"].str.contains(" layer, ")
    layers, ratios = ratios[of_layers], ratios[~of_layers]
    compared = []
    for other, rows in ratios.groupby(ratios["against"].str.replace(r"torch\.nn\.\w+", "torch.nn", regex=True)):
        cells = listing(unique(rows["what"].str.split().str[0].str.rstrip(",")))
        compared.append(f"{least_and_most(rows['ratio'])} times as fast ({cells}) as {other}")
    kinds = [
        f"{least_and_most(rows['ratio'])} times as fast for {count} {kind}{'s' if count != '1' else ''}"
        for (count, kind), rows in layers.groupby(
            [layers["against"].str.split().str[0], layers["what"].str.split().str[0]], sort=False
        )
    ]
    as_layers = f"As layers, forward and backward, compared with torch.nn: {', '.join(kinds)}. " if kinds else ""
    (whole,) = measured.loc[measured["what"].str.startswith("amu-run, 30 trials"), "ratio"]
    longest = measured[measured["unit"].eq("ns/step")].iloc[-1]
    commands = ", ".join(f"{row.value:.2f} s for {row.what}" for row in measured.itertuples() if row.unit == "s")
    return (
        f"Of the AMU of tframe, the LSTM, the GRU and the RNN, a training step takes {least_and_most(ratios['value'])} "
        "microseconds a sequence of 100 time steps. That is "
        f"{' and '.join(compared)} over trials. With sequences of "
        f"{longest['what'].split(' = ')[-1]} time steps, each time step takes {longest['ratio']:.2f} times as long as "
        f"with 100. {as_layers}A whole amu-run trains {whole:.0%} of the sequences that the step alone trains in the "
        f"same time. Commands take {commands}. All are medians, on {measured['machine'][0]}, "
        f"{measured['software'][0]}. [All measurements](results/paper/speed.csv).\n"
    )


# Sources ----------------------------------------------------------------------------------------------------------


def judged() -> list[str]:
    """The experiments with several readings of the unit, on which the claims rest."""
    return [name for name, settings in plan()["experiments"].items() if "trainings" in settings]


def overrides(sizes: dict[str, int]) -> list[str]:
    return [f"task.{key}={value}" for key, value in sizes.items()]


@cache
def plan() -> dict:
    return tuning_plan(conf_dir())


def model_names() -> dict[str, str]:
    """The names of the models in tables, by their names in tuning.yaml."""
    titles = {name: model["title"].removeprefix("the ") for name, model in plan()["models"].items()}
    return {name: title.replace("AMU,", f"AMU of {shipped_reading().name},") for name, title in titles.items()}


def config_of(experiment: str, *overrides: str) -> dict:
    composer = shared_composer()
    with composer.ready():
        return prepare(composer.load([f"experiment={experiment}", *overrides])).config


def solved_row(config: dict) -> pd.Series:
    return the_row(solved_rows(config), config)


def solved_rows(config: dict) -> pd.DataFrame:
    return rows_of("criteria", config, "criterion", config["training"]["stop"])


def accuracy_row(config: dict) -> pd.Series:
    return the_row(rows_of("metrics", config, "metric", "test_accuracy"), config)


def generated_rows(experiment: Generated) -> dict[str, pd.Series]:
    """The rows of an experiment in which networks generate, by the names of its models; {} without results."""
    metric, found = f"test_{experiment.metric}", {}
    for name in models_of(plan(), experiment.name) if tables("metrics")["metric"].eq(metric).any() else ():
        own = rows_of("metrics", config_of(f"{experiment.name}/{name}"), "metric", metric)
        if len(own) == 1:
            found[name] = own.iloc[0]
    return found


def rows_of(kind: str, config: dict, column: str, value: str) -> pd.DataFrame:
    """The rows of a configuration with this value, in all tables of a kind."""
    rows = tables(kind)
    return rows[rows["identity"].eq(identity(config)) & rows[column].eq(value)]


def the_row(rows: pd.DataFrame, config: dict) -> pd.Series:
    """The one row of a configuration. Raises LookupError if there is another number of rows."""
    if len(rows) != 1:
        raise LookupError(f"{len(rows)} rows of {identity(config)} in {PAPER / 'tables'}")
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
    return outcome_text(row["solved"], row["trials"], row["median_sequences"])


def least_and_most(values: pd.Series) -> str:
    return " to ".join(f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in (values.min(), values.max()))


def unique(values) -> list[str]:
    return list(dict.fromkeys(map(str, values)))


def markdown(text: pd.DataFrame, caption: str = "", words: tuple[str, ...] = ()) -> str:
    written = Table("", caption, text, text.astype(str), words).markdown(marked=True)
    return f"{written.rstrip()}\n"


if __name__ == "__main__":
    main()
