"""`python -m amu_experiments` is amu-run."""

from amu_experiments.cli import command

command()
