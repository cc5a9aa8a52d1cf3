"""reproduce_paper.sh runs every experiment that conf/ has, with programs that exist."""

import re
from importlib.util import find_spec
from pathlib import Path

import yaml

from amu_experiments.conf_files import conf_dir, experiments

PLAN = yaml.safe_load((conf_dir() / "tuning.yaml").read_text())
ROOT = Path(__file__).parent.parent
SCRIPT = (ROOT / "scripts" / "reproduce_paper.sh").read_text()


def test_every_experiment_of_the_plan_is_run():
    lists = {name: set(words.split()) for name, words in re.findall(r"^(\w+)=\(([^()]*?)\)$", SCRIPT, re.M | re.S)}
    music = set(re.search(r"import music21.*; then generating\+=\((\w+)\)", SCRIPT).groups())
    assert lists["claimed"] | lists["generating"] | music | lists["experiments"] == set(PLAN["experiments"])
    assert {pair.partition(":")[0] for pair in lists["lags"]} <= set(PLAN["experiments"])


def test_samples_are_those_of_experiments_with_that_model():
    """A WAV, a sheet of letters, a chorale and ten strings are among them."""
    loops = re.findall(r"for experiment in ([\w ]+); do sample \"\$experiment(/\w+)\"", SCRIPT)
    names = [f"{experiment}{model}" for words, model in loops for experiment in words.split()]
    names += re.findall(r"sample (\w+/\w+)", SCRIPT)
    assert {"waveform_500/amu", "pen/amu", "chorales/amu", "embedded_reber_sampled/amu"} <= set(names)
    assert set(names) <= set(experiments())


def test_every_run_of_1997_is_made_once():
    tasks = re.findall(r"^  historical \d+ (\w+)$", SCRIPT, re.M)
    files = [name for name in experiments() if name.startswith("lstm97_1997/")]
    assert all(sum(file.startswith(f"lstm97_1997/{task}") for task in tasks) == 1 for file in files)


def test_every_program_that_is_started_exists():
    files = re.findall(r" python (\S+\.py)", SCRIPT)
    modules = re.findall(r" python -m (\S+)", SCRIPT)
    assert len(files) >= 4
    assert all((ROOT / file).is_file() for file in files)
    assert modules
    assert all(map(find_spec, modules))
