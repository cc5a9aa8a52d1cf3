"""`python -m amu_experiments.scans lstm --units 6 forget_bias=1.0`: print the source derived from a cell's step."""

import yaml

from amu_experiments.cells import cell_class
from amu_experiments.cells.cell import Cell
from amu_experiments.command_line import Parser
from amu_experiments.scans.derive import derive


def main() -> None:
    parser = Parser("python -m amu_experiments.scans", description=__doc__)
    parser.add_argument("cell", help="the name of a cell, as in model.cell")
    parser.add_argument("options", nargs="*", metavar="OPTION=VALUE", help="options of the cell")
    parser.add_argument("--inputs", type=int, default=2, help="input features (default 2)")
    parser.add_argument("--units", type=int, default=6, help="units (default 6)")
    given = parser.parse_intermixed_args()
    options = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in given.options)}
    try:
        kind = cell_class(given.cell)
    except ValueError as error:
        parser.error(str(error))
    if not issubclass(kind, Cell):
        parser.error(f"{given.cell} has no compiled form: it is no {Cell.__module__}.{Cell.__name__}")
    try:
        recurrence = derive(kind(given.inputs, given.units, backend="torch", **options), given.cell)
    except (ValueError, TypeError) as error:
        parser.error(f"{given.cell}: {error}")
    for product in recurrence.products:
        print(f"# {product}")
    print(recurrence.source, end="")


if __name__ == "__main__":
    main()
