import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from amu_experiments.config import (
    check,
    check_options,
    check_stop,
    definition,
    identity,
    model_folder,
    task_folder,
)
from amu_experiments.options import (
    POSITIVE,
    Added,
    ConfigurationError,
    added_options,
    check_option,
    options_of,
    whole,
    without_added,
)
from amu_experiments.overrides import load
from amu_experiments.store import folder_of

REFERENCE = {
    "trials": 10,
    "seed": 0,
    "backend": "auto",
    "device": "cpu",
    "threads": None,
    "results_dir": "results/runs",
    "training": {
        "batch_size": 1,
        "max_sequences": 1000,
        "evaluate_every": 100,
        "stop": None,
        "select": "last",
        "optimizer": "adam",
        "learning_rate": 0.01,
        "momentum": 0.0,
        "clip_norm": 1.0,
        "checkpoint_minutes": 5,
    },
    "model": {"units": 4, "parameters": None, "cell": "leaky", "leak": 0.5, "gates": [1.0], "name": "x"},
    "task": {"problem": "echo", "delay": 3, "noisy": False, "source": None, "criteria": {}},
}
"""A run of a cell and a task that no rule is written for."""


def changed(**values):
    """The configuration with some values changed, each given as section__key or key."""
    config = copy.deepcopy(REFERENCE)
    for key, value in values.items():
        *sections, name = key.split("__")
        section = config
        for each in sections:
            section = section[each]
        section[name] = value
    return config


def checked(model=None, task=None, **values):
    """Checked by the defaults' types, and by these annotations of the cell's and the task's arguments."""
    config = check(changed(**values), REFERENCE)
    for section, annotations in (("task", task), ("model", model)):
        config = check_options(config, REFERENCE, section, annotations or {})
    return config


# Types and ranges -------------------------------------------------------------------------------------------


def test_values_take_the_type_of_the_default():
    config = checked(model__leak=1, model__gates=[1, 2], model__name=1997, task__delay=7.0, training__clip_norm=None)
    assert json.dumps(config["model"]["leak"]) == "1.0"
    assert json.dumps(config["model"]["gates"]) == "[1.0, 2.0]"
    assert config["model"]["name"] == "1997"
    assert json.dumps(config["task"]["delay"]) == "7"
    assert config["training"]["clip_norm"] is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task__delay", 2.5),
        ("task__delay", "3"),
        ("task__delay", True),
        ("task__delay", None),
        ("task__noisy", 1),
        ("task__noisy", "yes"),
        ("model__leak", "a little"),
        ("model__leak", float("nan")),
        ("model__leak", float("inf")),
        ("model__leak", True),
        ("model__leak", 10**400),
        ("model__gates", 1.0),
        ("model__gates", [1.0, "open"]),
        ("model__name", None),
        ("task__source", [1]),
        ("task__source", {"a": 1}),
        ("training", 3),
        ("trials", 0),
        ("seed", -1),
        ("device", "gpu"),
        ("threads", 0),
        ("training__learning_rate", 0),
        ("training__momentum", 1.0),
        ("training__clip_norm", 0.0),
        ("model__cell", "lstm"),
        ("task__problem", "adding"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(key, value):
    with pytest.raises(ConfigurationError, match=re.escape(key.replace("__", "."))):
        checked(**{key: value})


def test_an_open_group_takes_any_criterion_with_proper_conditions():
    criteria = {"good": {"accuracy": "> 0.9", "loss": "<= 1e-3"}}
    config = checked(task__criteria=criteria, training__stop="good")
    assert config["task"]["criteria"] == criteria
    with pytest.raises(ConfigurationError, match=r"task\.criteria\.good\.accuracy=high: must be a comparison"):
        checked(task__criteria={"good": {"accuracy": "high"}})


def test_an_unknown_key_is_told_with_its_neighbours_and_the_nearest():
    with pytest.raises(ConfigurationError) as error:
        checked(model__leek=0.3)
    assert str(error.value) == (
        "model.leek=0.3: no such key; model leaky has units, parameters, cell, leak, gates, name "
        "(did you mean model.leak?)"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model__units": None}, "one of them must be a number"),
        ({"training__momentum": 0.5}, "must be 0 with adam"),
        ({"backend": "fused", "device": "cuda"}, "works on device=cpu only"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, message):
    with pytest.raises(ConfigurationError, match=message):
        checked(**values)


def test_training_stops_at_a_criterion_of_the_task():
    check_stop(changed(training__stop="good"), ["good"])
    with pytest.raises(ConfigurationError, match=r"training\.stop=erc: must be one of good, or null"):
        check_stop(changed(training__stop="erc"), ["good"])
    with pytest.raises(ConfigurationError, match=r"training\.stop=erc: must be null: this task has no criteria"):
        check_stop(changed(training__stop="erc"), [])


class Leaky:
    @classmethod
    def shapes(cls, input_size, leak: Annotated[float, POSITIVE], gates: Sequence[Literal["in", "out"]]):
        pass


class Leakier(Leaky):
    def __init__(self, *, name: Annotated[str, whole(1)] | None, **options: "not there"):  # noqa: F821
        pass


class Leakiest(Leaky):
    def __init__(self, *, leak: Annotated[float, POSITIVE] | None, delay: int, levels: Mapping[str, Sequence[float]]):
        pass


def test_the_annotation_of_an_argument_is_the_rule_of_its_option():
    rules = options_of(Leakiest, "__init__", "shapes")
    assert set(rules) == {"leak", "gates", "delay", "levels"}
    assert check_option("leak", None, rules["leak"]) is None
    assert check_option("gates", ["in"], rules["gates"]) == ["in"]
    assert check_option("delay", 7.0, rules["delay"]) == 7
    assert check_option("levels", {1: [2]}, rules["levels"]) == {"1": [2.0]}
    for name, value, words in (
        ("leak", 0, "leak=0: must be a number above 0 (from 1e-37 to 3e+38), or null"),
        ("gates", ["in", "off"], "gates[1]=off: must be one of in, out"),
        ("gates", "in", "gates=in: must be a list"),
        ("levels", {"a": ["x"]}, "levels.a[0]=x: must be a number, 3e+38 at most in size"),
        ("levels", [1], "levels=[1]: must be a group of keys"),
        ("delay", 2.5, "delay=2.5: must be a whole number"),
    ):
        with pytest.raises(ConfigurationError, match=re.escape(words)):
            check_option(name, value, rules[name])


class Older:
    def __init__(self, *, delay: int = 1, decay: Annotated[Literal["none", "linear"], Added("none")] = "linear"):
        pass

    @classmethod
    def shapes(cls, input_size, layers: Annotated[int, whole(1, 3), Added(1)] = 1):
        pass


def test_an_option_that_came_later_is_left_out_at_the_value_from_before():
    rules = options_of(Older, "__init__", "shapes")
    assert added_options(rules) == {"decay": "none", "layers": 1}
    assert without_added({"delay": 1, "decay": "none", "layers": 1}, rules) == {"delay": 1}
    changed = {"delay": 2, "decay": "linear", "layers": 2}
    assert without_added(changed, rules) == changed


def test_an_option_that_came_later_keeps_its_rule():
    rules = options_of(Older, "__init__", "shapes")
    with pytest.raises(ConfigurationError, match="decay=cubic: must be one of none, linear"):
        check_option("decay", "cubic", rules["decay"])
    with pytest.raises(ConfigurationError, match="layers=4: must be a whole number from 1 to 3"):
        check_option("layers", 4, rules["layers"])


def test_names_that_only_a_type_checker_knows_are_no_rule():
    assert set(options_of(Leakier, "__init__", "shapes")) == {"leak", "gates"}


def test_an_annotation_has_the_last_word_over_the_type_of_a_default():
    assert checked(task={"delay": float}, task__delay=2.5)["task"]["delay"] == 2.5
    with pytest.raises(ConfigurationError, match=r"model\.leak=0\.5: must be a whole number from 1 to 3"):
        checked(model={"leak": Annotated[int, whole(1, 3)]})


def test_sequences_come_in_whole_batches():
    training = checked(training__batch_size=32, training__max_sequences=1000)["training"]
    assert (training["max_sequences"], training["evaluate_every"]) == (1024, 128)


# Identity ---------------------------------------------------------------------------------------------------

ALTERNATIVES = {
    "training.batch_size": [2, 32],
    "training.max_sequences": [1000, 5000],
    "training.evaluate_every": [10, 777],
    "training.stop": ["null", "st1"],
    "training.select": ["best"],
    "training.learning_rate": [1, 0.1, 0.010001],
    "training.clip_norm": ["null", 2, 0.5],
    "model.units": [1, 4, 6],
    "model.neurons_per_unit": [2, 4],
    "model.gradient": ["full"],
    "model.output": ["linear", "memory"],
    "model.output_in_product": ["true"],
    "model.memory_seen_by": ["all"],
    "model.writers": ["tanh"],
    "model.initial_range": [2, 3.5],
    "task.variant": ["noisy_input", "noisy_target"],
    "task.T": [101, 1000],
    "task.N": [1],
    "task.validation_size": [255],
    "task.criteria.noise_free.st2.mean_error": ["'< 0.02'"],
}
"""Other values than the defaults of the AMU on two_sequence with five units."""

IRRELEVANT = {
    "trials": [1, 30],
    "seed": [1, 1000],
    "backend": ["torch", "fused"],
    "threads": [1, 2],
    "results_dir": ["elsewhere", "/tmp/x"],
    "training.checkpoint_minutes": [0.1, 60],
}

BASE = ["task=two_sequence", "model=amu", "model.units=5"]


@pytest.fixture(scope="module")
def composer(shared_composer):
    with shared_composer.ready():
        yield shared_composer


def identity_with(composer, **settings):
    overrides = dict(line.split("=", 1) for line in BASE) | settings
    return identity(composer.load([f"{key}={value}" for key, value in overrides.items()]))


def some_of(alternatives, **bounds):
    def values(keys):
        return st.fixed_dictionaries({key: st.sampled_from(alternatives[key]) for key in sorted(keys)})

    return st.sets(st.sampled_from(sorted(alternatives)), **bounds).flatmap(values)


@settings(max_examples=40, deadline=None)
@given(values=some_of(ALTERNATIVES, max_size=4), irrelevant=some_of(IRRELEVANT, max_size=3), data=st.data())
def test_equal_meaning_equal_identity(composer, values, irrelevant, data):
    lines = [f"{key}={value}" for key, value in {"model.units": 5, **values, **irrelevant}.items()]
    shuffled = data.draw(st.permutations(["task=two_sequence", "model=amu", *lines]))
    assert identity(composer.load(shuffled)) == identity_with(composer, **values)


@settings(max_examples=40, deadline=None)
@given(values=some_of(ALTERNATIVES, min_size=1, max_size=4), other=some_of(ALTERNATIVES, max_size=4))
def test_different_meaning_different_identity(composer, values, other):
    same = values == other
    assert (identity_with(composer, **values) == identity_with(composer, **other)) == same


def flat(section, place=""):
    for key, value in section.items():
        if isinstance(value, dict):
            yield from flat(value, f"{place}{key}.")
        elif not isinstance(value, list):
            yield f"{place}{key}", value


@pytest.mark.parametrize("task", ["two_sequence", "adding_1997", "embedded_reber", "japanese_vowels"])
def test_defaults_spelled_out_change_nothing(composer, task):
    default = composer.load([f"task={task}", "model.units=5"])
    lines = []
    for key, value in flat(default):
        spelled = json.dumps(value) if value is None or isinstance(value, bool) else f"'{value}'"
        if isinstance(value, float):
            spelled = f"{value:.10e}"
        elif isinstance(value, int) and not isinstance(value, bool):
            spelled = f"{value}.0"
        if key != "model.parameters":
            lines.append(f"{key}={spelled}")
    assert identity(composer.load([f"task={task}", *lines])) == identity(default)


def test_identity_is_that_of_the_kept_definition(composer):
    config = composer.load([*BASE, "training.learning_rate=1"])
    kept = yaml.safe_load(yaml.safe_dump(definition(config)))
    assert set(kept) == {"schema_version", "task", "model", "training"}
    assert "parameters" not in kept["model"]
    assert "checkpoint_minutes" not in kept["training"]
    assert identity(kept) == identity(config)
    assert identity(kept | {"schema_version": 2}) != identity(config)
    assert re.fullmatch(r"[0-9a-f]{12}", identity(config))


def test_no_identity_before_the_units_are_known():
    with pytest.raises(ValueError, match=r"model\.units"):
        identity(load("task=adding"))


# Training ---------------------------------------------------------------------------------------------------

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0, "batch_size": 1, "clip_norm": None}
HALF = {"loss": "half_squared_error"}
ANSWERS = {
    "two_sequence": HALF | {"squash": "logistic"},
    "embedded_reber": HALF,
    "temporal_order_6b": HALF,
    "long_lag_2a": HALF,
    "adding": HALF | {"squash": "linear"},
    "adding_1997": HALF | {"squash": "logistic"},
    "multiplication": HALF | {"squash": "linear"},
    "multiplication_1997": HALF | {"squash": "logistic"},
    "copy_memory": {},
}


@pytest.mark.parametrize("task", ANSWERS)
def test_one_word_chooses_the_training_of_1997(composer, task):
    own, sgd = (composer.load([f"task={task}", *more]) for more in ([], ["training=sgd"]))
    assert sgd["training"] == own["training"] | SGD
    assert sgd["task"] == own["task"] | ANSWERS[task]
    assert sgd["model"] == own["model"]


def test_a_training_is_overridden_by_an_experiment_and_by_the_command_line(composer):
    rate = composer.load(["experiment=two_sequence_3b/lstm"])["training"]["learning_rate"]
    tuned = composer.load(["experiment=two_sequence_3b/lstm", "training=sgd", "task.squash=linear"])
    assert (tuned["training"]["optimizer"], tuned["training"]["learning_rate"]) == ("sgd", rate)
    assert (tuned["task"]["loss"], tuned["task"]["squash"]) == ("half_squared_error", "linear")


@pytest.mark.parametrize("task", ["two_sequence", "adding", "japanese_vowels"])
def test_adam_is_the_training_of_every_task(composer, task):
    assert composer.load([f"task={task}", "training=adam"]) == composer.load([f"task={task}"])


# Folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "folder"),
    [
        ({"problem": "two_sequence"}, "two_sequence"),
        ({"problem": "time_series", "name": "JapaneseVowels", "path": None}, "japanese_vowels"),
        ({"problem": "time_series", "name": "OSULeaf"}, "osu_leaf"),
        ({"problem": "time_series", "name": "ACSF1"}, "acsf1"),
        ({"problem": "time_series", "name": None, "path": "/data/My Gait_TRAIN.ts"}, "my_gait"),
        ({"problem": "time_series", "name": None, "path": "data/steps/"}, "steps"),
        ({"problem": "time_series", "name": "../../etc"}, "etc"),
        ({"problem": "time_series", "name": "Größe"}, "größe"),
        ({"problem": "time_series", "name": "日本語 の母音"}, "日本語_の母音"),
        ({"problem": "time_series", "name": "हिन्दी"}, "हिन्दी"),
        ({"problem": "time_series", "name": "時" * 50}, "時" * 20),  # 60 bytes
        ({"problem": "time_series", "name": "."}, "unnamed"),
    ],
)
def test_task_folders_are_short_and_readable(task, folder):
    assert task_folder({"task": task}) == folder


@given(st.text(min_size=1))
def test_folders_cannot_lead_elsewhere(name):
    for folder in (
        task_folder({"task": {"problem": "time_series", "name": name}}),
        task_folder({"task": {"problem": "time_series", "name": None, "path": name}}),
        task_folder({"task": {"problem": name}}),
        model_folder({"model": {"cell": name}}),
    ):
        assert folder == Path(folder).name
        assert folder.isprintable()
        assert not set(folder) & set("./\\:~ ")
        assert folder[0] not in "_-"
        assert len(folder.encode()) <= 60


@pytest.mark.parametrize("name", ["../../up", "/etc/passwd", "..", "a/../../b", "~", "a\\b", "C:x", "a\0b", "a\nb"])
def test_results_stay_in_their_folder_whatever_things_are_called(composer, tmp_path, name):
    base = composer.load(["task=time_series", "task.name=GunPoint", "model.units=2"])
    for section, values in (
        ("task", {"name": name}),
        ("task", {"name": None, "path": name}),
        ("model", {"cell": name}),
    ):
        config = base | {section: base[section] | values, "results_dir": str(tmp_path)}
        assert folder_of(config).resolve().parents[2] == tmp_path.resolve()
    for override in (f"task={name}", f"model={name}", f"model.cell={name}", f"task.problem={name}"):
        with pytest.raises(ConfigurationError):
            composer.load(["task=time_series", "task.name=GunPoint", "model.units=2", override])


# The files in conf/ -----------------------------------------------------------------------------------------


# tests/test_experiments.py trains with each task and each model, and composes each experiment.


@pytest.mark.parametrize(("task", "model"), [("adding", "amu_tframe"), ("embedded_reber", "lstm")])
def test_a_checked_configuration_is_unchanged_by_another_check(composer, task, model):
    config = composer.load([f"task={task}", f"model={model}"])
    assert config == check(config, composer.reference(task, model, config))
