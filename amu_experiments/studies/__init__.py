"""Studies of many runs, each a command: python -m amu_experiments.studies.NAME.

Of the other modules of the package, only tune.py imports studies.
"""
