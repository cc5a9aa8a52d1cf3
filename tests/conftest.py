"""The option --long, for the tests of faults and endurance that take minutes; what all tests share."""

import os
from multiprocessing import forkserver
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from amu_experiments import numerics, overrides

# As amu-run does, before anything imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
numerics.fix("portable")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the long form of tests of faults and endurance")


def pytest_collection_modifyitems(config, items):
    """A test marked long_only takes minutes however little it does; without --long it is not selected."""
    left_out = [item for item in items if item.get_closest_marker("long_only") and not config.getoption("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_sessionstart(session):
    if session.config.getoption("numprocesses", None) and not hasattr(session.config, "workerinput"):
        return  # this process runs no test: it gives them to others
    # Start the fork server now: if something else started it first, it would not have these modules.
    forkserver.set_forkserver_preload(
        [f"amu_experiments.{name}" for name in ("cli", "training", "analysis.report", "studies.tuning")]
    )
    forkserver.ensure_running()


@pytest.fixture(scope="session", autouse=True)
def shared_composer():
    """One Composer for all commands with the same yaml files, which are composed once.

    A job of Hydra gets a new Composer: Hydra is already initialised there, with the folders of its command.
    """
    new, shared = overrides.Composer, {}

    def composer(config_dir=None):
        if GlobalHydra.instance().is_initialized():
            return new(config_dir)
        own = sorted(file for file in Path(config_dir).rglob("*.yaml") if file.is_file()) if config_dir else []
        key = (config_dir and Path(config_dir).resolve(), *((file, file.read_bytes()) for file in own))
        return shared.setdefault(key, new(config_dir))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overrides, "Composer", composer)
        yield composer()


@pytest.fixture
def long(request) -> bool:
    return request.config.getoption("--long")


@pytest.fixture
def number(long):
    """number(few, many): how often a test does what it does, many times with --long."""
    return lambda few, many: many if long else few
