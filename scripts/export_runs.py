"""Copies stored runs in a form small enough for git; takes the options of amu_experiments.studies.export."""

from amu_experiments.studies.export import main

if __name__ == "__main__":
    main()
