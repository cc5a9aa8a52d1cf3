"""Options of the test suite."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the long form of tests of faults and endurance")


@pytest.fixture
def long(request) -> bool:
    return request.config.getoption("--long")


@pytest.fixture
def number(long):
    """number(few, many): how often a test does what it does, many times with --long."""
    return lambda few, many: many if long else few
