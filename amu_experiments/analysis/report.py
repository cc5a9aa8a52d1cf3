"""The command amu-report: reads all finished runs, writes tables, figures and a page that shows them.

The tables of criteria and metrics rank the rows, the best first, and test them against a reference row. If runs bear
on the claims of the AMU paper, the report has a verdict on each claim.
"""

import functools
import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import yaml

from amu_experiments.analysis.claims import judge
from amu_experiments.analysis.comparison import Comparison, against, compare
from amu_experiments.analysis.confusions import confusion_table
from amu_experiments.analysis.figures import pictures
from amu_experiments.analysis.historical import historical_runs, historical_table
from amu_experiments.analysis.lags import lags_table
from amu_experiments.analysis.mechanism_figures import mechanism_pictures
from amu_experiments.analysis.mechanism_tables import read_mechanism
from amu_experiments.analysis.notices import notices
from amu_experiments.analysis.page import Section, render
from amu_experiments.analysis.sample_figures import sample_pictures, sounds
from amu_experiments.analysis.samples import Sample, read_samples
from amu_experiments.analysis.study_tables import read_studies
from amu_experiments.analysis.styles import Style, report_styles
from amu_experiments.analysis.sweeps import sweep_pictures, sweep_table, sweeps
from amu_experiments.analysis.tables import Table, tables
from amu_experiments.analysis.text import markdown, printable
from amu_experiments.analysis.verdicts import claims_tables
from amu_experiments.command_line import Parser
from amu_experiments.conf_files import conf_dir
from amu_experiments.console import complain, failed, say, unheard
from amu_experiments.files import UnusableError, remove_partial, write_text
from amu_experiments.options import ConfigurationError, format_error, one_line
from amu_experiments.selection import select
from amu_experiments.store import read_confusions, read_provenances, read_results, unfinished

PARTS = ("tables", "figures")

FEW = 3
"""Up to this number of comparisons, drawing takes less time than starting other processes."""


class ReportError(ValueError):
    """No report can be written; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0; 1 if there is nothing to report or writing fails; 130 if interrupted."""
    parser = Parser("amu-report", description=__doc__)
    parser.add_argument(
        "--results-dir", type=Path, default=Path("results/runs"), help="the runs (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("results/report"), help="the report (default: %(default)s)")
    parser.add_argument("--task", help="report only the runs of this task")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help='report only the runs whose settings meet this, such as "training.max_sequences >= 50000" or '
        '"model == lstm,gru"; may be given more than once',
    )
    parser.add_argument(
        "--reference",
        metavar="ROW",
        help="test every row against this row: a model, such as lstm, or a label in quotes, as printed in the tables "
        "(default: the AMU with most trials, of equals one with the paper's settings, then amu_abstract, then amu, "
        "and of several sizes the nearest; "
        "without an AMU, the best row)",
    )
    parser.add_argument("--only", choices=PARTS, help="write only tables or only figures, without the page")
    options = parser.parse_args(argv)
    parts = PARTS if options.only is None else (options.only,)
    if isinstance(sys.stdout, io.TextIOWrapper):  # for characters that the terminal lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        lines = write_report(
            options.results_dir,
            options.out,
            options.task,
            parts,
            os.cpu_count(),
            reference=options.reference,
            where=options.where,
        )
    except KeyboardInterrupt as error:
        return failed("amu-report", error)
    except ReportError as error:
        complain("\n".join(map(one_line, f"amu-report: {error}".splitlines())))
        return 1
    except OSError as error:
        complain(f"amu-report: {format_error(error) if error.filename else f'{options.out}: {error}'}")
        return 1
    say("\n".join(lines))
    return failed("amu-report", unheard.pop()) if unheard else 0


def write_report(
    results_dir: str | Path,
    out_dir: str | Path,
    task: str | None = None,
    parts: Collection[str] = PARTS,
    processes: int = 1,
    reference: str | None = None,
    where: Sequence[str] = (),
) -> list[str]:
    """Writes out_dir/tables (Markdown, CSV, LaTeX), out_dir/figures (PNG, PDF) and, for both, report.md and index.html.

    Args:
        results_dir: the folder of runs, results/runs.
        out_dir: the folder of the report, created if missing; existing files are replaced. The output of other
            commands is read from it: mechanism/ for figures and claims, samples/ for figures and sounds, and the
            files of `study_tables.STUDIES`.
        task: the name of a task; other tasks are left out, and so are the claims. The claims are also left
            out if no run bears on them.
        parts: "tables", "figures" or both.
        processes: the number of processes that draw. With more than one, the program's main module is imported again,
            so it needs the guard `if __name__ == "__main__"`.
        reference: the label or the model of the row that every other row is tested against. By default, it is
            `Comparison.reference`. The claims do not depend on it.
        where: conditions on the settings of runs, as in `selection.select`; other runs are left out, and so are the
            claims.

    Returns:
        Lines to print: the tables, notes about left-out files and differences between rows, and the files written.

    Raises:
        ReportError: no finished run was found, a condition is wrong, the reference is unknown or ambiguous, or another
            process ended.
    """
    results_dir, out_dir = Path(results_dir), Path(out_dir)
    remove_partial([out_dir, *(out_dir / part for part in PARTS)])
    unusable: list = []
    results = read_results(results_dir, unusable)
    unfinished_lines = [f"Not finished: {_line(stack)}" for stack in unfinished(results_dir)]
    nothing = f"no finished runs in {results_dir}; train some first, such as amu-run task=adding"
    if not results:
        raise ReportError("\n".join([nothing, *_left_out(unusable), *unfinished_lines]))
    if task is not None:
        names = sorted({result.task for result in results})
        results = [result for result in results if result.task == task]
        if not results:
            raise ReportError(f"no runs of the task {task} in {results_dir}; it has {', '.join(names)}")
    if where:
        try:
            results = select(results, where)
        except ConfigurationError as error:
            raise ReportError(f"--where {error}") from None
        if not results:
            raise ReportError(f"no runs in {results_dir} with {' and '.join(map(printable, where))}")
    every_run = task is None and not where
    published = yaml.safe_load((conf_dir() / "published.yaml").read_text())
    mechanism = read_mechanism(out_dir / "mechanism", unusable)
    samples = read_samples(out_dir / "samples", unusable)
    old = historical_runs(results, published)
    comparisons, sections, lines = compare(results, unusable, apart=old), [], []
    compared = [result for comparison in comparisons for result in comparison.results]
    made, confusions = read_provenances(compared, unusable), read_confusions(compared, unusable)
    studies = read_studies(out_dir, unusable)
    left_out = [*_left_out(unusable), *unfinished_lines]
    if not comparisons:
        raise ReportError("\n".join([nothing, *left_out]))
    if reference is not None:
        try:
            comparisons = against(comparisons, reference)
        except LookupError as error:
            raise ReportError(f"--reference: {error}") from None
    notes = [_line(note) for note in notices(comparisons, made, unusable)]
    claims = judge(comparisons, mechanism) if every_run else []
    claims = claims if any(claim.has_runs for claim in claims) else []
    verdicts, lags = [], None
    if claims and "tables" in parts:
        lags = lags_table(comparisons, [verdict.case for verdict in claims[0].verdicts])
        verdicts = [*claims_tables(claims), *([lags] if lags else [])]
    historical = historical_table(comparisons, published) if every_run and "tables" in parts else None
    alone = [*verdicts, *([historical] if historical else [])]
    work = functools.partial(
        _section,
        styles=report_styles(comparisons),
        mechanism=mechanism,
        samples=samples,
        confusions=confusions,
        published=published,
        parts=parts,
        out_dir=out_dir,
    )
    for section in _each(work, comparisons, processes):
        for table in section.tables:
            lines += [table.name, "", table.plain()]
        sections.append(replace(section, published={result.identity for result in section.comparison.results} <= old))
    sections.sort(key=lambda section: section.heading.place)
    for table in [*alone, *(table for section in sections for table in section.tables)]:
        _write_table(table, out_dir / "tables")
    if verdicts:
        lines += [verdicts[0].name, "", *(f"{claim.id:15} {claim.sentence}" for claim in claims), ""]
    lines += [*left_out, *notes]
    if set(parts) != set(PARTS):
        return [*lines, *(f"Written: {out_dir / part}" for part in parts)]
    markdown_path, page_path = out_dir / "report.md", out_dir / "index.html"
    write_text(markdown_path, _markdown(sections, verdicts, historical, [*left_out, *notes]))
    known = [(result, provenance) for result, _, provenance in made if provenance is not None]
    write_text(page_path, render(sections, claims, lags, historical, studies, known, left_out, notes))
    shown = "Claims, tables and figures" if claims else "Tables and figures"
    return [*lines, f"{shown}: {page_path}, and as Markdown in {markdown_path}"]


def _left_out(errors: list[UnusableError | OSError]) -> list[str]:
    return list(dict.fromkeys(f"Left out: {_line(error)}" for error in errors))


def _line(text: object) -> str:
    return printable(text, longest=1000)


def _section(
    comparison: Comparison,
    styles: dict[str, list[Style]],
    mechanism: dict[str, pd.DataFrame],
    samples: list[Sample],
    confusions: dict[str, pd.DataFrame],
    published: dict,
    parts: Collection[str],
    out_dir: Path,
) -> Section:
    """The tables of a comparison, and its figures, whose files are written."""
    made_tables = []
    if "tables" in parts:
        made_tables = [*tables(comparison, published), *map(sweep_table, sweeps(comparison))]
        if (confusion := confusion_table(comparison, confusions)) is not None:
            made_tables.append(confusion)
    made, own = [], styles[comparison.name]
    if "figures" in parts:
        made = [*pictures(comparison, own), *mechanism_pictures(comparison, own, mechanism)]
        made += [*sweep_pictures(comparison), *sample_pictures(comparison, own, samples)]
    saved = [picture.save(out_dir / "figures") for picture in made]
    return Section(comparison, made_tables, saved, sounds(comparison, samples))


def _each(work: functools.partial, comparisons: list[Comparison], processes: int) -> Iterator[Section]:
    """The section of each comparison, in order; several processes make them if there are more than `FEW`."""
    if processes == 1 or len(comparisons) <= FEW:
        yield from map(work, comparisons)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(min(processes, len(comparisons)), context, _end_with_parent) as pool:
        try:
            yield from pool.map(work, comparisons)
        except BrokenExecutor:
            raise ReportError("a process that drew figures was killed; was there enough RAM?") from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """In a worker process: ends it when its parent ends, and without a traceback on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def wait():
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write_table(table: Table, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("md", table.markdown()), ("csv", table.csv()), ("tex", table.latex())):
        write_text(folder / f"{table.name}.{suffix}", text)


def _markdown(sections: list[Section], verdicts: list[Table], historical: Table | None, notes: list[str]) -> str:
    """The report as Markdown."""
    parts = ["# Comparison of the stored runs\n", *(f"{markdown(note)}\n" for note in notes)]
    if verdicts:
        parts += ["## Claims\n", *(table.markdown() for table in verdicts)]
    if historical:
        parts += ["## The LSTM of 1997\n", historical.markdown()]
    for section in sections:
        parts += [f"## {markdown(section.heading.text)}\n", f"{section.name}: {markdown(section.settings)}.\n"]
        parts += [table.markdown() for table in section.tables]
        for picture in section.pictures:
            parts.append(f"![{picture.name}](figures/{picture.name}.png)\n\n{markdown(picture.caption)}\n")
    return "\n".join(parts)
