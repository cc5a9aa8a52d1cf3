"""The recurrent cells, one file each. A cell is found by the name of its file, or by MODULE.CLASS elsewhere."""

from amu_experiments.cells.cell import Cell
from amu_experiments.registry import find_class


def cell_class(name: str) -> type[Cell]:
    """The cell in cells/<name>.py, that entry point, or the class MODULE.CLASS; ValueError if there is none."""
    return find_class("amu_experiments.cells", name, Cell)
