"""Measures the mechanism of stored runs; takes the options of amu_experiments.studies.mechanism."""

from amu_experiments.studies.mechanism import main

if __name__ == "__main__":
    main()
