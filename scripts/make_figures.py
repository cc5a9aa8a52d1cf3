"""Writes only the figures of amu-report. Takes the same options."""

import sys

from amu_experiments.analysis.report import main

if __name__ == "__main__":
    sys.exit(main(["--only", "figures", *sys.argv[1:]]))
