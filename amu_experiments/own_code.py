"""Digests of the code of users' own cells and tasks, so that a run of changed code is another run."""

import ast
import functools
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from amu_experiments.options import ConfigurationError

KEY = "code_digest"
"""The key of a digest in the sections `model` and `task` of a run's configuration."""

VERSIONED = {"amu_experiments", "torch", *sys.stdlib_module_names}
"""Packages whose classes have no digest: the provenance of a stack has their versions."""


@functools.cache  # as imported: a class keeps its digest if its file changes later
def code_of(kind: type) -> dict[str, str]:
    """The digest of a user's class by `KEY`; {} for a class of this package, of torch or of Python.

    The digest is made from the modules of the class and its bases, and from the modules beside these that they import.
    Comments, docstrings and layout have no effect. ConfigurationError if a file changed after its module was imported.
    """
    own = [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in VERSIONED]
    for base in own:
        _check_unchanged(base)
    texts = {name: text for base in own for name, text in _sources(base.__module__)}
    if not texts:
        return {}
    return {KEY: f"code_{hashlib.sha256(chr(0).join(texts.values()).encode()).hexdigest()[:12]}"}


def check_code(key: str, stored: str | None, kind: type) -> None:
    """Raise ConfigurationError, with the key, if a stored configuration has the digest of other code."""
    if stored not in (None, code_of(kind).get(KEY)):
        raise ConfigurationError(f"{key}: the code of {kind.__name__} has changed since it trained this run")


def _sources(first: str) -> Iterator[tuple[str, str]]:
    """The names and the code of a module and of all modules beside it that it imports, also through each other."""
    seen, waiting = set(), [first]
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if name in seen or module is None:
            continue
        seen.add(name)
        try:
            tree = ast.parse(inspect.getsource(module))
        except (OSError, TypeError):  # no source: a compiled extension, or a package without __init__.py
            continue
        yield name, ast.unparse(_without_docstrings(tree))
        waiting += [each for each in _imported(tree, module) if _is_beside(each, first)]


def _imported(tree: ast.Module, module: ModuleType) -> Iterator[str]:
    """The names of modules that the code of a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = importlib.util.resolve_name("." * node.level + (node.module or ""), module.__package__)
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def _is_beside(name: str, first: str) -> bool:
    """Whether a module is in the package of the first one, or in the same folder if no installed packages are there."""
    top, first_top = (each.partition(".")[0] for each in (name, first))
    if top == first_top:
        return True
    folder = _folder(first_top)
    installed = {Path(sysconfig.get_path(path)).resolve() for path in ("purelib", "platlib")}
    return top in sys.modules and folder is not None and folder not in installed and _folder(top) == folder


def _folder(top: str) -> Path | None:
    """The folder of a package or of a module that is in no package."""
    module = sys.modules[top]
    place = next(iter(module.__path__), None) if hasattr(module, "__path__") else getattr(module, "__file__", None)
    return Path(place).resolve().parent if place else None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _check_unchanged(kind: type) -> None:
    """Raise ConfigurationError if the methods of a class are not those in its file."""
    try:
        file = inspect.getsourcefile(kind)
        compiled = compile(Path(file).read_text(encoding="utf-8"), file, "exec", dont_inherit=True)
    except (OSError, TypeError):  # there is no source to compare with
        return
    except (SyntaxError, ValueError):
        compiled = None
    known: dict[str, list[tuple]] = {}
    for code in _codes(compiled) if compiled else ():
        known.setdefault(code.co_qualname, []).append(_meaning(code))
    for member in vars(kind).values():
        function = getattr(member, "__func__", member)
        if not isinstance(function, FunctionType) or function.__code__.co_filename != file:
            continue
        if _meaning(function.__code__) not in known.get(function.__code__.co_qualname, ()):
            raise ConfigurationError(f"{kind.__name__}: {file} has changed since it was imported; start Python again")


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _meaning(code: CodeType) -> tuple:
    """What a function does, without the place of its lines in the file."""
    return code.co_code, code.co_names, [each for each in code.co_consts if not isinstance(each, CodeType)]
