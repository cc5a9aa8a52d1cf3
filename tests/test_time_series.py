"""Real data: reading, splitting and scaling, and errors for unusable files."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from amu_experiments.analysis.comparison import compare
from amu_experiments.config import definition, identity, task_folder
from amu_experiments.console import say
from amu_experiments.overrides import load as composed
from amu_experiments.plan import prepare
from amu_experiments.store import folder_of, read_config, read_results
from amu_experiments.tasks import make_task
from amu_experiments.tasks.time_series import load, split_off
from amu_experiments.training import run

CONF = Path(__file__).parents[1] / "conf"


def task(config="time_series", trials=(0,), **changes):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        options = OmegaConf.to_container(compose(f"task/{config}"))["task"]
    return make_task({**options, **changes}, trials)


# From the archive's description of the sets.
@pytest.mark.parametrize(
    ("config", "train", "test", "shortest", "longest", "channels", "classes"),
    [
        ("japanese_vowels", 270, 370, 7, 29, 12, 9),
        ("basic_motions", 40, 40, 100, 100, 6, 4),
        ("gun_point", 50, 150, 150, 150, 1, 2),
        ("italy_power_demand", 67, 1029, 24, 24, 1, 2),
        ("arrow_head", 36, 175, 251, 251, 1, 3),
    ],
)
def test_ready_made_sets_are_whole(config, train, test, shortest, longest, channels, classes):
    kind = task(config)
    assert (kind.input_size, kind.output_size) == (channels, classes)
    pieces = kind.train_batch(0, 1000), kind.validation(), kind.test()
    lengths = np.concatenate([piece.lengths.ravel() for piece in pieces])
    assert (lengths.min(), lengths.max()) == (shortest, longest)
    assert len(kind.sets(np.random.default_rng(0))["train"]) + len(pieces[1]) == train
    assert len(pieces[2]) == test


@pytest.mark.parametrize(
    ("name", "accuracy"),
    [("JapaneseVowels", 0.916), ("GunPoint", 0.913), ("ItalyPowerDemand", 0.955), ("ArrowHead", 0.80)],
)
def test_nearest_neighbour_on_the_raw_series_has_its_known_accuracy(name, accuracy):
    """1-NN with Euclidean distance on zero-padded series."""
    train, test = load(name, None).training, load(name, None).test
    steps = max(train.series.shape[1], test.series.shape[1])
    a, b = (
        np.pad(part.series, [(0, 0), (0, steps - part.series.shape[1]), (0, 0)]).reshape(len(part.labels), -1)
        for part in (train, test)
    )
    nearest = ((b**2).sum(1)[:, None] + (a**2).sum(1) - 2 * b @ a.T).argmin(1)
    assert np.mean(train.labels[nearest] == test.labels) == pytest.approx(accuracy, abs=0.001)


def test_validation_is_a_stratified_share_of_the_training_series():
    kind = task("japanese_vowels", trials=[0, 1])
    labels = kind.validation().targets.argmax(-1)[:, :, 0]
    assert np.bincount(labels[0]).tolist() == [6] * 9  # of 30 each
    parts = [kind.train_batch(0, 216).take(trial) for trial in (0, 1)]
    assert np.bincount(parts[0].targets.argmax(-1).ravel()).tolist() == [24] * 9
    assert np.abs(parts[0].inputs.sum((1, 2))).sum() != np.abs(parts[1].inputs.sum((1, 2))).sum()


@pytest.mark.parametrize(
    ("sizes", "split"),
    [([10, 10], [2, 2]), ([12, 3], [2, 1]), ([2, 40], [1, 8]), ([1, 5], [0, 1]), ([2, 2], [1, 1])],
)
def test_every_class_has_training_series_and_validation_series_if_it_has_two(sizes, split):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    kept, given = split_off(labels, 0.2, np.random.default_rng(0))
    assert np.bincount(labels[given], minlength=len(sizes)).tolist() == split
    assert sorted([*kept, *given]) == list(range(sum(sizes)))
    assert set(labels[kept]) == set(range(len(sizes)))


def test_the_split_is_the_trials_own():
    vowels = [task("japanese_vowels", trials=trials).validation() for trials in ([4], [3, 4])]
    assert np.array_equal(vowels[0].take(0).lengths, vowels[1].take(1).lengths)
    assert not np.array_equal(vowels[1].take(0).lengths, vowels[1].take(1).lengths)


def test_channels_are_scaled_by_the_training_part_only():
    kind = task("japanese_vowels")
    sets = kind.sets(np.random.default_rng(0))
    raw = {"train": kind.training, "validation": kind.training, "test": kind.held_out}
    real = {name: _real(part.inputs, part.lengths) for name, part in sets.items()}
    assert real["train"].mean(0) == pytest.approx(np.zeros(12), abs=1e-5)
    assert real["train"].std(0) == pytest.approx(np.ones(12), abs=1e-5)
    # One linear function maps the raw values of the test part to the scaled values.
    before = _real(raw["test"].series, raw["test"].lengths)
    for channel in range(12):
        slope, offset = np.polyfit(before[:, channel], real["test"][:, channel], 1)
        assert before[:, channel] * slope + offset == pytest.approx(real["test"][:, channel], abs=1e-4)
    assert np.abs(real["test"].mean(0)).max() > 0.01
    # No test series is in the training or validation data.
    inside = {part.inputs[i, :7].tobytes() for part in (sets["train"], sets["validation"]) for i in range(len(part))}
    assert not inside & {series[:7].tobytes() for series in sets["test"].inputs}


def _real(series, lengths):
    """The steps that belong to a series, one after another."""
    return np.concatenate([one[:length] for one, length in zip(series, lengths, strict=True)])


def test_accuracy_of_a_worked_example():
    kind = task("gun_point")
    data = kind.test().take(0)
    truth = data.targets.argmax(-1).ravel()
    outputs = np.tile([0.4, 0.6], (150, 1, 1))
    assert kind.measure(outputs, data)["accuracy"] == np.mean(truth == 1)
    assert kind.measure(data.targets, data)["accuracy"] == 1


# A user's own files -----------------------------------------------------------------------------------------

HEADER = """@problemName Own
@timeStamps false
@univariate false
@equalLength false
@classLabel true a b c
@data
"""
GOOD = ["1,2,3:5,5,5:a", "2,4:5,5:a", "3,3,4,5:5,5,5,5:b", "0,1:5,5:b"]


def write(folder, train=GOOD, test=GOOD, header=HEADER):
    for part, lines in (("TRAIN", train), ("TEST", test)):
        folder.joinpath(f"Own_{part}.ts").write_text(header + "\n".join(lines))
    return str(folder / "Own_TRAIN.ts")


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_pair_of_files_is_read_with_its_unequal_lengths(tmp_path, whole_folder):
    file = write(tmp_path)
    kind = task(path=str(tmp_path) if whole_folder else file)
    assert (kind.input_size, kind.output_size) == (2, 2)
    test = kind.test().take(0)
    assert test.lengths.tolist() == [3, 2, 4, 2]
    assert test.targets.argmax(-1).ravel().tolist() == [0, 0, 1, 1]
    assert not test.inputs[:, :, 1].any()  # a constant channel is only shifted
    training = kind.sets(np.random.default_rng(0))["train"]
    assert np.isfinite(training.inputs).all()
    assert len(training) == 2


def test_other_data_in_the_same_place_are_another_run(tmp_path):
    file = write(tmp_path)
    config = composed("task=time_series", f"task.path={file}", "model=rnn", "backend=torch", f"results_dir={tmp_path}")

    first = prepare(config).config
    assert prepare(first).config == first
    write(tmp_path)
    assert prepare(config).folder == folder_of(first)
    write(tmp_path, test=GOOD[::-1])
    assert prepare(config).folder != folder_of(first)
    assert prepare(first).config == first  # the data are still in this process
    elsewhere = first | {"task": first["task"] | {"contents": "data_0123456789ab"}}
    with pytest.raises(ValueError, match="now contains other data than data_0123456789ab$"):
        prepare(elsewhere)


def test_empty_lines_comments_and_extra_blanks_are_ignored(tmp_path):
    plain = write(tmp_path)
    (tmp_path / "loose").mkdir()
    loose = [GOOD[0].replace(":", " : ").replace(",", " , "), "", *GOOD[1:3], "# 1,2:5,5:a", f"{GOOD[3]} ", "", ""]
    other = write(tmp_path / "loose", train=loose, header=HEADER.replace("@data", "% a comment\n\n@data"))
    one, two = (task(path=path).training for path in (plain, other))
    np.testing.assert_array_equal(one.series, two.series)
    assert one.labels.tolist() == two.labels.tolist() == ["a", "a", "b", "b"]


ONE_CHANNEL = "@univariate true\n@equalLength false\n@classLabel true a b\n@data\n"
"""Series start on line 5."""

UNFIT = [
    ({"train": []}, "Own_TRAIN.ts: contains no series"),
    ({"test": []}, "Own_TEST.ts: contains no series"),
    ({"train": [*GOOD, "1,NaN:5,5:a"]}, r"Own_TRAIN.ts, line 11: a missing value \(NaN\); fill it in"),
    ({"test": ["1,?:5,5:a"]}, r"Own_TEST.ts, line 7: a missing value \(\?\); fill it in"),
    ({"train": [*GOOD, ":5,5:a"]}, r"Own_TRAIN.ts, line 11: a missing value \(nothing\)"),
    ({"train": [*GOOD, "1,2,:5,5,5:a"]}, r"Own_TRAIN.ts, line 11: a missing value \(nothing\)"),
    (
        {"train": ["1,2:5:a"]},
        "Own_TRAIN.ts, line 7: 1 value in channel 2, 2 in channel 1; the channels of a series must",
    ),
    ({"train": ["1,2,3"] * 3}, "Own_TRAIN.ts, line 7: has no class; @classLabel names a, b, c, and a line is"),
    ({"train": [*GOOD, "1,2:5,5:"]}, "Own_TRAIN.ts, line 11: has no class; @classLabel names a, b, c"),
    ({"train": [*GOOD, "", "# 1", "1,2:5,5:d"]}, "Own_TRAIN.ts, line 13: is of class d; @classLabel names a, b, c"),
    (
        {"train": [*GOOD, "1,2:5,5"]},
        "Own_TRAIN.ts, line 11: ends with 5,5 in place of its class; @classLabel names a, b, c, and",
    ),
    ({"train": [*GOOD, "1,2:a"]}, "Own_TRAIN.ts, line 11: 1 channel, but the first series has 2"),
    ({"train": [*GOOD, "7:5:a"]}, "Own_TRAIN.ts, line 11: 1 value; a series must have 2 to 100,000 values"),
    (
        {"test": ["7," * 100_000 + "7:" + "5," * 100_000 + "5:a"]},
        "Own_TEST.ts, line 7: 100,001 values; a series must have 2 to 100,000",
    ),
    (
        {"test": ["1,2:5,1e29:a"], "train": [*GOOD, "1,2:5,5.0000001:a"]},
        "channel 2 has a value .* standard deviations from its mean",
    ),
    ({"test": [*GOOD, "-1e31,2:5,5:a"]}, r"Own_TEST.ts, line 11: the value -1e31 is above 1e\+30 in size"),
    (
        {"test": ["1,2:c"], "header": ONE_CHANNEL.replace("a b", "a b c")},
        "Own_TRAIN.ts, line 5: 2 channels; with more than one",
    ),
    ({"test": ["1,2:5,5:c"]}, "no training series has the class c of the test part"),
    ({"train": GOOD[:2]}, "every training series is of class a"),
    ({"train": GOOD[1:3]}, "no class has two training series"),
]

ODD_HEADERS = [
    ("^", "@problemName\n", "line 1: @problemName has no value"),
    ("timeStamps false", "timeStamps true", "line 2: series with time stamps are not supported"),
    ("true a b c", "false", "has no class labels"),
    ("@classLabel .*\n", "", "has no class labels; its header must name them .@classLabel true a"),
    ("true a b c", "true", "line 5: true must be true and then the class labels"),
    ("true a b c", "a b c", "line 5: a b c must be true and then the class labels"),
    ("@data\n", "", "line 6: 1,2,3:5,5,5:a does not begin with @, as every line above @data must"),
    ("(.|\n)*", "", "line 1: 1,2,3:5,5,5:a does not begin with @"),
    ("^", "1,1:1,1:a\n", "line 1: 1,1:1,1:a does not begin with @"),
    ("@data", "@data 3", "line 6: 3 follows @data; series begin on the next line"),
    ("@classLabel .*", "@targetLabel true", "line 5: @targetLabel true asks for regression, which"),
    ("^", "@TargetLabel TRUE\n", "line 1: @targetLabel true asks for regression, which is not supported in this"),
    ("@equalLength", "@equalLenght", r"line 4: @equalLenght is none of .*did you mean @equalLength\?"),
    ("^", "@frequency 10\n", "line 1: @frequency is none of @problemName, @timeStamps, "),
    ("univariate false", "univariate no", "line 3: @univariate no must be true or false"),
    ("univariate false", "univariate true", "line 7: 2 channels; with more than one, .* @univariate false"),
    ("@univariate .*\n", "", "line 6: 2 channels; with more than one, the header must say @univariate"),
    ("@data", "@dimensions 3\n@data", "line 8: 2 channels, but @dimensions says 3"),
    ("@data", "@dimension two\n@data", "line 6: @dimension two must be a whole number"),
    ("@data", "@classLabel true a b\n@data", "line 6: @classLabel is repeated with another value"),
    ("@equalLength .*\n", "", "line 7: 2 values, but the first series has 3; if lengths .* @equalLength false"),
    ("@equalLength false", "@equalLength true", "line 8: 2 values, but the first series has 3"),
    ("@equalLength false", "@seriesLength 4", "line 7: 3 values, but @seriesLength says 4"),
]
"""What to replace in HEADER, as a regular expression, by what; and the message."""

UNFIT += [
    ({"header": re.sub(old, new, HEADER, count=1)}, f"Own_TRAIN.ts(: |, ){message}")
    for old, new, message in ODD_HEADERS
]


@pytest.mark.parametrize(("files", "message"), UNFIT)
def test_unusable_files_are_refused_in_one_line(tmp_path, files, message):
    file = write(tmp_path, **files)
    with pytest.raises(ValueError, match=message) as error:
        task(path=file)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "value",
    [
        *("1_000", "0x10", "inf", "-Infinity", "1'000", "1 000", "1.000.000", "1\N{NO-BREAK SPACE}000", "12%", "$5"),
        *('"1"', "\N{ARABIC-INDIC DIGIT ONE}", "\N{FULLWIDTH DIGIT ONE}", "\N{SUPERSCRIPT TWO}", "\N{MINUS SIGN}1"),
        *("1d3", "1e", "(0", "true", "NA", "null", "-nan", "1+1", "--1", ".", "e5", "1\0", "9" * 50 + "x" * 100_000),
    ],
)
def test_a_value_that_is_not_a_decimal_number_is_refused_with_its_line(tmp_path, value):
    file = write(tmp_path, header=ONE_CHANNEL, train=["1,2:a", f"1,{value},3:b"], test=["1,2:a"])
    with pytest.raises(
        ValueError, match="Own_TRAIN.ts, line 6: .* is not a number such as 12, -0.5 or 1e-3; "
    ) as error:
        task(path=file)
    shown = str(error.value)
    assert (value if value.isprintable() else ascii(value))[:50] in shown
    assert shown.isprintable()
    assert len(shown) < 400


@pytest.mark.parametrize("value", ["1e400", "-1e400", "1" + "0" * 400])
def test_a_number_beyond_single_precision_is_refused_as_it_is_written(tmp_path, value):
    file = write(tmp_path, header=ONE_CHANNEL, train=["1,2:a", f"1,{value}:b"], test=["1,2:a"])
    with pytest.raises(ValueError, match=f"Own_TRAIN.ts, line 6: the value {value[:50]}"):
        task(path=file)


def test_decimal_numbers_are_read_in_every_spelling(tmp_path):
    values = ["1", "-2.", ".5", "+3.25", "1e3", "1E-2", "-1.5e+1", "007", " 4 ", "1e-400"]
    file = write(tmp_path, header=ONE_CHANNEL, train=[",".join(values) + ":a"] * 2 + ["1,2:b"], test=["1,2:a"])
    expected = [1, -2, 0.5, 3.25, 1000, 0.01, -15, 7, 4, 0]
    assert load(None, file).training.series[0, :, 0].tolist() == expected


@pytest.mark.parametrize("line", ["@missing true", "@timestamps FALSE", "@targetLabel false", "@PROBLEMNAME two words"])
def test_header_lines_that_change_nothing_are_read(tmp_path, line):
    lines = [*GOOD[:1], GOOD[0], "3,3,4:5,5,5:b"]
    header = f"{line}\n" + HEADER.replace("@equalLength false", "@equalLength true\n@seriesLength 3\n@dimensions 2")
    plain, more = (
        load(None, write(folder(tmp_path, str(number)), lines, lines, text)).training
        for number, text in enumerate((HEADER, header))
    )
    np.testing.assert_array_equal(plain.series, more.series)


def folder(root, name):
    root.joinpath(name).mkdir(parents=True, exist_ok=True)
    return root / name


# Class labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ("e E f", ["E", "e", "f"]),
        ("run Run RUN", ["RUN", "Run", "run"]),
        ("banana apple", ["apple", "banana"]),
        ("NaN nan", ["NaN", "nan"]),
        ("yes? no? yes", ["no?", "yes", "yes?"]),
        ("1 1.0 01", ["01", "1", "1.0"]),
        ("1e3 1E3 1000", ["1000", "1E3", "1e3"]),
        ("stra\xdfe strasse \u65e5\u672c \u65e5", ["strasse", "stra\xdfe", "\u65e5", "\u65e5\u672c"]),
        ("\xe9 e\u0301", ["e\u0301", "\xe9"]),
        ("a a\0", ["a", "a\0"]),
        ("true false @data #1", ["#1", "@data", "false", "true"]),
        ("a,b a", ["a", "a,b"]),
    ],
)
def test_different_labels_are_different_classes(tmp_path, names, order):
    header = f"@univariate true\n@equalLength true\n@classLabel true {names}\n@data\n"
    lines = [f"{number},1:{name}" for number, name in enumerate(names.split()) for _ in range(2)]
    kind = task(path=write(tmp_path, header=header, train=lines, test=lines))
    assert kind.classes == order
    assert kind.output_size == len(names.split())
    truth = [order.index(name) for name in names.split() for _ in range(2)]
    assert kind.test().targets.argmax(-1).ravel().tolist() == truth
    assert load(None, str(tmp_path)).training.labels.tolist() == [name for name in names.split() for _ in range(2)]


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("RUN", r"is of class RUN; @classLabel names Run, walk \(labels must match exactly; did you mean Run\?\)"),
        (
            "\uff32un",
            r"is of class \uff32un; @classLabel names Run, walk \(labels must match exactly; did you mean Run\?\)",
        ),
        ("Run\u200b", r"is of class 'Run\\u200b'; @classLabel names Run, walk"),
        ("Run.", "is of class Run.; @classLabel names Run, walk, and a line is"),
        ("fast run", "is of class fast run; @classLabel names Run, walk, and a line is"),
    ],
)
def test_a_label_must_match_the_header_exactly(tmp_path, written, hint):
    header = ONE_CHANNEL.replace("a b", "Run walk")
    good = ["1,2:Run", "1,3:Run", "2,2:walk"]
    file = write(tmp_path, header=header, train=good, test=[*good, f"1,2:{written}"])
    with pytest.raises(ValueError, match=f"Own_TEST.ts, line 8: {hint}") as error:
        task(path=file)
    assert str(error.value).isprintable()


def test_sets_that_come_with_aeon_have_the_labels_of_their_files():
    kind = task("basic_motions")
    assert kind.classes == ["Badminton", "Running", "Standing", "Walking"]
    truth = kind.test().targets.argmax(-1).ravel()
    assert np.bincount(truth).tolist() == [10] * 4


# Checksums from when aeon read all files: inputs and targets of trials 0 and 3, in all three parts.
SUMS = {
    "JapaneseVowels": "bb2c310ad4b2cee3",
    "GunPoint": "fe3f78a9f9f310d7",
    "ItalyPowerDemand": "1c69b8bbd39624c2",
    "ArrowHead": "24921e36706970b3",
    "BasicMotions": "f7fc17e28923e79c",
    "OSULeaf": "6ce14db19d05bf0d",
    "ACSF1": "e16d834890db6eec",
    "PickupGestureWiimoteZ": "7d29749c7c62ac5f",
    "Covid3Month_disc": "3bdba1ed8d0ac87c",
    "UnitTest": "c1811226a257f1a9",
}


@pytest.mark.parametrize("name", SUMS)
def test_data_of_the_archive_are_what_they_were(name):
    kind = task(trials=[0, 3], name=name)
    digest = hashlib.sha256()
    for part in (kind.train_batch(0, 300), kind.validation(), kind.test()):
        for array in (part.inputs, part.lengths, part.targets):
            digest.update(repr((array.shape, array.dtype)).encode() + array.tobytes())
    assert digest.hexdigest()[:16] == SUMS[name]


# One data set, one identity ---------------------------------------------------------------------------------


BASE = ("task=time_series", "model=rnn", "backend=torch", "model.units=2", "results_dir=kept")


@pytest.fixture(scope="module")
def place_of():
    """A function from the path of data to the results folder of a small network on them."""
    base = composed(*BASE, "task.path=anywhere")
    return lambda path: prepare(base | {"task": base["task"] | {"path": str(path)}}).folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty current folder with the data set Own in the folder d3."""
    monkeypatch.chdir(tmp_path)
    write(folder(tmp_path, "d3"))
    return tmp_path


def test_a_data_set_has_one_identity_at_every_path(elsewhere, place_of, monkeypatch):
    here = elsewhere
    (here / "folder_link").symlink_to(here / "d3")
    (here / "link_TRAIN.ts").symlink_to("d3/Own_TRAIN.ts")
    for part in ("TRAIN", "TEST"):
        (folder(here, "links") / f"Own_{part}.ts").symlink_to(here / f"d3/Own_{part}.ts")
        (folder(here, "store") / f"{part}-5e1f").write_bytes((here / f"d3/Own_{part}.ts").read_bytes())
        (folder(here, "annex") / f"Own_{part}.ts").symlink_to(here / f"store/{part}-5e1f")
    shutil.copytree(here / "d3", here / "a copy")
    (here / "d3/._Own_TRAIN.ts").write_text("what some systems leave beside a file")
    paths = ["d3", "./d3", "d3/", "d3/../d3//", here / "d3", "d3/Own_TRAIN.ts", here / "d3/Own_TRAIN.ts", "folder_link"]
    paths += ["folder_link/Own_TRAIN.ts", "link_TRAIN.ts", "links", "links/Own_TRAIN.ts", "annex", "a copy"]
    places = {str(path): place_of(path) for path in paths}
    monkeypatch.chdir(here / "d3")
    places |= {path: place_of(path) for path in (".", "./", "../d3", "Own_TRAIN.ts")}
    monkeypatch.setenv("HOME", str(here))
    places["~/d3"] = place_of("~/d3")
    assert set(places.values()) == {places["d3"]}
    assert places["d3"].parts[:2] == ("kept", "own")


def test_links_to_parts_of_different_sets_are_a_set_of_their_own(elsewhere, place_of):
    write(folder(elsewhere, "d4"), test=GOOD[::-1])
    (elsewhere / "mixed").mkdir()
    for part, source in (("TRAIN", "d3"), ("TEST", "d4")):
        (elsewhere / f"mixed/Own_{part}.ts").symlink_to(elsewhere / f"{source}/Own_{part}.ts")
    assert place_of("mixed") == place_of("d4")
    assert place_of("mixed") != place_of("d3")


def test_another_name_or_other_data_are_another_set(elsewhere, place_of):
    places = [place_of("d3")]
    for part in ("TRAIN", "TEST"):
        (folder(elsewhere, "d4") / f"Other_{part}.ts").write_bytes((elsewhere / f"d3/Own_{part}.ts").read_bytes())
    places.append(place_of("d4"))
    assert places[1].parts[:2] == ("kept", "other")
    write(elsewhere / "d3", test=GOOD[::-1])
    places.append(place_of("d3"))
    assert len(set(places)) == 3


AFAR = """
import json, os, sys
from amu_experiments.tasks import make_task
options = json.loads(sys.argv[1])
try:
    make_task(options, [0])
except ValueError as error:
    print(error)
os.chdir("d3")
make_task(options, [0])
"""
"""Another process, in which a task from a stored configuration finds its data in the folder d3 and nowhere else."""


def test_a_stored_run_does_not_contain_the_path_of_its_data(elsewhere):
    config = prepare(composed("task=time_series", "task.path=d3", "model=rnn", "backend=torch", "model.units=2")).config
    kept = definition(config)
    assert (kept["task"]["name"], kept["task"]["path"]) == ("Own", None)
    assert str(elsewhere) not in repr(kept)
    assert identity(kept) == identity(config)
    assert task_folder(kept) == task_folder(config) == "own"
    command = [sys.executable, "-c", AFAR, json.dumps(kept["task"])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "none of Own_TRAIN.ts, Own_TRAIN.csv, Own.npz is in the current folder; the data of a stored" in done.stdout


def test_names_in_any_script_name_their_folder(elsewhere, place_of):
    names = [
        "\u65e5\u672c\u8a9e",
        "\u041c\u043e\u0438\u0414\u0430\u043d\u043d\u044b\u0435",
        "Gr\xf6\xdfe",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
    ]
    for name in names:
        for part in ("TRAIN", "TEST"):
            (folder(elsewhere, name) / f"{name}_{part}.ts").write_bytes((elsewhere / f"d3/Own_{part}.ts").read_bytes())
    assert [place_of(name).parts[1] for name in names] == [name.lower() for name in names]
    # The same name, decomposed as by some file systems.
    decomposed = unicodedata.normalize("NFD", names[2])
    for part in ("TRAIN", "TEST"):
        (folder(elsewhere, "d5") / f"{decomposed}_{part}.ts").write_bytes(
            (elsewhere / f"d3/Own_{part}.ts").read_bytes()
        )
    assert place_of("d5") == place_of(names[2])


def test_rows_of_one_data_set_stand_in_one_table(elsewhere):
    for number, path in enumerate(("d3", "d3/Own_TRAIN.ts", elsewhere / "d3")):
        run(composed(*BASE, f"task.path={path}", "trials=1", f"seed={number}", "training.max_sequences=16"))
    (comparison,) = compare(read_results("kept"))
    (result,) = comparison.results
    assert (comparison.name, result.trials["trial"].tolist()) == ("own", [0, 1, 2])


def test_a_line_can_be_printed_on_an_ascii_terminal(monkeypatch):
    """A folder's name may have letters that the terminal lacks."""
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    say("Results are in kept/größe")
    assert written.getvalue() == rb"Results are in kept/gr\xf6\xdfe" + b"\n"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("japanese_vowels", "9e7cf47bd6e2"),
        ("gun_point", "e75d54652909"),
        ("italy_power_demand", "da896675fe60"),
        ("arrow_head", "370ac5e96d96"),
        ("basic_motions", "88da65d48b09"),
    ],
)
def test_sets_of_the_archive_have_the_identities_that_they_had(name, kept):
    run = prepare(composed(f"task={name}", "model=rnn", "backend=torch"))
    assert run.folder == Path(f"results/runs/{name}/rnn/{kept}")


def test_a_stored_configuration_with_a_path_is_still_read(tmp_path):
    """Older configurations have a path in place of name and digest."""
    kept = folder(tmp_path, "own/rnn/50fda70195db")
    config = yaml.safe_load("""
        schema_version: 1
        task: {problem: time_series, name: null, path: d3/Own_TRAIN.ts, validation_share: 0.2, criteria: {},
               contents: data_216615590fd4}
        model: {units: 2, cell: rnn, initial_range: 1.0}
        training: {batch_size: 16, max_sequences: 20000, evaluate_every: 256, stop: null, select: best,
                   optimizer: adam, learning_rate: 0.01, momentum: 0.0, clip_norm: 1.0}
    """)
    (kept / "config.yaml").write_text(yaml.safe_dump(config))
    assert read_config(kept) == config
    write(folder(tmp_path, "d3"))
    assert make_task(config["task"] | {"path": str(tmp_path / "d3")}, [0]).output_size == 2


def test_files_that_are_not_there_are_named(tmp_path):
    file = write(tmp_path)
    with pytest.raises(ValueError, match="Away_TRAIN.ts: there is no such file"):
        task(path=str(tmp_path / "Away_TRAIN.ts"))
    with pytest.raises(ValueError, match="must be NAME_TRAIN.ts or"):
        task(path=str(tmp_path / "Own_TEST.ts"))
    (tmp_path / "Own_TEST.ts").unlink()
    with pytest.raises(ValueError, match="Own_TEST.ts: there is no such file"):
        task(path=file)
    (tmp_path / "Own_TRAIN.ts").rename(tmp_path / "x.ts")
    with pytest.raises(
        ValueError, match="must contain one file NAME_TRAIN.ts, NAME_TRAIN.csv or NAME.npz .found: none"
    ):
        task(path=str(tmp_path))


def test_exactly_one_of_name_and_path_is_wanted():
    with pytest.raises(ValueError, match="task.name=None task.path=None: give exactly one of them"):
        task()
    with pytest.raises(ValueError, match="give exactly one of them"):
        task("gun_point", path="somewhere")


# Sets that are not shipped ----------------------------------------------------------------------------------


def test_an_unknown_name_is_an_error_with_the_nearest_or_the_shipped_names():
    with pytest.raises(ValueError, match="task.name=Gunpoint is not a .*did you mean GunPoint"):
        task(name="Gunpoint")
    with pytest.raises(ValueError, match="shipped with aeon: .*GunPoint.*JapaneseVowels"):
        task(name="qqqq")


def test_without_a_connection_the_shipped_sets_are_named(monkeypatch):
    def unreachable(name, *_, **__):
        raise ValueError(f"Could not download files for {name}:\n<urlopen error>")

    monkeypatch.setattr("aeon.datasets.load_classification", unreachable)
    with pytest.raises(ValueError, match="task.name=Beef could not be downloaded .*JapaneseVowels") as error:
        task(name="Beef")
    assert "\n" not in str(error.value)


@pytest.fixture
def downloads(monkeypatch):
    """Let aeon return these series for any set, with the given classes in the header."""

    def prepared(*named, last=1.0):
        series = {"train": np.arange(24.0).reshape(4, 1, 6), "test": np.full((2, 1, 6), last)}
        labels = {"train": np.array(list("aabb")), "test": np.array(list("ab"))}

        def download(name, split, **_):
            return series[split], labels[split], {"class_values": list(named)}

        monkeypatch.setattr("aeon.datasets.load_classification", download)

    return prepared


def test_other_sets_come_from_aeon(downloads):
    downloads("a", "b")
    kind = task(name="Coffee")
    assert kind.test().inputs.shape == (1, 2, 6, 1)


def test_other_sets_that_aeon_misreads_are_refused(downloads):
    downloads("a", "b", "b")
    with pytest.raises(
        ValueError, match="task.name=Beef .train.: aeon merges classes that differ only in case, or in nan and"
    ):
        task(name="Beef")
    downloads("a", "nan", "?")
    with pytest.raises(
        ValueError, match="task.name=Beef .train.: aeon merges classes that differ only in case, or in nan and"
    ):
        task(name="Beef")
    downloads("a", "b", last=np.nan)
    with pytest.raises(ValueError, match="task.name=Beef .test., series 1: missing values, or values above 1e.30"):
        task(name="Beef")
