"""The studies that tune models and compare readings: what they try, choose and write."""

import math
import shutil

import handmade
import numpy as np
import pandas as pd
import pytest
import yaml

from amu_experiments.analysis.study_tables import read_studies
from amu_experiments.conf_files import conf_dir, experiments
from amu_experiments.overrides import load_all
from amu_experiments.store import read_results
from amu_experiments.studies import export, mechanism, reconstruction, tuning

PLAN = yaml.safe_load((conf_dir() / "tuning.yaml").read_text())
MODELS = {"amu", "amu_full", "lstm", "gru", "rnn", "lstm97"}
ON_REQUEST = {"amu_memory", "amu_full_memory"}


# Selection --------------------------------------------------------------------------------------------------------


def tried(solved=0, median=math.inf, loss=1.0):
    return {"solved": solved, "median_sequences": median, "loss": loss}


def test_more_trials_solved_come_first_then_the_faster_then_the_smaller_loss():
    table = {
        (0, 0): tried(3, 900.0, 0.1),
        (0, 1): tried(5, 800.0, 0.9),
        (0, 2): tried(3, 700.0, 0.9),
        (0, 3): tried(2, math.inf, 0.3),
        (0, 4): tried(2, math.inf, 0.2),
        (0, 5): tried(0, math.inf, math.inf),
    }
    assert tuning.ranked(table) == [(0, 1), (0, 2), (0, 0), (0, 4), (0, 3), (0, 5)]


def test_without_a_criterion_loss_decides_and_the_earlier_tried_wins_a_tie():
    assert tuning.ranked({(1, 0): tried(loss=0.5), (0, 0): tried(loss=0.5), (0, 1): tried(loss=0.4)}) == [
        (0, 1),
        (1, 0),
        (0, 0),
    ]


def test_a_configuration_is_judged_by_its_trials(tmp_path):
    """200 and 600 solved, one not in 1000, one diverged after 300: a Kaplan-Meier median of 600."""
    judged = tuning.judge(handmade.write(tmp_path, "lstm", [200, 600, None, "diverged"]), "st2", 1000)
    assert (judged["trials"], judged["solved"], judged["diverged"]) == (4, 2, 1)
    assert judged["median_sequences"] == 600
    assert judged["loss"] == pytest.approx((0.0051**2 + 0.25) / 2)  # the diverged trial counts as the worst


def test_no_criterion_means_nothing_is_solved(tmp_path):
    judged = tuning.judge(handmade.write(tmp_path, "lstm", [200, 600, 300]), None, 1000)
    assert (judged["solved"], judged["median_sequences"]) == (0, math.inf)
    assert judged["loss"] == pytest.approx(0.0051**2)


def test_next_is_beside_the_best_then_beside_the_second_best():
    sizes = (9, 9)
    assert tuning.next_point([(3, 3)], sizes) == (2, 3)
    assert tuning.next_point([(3, 3), (2, 3)], sizes) == (4, 3)
    around = [(3, 3), (2, 3), (4, 3), (3, 2), (3, 4)]
    assert tuning.next_point(around, sizes) == (1, 3)
    assert tuning.next_point([(0, 0)], sizes) == (1, 0)  # there is nothing below the least value
    with pytest.raises(ValueError, match="more values"):
        tuning.next_point([(0, 0)], (1, 1))


def test_the_best_is_at_the_edge_until_all_four_beside_it_are_tried():
    around = [(2, 3), (4, 3), (3, 2), (3, 4)]
    assert not tuning.at_edge([(3, 3), *around])
    assert all(tuning.at_edge([(3, 3), *around[:k], *around[k + 1 :]]) for k in range(4))


def test_among_the_best_few_more_trials_choose():
    """The luckiest of three solved all of two trials, but with eight more only half of all: the second best is it."""
    search = object.__new__(tuning.Search)
    search.tried = {(0, 0): tried(2, 100.0), (0, 1): tried(2, 200.0), (0, 2): tried(1, 50.0)}
    search.finalists, search.final_trials = 2, 10
    more = {(0, 0): tried(5, 100.0), (0, 1): tried(10, 200.0)}
    search.try_out = lambda point, trials: more[point]
    search.choose()
    assert search.ranking() == [(0, 1), (0, 0), (0, 2)]


# The plan ---------------------------------------------------------------------------------------------------------


def test_every_model_gets_the_same_number_of_configurations_and_at_least_twelve():
    assert set(PLAN["models"]) == MODELS | ON_REQUEST
    assert {len(set(tuning.grid(model["axes"]))) for model in PLAN["models"].values()} == {12}
    assert 12 <= PLAN["configurations"] <= PLAN["most"]


def test_all_models_are_tried_with_the_same_learning_rates():
    assert len({str(model["axes"][0]) for model in PLAN["models"].values()}) == 1


def test_models_on_request_are_in_the_experiments_that_name_them():
    """Where the claims are tested, the unit is tried with its output neuron and with its memory emitted."""
    with_memory = {name for name in PLAN["experiments"] if set(tuning.models_of(PLAN, name)) == MODELS | ON_REQUEST}
    two_sequence = {f"two_sequence_{variant}" for variant in ("3a", "3b", "3c")}
    assert with_memory == {"embedded_reber", "embedded_reber_legal"} | two_sequence
    assert all(set(tuning.models_of(PLAN, name)) == MODELS for name in set(PLAN["experiments"]) - with_memory)
    settings = {name: model["settings"] for name, model in tuning.models_of(PLAN, "two_sequence_3a").items()}
    assert settings["amu"] == {"model.gradient": "truncated", "model.output": "neuron"}
    assert settings["amu_memory"] == {"model.gradient": "truncated", "model.output": "memory"}
    assert tuning.models_of(PLAN, "adding")["amu"]["settings"] == {"model.gradient": "truncated"}


def test_tuning_trials_are_far_from_those_that_reports_use(composed):
    assert PLAN["seed"] > max(config["seed"] + config["trials"] for config in composed.values())


def test_every_experiment_is_of_the_plan_or_of_1997():
    folders = {name.partition("/")[0] for name in experiments()}
    assert folders == {*PLAN["experiments"], "lstm97_1997"}


@pytest.mark.parametrize("experiment", PLAN["experiments"])
def test_an_experiment_is_there_for_every_model_and_keeps_to_the_plan(experiment, composed):
    models = tuning.models_of(PLAN, experiment)
    assert set(models) == {name.rpartition("/")[2] for name in composed if name.startswith(f"{experiment}/")}
    for model in models:
        config = composed[f"{experiment}/{model}"]
        assert config["model"]["cell"] == PLAN["models"][model]["model"]
        for axis in PLAN["models"][model]["axes"]:
            section, name = axis["key"].split(".")
            assert isinstance(config[section][name], float)


# The tuner --------------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path):
    """A folder like conf/ with two models, two configurations each, two trials of 40 sequences."""
    axes = [
        {"key": "training.learning_rate", "values": [0.01, 0.1], "start": [0.01]},
        {"key": "model.initial_range", "values": [1.0, 2.0], "start": [1.0]},
    ]
    plan = {
        "seed": 10_000,
        "trials": 2,
        "finalists": 1,
        "final_trials": 3,
        "configurations": 2,
        "most": 3,
        "models": {
            "amu": {"title": "AMU", "model": "amu", "settings": {"model.gradient": "truncated"}, "axes": axes},
            "rnn": {"title": "RNN", "model": "rnn", "settings": {}, "axes": axes},
        },
        "experiments": {"short": {}},
    }
    protocol = {
        "defaults": [{"override /task": "adding"}],
        "trials": 3,
        "backend": "torch",
        "task": {"T": 12, "validation_size": 4, "test_size": 4},
        "training": {"max_sequences": 40},
    }
    folder = tmp_path / "conf"
    (folder / "experiment/short").mkdir(parents=True)
    (folder / "tuning.yaml").write_text(yaml.safe_dump(plan))
    (folder / "experiment/short/base.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(protocol)}")
    return folder


def options(tmp_path, plan, out):
    folders = {"config-dir": plan, "out": out, "results-dir": tmp_path / "runs/tuning"}
    return [f"--{name}={folder}" for name, folder in folders.items()]


def run(tmp_path, plan, *arguments):
    tuning.main([*options(tmp_path, plan, tmp_path / "out"), *arguments])


def test_tuning_writes_the_choice_and_all_that_was_tried(tmp_path, plan):
    run(tmp_path, plan, "short")
    written = load_all(["experiment=short/amu"], config_dir=plan)[0]
    table = pd.read_csv(tmp_path / "out/short-amu.csv")
    assert len(table) == 3
    assert table["loss"].is_monotonic_increasing  # nothing is solved in 40 sequences
    assert (written["task"]["problem"], written["task"]["T"]) == ("adding", 12)
    assert written["trials"] == 3
    assert written["training"]["learning_rate"] == table["training.learning_rate"][0]
    assert written["model"]["gradient"] == "truncated"
    assert written["model"]["initial_range"] == table["model.initial_range"][0]
    assert written["training"]["max_sequences"] == 40
    assert not any("test" in column for column in table)
    assert "# RNN. The best of 3 configurations: none met solved" in (plan / "experiment/short/rnn.yaml").read_text()


def test_tuning_trials_are_not_seen_by_reports_and_not_trained_twice(tmp_path, plan):
    run(tmp_path, plan)
    results = read_results(tmp_path / "runs/tuning")
    assert len(results) == 6
    assert {trial for result in results for trial in result.trials["trial"]} == {10_000, 10_001, 10_002}
    assert read_results(tmp_path / "runs") == []
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("trials.csv")}
    run(tmp_path, plan)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("trials.csv")}


@pytest.mark.parametrize(
    ("solved", "at_edge", "counts"),
    [
        ({"amu": 2, "rnn": 2}, {"amu": False, "rnn": False}, [2]),
        ({"amu": 2, "rnn": 2}, {"amu": False, "rnn": True}, [2, 3]),
        ({"amu": 2, "rnn": 0}, {"amu": False, "rnn": True}, [2]),
        ({"amu": 0, "rnn": 0}, {"amu": False, "rnn": True}, [2, 3]),
    ],
)
def test_all_get_more_while_one_is_at_the_edge_but_not_for_one_that_solves_nothing(
    tmp_path, plan, monkeypatch, solved, at_edge, counts
):
    extended = {}

    class Search:
        def __init__(self, plan, experiment, model, options):
            self.model, self.tried, self.finals = model, {}, {(0, 0): {"solved": solved[model]}}
            self.extend = extended.setdefault(model, []).append
            self.choose, self.ranking, self.at_edge = (lambda: None, lambda: [(0, 0)], lambda: at_edge[model])

    monkeypatch.setattr(tuning, "Search", Search)
    monkeypatch.setattr(tuning, "store_choice", lambda *_: None)
    run(tmp_path, plan)
    assert extended == {"amu": counts, "rnn": counts}


def test_a_choice_at_the_edge_says_so(tmp_path, plan):
    run(tmp_path, plan)
    assert "at the edge of the values" in " ".join((plan / "experiment/short/rnn.yaml").read_text().split("\n# "))


def test_tuning_goes_on_from_its_tables_where_the_runs_are_gone(tmp_path, plan):
    run(tmp_path, plan)
    written = [*tmp_path.glob("out/*.csv"), *plan.glob("experiment/*/*.yaml")]
    before = {path: path.read_text() for path in written}
    shutil.rmtree(tmp_path / "runs")
    run(tmp_path, plan, "--continue")
    assert not (tmp_path / "runs").exists()
    assert before == {path: path.read_text() for path in before}


def test_untuned_experiments_say_so_and_leave_the_defaults(tmp_path, plan):
    run(tmp_path, plan, "--defaults")
    assert "not tuned" in (plan / "experiment/short/rnn.yaml").read_text()
    untuned, defaults = (
        load_all([f"experiment=short/{name}", "model=rnn"], config_dir=plan)[0] for name in ("rnn", "base")
    )
    assert untuned == defaults
    assert not (tmp_path / "runs").exists()


# The reconstruction study ---------------------------------------------------------------------------------------------


def reading(name, experiment, solved, median, verdict):
    row = {"reading": name, "experiment": experiment, "learning_rate": 0.01, "trials": 5, "solved": solved}
    return row | {"median_sequences": median, "against_lstm": verdict, "best": True}


READINGS = pd.DataFrame(
    [
        reading("tuned LSTM", "a", 5, 500.0, ""),
        reading("tuned LSTM", "b", 5, 500.0, ""),
        reading("default", "a", 5, 100.0, "ahead"),
        reading("default", "b", 2, math.inf, "behind"),
        reading("output=memory", "a", 5, 300.0, "undecided"),
        reading("output=memory", "b", 5, 200.0, "behind"),
        reading("output=linear", "a", 5, 200.0, "ahead"),
        reading("output=linear", "b", 5, 200.0, "behind"),
    ]
)


def test_a_reading_changes_a_conclusion_where_its_place_is_another():
    table = reconstruction.summary(READINGS).set_index("reading")
    assert table["changes"].to_dict() == {"tuned LSTM": "", "default": "", "output=memory": "a", "output=linear": ""}
    assert table["solved"].to_dict() == {"tuned LSTM": 10, "default": 7, "output=memory": 10, "output=linear": 10}


def test_the_best_reading_solves_most_then_is_fastest_over_all():
    assert reconstruction.best_reading(reconstruction.summary(READINGS)) == "output=linear"


def test_the_default_stands_unless_a_reading_is_significantly_better():
    """10 of 10 against 7 of 10: p = 0.21 by Fisher's exact test; against 2 of 10: p = 0.0007."""
    chosen, p = reconstruction.choice(reconstruction.summary(READINGS))
    assert (chosen, p) == ("default", pytest.approx(0.2105, abs=1e-4))
    worse = READINGS.assign(solved=READINGS["solved"].where(READINGS["reading"] != "default", 1))
    chosen, p = reconstruction.choice(reconstruction.summary(worse))
    assert (chosen, p) == ("output=linear", pytest.approx(0.0007, abs=1e-4))


def test_a_reading_is_ahead_only_with_a_significant_difference():
    def row(times, loss=1.0):
        times = np.array(times, float)
        met = times < 1000
        return tried(int(met.sum()), float(np.median(times)), loss) | {"times": (times, met)}

    slow, fast, none = row([500, 600, 700, 800, 900]), row([100, 150, 200, 250, 300]), row([1000] * 5)
    assert reconstruction.against(fast, slow) == "ahead"
    assert reconstruction.against(none, slow) == "behind"
    assert reconstruction.against(row([450, 620, 710, 790, 880]), slow) == "undecided"
    assert reconstruction.against(none, row([1000] * 5, loss=2.0)) == "undecided"


def test_the_study_writes_a_row_for_each_reading(tmp_path, plan, monkeypatch):
    monkeypatch.setattr(reconstruction, "EXPERIMENTS", ("short",))
    monkeypatch.setattr(reconstruction, "LEARNING_RATES", (0.01, 0.1))
    monkeypatch.setattr(
        reconstruction, "READINGS", {"default": {}, "neurons_per_unit=2": {"model.neurons_per_unit": 2}}
    )
    (plan / "experiment/short/lstm.yaml").write_text(
        "# @package _global_\ndefaults: [/experiment/short/base, override /model: lstm, _self_]\n"
        "training: {learning_rate: 0.02}\n"
    )
    reconstruction.main(options(tmp_path, plan, tmp_path))
    table = pd.read_csv(tmp_path / "reconstruction.csv")
    assert list(table["reading"]) == ["tuned LSTM", "default", "neurons_per_unit=2"]
    tried = pd.read_csv(tmp_path / "reconstruction-all.csv")
    assert tried["learning_rate"].tolist() == [0.02, 0.01, 0.1, 0.01, 0.1]
    assert "| default            | 0/2, n.r. (undecided) |" in (tmp_path / "reconstruction.md").read_text()
    (study,) = read_studies(tmp_path, [])
    assert study.tables[0].caption.startswith("Readings of the auxiliary memory unit beside the default")


def test_the_study_keeps_to_forty_configurations_of_known_experiments():
    assert len(reconstruction.READINGS) * len(reconstruction.LEARNING_RATES) <= 40
    assert set(reconstruction.EXPERIMENTS) <= set(PLAN["experiments"])


# Their options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", [tuning, reconstruction, mechanism])
@pytest.mark.parametrize("threads", ["0", "-1", "2.5", "many"])
def test_threads_are_a_whole_number_of_1_or_more(study, threads, capsys):
    with pytest.raises(SystemExit) as stopped:
        study.main([f"--threads={threads}"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.endswith(f"argument --threads: {threads}: must be a whole number of 1 or more")


@pytest.mark.parametrize("study", [mechanism, export])
def test_a_study_of_stored_runs_needs_some(study, tmp_path):
    with pytest.raises(SystemExit, match=f"no finished runs in {tmp_path}"):
        study.main(["--results-dir", str(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
