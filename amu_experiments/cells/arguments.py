"""The arguments that a cell takes: its own, and those that it passes on."""

import inspect

_OF_A_LAYER = ("trials", "batch_first", "backend")


def signature_of(kind: type, base: type) -> inspect.Signature:
    """The arguments of a cell, with those that its __init__ passes on to its base classes and to `shapes`."""
    classes = kind.__mro__[: kind.__mro__.index(base) + 1]
    own, *bases = [inspect.signature(each.__init__) for each in classes if "__init__" in vars(each)]
    named = dict(list(own.parameters.items())[1:])  # without self
    for further in (*bases, inspect.signature(kind.shapes)):
        rest = next((name for name, argument in named.items() if argument.kind == argument.VAR_KEYWORD), None)
        if rest is None:
            break
        del named[rest]
        for name, argument in further.parameters.items():
            if argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY) and name != "self":
                named.setdefault(name, argument.replace(kind=argument.KEYWORD_ONLY))
            elif argument.kind == argument.VAR_KEYWORD:
                named[name] = argument
    return inspect.Signature(list(named.values()))


def option_names(kind: type, base: type) -> list[str] | None:
    """The options of a cell: the arguments of its `__init__` and `shapes`, and of `base`; None if it takes any."""
    functions = (kind.__init__, kind.shapes, base.__init__)
    arguments = [argument for function in functions for argument in inspect.signature(function).parameters.values()]
    if any(argument.kind == argument.VAR_KEYWORD for argument in inspect.signature(kind.shapes).parameters.values()):
        return None
    names = dict.fromkeys(argument.name for argument in arguments if argument.kind != argument.VAR_KEYWORD)
    return [name for name in names if name not in ("self", *inspect.signature(base.shapes).parameters, *_OF_A_LAYER)]


def check_names(kind: type, arguments: tuple, options: dict) -> None:
    """Raise TypeError for an argument that a cell does not take, with the names of those that it takes."""
    known = inspect.signature(kind).parameters.values()
    positional = [a.name for a in known if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
    named = [a.name for a in known if a.kind == a.KEYWORD_ONLY]
    kinds = {a.kind for a in known}
    if len(arguments) > len(positional) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        raise TypeError(
            f"{kind.__name__} was given {len(arguments)} positional arguments, but takes {' and '.join(positional)} "
            f"only; give options by name: {', '.join(f'{name}=' for name in named)}"
        )
    unknown = [name for name in options if name not in (*positional, *named)]
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise TypeError(f"{kind.__name__} has no option {', '.join(unknown)}; its options are {', '.join(named)}")
