"""The arguments that a cell takes: its own, and those that it passes on."""

import inspect
import itertools

from torch import nn

from amu_experiments.cells.contract import check_step
from amu_experiments.options import check_arguments

_BY_PLACE = ("num_layers", "bias", "batch_first", "dropout", "bidirectional")
"""Arguments that may follow the sizes by position, as in torch.nn.LSTM."""

_OF_A_LAYER = (*_BY_PLACE, "trials", "backend", "device", "dtype")


class CellType(type(nn.Module)):
    """Metaclass of cells: checks the arguments before __init__ runs, and the step of a user's cell after it."""

    def __call__(cls, *arguments, **options):
        sizes, options = by_name(cls, arguments, options)
        check_arguments(cls, ("__init__", "shapes"), options)
        cell = super().__call__(*sizes, **options)
        if cls.__module__.partition(".")[0] != __package__.partition(".")[0]:  # tests check the package's own cells
            check_step(cell)
        return cell


def signature_of(kind: type, base: type) -> inspect.Signature:
    """The arguments of a cell, with those that its __init__ passes on to its base classes and to `shapes`."""
    classes = kind.__mro__[: kind.__mro__.index(base) + 1]
    own, *bases = [inspect.signature(each.__init__) for each in classes if "__init__" in vars(each)]
    named = dict(list(own.parameters.items())[1:])  # without self
    passed_on = set()
    for further in (*bases, inspect.signature(kind.shapes)):
        rest = next((name for name, argument in named.items() if argument.kind == argument.VAR_KEYWORD), None)
        if rest is None:
            break
        del named[rest]
        for name, argument in further.parameters.items():
            if argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY) and name != "self":
                if name not in named:
                    passed_on.add(name)
                    named[name] = argument.replace(kind=argument.KEYWORD_ONLY)
            elif argument.kind == argument.VAR_KEYWORD:
                named[name] = argument
    # Stop at the first argument that is keyword-only in the cell: later ones would not have their places in torch.
    for name in itertools.takewhile(lambda name: name in passed_on or _has_place(own, name), _BY_PLACE):
        if name in passed_on:
            named[name] = named[name].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Signature(sorted(named.values(), key=lambda argument: argument.kind))


def option_names(kind: type, base: type) -> list[str] | None:
    """The names of a cell's arguments, without sizes and layer arguments; None if `shapes` takes arbitrary ones."""
    functions = (kind.__init__, kind.shapes, base.__init__)
    arguments = [argument for function in functions for argument in inspect.signature(function).parameters.values()]
    if any(argument.kind == argument.VAR_KEYWORD for argument in inspect.signature(kind.shapes).parameters.values()):
        return None
    names = dict.fromkeys(argument.name for argument in arguments if argument.kind != argument.VAR_KEYWORD)
    return [name for name in names if name not in ("self", *inspect.signature(base.shapes).parameters, *_OF_A_LAYER)]


def by_name(kind: type, arguments: tuple, options: dict) -> tuple[tuple, dict]:
    """The arguments of a call: positional sizes as a tuple, and all others by name.

    Raises TypeError for an argument that the cell does not take, with the names of those that it takes.
    """
    known = inspect.signature(kind).parameters.values()
    kinds = {a.kind for a in known}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return arguments, options
    positional = [a.name for a in known if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
    named = [a.name for a in known if a.kind == a.KEYWORD_ONLY]
    if len(arguments) > len(positional):
        raise TypeError(
            f"{kind.__name__} was given {len(arguments)} positional arguments, but takes "
            f"{', '.join(positional[:-1])}{' and ' * (len(positional) > 1)}{positional[-1]} "
            f"only; give options by name: {', '.join(f'{name}=' for name in named)}"
        )
    sizes = [name for name in positional if name not in _BY_PLACE]
    optional = positional[len(sizes) :] + named
    unknown = [name for name in options if name not in (*sizes, *optional)]
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        known = ", ".join(optional)
        raise TypeError(f"{kind.__name__} has no option {', '.join(unknown)}; its options are {known}")
    further = dict(zip(positional[len(sizes) :], arguments[len(sizes) :], strict=False))
    if twice := [name for name in further if name in options]:
        raise TypeError(f"{kind.__name__} was given {twice[0]} twice, by place and by name")
    return arguments[: len(sizes)], further | options


def described(cell) -> str:
    """The sizes of a cell, and its options that differ from their defaults."""
    defaults = {}
    for name, argument in inspect.signature(type(cell)).parameters.items():
        if argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
            defaults[name] = argument.default
    for name in cell.options:
        defaults.setdefault(name)
    shown = [str(cell.input_size), str(cell.hidden_size)]
    for name, default in defaults.items():
        value = cell.biased if name == "bias" else cell.options.get(name, getattr(cell, name, default))
        if name not in ("input_size", "hidden_size") and repr(value) != repr(default):
            shown.append(f"{name}={value!r}")
    return ", ".join(shown)


def _has_place(signature: inspect.Signature, name: str) -> bool:
    argument = signature.parameters.get(name)
    return argument is not None and argument.kind == argument.POSITIONAL_OR_KEYWORD
