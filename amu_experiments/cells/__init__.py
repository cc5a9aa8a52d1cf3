"""The recurrent cells, one file each; a cell is found by the name of its file."""

from amu_experiments.cells.cell import Cell
from amu_experiments.registry import find_class


def cell_class(name: str) -> type[Cell]:
    """The cell defined in cells/<name>.py; ValueError, with the choices, where there is none."""
    return find_class("amu_experiments.cells", name, Cell)
