"""The study that tunes models: what it tries, chooses and writes."""

import inspect
import math
import shutil
from pathlib import Path

import handmade
import numpy as np
import pandas as pd
import pytest
import yaml

from amu_experiments.cells.amu import AMU
from amu_experiments.conf_files import conf_dir, experiments, named_readings
from amu_experiments.overrides import load, load_all
from amu_experiments.store import read_results
from amu_experiments.studies import export, longest, mechanism, readings, shipped, tuning

PLAN = tuning.tuning_plan(conf_dir())
PAPER = Path(__file__).parents[1] / "results" / "paper"

READINGS = {
    name: {tuning.leaf(key): value for key, value in options.items()} for name, options in named_readings().items()
}
SHIPPED = READINGS[pd.read_csv(PAPER / "readings_shipped.csv")["reading"].iloc[0]] | {"gradient": "truncated"}
"""Options of the AMU in its reading that tuning chose."""


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
    sizes = (9, 9, 9)
    assert tuning.next_point([(3, 3, 3)], sizes) == (2, 3, 3)
    assert tuning.next_point([(3, 3, 3), (2, 3, 3)], sizes) == (4, 3, 3)
    around = [(3, 3, 3), (2, 3, 3), (4, 3, 3), (3, 2, 3), (3, 4, 3), (3, 3, 2), (3, 3, 4)]
    assert tuning.next_point(around, sizes) == (1, 3, 3)
    assert tuning.next_point([(0, 0, 0)], sizes) == (1, 0, 0)  # there is nothing below the least value
    with pytest.raises(ValueError, match="more values"):
        tuning.next_point([(0, 0, 0)], (1, 1, 1))


def test_the_best_is_at_the_edge_until_all_six_beside_it_are_tried():
    around = [(2, 3, 3), (4, 3, 3), (3, 2, 3), (3, 4, 3), (3, 3, 2), (3, 3, 4)]
    sizes = (9, 9, 9)
    assert not tuning.at_edge([(3, 3, 3), *around], sizes)
    assert all(tuning.at_edge([(3, 3, 3), *around[:k], *around[k + 1 :]], sizes) for k in range(6))
    assert not tuning.at_edge([(0, 0, 8), (1, 0, 8), (0, 1, 8), (0, 0, 7)], sizes)  # beyond the values lies nothing


def test_the_search_begins_with_different_points_that_use_every_starting_value():
    axes = PLAN["models"]["lstm"]["axes"]
    points = tuning.first_points(axes, 12)
    assert len(set(points)) == 12
    for axis, indices in zip(axes, zip(*points, strict=True), strict=True):
        assert {axis["values"][index] for index in indices} == set(axis["start"])
    assert len(tuning.first_points(axes, 1000)) == np.prod([len(axis["start"]) for axis in axes])


def test_among_the_best_few_more_trials_choose():
    """The best after two trials solves only 5 of 10 as a finalist. The second best solves all 10, and is chosen."""
    search = object.__new__(tuning.Search)
    search.tried = {(0, 0): tried(2, 100.0), (0, 1): tried(2, 200.0), (0, 2): tried(1, 50.0)}
    search.finalists, search.final_trials = 2, 10
    more = {(0, 0): tried(5, 100.0), (0, 1): tried(10, 200.0)}
    search.try_out = lambda point, trials: more[point]
    search.choose()
    assert search.ranking() == [(0, 1), (0, 0), (0, 2)]


# The plan ---------------------------------------------------------------------------------------------------------


def test_every_model_gets_the_same_number_of_configurations_and_at_least_twelve():
    assert {len(tuning.first_points(model["axes"], PLAN["first"])) for model in PLAN["models"].values()} == {12}
    assert 12 <= PLAN["configurations"] <= PLAN["most"]
    searches = [PLAN | experiment.get("search", {}) for experiment in PLAN["experiments"].values()]
    assert all(each.keys() == PLAN.keys() for each in searches)
    assert all(each["first"] <= each["configurations"] <= each["most"] for each in searches)
    assert all(each["trials"] <= each["final_trials"] for each in searches)


@pytest.mark.parametrize("experiment", PLAN["experiments"])
def test_all_models_of_an_experiment_were_tuned_with_equal_budgets(experiment):
    """By the record: as many configurations, trials and sequences at most for each model."""
    spent = set()
    for model in tuning.models_of(PLAN, experiment):
        tried = pd.read_csv(PAPER / "tuning" / f"{experiment}-{model}.csv")
        trials = tried["final_trials"].fillna(tried["trials"])
        spent.add((len(tried), trials.sum(), tried["max_sequences"].unique().item()))
    assert len(spent) == 1


def test_all_models_are_tried_with_the_same_learning_rates_and_limits_of_the_gradient():
    for axis, key in ((0, "training.learning_rate"), (2, "training.clip_norm")):
        (same,) = {str(model["axes"][axis]) for model in PLAN["models"].values()}
        assert key in same
    assert None in PLAN["clip_norm"]["values"]


def test_a_model_has_the_options_of_its_reading_and_every_rival_is_tuned_where_claims_are_tested():
    """Claims are tested with each of some readings: truncated, with the full gradient, and with its memory emitted."""
    claimed = [name for name, experiment in PLAN["experiments"].items() if "trainings" in experiment]
    assert claimed == ["embedded_reber", "embedded_reber_legal", "two_sequence_3a", "two_sequence_3c"]
    for name in claimed:
        models = tuning.models_of(PLAN, name)
        assert models["amu_abstract"]["settings"]["model.output_in_product"] is False
        for reading in (model.removesuffix("_full") for model in models if model.endswith("_full")):
            plain, full, memory = (models[f"{reading}{form}"]["settings"] for form in ("", "_full", "_memory"))
            assert full == plain | {"model.gradient": "full"}
            assert memory == plain | {"model.output": "memory"}
        rivals = {"lstm", "gru", "rnn", "lstm97", "lem", "janet"}
        assert rivals | {f"{rival}_sgd" for rival in rivals} <= set(models)
    assert list(tuning.models_of(PLAN, "temporal_order_6a")) == PLAN["everywhere"]


def test_a_reading_that_nobody_has_named_stops_the_study(plan):
    settings = yaml.safe_load((plan / "tuning.yaml").read_text())
    settings["models"]["amu"]["reading"] = "tfarme"
    (plan / "tuning.yaml").write_text(yaml.safe_dump(settings))
    shutil.copy(conf_dir() / "readings.yaml", plan)
    with pytest.raises(SystemExit, match="amu: no reading tfarme, only abstract, tframe"):
        tuning.tuning_plan(plan)


def test_every_experiment_is_of_the_plan_or_of_1997():
    folders = {name.partition("/")[0] for name in experiments()}
    assert folders == {*PLAN["experiments"], "lstm97_1997"}


# The tuner --------------------------------------------------------------------------------------------------------


def write_plan(folder):
    """Make a folder like conf/ with two models, two configurations each, two trials of 40 sequences."""
    (folder / "tuning").mkdir(parents=True)
    for model in ("amu", "rnn"):
        (folder / f"tuning/{model}.yaml").write_text("{key: model.initial_range, values: [1.0, 2.0], start: [1.0]}")
    plan = {
        "learning_rate": {"key": "training.learning_rate", "values": [0.01, 0.1], "start": [0.01]},
        "initial_range": {"key": "model.initial_range", "values": [0.5, 1.0], "start": [1.0]},
        "clip_norm": {"key": "training.clip_norm", "values": [1.0, None], "start": [1.0, None]},
        "seed": 10_000,
        "trials": 2,
        "finalists": 1,
        "final_trials": 3,
        "first": 2,
        "configurations": 3,
        "most": 4,
        "models": {
            "amu": {"title": "AMU", "model": "amu", "settings": {"model.gradient": "truncated"}},
            "rnn": {"title": "RNN", "model": "rnn", "settings": {}},
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
    (folder / "experiment/short").mkdir(parents=True)
    (folder / "tuning.yaml").write_text(yaml.safe_dump(plan))
    (folder / "experiment/short/base.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(protocol)}")
    return folder


@pytest.fixture
def plan(tmp_path):
    return write_plan(tmp_path / "conf")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A folder with the plan in conf/, which has been tuned."""
    folder = tmp_path_factory.mktemp("tuned")
    run(folder, write_plan(folder / "conf"))
    return folder


def options(tmp_path, plan, out):
    folders = {"config-dir": plan, "out": out, "results-dir": tmp_path / "runs/tuning"}
    return [f"--{name}={folder}" for name, folder in folders.items()]


def run(tmp_path, plan, *arguments):
    tuning.main([*options(tmp_path, plan, tmp_path / "out"), *arguments])


def test_tuning_writes_the_choice_and_all_that_was_tried(tuned):
    written = load_all(["experiment=short/amu"], config_dir=tuned / "conf")[0]
    table = pd.read_csv(tuned / "out/short-amu.csv")
    assert len(table) == 4
    assert table["loss"].is_monotonic_increasing  # nothing is solved in 40 sequences
    assert (written["task"]["problem"], written["task"]["T"]) == ("adding", 12)
    assert written["trials"] == 3
    assert written["training"]["learning_rate"] == table["training.learning_rate"][0]
    assert written["model"]["gradient"] == "truncated"
    assert written["model"]["initial_range"] == table["model.initial_range"][0]
    assert written["training"]["max_sequences"] == 40
    assert not any("test" in column for column in table)
    assert (
        "# RNN. The best of 4 configurations: none met solved" in (tuned / "conf/experiment/short/rnn.yaml").read_text()
    )


def test_tuning_trials_are_not_seen_by_reports_and_not_trained_twice(tuned):
    results = read_results(tuned / "runs/tuning")
    assert len(results) == 8
    assert {trial for result in results for trial in result.trials["trial"]} == {10_000, 10_001, 10_002}
    assert read_results(tuned / "runs") == []
    times = {path: path.stat().st_mtime_ns for path in (tuned / "runs").rglob("trials.csv")}
    run(tuned, tuned / "conf", "short")
    assert times == {path: path.stat().st_mtime_ns for path in (tuned / "runs").rglob("trials.csv")}


@pytest.mark.parametrize(
    ("solved", "at_edge", "counts"),
    [
        ({"amu": 2, "rnn": 2}, {"amu": False, "rnn": False}, [3]),
        ({"amu": 2, "rnn": 2}, {"amu": False, "rnn": True}, [3, 4]),
        ({"amu": 2, "rnn": 0}, {"amu": False, "rnn": True}, [3]),
        ({"amu": 0, "rnn": 0}, {"amu": False, "rnn": True}, [3, 4]),
    ],
)
def test_all_get_more_while_one_is_at_the_edge_but_not_for_one_that_solves_nothing(
    tmp_path, plan, monkeypatch, solved, at_edge, counts
):
    extended = {}

    class Search:
        def __init__(self, plan, experiment, model, options):
            self.model, self.tried, self.finals = model, {}, {(0, 0): {"solved": solved[model]}}
            self.has_trained = True
            self.extend = extended.setdefault(model, []).append
            self.choose, self.ranking, self.at_edge = (lambda: None, lambda: [(0, 0)], lambda: at_edge[model])

    monkeypatch.setattr(tuning, "Search", Search)
    monkeypatch.setattr(tuning, "store_choice", lambda *_: None)
    run(tmp_path, plan)
    assert extended == {"amu": counts, "rnn": counts}


def test_a_choice_at_the_end_of_the_values_says_so(tuned):
    text = " ".join((tuned / "conf/experiment/short/rnn.yaml").read_text().split("\n# "))
    assert "at the end of the values of learning_rate and initial_range" in text


def test_tuning_goes_on_from_its_tables_where_the_runs_are_gone(tuned, tmp_path):
    for name in ("conf", "out"):
        shutil.copytree(tuned / name, tmp_path / name)
    written = [*tmp_path.glob("out/*.csv"), *tmp_path.glob("conf/experiment/*/*.yaml")]
    assert len(written) == 5
    before = {path: path.read_text() for path in written}
    run(tmp_path, tmp_path / "conf", "--continue")
    assert not (tmp_path / "runs").exists()
    assert before == {path: path.read_text() for path in before}


def test_a_model_is_tuned_once_for_every_training(tmp_path, plan):
    """Under gradient descent it has its own choice, starting values and file, which sets the training."""
    settings = yaml.safe_load((plan / "tuning.yaml").read_text())
    settings["trainings"] = {"adam": {}, "sgd": {"start": {"training.learning_rate": [0.1]}}}
    settings["experiments"]["short"] = {"trainings": ["adam", "sgd"]}
    (plan / "tuning.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    assert list(tuning.models_of(tuning.tuning_plan(plan), "short")) == ["amu", "rnn", "amu_sgd", "rnn_sgd"]
    del settings["models"]["amu"]
    (plan / "tuning.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    run(tmp_path, plan, "short")
    adam, sgd = (load_all([f"experiment=short/{name}"], config_dir=plan)[0] for name in ("rnn", "rnn_sgd"))
    assert (adam["training"]["optimizer"], sgd["training"]["optimizer"]) == ("adam", "sgd")
    assert sgd["task"]["loss"] == "half_squared_error"
    tried = pd.read_csv(tmp_path / "out/short-rnn_sgd.csv")
    assert sgd["training"]["learning_rate"] == tried["training.learning_rate"][0]
    assert 0.1 in tried["training.learning_rate"].to_list()


def test_an_experiment_may_have_a_smaller_search_for_all_its_models(tmp_path, plan):
    settings = yaml.safe_load((plan / "tuning.yaml").read_text())
    settings["experiments"]["short"] = {"search": {"trials": 1, "configurations": 1, "most": 1, "final_trials": 2}}
    (plan / "tuning.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    run(tmp_path, plan)
    tables = [pd.read_csv(tmp_path / f"out/short-{model}.csv") for model in ("amu", "rnn")]
    assert [(len(table), *table[["trials", "final_trials"]].iloc[0]) for table in tables] == [(1, 1, 2)] * 2


def test_untuned_experiments_say_so_and_leave_the_defaults(tmp_path, plan):
    run(tmp_path, plan, "--defaults")
    assert "not tuned" in (plan / "experiment/short/rnn.yaml").read_text()
    untuned, defaults = (
        load_all([f"experiment=short/{name}", "model=rnn"], config_dir=plan)[0] for name in ("rnn", "base")
    )
    assert untuned == defaults
    assert not (tmp_path / "runs").exists()


# Their options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", [tuning, readings, mechanism])
@pytest.mark.parametrize("threads", ["0", "-1", "2.5", "many"])
def test_threads_are_a_whole_number_of_1_or_more(study, threads, capsys):
    with pytest.raises(SystemExit) as stopped:
        study.main([f"--threads={threads}"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.endswith(f"argument --threads: {threads}: must be a whole number from 1 to 10000000")


@pytest.mark.parametrize("study", [mechanism, export])
def test_a_study_of_stored_runs_needs_some(study, tmp_path):
    with pytest.raises(SystemExit, match=f"no finished runs in {tmp_path}"):
        study.main(["--results-dir", str(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


# The reading that is shipped -----------------------------------------------------------------------------------------

SHORT = {"trials": 2, "final_trials": 15, "max_sequences": 1000, "final_solved": 0, "final_median_sequences": None}


@pytest.mark.parametrize(
    ("finals", "first"),
    [
        ({"abstract": (9, 9, 9, 800), "tframe": (9, 9, 10, 900)}, "tframe"),  # more trials solved
        ({"abstract": (9, 9, 9, 500), "tframe": (9, 9, 9, 900)}, "abstract"),  # as many, and sooner
        ({"abstract": (0, 0, 7, 900), "tframe": (5, 1, 1, 500)}, "tframe"),  # as many, but in floats more by rounding
        ({"abstract": (7, 7, 7, None), "tframe": (7, 7, 7, None)}, "abstract"),  # a tie: the first in the plan
    ],
)
def test_the_reading_that_solves_most_final_trials_is_shipped(tmp_path, finals, first):
    reading = {
        name: {"title": name, "reading": name, "options": {}, "settings": {"model.gradient": "truncated"}}
        for name in finals
    }
    full = {"full": reading["tframe"] | {"settings": {"model.gradient": "full"}}}
    models = reading | full | {"lstm": {"title": "", "settings": {}}}
    plan = {"experiments": {"one": {}, "two": {}, "three": {}}, "models": models}
    for name, (*counts, median) in (finals | {"full": (15, 15, 15, 1), "lstm": (15, 15, 15, 1)}).items():
        for experiment, solved in zip(plan["experiments"], counts, strict=True):
            row = SHORT | {"final_solved": solved, "final_median_sequences": median}
            pd.DataFrame([row, SHORT]).to_csv(tmp_path / f"{experiment}-{name}.csv", index=False)
    table = shipped.candidates(plan, tmp_path)
    assert table["reading"].tolist() == sorted(finals, key=lambda name: name != first)
    assert table["share"].iloc[0] == pytest.approx(sum(finals[first][:3]) / 45)


def test_an_experiment_without_all_readings_has_no_part_in_the_choice(tmp_path):
    """It has no table either."""
    models = {
        name: {"title": name, "reading": name, "options": {}, "settings": {"model.gradient": "truncated"}}
        for name in ("abstract", "tframe")
    }
    plan = {"models": models, "experiments": {"all": {}, "some": {"models": ["tframe"]}}}
    for name, solved in (("abstract", 9), ("tframe", 8)):
        pd.DataFrame([SHORT | {"final_solved": solved}]).to_csv(tmp_path / f"all-{name}.csv", index=False)
    table = shipped.candidates(plan, tmp_path)
    assert table["all"].tolist() == ["9/15, n.r.", "8/15, n.r."]
    assert table["share"].tolist() == [0.6, 8 / 15]


def test_the_model_and_the_layer_are_by_default_the_reading_that_the_rule_chose():
    """By the committed results of tuning, and with the truncated gradient, which is the paper's algorithm."""
    table = shipped.candidates(PLAN, PAPER / "tuning")
    assert (PAPER / "readings_shipped.csv").read_text() == table.to_csv(index=False, float_format="%.3f")
    first = table["reading"].iloc[0]
    wanted = READINGS[first] | {"gradient": "truncated"}
    arguments = inspect.signature(AMU.__init__).parameters.values()
    defaults = {argument.name: argument.default for argument in arguments}
    assert load("task=adding", "model=amu")["model"].items() >= wanted.items() <= defaults.items()


@pytest.mark.parametrize("reading", ["abstract", "tframe"])
def test_a_model_is_the_reading_of_its_name(reading):
    wanted = READINGS[reading] | {"gradient": "truncated"}
    assert load("task=adding", f"model=amu_{reading}")["model"].items() >= wanted.items()


def test_without_the_results_of_tuning_no_reading_is_shipped(tmp_path):
    with pytest.raises(SystemExit, match="tune this experiment first"):
        shipped.main(["--out", str(tmp_path)])


# The longest lag ------------------------------------------------------------------------------------------------------


def test_the_best_at_a_lag_are_printed_in_order(tmp_path, capsys, monkeypatch):
    """By trials solved of 10, then by their median."""
    results = {"rnn": [None] * 10, "lstm": [300] * 9 + [None], "gru": [200] * 9 + [None], "amu": [900] * 10}
    for name, times in results.items():
        results[name] = handmade.write(tmp_path / name, "lstm", times)
    monkeypatch.setattr(longest, "trained", lambda run: results[run.config["model"]["cell"]])
    names = [f"two_sequence_3b/{name}" for name in ("rnn", "lstm", "gru", "amu_tframe")]
    longest.main([*names, "--lag", "1000", "--set", "training.max_sequences=1000"])
    assert capsys.readouterr().out.split() == [f"two_sequence_3b/{name}" for name in ("amu_tframe", "gru", "lstm")]


def test_the_longest_lag_knows_its_experiments(capsys):
    with pytest.raises(SystemExit):
        longest.main(["two_sequence_3b/lsmt", "--lag", "1000"])
    assert "no such experiment: two_sequence_3b/lsmt" in capsys.readouterr().err
