"""The command amu-report: reads every run kept so far, writes tables, figures, verdicts and a page that holds them."""

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from amu_experiments.analysis.claims import claims_tables, judge
from amu_experiments.analysis.figures import pictures
from amu_experiments.analysis.mechanism_figures import mechanism_pictures, read_mechanism
from amu_experiments.analysis.page import Section, render, studies
from amu_experiments.analysis.tables import Table, compare, tables
from amu_experiments.overrides import conf_dir
from amu_experiments.store import read_results, write_text

PARTS = ("tables", "figures")


class ReportError(ValueError):
    """There are no results to report on; the message says where was looked and what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0, or 1 where there is nothing to report or no place for it."""
    parser = argparse.ArgumentParser("amu-report", description=__doc__)
    parser.add_argument("--results-dir", type=Path, default=Path("results/runs"), help="the runs (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/report"), help="where to write (%(default)s)")
    parser.add_argument("--task", help="only the runs of this task")
    parser.add_argument("--only", choices=PARTS, help="write this half alone, without the page")
    options = parser.parse_args(argv)
    parts = PARTS if options.only is None else (options.only,)
    try:
        lines = write_report(options.results_dir, options.out, options.task, parts)
    except ReportError as error:
        print(f"amu-report: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"amu-report: {error}" + ("" if error.filename else f": {options.out}"), file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


def write_report(
    results_dir: str | Path, out_dir: str | Path, task: str | None = None, parts: Collection[str] = PARTS
) -> list[str]:
    """Writes out_dir/tables (Markdown, CSV, LaTeX), out_dir/figures (PNG, PDF), and with both report.md and index.html.

    Args:
        results_dir: the folder of runs, results/runs.
        out_dir: made where it is missing; files of the same name are replaced. What other commands have left there is
            read: mechanism/, for figures and claims, and what `page.studies` names.
        task: a task's name, to leave out the others, and with them the verdicts on the claims.
        parts: "tables", "figures" or both.

    Returns:
        Lines to print: the tables in short, and what was written where.

    Raises:
        ReportError: no finished run was found.
    """
    results_dir, out_dir = Path(results_dir), Path(out_dir)
    unusable: list = []
    results = read_results(results_dir, unusable)
    left_out = [f"Left out: {' '.join(str(error).split())}" for error in unusable]
    if not results:
        told = f"no finished runs in {results_dir}; train some first, such as amu-run task=adding"
        raise ReportError("\n".join([told, *left_out]))
    if task is not None:
        names = sorted({result.task for result in results})
        results = [result for result in results if result.task == task]
        if not results:
            raise ReportError(f"no runs of the task {task} in {results_dir}; there are {', '.join(names)}")
    published = yaml.safe_load((conf_dir() / "published.yaml").read_text())
    mechanism = read_mechanism(out_dir / "mechanism")
    comparisons, sections, lines = compare(results), [], []
    claims = judge(comparisons, mechanism) if task is None else []
    verdicts = claims_tables(claims) if claims and "tables" in parts else []
    for comparison in comparisons:
        made_tables = tables(comparison, published) if "tables" in parts else []
        drawn = "figures" in parts
        made_pictures = [*pictures(comparison), *mechanism_pictures(comparison, mechanism)] if drawn else []
        for table in made_tables:
            lines += [table.name, "", table.plain()]
        for picture in made_pictures:
            picture.save(out_dir / "figures")
        sections.append(Section(comparison, made_tables, made_pictures))
    for table in [*verdicts, *(table for section in sections for table in section.tables)]:
        _write_table(table, out_dir / "tables")
    if verdicts:
        lines += [verdicts[0].name, "", *(f"{claim.id:15} {claim.verdict}" for claim in claims), ""]
    if set(parts) == set(PARTS):
        page = ["# Comparison of the stored runs\n", *(f"{problem}\n" for problem in left_out)]
        if verdicts:
            page += ["## Claims\n", *(table.markdown() for table in verdicts)]
        page += [_markdown(section) for section in sections]
        write_text(out_dir / "report.md", "\n".join(page))
        html = render(sections, claims, studies(out_dir), left_out)
        write_text(out_dir / "index.html", html)
        where = f"{out_dir / 'index.html'}, and as Markdown in {out_dir / 'report.md'}"
        return [*lines, *left_out, f"Claims, tables and figures: {where}"]
    return [*lines, *left_out, *(f"Written: {out_dir / part}" for part in parts)]


def _write_table(table: Table, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("md", table.markdown()), ("csv", table.csv()), ("tex", table.latex())):
        write_text(folder / f"{table.name}.{suffix}", text)


def _markdown(section: Section) -> str:
    parts = [f"## {section.name}\n", f"Task: {section.settings}.\n"]
    parts += [table.markdown() for table in section.tables]
    for picture in section.pictures:
        parts.append(f"![{picture.name}](figures/{picture.name}.png)\n\n{picture.caption}\n")
    return "\n".join(parts)
