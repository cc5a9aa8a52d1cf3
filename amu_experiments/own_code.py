"""Digests of the code of users' own cells and tasks, so that a run of changed code is another run."""

import ast
import hashlib
import importlib.util
import marshal
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType

from amu_experiments.options import ConfigurationError

KEY = "code_digest"
"""The key of a digest in the sections `model` and `task` of a run's configuration."""

VERSIONED = {"amu_experiments", "torch", *sys.stdlib_module_names} - {"__main__"}
"""Packages whose classes have no digest: provenance.json, stored with the trials, has their versions."""

HEADER = 16
"""Bytes before the code in a file of compiled Python."""


def code_of(kind: type, name: str) -> dict[str, str]:
    """The digest of a user's class by `KEY`; {} for a class of this package, of torch or of Python.

    The digest covers the files of the class, of its bases, and of MODULE in its name. It also covers the files that
    these import from their own package or folder. Comments, docstrings and layout have no effect. Code without a file,
    as in a notebook, is taken as Python compiled it.

    Args:
        kind: the class.
        name: as in model.cell or task.problem, such as MODULE.CLASS.

    Raises ConfigurationError if a file cannot be read as Python, or has changed since it was imported.
    """
    bases = [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in VERSIONED]
    if not bases:
        return {}
    texts: dict[Path | type, str] = {}
    for base in bases:
        if _file_of(base.__module__) is None:
            texts[base] = repr(list(_compiled(base)))
    for module in (*(base.__module__ for base in bases), name.rpartition(".")[0]):
        texts |= _texts(module)
    return {KEY: f"code_{hashlib.sha256(chr(0).join(texts.values()).encode()).hexdigest()[:12]}"}


def check_code(key: str, stored: str | None, kind: type, name: str) -> None:
    """Raise ConfigurationError, with the key, if a stored configuration has the digest of other code."""
    if stored is not None and stored != code_of(kind, name).get(KEY):
        raise ConfigurationError(f"{key}: the code of {kind.__name__} has changed since it trained this run")


def place_of(error: BaseException, method: Callable) -> str:
    """In brackets, the file of a method, and its last line in the traceback of an error, or else its first line."""
    code = getattr(getattr(method, "__func__", method), "__code__", None)
    if code is None:
        return ""
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == code.co_filename]
    return f" ({code.co_filename}, line {lines[-1] if lines else code.co_firstlineno})"


@contextmanager
def in_one_line(what: str, method: Callable, kind: type[ConfigurationError] = ConfigurationError) -> Iterator[None]:
    """Any error within becomes one of this kind, in one line: it begins with `what` and ends with `place_of`."""
    try:
        yield
    except (ConfigurationError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(line.strip() for line in str(error).splitlines())
        raise kind(f"{what}: {type(error).__name__}: {text}{place_of(error, method)}") from error


# Files ----------------------------------------------------------------------------------------------------------------


def _file_of(module: str) -> Path | None:
    """The Python file that a module was imported from."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).resolve() if file and file.endswith(".py") and Path(file).exists() else None


def _texts(module: str) -> dict[Path, str]:
    """The code of a module's file, and of all files beside it that it imports, directly or through others."""
    first, texts = _file_of(module), {}
    if first is None or module.partition(".")[0] in VERSIONED:
        return {}
    waiting = [(module, first)]
    while waiting:
        name, file = waiting.pop()
        if file in texts:
            continue
        tree = _tree(file)
        _check_unchanged(name, file)
        texts[file] = ast.unparse(_without_docstrings(tree))
        waiting += [(each, beside) for each in _imported(tree, name, file) if (beside := _beside(each, module))]
    return texts


def _tree(file: Path) -> ast.Module:
    try:
        return ast.parse(importlib.util.decode_source(file.read_bytes()))
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigurationError(f"{file}: cannot be read as Python ({' '.join(str(error).split())})") from error


def _imported(tree: ast.Module, name: str, file: Path) -> Iterator[str]:
    """The names of all modules that a file may import, also inside functions."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.level == 0 or package):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            whole = ".".join([*above, *([node.module] if node.module else [])])
            yield from (whole, *(f"{whole}.{alias.name}" for alias in node.names))


def _beside(name: str, first: str) -> Path | None:
    """The file of a module in the package of `first`, or in its folder if that is not site-packages; else None."""
    top, first_top = name.partition(".")[0], first.partition(".")[0]
    folder = _file_of(first).parents[first.count(".") + (_file_of(first).name == "__init__.py")]
    installed = {Path(sysconfig.get_path(path)).resolve() for path in ("purelib", "platlib")}
    if top in VERSIONED or (folder in installed and top != first_top):
        return None
    path = folder.joinpath(*name.split("."))
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


# What was imported ----------------------------------------------------------------------------------------------------


def _check_unchanged(name: str, file: Path) -> None:
    """Raise ConfigurationError if a file is not what was imported.

    The file is compared with the imported functions and constants, with the code that Python last compiled from it (in
    this or another process), and with the file at the first check.
    """
    module = sys.modules.get(name)
    if module is None or _file_of(name) != file:
        return
    text = importlib.util.decode_source(file.read_bytes())
    now = compile(text, str(file), "exec", dont_inherit=True)
    known = {_meaning(code) for code in _codes(now)}
    functions = (member for owner in (module, *_classes(module)) for member in _functions(owner))
    same = all(_meaning(each.__code__) in known for each in functions if each.__code__.co_filename == module.__file__)
    owners = {"": module} | {each.__name__: each for each in _classes(module)}
    written = _written(ast.parse(text), owners)
    same &= all(repr(vars(owners[owner]).get(constant)) == value for owner, constant, value in written)
    cached = Path(getattr(module, "__cached__", None) or "")
    # If Python writes no compiled files here, an existing one may be out of date.
    if same and cached.is_file() and not sys.dont_write_bytecode and os.access(cached.parent, os.W_OK):
        same = _meaning(marshal.loads(cached.read_bytes()[HEADER:])) == _meaning(now)
    spec, meaning = _first_checked.get(name, (None, None))
    if not same or (spec is module.__spec__ and meaning != _meaning(now)):
        raise ConfigurationError(f"{file} has changed since it was imported; start Python again")
    _first_checked[name] = module.__spec__, _meaning(now)


_first_checked: dict[str, tuple] = {}
"""For each module: its spec, which each import makes anew, and the compiled code of its file (see `_meaning`)."""


def _written(tree: ast.Module, owners: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """The numbers, texts and truth values that a file gives to names once: the class or "", the name, and the value."""
    changed = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    bodies = [("", tree.body), *((node.name, node.body) for node in tree.body if isinstance(node, ast.ClassDef))]
    for owner, body in bodies:
        assigned = [node for node in body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
        names = [node.targets[0].id for node in assigned]
        for name, node in zip(names, assigned, strict=True):
            if owner in owners and isinstance(node.value, ast.Constant) and names.count(name) == 1 - (name in changed):
                yield owner, name, repr(node.value.value)


def _classes(module) -> list[type]:
    return [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]


def _functions(owner) -> Iterator[FunctionType]:
    """The functions of a module, and the methods of a class."""
    for member in vars(owner).values():
        parts = (member.fget, member.fset) if isinstance(member, property) else (getattr(member, "__func__", member),)
        yield from (each for each in parts if isinstance(each, FunctionType))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _meaning(code: CodeType) -> tuple:
    """What code does, without names of files and numbers of lines."""
    return code.co_code, code.co_names, tuple(_constants(code.co_consts))


def _constants(values: Iterable) -> Iterator[tuple | str]:
    for value in values:
        if isinstance(value, CodeType):
            yield _meaning(value)
        else:
            yield repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _compiled(kind: type) -> Iterator[tuple]:
    """The code of a class without a file, with the functions and plain values that it uses from its module."""
    namespace, waiting, seen = vars(sys.modules[kind.__module__]), [*_functions(kind)], set()
    while waiting:
        function = waiting.pop(0)
        if function in seen:
            continue
        seen.add(function)
        yield _meaning(function.__code__)
        for name in sorted({each for code in _codes(function.__code__) for each in code.co_names}):
            used = namespace.get(name)
            if isinstance(used, FunctionType) and used.__module__ == kind.__module__:
                waiting.append(used)
            elif isinstance(used, str | int | float | bool | tuple):
                yield name, repr(used)
