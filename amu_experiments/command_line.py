"""The parser of command lines that Hydra does not parse: an error is one line, and --version prints the version."""

import argparse
from collections.abc import Callable
from importlib.metadata import version
from typing import NoReturn

from amu_experiments.options import one_line


class Parser(argparse.ArgumentParser):
    """A parser for the command `prog`, such as amu-report."""

    def __init__(self, prog: str, **options):
        super().__init__(prog, **options)
        self.add_argument("--version", action="version", version=f"{prog} {version('amu-experiments')}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message, 240)}; see {self.prog} --help\n")


def whole(least: int, most: int = 10**7) -> Callable[[str], int]:
    """A type of argparse: whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        if not (text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number from {least} to {most}")
        return int(text)

    return read
