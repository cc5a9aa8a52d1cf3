"""Studies of many runs, each a command: python -m amu_experiments.studies.NAME. Only tune.py imports them."""
