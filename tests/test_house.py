"""The order of the package's parts: each imports only itself and parts below it, and there is no circle of imports."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "amu_experiments"

ORDER = (
    *("options", "registry", "own_code", "console", "interrupts"),
    *("config", "conf_files", "numerics", "command_line"),
    *("scans", "cells", "tasks"),
    *("override_lines", "overrides", "network", "learning"),
    *("files", "stack_files", "store", "leases", "selection"),
    *("plan", "sweeps", "stack", "confusion", "training", "trained"),
    *("analysis", "studies", "library", "exports", "inventory", "sampling", "tune", "cli"),
)
"""From the bottom to the top."""


def modules() -> dict[str, Path]:
    """The files by the names of their modules, such as cells.amu. Programs, __main__.py, may import every part."""
    paths = {path.relative_to(PACKAGE).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
    names = {".".join(relative.parts).removesuffix("__init__").rstrip("."): path for relative, path in paths.items()}
    return {name: path for name, path in names.items() if name and not name.endswith("__main__")}


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a file imports, in its functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {_own(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = {_own(f"{node.module}.{alias.name}") for alias in node.names}
            found |= {name if name in known else _own(node.module) for name in names}
    return found & known.keys()


def _own(name: str) -> str:
    """The name of a module of the package without the package's name; "" for any other."""
    return name.removeprefix("amu_experiments.") if name.startswith("amu_experiments.") else ""


MODULES = modules()
IMPORTS = {name: imports(path, MODULES) for name, path in MODULES.items()}


def test_every_part_has_its_place():
    assert {name.partition(".")[0] for name in MODULES} == set(ORDER)


def test_imports_run_downwards():
    place = {part: place for place, part in enumerate(ORDER)}
    parts = {name: {each.partition(".")[0] for each in imported} for name, imported in IMPORTS.items()}
    upwards = [
        f"{name} imports {part}"
        for name, imported in parts.items()
        for part in imported
        if place[part] > place[name.partition(".")[0]]
    ]
    assert upwards == []


def test_no_circle():
    TopologicalSorter({name: imported - {name} for name, imported in IMPORTS.items()}).prepare()


def test_the_analysis_reads_the_store_and_never_trains():
    reached, new = set(), {name for name in MODULES if name.startswith("analysis")}
    while new:
        reached |= new
        new = {each for name in new for each in IMPORTS[name]} - reached
    assert {"store", "files"} <= reached
    assert not {"training", "stack", "plan", "learning", "network", "leases"} & reached
