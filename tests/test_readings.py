"""The study that screens the readings of the auxiliary memory unit."""

import itertools
from pathlib import Path

import pandas as pd
import pytest
import yaml

from amu_experiments.analysis.study_tables import read_studies
from amu_experiments.conf_files import conf_dir
from amu_experiments.studies import readings

PLAN = yaml.safe_load((conf_dir() / "readings.yaml").read_text())
PAPER = Path(__file__).parents[1] / "results/paper"
TUNING = yaml.safe_load((conf_dir() / "tuning.yaml").read_text())


def test_every_sensible_reading_is_tried_and_no_other():
    """With N = 2, 3, 4 neurons: 3 x 2 x 2 readings write with the output neuron. The others are 2 x 2 where one neuron
    writes, and 2 x 2 x 2 x 2 where two or three write. Each emits the output neuron with and without squashing."""
    tried = list(readings.readings(PLAN["options"]))
    assert len(tried) == len(set(tried)) == 2 * (3 * 2 * 2 + 2 * 2 + 2 * 2 * 2 * 2)
    for reading in tried:
        options = dict(zip((key.partition(".")[2] for key in PLAN["options"]), reading, strict=True))
        assert not (options["output_sees"] == "new" and options["output_in_product"])


def test_the_named_readings_are_among_those_tried():
    tried = set(readings.readings(PLAN["options"]))
    assert {tuple(named[key] for key in PLAN["options"]) for named in PLAN["named"].values()} <= tried


# What the repository stores ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record():
    tried = pd.read_csv(PAPER / readings.RECORD)
    assert len(readings.current(PLAN, tried)) == len(tried)
    return tried


def test_the_stored_tables_follow_from_the_record(record, tmp_path):
    readings.write(PLAN, record, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        f"readings{part}.{suffix}" for part in ("", "_effects", "_interactions") for suffix in ("csv", "json")
    }
    assert all((tmp_path / name).read_text() == (PAPER / name).read_text() for name in names)


def test_every_reading_had_the_same_budget_in_an_experiment(record):
    for name, rows in record.groupby("experiment"):
        budgets = rows.groupby(list(PLAN["options"]))[["trials", "max_sequences"]].agg(["size", "sum"])
        assert len(budgets) == 64
        assert len(budgets.drop_duplicates()) == 1, name


def test_the_plan_names_the_readings_that_the_study_chose(record):
    chosen = readings.chosen_readings(PLAN, readings.scores(PLAN, record))
    named = PLAN["named"] | PLAN["chosen"]
    assert {name: dict(zip(PLAN["options"], reading, strict=True)) for name, reading in chosen.items()} == named


# The plan ---------------------------------------------------------------------------------------------------------


def test_the_configurations_lie_in_the_ranges_and_are_the_same_each_time():
    points = readings.points(PLAN)
    assert points == readings.points(PLAN)
    assert len({tuple(point.values()) for point in points}) == PLAN["configurations"]
    for key, (low, high) in PLAN["ranges"].items():
        values = [point[key] for point in points]
        assert low <= min(values) < 2 * low
        assert high / 3 < max(values) <= high


def test_screening_trials_come_after_those_of_tuning():
    assert TUNING["seed"] + TUNING["final_trials"] <= PLAN["seed"]


SMALL = {
    "options": {
        "model.neurons_per_unit": [2, 3],
        "model.writers": ["tanh", "gated"],
        "model.output": ["neuron", "linear"],
    },
    "experiments": {"one": {}, "two": {}},
    "named": {"first": {"model.neurons_per_unit": 2, "model.writers": "tanh", "model.output": "neuron"}},
    "best": 2,
}


def scores(score):
    """A table of scores, from a function of the three options."""
    rows = {reading: score(*reading) for reading in itertools.product(*SMALL["options"].values())}
    index = pd.MultiIndex.from_tuples(rows, names=list(SMALL["options"]))
    return pd.DataFrame({"one": rows.values(), "mean": rows.values()}, index=index)


def test_a_main_effect_is_the_mean_difference_between_readings_that_differ_in_one_option():
    table = scores(lambda neurons, writers, output: 0.25 * (neurons == 3) + 0.5 * (writers == "gated"))
    found = readings.effects(SMALL, table).set_index("option")
    assert found["mean"].to_dict() == {
        "neurons_per_unit: 2 to 3": 0.25,
        "writers: tanh to gated": 0.5,
        "output: neuron to linear": 0,
    }
    assert (found["pairs"] == 4).all()
    assert (found["low"] == found["high"]).all()  # the effect is the same at all values of the others


def test_an_interval_shows_how_an_effect_varies_over_the_other_options():
    table = scores(lambda neurons, writers, output: (neurons == 3) * (0.4 if writers == "gated" else 0.2))
    found = readings.effects(SMALL, table).set_index("option").loc["neurons_per_unit: 2 to 3"]
    assert found["mean"] == pytest.approx(0.3)
    assert 0.2 <= found["low"] < 0.3 < found["high"] <= 0.4


def test_an_interaction_is_a_difference_of_effects_and_the_largest_comes_first():
    table = scores(lambda neurons, writers, output: 0.5 * (neurons == 3 and writers == "gated"))
    found = readings.interactions(SMALL, table)
    assert list(found.loc[0, ["option", "with", "mean"]]) == ["neurons_per_unit: 2 to 3", "writers: tanh to gated", 0.5]
    assert found["mean"].tolist() == [0.5, 0, 0]


def test_combinations_without_a_meaning_are_left_out_of_effects():
    table = scores(lambda neurons, writers, output: 1.0)
    missing = table.drop(index=[(2, "gated", "neuron"), (2, "gated", "linear")])
    found = readings.effects(SMALL, missing).set_index("option")
    assert found["pairs"].to_dict() == {
        "neurons_per_unit: 2 to 3": 2,
        "writers: tanh to gated": 2,
        "output: neuron to linear": 3,
    }
    assert "writers: tanh to gated" not in readings.interactions(SMALL, missing)["with"].tolist()


def test_the_named_and_the_best_are_tuned_in_full_and_fewer_neurons_win_a_tie():
    rows = [
        {"experiment": name, "score": 0.5 if reading[2] == "neuron" else 0.25, "best": True}
        | dict(zip(SMALL["options"], reading, strict=True))
        for name in SMALL["experiments"]
        for reading in itertools.product(*SMALL["options"].values())
    ]
    table = readings.scores(SMALL, pd.DataFrame(rows))
    assert readings.chosen_readings(SMALL, table) == {
        "first": (2, "tanh", "neuron"),
        "best_1": (2, "gated", "neuron"),
        "best_2": (3, "gated", "neuron"),
    }


OPTIONS = ["model.neurons_per_unit", "model.output"]


@pytest.fixture
def folder(tmp_path):
    """A folder like conf/ with two readings, two configurations and two experiments; the second uses the better one."""
    plan = {
        "seed": 20_000,
        "trials": 2,
        "configurations": 2,
        "ranges": {"training.learning_rate": [0.001, 0.03], "model.initial_range": [0.1, 1.0]},
        "settings": {"model.gradient": "truncated"},
        "options": {key: PLAN["options"][key][-2:] for key in OPTIONS},
        "experiments": {
            "short": {"settings": {"training.max_sequences": 40}},
            "longer": {"base": "short", "settings": {"task.T": 14}, "best": {"of": "short", "configurations": 1}},
        },
        "named": {"tframe": {"model.neurons_per_unit": 3, "model.output": "linear"}},
        "best": 1,
    }
    protocol = {
        "defaults": [{"override /task": "adding"}],
        "backend": "torch",
        "task": {"T": 12, "validation_size": 4, "test_size": 4, "criteria": {"modern": {"solved": {"mse": "< 10"}}}},
        "training": {"max_sequences": 20, "evaluate_every": 10, "batch_size": 10},
    }
    conf = tmp_path / "conf"
    (conf / "experiment/short").mkdir(parents=True)
    (conf / "readings.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    (conf / "experiment/short/base.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(protocol)}")
    return conf


def test_the_study_writes_its_tables_and_a_second_run_trains_nothing(tmp_path, folder, capsys):
    out, runs = tmp_path / "out", tmp_path / "runs"
    arguments = [f"--config-dir={folder}", f"--out={out}", f"--results-dir={runs}", "--threads=1"]
    readings.main(arguments)
    tried = pd.read_csv(out / "readings/tried.csv")
    assert tried.groupby("experiment").size().to_dict() == {"short": 8, "longer": 4}
    assert tried.groupby(["experiment", *OPTIONS])["best"].sum().eq(1).all()
    points = [*OPTIONS, "training.learning_rate", "model.initial_range"]
    short, longer = (part[part["best"]][points] for _, part in tried.groupby("experiment", sort=False))
    pd.testing.assert_frame_equal(*(part.sort_values(points, ignore_index=True) for part in (short, longer)))
    # Every network meets the criterion at the first evaluation, after 10 of 40, or of 20, sequences.
    assert tried.groupby("experiment")["score"].unique().map(list).to_dict() == {"short": [0.75], "longer": [0.5]}
    written = sorted(path.name for path in out.glob("*.csv"))
    assert written == ["readings.csv", "readings_effects.csv", "readings_interactions.csv"]
    assert len(pd.read_csv(out / "readings.csv")) == 4
    studies = {study.id: study for study in read_studies(out, [])}
    assert "Main effects" in studies["readings"].tables[1].caption
    before = (out / "readings.csv").read_bytes()
    for path in runs.rglob("*"):
        if path.is_file():
            path.unlink()
    readings.main([*arguments, "--continue"])
    assert (out / "readings.csv").read_bytes() == before
    assert not list(runs.rglob("trials.csv"))


def test_the_record_counts_only_as_far_as_the_plan_is_the_same():
    plan = {
        "trials": 5,
        "configurations": 2,
        "ranges": PLAN["ranges"],
        "options": {"model.neurons_per_unit": [2, 3]},
        "experiments": {"one": {"settings": {"training.max_sequences": 40}}, "two": {}},
    }
    rows = [
        {"experiment": name, "model.neurons_per_unit": neurons, "trials": 5, "max_sequences": 40} | point
        for name in plan["experiments"]
        for neurons in (2, 3)
        for point in readings.points(plan)
    ]
    record = pd.DataFrame(rows)
    assert len(readings.current(plan, record)) == 8
    assert len(readings.current(plan, record[:-1])) == 6  # a configuration of one reading is missing
    assert readings.current(plan | {"trials": 6}, record).empty
    assert readings.current(plan | {"configurations": 3}, record).empty
    assert readings.current(plan | {"ranges": {key: [0.1, 1.0] for key in plan["ranges"]}}, record).empty
    other = {"one": {"settings": {"training.max_sequences": 80}}, "two": {}}
    assert set(readings.current(plan | {"experiments": other}, record)["experiment"]) == {"two"}
    assert readings.current(plan | {"options": {"model.writers": ["tanh"]}}, record).empty


def test_one_experiment_leaves_the_record_of_the_others(tmp_path, folder):
    out = tmp_path / "out"
    arguments = [f"--config-dir={folder}", f"--out={out}", f"--results-dir={tmp_path / 'runs'}", "--threads=1"]
    with pytest.raises(SystemExit, match="longer: needs the results of short"):
        readings.main([*arguments, "longer"])
    for name, rows in (("short", 8), ("longer", 12), ("short", 12)):
        readings.main([*arguments, name])
        assert len(pd.read_csv(out / "readings/tried.csv")) == rows
