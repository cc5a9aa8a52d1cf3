"""The option --long, for the tests of faults and endurance that take minutes."""

from multiprocessing import forkserver

import pytest

from amu_experiments import numerics

numerics.fix("portable")  # as amu-run does, before anything imports torch


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the long form of tests of faults and endurance")


def pytest_sessionstart():
    # Now, before anything else starts it for less.
    forkserver.set_forkserver_preload([f"amu_experiments.{name}" for name in ("cli", "training", "analysis.report")])
    forkserver.ensure_running()


@pytest.fixture
def long(request) -> bool:
    return request.config.getoption("--long")


@pytest.fixture
def number(long):
    """number(few, many): how often a test does what it does, many times with --long."""
    return lambda few, many: many if long else few
