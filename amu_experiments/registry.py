"""Finds a class by the name of its module: a new cell or task is a new file, listed nowhere else."""

import importlib
import inspect
import pkgutil
from types import ModuleType


def find_class(package: str, name: str, base: type) -> type:
    """The one subclass of `base` that the module `name` of `package` defines.

    Only that module is imported. Raises ValueError, naming the modules that define one, where there is no
    such module or it defines none or several.
    """
    modules = [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    if name in modules:
        found = _subclasses(importlib.import_module(f"{package}.{name}"), base)
        if len(found) == 1:
            return found[0]
    choices = [m for m in modules if len(_subclasses(importlib.import_module(f"{package}.{m}"), base)) == 1]
    raise ValueError(f"{name!r} is no {base.__name__.lower()}; choose one of {', '.join(choices)}")


def _subclasses(module: ModuleType, base: type) -> list[type]:
    return [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, base) and member is not base and member.__module__ == module.__name__
    ]
