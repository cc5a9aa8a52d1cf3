"""Every file in conf/ composes and, with shorter sequences and smaller sets, trains two steps."""

import importlib
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_studies import READINGS, SHIPPED

from amu_experiments import store, training
from amu_experiments.analysis import claims
from amu_experiments.analysis.historical import historical_runs
from amu_experiments.conf_files import choices, conf_dir, experiments
from amu_experiments.config import identity
from amu_experiments.overrides import load
from amu_experiments.plan import prepare
from amu_experiments.studies import tuning

PLAN = tuning.tuning_plan(conf_dir())

LEAST = (
    "trials=2",
    "training.batch_size=2",
    "training.max_sequences=4",
    "training.evaluate_every=2",
    "backend=torch",
    "threads=1",
)

MOST = {"T": 30, "p": 30, "q": 30, "free_steps": 10}
MOST |= {"letters": 5, "pieces": 10, "samples": 3, "strings": 5, "train_size": 4, "validation_size": 4, "test_size": 4}
"""The largest values, in these tests, of options that make sequences long or sets large."""


@pytest.fixture(scope="module")
def composed(shared_composer) -> dict[str, dict]:
    """The checked configuration of every experiment, by name."""
    with shared_composer.ready():
        return {name: shared_composer.load([f"experiment={name}"]) for name in experiments()}


def trains(tmp_path, *overrides):
    config = load(*overrides, *LEAST, f"results_dir={tmp_path}")
    config["task"] |= {name: min(most, config["task"][name]) for name, most in MOST.items() if name in config["task"]}
    if config["model"]["units"] is None:
        config["model"]["parameters"] = min(config["model"]["parameters"], 300)
    training.run(config)
    (result,) = store.read_results(tmp_path)
    assert len(result.history) == 4
    assert result.history["train_loss"].notna().all()
    return config


@pytest.mark.parametrize("task", choices("task"))
def test_a_task(tmp_path, task):
    name = ["task.name=UnitTest"] if task == "time_series" else []
    trains(tmp_path, f"task={task}", "model=rnn", *name)


@pytest.mark.parametrize("model", choices("model"))
def test_a_model(tmp_path, model):
    config = trains(tmp_path, "task=adding", "task.T=20", f"model={model}")
    assert model.startswith(config["model"]["cell"])


# The others put together a task and a model, each trained above, and are composed below.
@pytest.mark.parametrize("experiment", [name for name in experiments() if name.startswith("lstm97_1997/")])
def test_an_experiment(tmp_path, experiment):
    trains(tmp_path, f"experiment={experiment}")


def test_another_model_trains_under_the_protocol_of_an_experiment(composed):
    """All but the model and what was tuned is that of the experiment."""
    config, tuned = load("experiment=copy_memory/base", "model=gru"), composed["copy_memory/lstm"]
    assert config["model"]["cell"] == "gru"
    assert config["training"]["learning_rate"] == 0.01
    chosen = {key: tuned["training"][key] for key in ("learning_rate", "clip_norm")}
    assert config["training"] | chosen == tuned["training"]
    assert (config["task"], config["trials"]) == (tuned["task"], tuned["trials"])


def test_published_means_are_compared_only_with_the_settings_of_their_source(composed):
    """And not with a run that was tuned, whatever the cell."""
    results = [
        store.Result(config["task"]["problem"], "", name, config, pd.DataFrame(), pd.DataFrame(), Path())
        for name, config in composed.items()
    ]
    published = yaml.safe_load((conf_dir() / "published.yaml").read_text())
    assert historical_runs(results, published) == {name for name in composed if name.startswith("lstm97_1997/")}


def test_tuning_trials_are_far_from_those_that_reports_use(composed):
    assert PLAN["seed"] > max(config["seed"] + config["trials"] for config in composed.values())


def test_sampled_strings_are_of_other_trials_than_the_grammar(composed):
    """With the same seed, the same settings would give the same network."""
    grammar, sampled = composed["embedded_reber/lstm"], composed["embedded_reber_sampled/lstm"]
    assert sampled["seed"] >= grammar["seed"] + grammar["trials"]


@pytest.mark.parametrize("experiment", PLAN["experiments"])
def test_an_experiment_is_there_for_every_model_and_keeps_to_the_plan(experiment, composed):
    models = tuning.models_of(PLAN, experiment)
    assert set(models) == {name.rpartition("/")[2] for name in composed if name.startswith(f"{experiment}/")}
    for name, model in models.items():
        config = composed[f"{experiment}/{name}"]
        assert config["model"]["cell"] == model["model"]
        if "Defaults, not tuned." in (conf_dir() / f"experiment/{experiment}/{name}.yaml").read_text():
            continue
        for axis in model["axes"]:
            section, key = axis["key"].split(".")
            assert config[section][key] in axis["values"]


def test_networks_generate_with_the_unit_in_its_shipped_reading_and_that_of_the_reimplementation(composed):
    """So do its common rivals. All are trained by Adam, and have the same numbers of configurations and trials."""
    for experiment in claims.GENERATION:
        models = tuning.models_of(PLAN, experiment.name)
        common = ["amu", "amu_tframe", "lstm", "gru", "rnn", "lem", "cornn"]
        assert list(models) == common + ["clockwork"] * experiment.name.startswith("waveform")
        configs = [composed[f"{experiment.name}/{name}"] for name in models]
        assert experiment.settings.items() <= configs[0]["task"].items()
        assert {config["training"]["stop"] for config in configs} == {None}
        assert {config["model"]["parameters"] for config in configs} >= {experiment.parameters} - {None}
        assert all(config["model"]["parameters"] and not config["model"]["units"] for config in configs)
        assert configs[0]["model"].items() >= SHIPPED.items()
        assert configs[1]["model"].items() >= READINGS["tframe"].items()


ROOT = Path(__file__).parents[1]

IDENTITIES = dict(line.split() for line in (ROOT / "tests/identities.txt").read_text().splitlines())
"""The identity of each experiment with results in results/paper. A run with another identity is trained again."""


def test_experiments_keep_their_identities(composed):
    assert {name: identity(prepare(composed[name]).config) for name in IDENTITIES} == IDENTITIES


def test_results_in_the_readme_are_those_of_the_committed_tables(composed, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    text = (ROOT / "README.md").read_text()
    assert importlib.import_module("make_readme").rewritten(text) == text


READING = {"memory_seen_by": "unit", "output_sees": "old", "writers": "tanh"}
"""Options of the AMU that are newer than results/paper, with the values that mean the AMU of that time."""


def test_stored_runs_are_found_by_a_cell_with_more_options():
    paper = ROOT / "results/paper/runs"
    run = prepare(load("experiment=two_sequence_3b/amu_tframe", f"results_dir={paper}"))
    assert READING.items() <= load("experiment=two_sequence_3b/amu_tframe")["model"].items()
    assert store.finished_trials(run.folder).issuperset(range(30))
    assert not READING.keys() & store.read_config(run.folder)["model"].keys()


@pytest.mark.parametrize("other", ["memory_seen_by=all", "writers=gated", "output_sees=new"])
def test_another_reading_is_another_run(other):
    lines = ("experiment=two_sequence_3c/amu_tframe", "model.output_in_product=false")
    runs = [prepare(load(*lines, *more)) for more in ((), (f"model.{other}",))]
    assert runs[0].folder != runs[1].folder
    added = dict([other.split("=")])
    units = {"units": runs[1].config["model"]["units"]}  # a unit with more weights: fewer units
    assert runs[1].config["model"] == runs[0].config["model"] | added | units


def test_identities_are_distinct():
    assert len(IDENTITIES) == len(set(IDENTITIES.values())) > 200
