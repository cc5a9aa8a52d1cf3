"""The page: claims, experiments, studies and provenance in one HTML file that needs no other file."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup

from amu_experiments.analysis.comparison import Comparison
from amu_experiments.analysis.headings import Heading, heading
from amu_experiments.analysis.main_result import EXPLANATION, main_picture, main_table
from amu_experiments.analysis.picture import Drawn
from amu_experiments.analysis.sample_figures import Sound
from amu_experiments.analysis.study_tables import Study
from amu_experiments.analysis.tables import WORDS, Table
from amu_experiments.analysis.text import LONGEST_CELL, printable
from amu_experiments.analysis.verdicts import NOT_RUN, RULE, Claim, nearest, summary, verdicts_table
from amu_experiments.selection import flat
from amu_experiments.store import Result

SIGNS = {"supported": "\u2713", "contradicted": "\u2717", "undecided": "?", "missing": "\u2013", NOT_RUN: "\u2013"}
"""The sign beside each verdict."""

NARROW = 28
"""Characters that fit into a narrow column."""

OURS = "readings"
"""A study that only results/paper has, the report that scripts/reproduce_paper.sh makes."""


@dataclass(frozen=True)
class Section:
    """A comparison with its tables, figures and sounds.

    published: whether all its rows have published settings.
    """

    comparison: Comparison
    tables: list[Table]
    pictures: list[Drawn]
    sounds: list[Sound] = field(default_factory=list)
    published: bool = False

    @property
    def name(self) -> str:
        return self.comparison.name

    @cached_property
    def heading(self) -> Heading:
        return heading(self.comparison)

    @cached_property
    def main_picture(self) -> Drawn | None:
        return main_picture(self.comparison, self.pictures)

    @cached_property
    def main_table(self) -> Table | None:
        return main_table(self.comparison, self.tables)

    @property
    def settings(self) -> str:
        """The task's settings in a line, without criteria, which the captions state."""
        settings = {key: value for key, value in flat(self.comparison.task).items() if not key.startswith("criteria.")}
        known = {printable(key): printable(value) for key, value in settings.items() if value is not None}
        return ", ".join(f"{key} {value}" for key, value in known.items())


def render(
    sections: list[Section],
    claims: list[Claim],
    lags: Table | None,
    historical: Table | None,
    studies: list[Study],
    made: list[tuple[Result, dict]],
    left_out: list[str],
    notes: list[str],
) -> str:
    """The page as HTML.

    Args:
        sections: the comparisons, in order.
        claims: judged claims; if there are none, the page has no part about claims.
        lags: the AMU beside its rivals at each lag, if it was run.
        historical: the table of the LSTM of 1997, if it was run.
        studies: studies with tables in the report's folder.
        made: the provenance of each stack, with its result.
        left_out: a line about each file or folder that could not be used.
        notes: lines from `notices`.
    """
    results = [result for section in sections for result in section.comparison.results]
    tables = [table for section in sections for table in section.tables]
    anchors = {table.name: f"table-{table.name}" for table in [*tables, *([lags] if lags else [])]}
    anchors |= {picture.name: f"figure-{picture.name}" for section in sections for picture in section.pictures}
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    usual, published = [], []
    for section in sections:
        (published if historical and section.published else usual).append(section)
    return environment.get_template("page.html.j2").render(
        sections=sections,
        usual=usual,
        published=published,
        claims=claims,
        lags=lags,
        cases=[verdict.case for verdict in claims[0].verdicts] if claims else [],
        summary=summary(verdicts_table(claims)) if claims else [],
        nearest=nearest(verdicts_table(claims)) if claims else "",
        rule=RULE,
        explanation=EXPLANATION,
        historical=historical,
        studies=studies,
        left_out=left_out,
        notes=notes,
        signs=SIGNS,
        anchors=anchors,
        trials=f"{sum(len(result.trials) for result in results):,}",
        runs=len(results),
        provenance=_provenance([provenance for _, provenance in made]),
        commands=_commands(made),
        ours=OURS in [study.id for study in studies],
        data_uri=data_uri,
        columns=columns,
        zip=zip,
    )


def data_uri(picture: Drawn) -> Markup:
    """The figure as a data URL, for an attribute in double quotes: it has neither " nor &."""
    return Markup("data:image/svg+xml," + quote(picture.svg, safe=" /:;,=@()'+.-_!*~<>{}"))


def columns(table: Table) -> list[tuple[str, str]]:
    """Name and CSS classes of a table's columns: "l" or "l wide" for words, none for numbers."""

    def classes(name: str) -> str:
        values = table.numbers[name].dropna() if name in table.numbers else pd.Series([0])
        if name not in (*WORDS, *table.words) and not all(isinstance(value, str) for value in values):
            return ""
        return "l wide" if table.text[name].str.len().max() > NARROW else "l"

    return [(name, classes(name)) for name in table.text]


def _provenance(made: list[dict]) -> dict[str, list[str]]:
    """Every machine, Python, package version and commit in the provenance, and the first and the last day."""
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
    return Table("commands", "A row for each command that trained trials of a configuration.", table, table)
