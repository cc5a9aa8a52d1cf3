"""Measures error flow, gradient conflict and memory of stored runs; options as amu_experiments.studies.mechanism."""

from amu_experiments.studies.mechanism import main

if __name__ == "__main__":
    main()
