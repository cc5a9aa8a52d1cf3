"""Studies of many runs, each a command: python -m amu_experiments.studies.NAME. No other part imports them."""
