"""Finds the class of a cell or a task by its name.

`lstm` is the class in the package's own file lstm.py, or an entry point of that name in an installed package.
`my_package.cells.UGRNN` is the class UGRNN in the module my_package.cells.
"""

import difflib
import importlib
import inspect
import os
import pkgutil
import sys
import sysconfig
import traceback
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType


def find_class(package: str, name: str, base: type, foreign: type | None = None) -> type:
    """The subclass of `base` that `name` stands for; MODULE.CLASS may be one of `foreign` instead.

    Args:
        package: holds the modules for names without a dot. A module counts if it defines exactly one
            subclass of `base`. Other packages add names through the entry point group of the same name.
        name: a module of `package`, an entry point, or MODULE.CLASS. MODULE is installed or in the current folder.

    Only the module with the class is imported. Raises ValueError, in one line, if there is no such class or if
    importing its module fails.
    """
    modules = _modules(tuple(importlib.import_module(package).__path__))
    if name in modules:
        found = _subclasses(importlib.import_module(f"{package}.{name}"), base)
        if len(found) == 1:
            return found[0]
    added: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=package)}
    if name in added:
        return _class_of(name, added[name].module, added[name].attr, base, foreign)
    module, _, attribute = name.rpartition(".")
    if module and all(part.isidentifier() for part in name.split(".")):
        return _class_of(name, module, attribute, base, foreign)
    choices = [m for m in modules if len(_subclasses(importlib.import_module(f"{package}.{m}"), base)) == 1]
    raise ValueError(
        f"{name!r} is not a {base.__name__.lower()}; choose one of {', '.join([*choices, *added])}, "
        "or write MODULE.CLASS for one of your own"
    )


@cache
def _modules(path: tuple[str, ...]) -> list[str]:
    """The names of the modules in the folders of a package."""
    return [module.name for module in pkgutil.iter_modules(path)]


def _class_of(name: str, module: str, attribute: str, base: type, foreign: type | None) -> type:
    """The class `attribute` of `module`; ValueError, which begins with `name`, if it is not a subclass of the bases."""
    imported = _import(name, module)
    kind = getattr(imported, attribute, None)
    if isinstance(kind, type) and issubclass(kind, (base, foreign or base)) and kind not in (base, foreign):
        return kind
    if kind is not None:
        bases = " or ".join(f"{each.__module__}.{each.__name__}" for each in (base, foreign) if each)
        raise ValueError(f"{name}: {attribute} is not a subclass of {bases}")
    bases = (base, foreign or base)
    found = ", ".join(own.__name__ for own in _subclasses(imported, bases))
    offered = [each for each, _ in inspect.getmembers(imported, lambda m: isinstance(m, type) and issubclass(m, bases))]
    near = "".join(f" (did you mean {module}.{each}?)" for each in difflib.get_close_matches(attribute, offered, n=1))
    defined = f"; it defines {found or 'no ' + base.__name__}" if found or not near else near
    raise ValueError(f"{name}: module {module} has no class {attribute}{defined}")


def _import(name: str, module: str) -> ModuleType:
    """The module, which may lie in the current folder; ValueError, which begins with `name`, if it cannot be imported.

    The current folder comes last, so a file in it cannot replace an installed module.
    """
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            where = "neither installed nor in the current folder"
            raise ValueError(f"{name}: no module {missing}, {where} ({folder})") from error
        text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        raise ValueError(f"{name}: {type(error).__name__}: {text} ({_place(error)})") from error


def _place(error: BaseException) -> str:
    """File and line of the user's code that raised the error."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    not_theirs = [Path(__file__).parent, *(Path(sysconfig.get_path(path)) for path in ("stdlib", "purelib", "platlib"))]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    theirs = [frame for frame in frames if not {*Path(frame.filename).parents}.intersection(not_theirs)]
    frame = (theirs or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def _subclasses(module: ModuleType, base: type | tuple[type, ...]) -> list[type]:
    return [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, base) and member is not base and member.__module__ == module.__name__
    ]
