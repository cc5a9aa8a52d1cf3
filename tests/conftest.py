"""Options of the test suite."""

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--long", action="store_true", help="kill, damage and race many more processes (tests/test_faults.py)"
    )


@pytest.fixture
def number(request):
    """number(few, many): how often a test does what it does, many times with --long."""
    return lambda few, many: many if request.config.getoption("--long") else few
