"""The command amu-export: writes stored trials as CSV, Parquet, TensorBoard events or an MLflow database.

It does not change the store. A second export replaces CSV and Parquet files whole, and the same trials in TensorBoard
and MLflow.
"""

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from amu_experiments.command_line import Parser
from amu_experiments.console import say, unheard
from amu_experiments.library import load_results
from amu_experiments.options import ConfigurationError, format_error, one_line

FORMATS = {
    "csv": ("tables", "write_csv"),
    "parquet": ("tables", "write_parquet"),
    "tensorboard": ("tensorboard", "write_tensorboard"),
    "mlflow": ("mlflow", "write_mlflow"),
}
"""The module and the function of each format; the module imports the tool."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0; 1 if there is nothing to export or writing fails; 2 for a wrong command."""
    parser = Parser("amu-export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=FORMATS, help="the format")
    parser.add_argument("--results-dir", type=Path, default=Path("results/runs"), help="the runs (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/export"), help="folder to write to (%(default)s)")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help='export only the runs whose settings meet this, such as "model == lstm,gru"; may be given more than once',
    )
    options = parser.parse_args(arguments)
    try:
        lines = export(options.format, options.results_dir, options.out, options.where)
    except ConfigurationError as error:
        parser.error(f"--where {error}")
    except (ExportError, OSError) as error:
        print(f"amu-export: {one_line(format_error(error), 400)}", file=sys.stderr)
        return 1
    say("\n".join(lines))
    if unheard:
        print(f"amu-export: {format_error(unheard.pop())}", file=sys.stderr)
        return 1
    return 0


class ExportError(ValueError):
    """Nothing can be exported; the message says why."""


def export(format: str, results_dir: Path, out: Path, where: Sequence[str] = ()) -> list[str]:
    """Write all finished trials of a store that meet the conditions; returns lines to print.

    Raises ExportError if the tool of the format is not installed, or if there is nothing to export; ConfigurationError
    for a wrong condition; OSError if a file cannot be written.
    """
    module, function = FORMATS[format]
    try:
        write = getattr(importlib.import_module(f"amu_experiments.exports.{module}"), function)
        with warnings.catch_warnings(record=True) as left_out:
            warnings.simplefilter("always", RuntimeWarning)
            results = load_results(results_dir, where)
        if not len(results):
            raise ExportError(f"no finished runs in {results_dir}" + (f" with {' and '.join(where)}" if where else ""))
        out.mkdir(parents=True, exist_ok=True)
        lines = write(results, out)
    except ImportError as error:
        raise ExportError(
            f'{format} needs a package that is not installed ({error}); pip install "amu-experiments[{format}]"'
        ) from None
    return [*(one_line(str(warning.message)) for warning in left_out), *lines]
