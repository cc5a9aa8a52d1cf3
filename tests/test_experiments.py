"""Every file in conf/ composes and, with shorter sequences and smaller sets, trains two steps."""

import pytest

from amu_experiments import store, training
from amu_experiments.overrides import choices, load

LEAST = (
    "trials=2",
    "training.batch_size=2",
    "training.max_sequences=4",
    "training.evaluate_every=2",
    "backend=torch",
    "threads=1",
)

MOST = {"T": 30, "p": 30, "q": 30, "strings": 5, "validation_size": 4, "test_size": 4}
"""Of what makes the sequences of a task long or its sets large."""


def trains(tmp_path, *overrides):
    config = load(*overrides, *LEAST, f"results_dir={tmp_path}")
    config["task"] |= {name: min(most, config["task"][name]) for name, most in MOST.items() if name in config["task"]}
    if config["model"]["units"] is None:
        config["model"]["parameters"] = min(config["model"]["parameters"], 300)
    training.run(config)
    (result,) = store.read_results(tmp_path)
    assert len(result.history) == 4
    assert result.history["train_loss"].notna().all()


@pytest.mark.parametrize("task", choices("task"))
def test_a_task(tmp_path, task):
    name = ["task.name=UnitTest"] if task == "time_series" else []
    trains(tmp_path, f"task={task}", "model=rnn", *name)


@pytest.mark.parametrize("model", choices("model"))
def test_a_model(tmp_path, model):
    trains(tmp_path, "task=adding", "task.T=20", f"model={model}")


# The others put together a task and a model, each trained above, and are composed in test_scripts.py.
@pytest.mark.parametrize("experiment", [name for name in choices("experiment") if name.startswith("lstm97_1997/")])
def test_an_experiment(tmp_path, experiment):
    trains(tmp_path, f"experiment={experiment}")
