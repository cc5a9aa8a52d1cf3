"""The recurrent cells, one file each. A cell is found by the name of its file, or by MODULE.CLASS elsewhere."""

from torch import nn

from amu_experiments.cells.cell import Cell
from amu_experiments.cells.modules import ModuleCell, module_cell
from amu_experiments.registry import find_class


def cell_class(name: str) -> type[Cell] | type[ModuleCell]:
    """The cell in cells/<name>.py, the entry point <name>, or the class MODULE.CLASS; ValueError if there is none.

    For a class of torch modules that is no Cell, this is a ModuleCell.
    """
    kind = written_class(name)
    return kind if issubclass(kind, Cell) else module_cell(kind, name)


def written_class(name: str) -> type[Cell] | type[nn.Module]:
    """Like `cell_class`, but a class of torch modules is returned unchanged."""
    return find_class("amu_experiments.cells", name, Cell, nn.Module)
