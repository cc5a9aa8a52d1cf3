"""Runs that cannot fit into RAM are refused before anything is drawn; runs that fit are not."""

import pytest

from amu_experiments import plan
from amu_experiments.options import ConfigurationError
from amu_experiments.plan import prepare

TOO_MUCH = {
    "task=two_sequence trials=10000 task.T=1000000": r"trials=10000 and the settings of task .* 1,100,000 steps of 1 ",
    "task=two_sequence task.T=1000000 task.validation_size=1000000 trials=1": r"1,00\d,\d+ sequences of 1,100",
    "task=two_sequence task.T=1000000 task.test_size=1000000 trials=1": r"2,00\d,\d+ sequences of 1,100,000 steps",
    "task=two_sequence model=rnn model.units=1000000": r"model\.units=1000000 \(1,000,003,000,001 parameters",
    "task=two_sequence model=rnn model.parameters=1000000000 trials=100": "model.units=31621 .999,982,505 parameters",
    "task=two_sequence training.batch_size=1000000000 trials=30": r"2,000,000,\d+ sequences of 110 steps",
    "task=embedded_reber task.strings=1000000 trials=100": "6,000,000 sequences of 48 steps of 14 numbers",
    "task=adding task.T=1000000 task.validation_size=1000000": "1,000,000 steps of 2 numbers",
    "task=adding_1997 task.T=1000000 task.window=1000000 trials=10000": "of 1,100,000 steps of 2 numbers",
    "task=multiplication task.T=1000000 trials=100": "of 1,100,000 steps of 2 numbers",
    "task=temporal_order task.T=1000000 trials=30": "of 1,100,000 steps of 8 numbers",
    "task=long_lag_2a task.p=1000000": "1,000,000 steps of 2,000,002 numbers",
    "task=long_lag task.trigger_probability=1e-12": r"sequences of 1,000,000,000,\d+ steps",
    "task=copy_memory task.symbols=1000000": "of 2,000,003 numbers",
    "task=japanese_vowels model=rnn trials=10000 model.units=3000": r"model\.units=3000 \(9,066,009 parameters",
}


@pytest.fixture(scope="module")
def composer(shared_composer):
    with shared_composer.ready():
        yield shared_composer


@pytest.mark.parametrize("command", TOO_MUCH)
def test_a_run_that_cannot_fit_into_ram_is_refused_with_both_figures(command, composer):
    both = r"need at least [\d.,]+ [TP]iB of RAM, and [\d.,]+ \w+ are free; use fewer"
    with pytest.raises(ConfigurationError, match=f"{TOO_MUCH[command]}.*{both}"):
        prepare(composer.load(command.split()))


@pytest.mark.parametrize("free", [2**20, 2**30])
def test_the_free_ram_decides(free, composer, monkeypatch):
    """Ten trials of (250 + 2,560 + 2 * 2,560) sequences of 110 numbers of four bytes take at least 33 MiB."""
    monkeypatch.setattr(plan, "free_ram", lambda: free)
    config = composer.load(["task=two_sequence", "task.validation_size=2560", "task.test_size=2560"])
    if free == 2**30:
        assert prepare(config).config["model"]["units"] > 0
    else:
        with pytest.raises(ConfigurationError, match=r"need at least 33\.\d MiB of RAM, and 1\.0 MiB are free"):
            prepare(config)


def test_the_free_ram_is_a_plausible_number():
    assert 2**25 < plan.free_ram() < 2**50
