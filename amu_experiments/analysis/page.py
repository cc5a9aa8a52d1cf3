"""The page: claims, experiments, studies and provenance in one HTML file that asks for nothing else."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2
import pandas as pd

from amu_experiments.analysis.claims import Claim
from amu_experiments.analysis.comparison import Comparison, flat
from amu_experiments.analysis.figures import Drawn
from amu_experiments.analysis.tables import WORDS, Table
from amu_experiments.analysis.text import printable
from amu_experiments.store import Result, UnusableError, read_table, read_text

SIGNS = {"supported": "\u2713", "contradicted": "\u2717", "undecided": "?", "missing": "\u2013"}
"""A sign for each verdict, beside its word."""


MANY = 28
"""Characters that do not fit into a narrow column."""


LONGEST_CELL, LONGEST_CAPTION = 1000, 5000
"""Letters of a cell and of a caption that are shown."""


@dataclass(frozen=True)
class Section:
    """A comparison on the page."""

    comparison: Comparison
    tables: list[Table]
    pictures: list[Drawn]

    @property
    def name(self) -> str:
        return self.comparison.name

    @property
    def settings(self) -> str:
        """The task's settings in a line; the criteria stand in the captions."""
        settings = {key: value for key, value in flat(self.comparison.task).items() if not key.startswith("criteria.")}
        known = {printable(key): printable(value) for key, value in settings.items() if value is not None}
        return ", ".join(f"{key} {value}" for key, value in known.items())


@dataclass(frozen=True)
class Study:
    """Tables that other commands have left in the report's folder."""

    id: str
    title: str
    words: str
    tables: list[Table]


def studies(folder: Path, left_out: list[UnusableError | OSError]) -> list[Study]:
    """The studies whose CSVs are in the report's folder; `left_out` takes files that cannot be used."""
    known = (
        (
            "reconstruction",
            "Reconstruction study",
            "What the paper's abstract leaves open about the unit, tried over several tasks with equal budgets.",
            "reconstruction.csv",
        ),
        (
            "tuning",
            "Tuning",
            "Every configuration that was tried for each cell, on trials that no comparison uses.",
            "tuning/*.csv",
        ),
        ("speed", "Speed", "Measured by scripts/benchmark.py.", "speed.csv"),
    )
    found = [(*words, _read_tables(_paths(folder / pattern, left_out), left_out)) for *words, pattern in known]
    return [Study(*words, tables) for *words, tables in found if tables]


def render(
    sections: list[Section],
    claims: list[Claim],
    historical: Table | None,
    extra: list[Study],
    made: list[tuple[Result, dict]],
    left_out: list[str],
    notes: list[str],
) -> str:
    """The page as HTML.

    Args:
        sections: the comparisons, in order.
        claims: judged claims; none of them leaves their part out.
        historical: the LSTM of 1997 against its published numbers, if it was run.
        extra: from `studies`.
        made: stacks with their provenance.
        left_out: a line about each result that could not be read.
        notes: lines from `notices`.
    """
    results = [result for section in sections for result in section.comparison.results]
    anchors = {table.name: f"table-{table.name}" for section in sections for table in section.tables}
    anchors |= {picture.name: f"figure-{picture.name}" for section in sections for picture in section.pictures}
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template("page.html.j2").render(
        sections=sections,
        claims=claims,
        historical=historical,
        studies=extra,
        left_out=left_out,
        notes=notes,
        signs=SIGNS,
        anchors=anchors,
        trials=f"{sum(len(result.trials) for result in results):,}",
        runs=len(results),
        provenance=_provenance([provenance for _, provenance in made]),
        commands=_commands(made),
        data_uri=data_uri,
        columns=columns,
        zip=zip,
    )


def data_uri(picture: Drawn) -> str:
    """The figure as an address that holds it whole."""
    return "data:image/svg+xml," + quote(picture.svg, safe=" /:;,=@()'+.-_!*~")


def columns(table: Table) -> list[tuple[str, str]]:
    """Name and classes of a table's columns: l (with wide, where they are many) for words, r for numbers."""

    def classes(name: str) -> str:
        values = table.numbers[name].dropna() if name in table.numbers else pd.Series([0])
        if name not in WORDS and not all(isinstance(value, str) for value in values):
            return "r"
        return "l wide" if table.text[name].str.len().max() > MANY else "l"

    return [(name, classes(name)) for name in table.text]


def _paths(pattern: Path, left_out: list[UnusableError | OSError]) -> list[Path]:
    """What has such a name, be it a file or not."""
    try:
        return sorted(path for path in pattern.parent.iterdir() if path.match(pattern.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        left_out.append(error)
        return []


def _read_tables(paths: list[Path], left_out: list[UnusableError | OSError]) -> list[Table]:
    """The tables of these files; those of the models of one experiment, <experiment>-<model>.csv, as one table."""
    parts: dict[str, dict[str, pd.DataFrame]] = {}
    for path in paths:
        try:
            table = read_table(path, numbers=False)
            if table.empty:
                raise UnusableError(path, "has no rows")
        except (UnusableError, OSError) as error:
            left_out.append(error)
            continue
        name, _, model = path.stem.partition("-")
        parts.setdefault(name, {})[model] = table
    tables = []
    for name, by_model in parts.items():
        numbers = pd.concat(
            [table.assign(model=model) if model else table for model, table in by_model.items()], ignore_index=True
        ).infer_objects()
        if "model" in numbers:
            numbers = numbers[["model", *numbers.columns.drop("model")]]
        text = pd.DataFrame({key: [_cell(value) for value in numbers[key]] for key in numbers}, dtype=object)
        caption = _caption(paths[0].parent / f"{name}.md", by_model, left_out)
        tables.append(Table(printable(name), caption, numbers, text))
    return tables


def _caption(path: Path, models: Iterable[str], left_out: list[UnusableError | OSError]) -> str:
    """The caption of a table that was written as Markdown, too."""
    if os.path.lexists(path):
        try:
            return printable(read_text(path).splitlines()[-1], longest=LONGEST_CAPTION)
        except (UnusableError, OSError) as error:
            left_out.append(error)
        except IndexError:
            left_out.append(UnusableError(path, "is empty"))
    return printable(f"From {path.stem}{'-*' if any(models) else ''}.csv.")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if whole else printable(value, longest=LONGEST_CELL)


def _provenance(made: list[dict]) -> dict[str, list[str]]:
    """What the stacks were made with: every value that occurs."""
    if not made:
        return {}
    days = sorted(printable(each["started"][:10]) for each in made)
    versions = {
        name: sorted({printable(each["packages"][name]) for each in made if name in each["packages"]})
        for name in sorted({name for each in made for name in each["packages"]})
    }
    return {
        "Machine": sorted({printable(each["machine"]) for each in made}),
        "Python": sorted({printable(each["python"]) for each in made}),
        "Packages": [f"{printable(name)} {' and '.join(numbers)}" for name, numbers in versions.items()],
        "Commit": sorted({printable(each["commit"] or "none known") for each in made}),
        "Run": [days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"],
    }


def _commands(made: list[tuple[Result, dict]]) -> Table:
    rows = [
        {
            "task": result.task,
            "model": result.model,
            "identity": result.identity,
            "command": printable(provenance["command"], longest=LONGEST_CELL),
        }
        for result, provenance in made
    ]
    table = pd.DataFrame(rows, columns=["task", "model", "identity", "command"], dtype=object).drop_duplicates()
    return Table("commands", "A row for each command that a configuration's trials were trained by.", table, table)
