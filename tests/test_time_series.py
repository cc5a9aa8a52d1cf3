"""Real data: that it is loaded, split and scaled as it should be, and refused where it cannot be used."""

from pathlib import Path

import aeon.datasets
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from amu_experiments.overrides import load as composed
from amu_experiments.plan import prepare
from amu_experiments.store import folder_of
from amu_experiments.tasks import make_task, time_series
from amu_experiments.tasks.time_series import load, split_off

CONF = Path(__file__).parents[1] / "conf"


def task(config="time_series", trials=(0,), **changes):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        options = OmegaConf.to_container(compose(f"task/{config}"))["task"]
    return make_task({**options, **changes}, trials)


# What the archive's own description says of the sets.
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
    train, test = load(name, None)
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
def test_every_class_keeps_training_series_and_gives_one_where_it_can(sizes, split):
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
    # One and the same line carries the raw values of the test part to the scaled ones.
    before = _real(raw["test"].series, raw["test"].lengths)
    for channel in range(12):
        slope, offset = np.polyfit(before[:, channel], real["test"][:, channel], 1)
        assert before[:, channel] * slope + offset == pytest.approx(real["test"][:, channel], abs=1e-4)
    assert np.abs(real["test"].mean(0)).max() > 0.01
    # No test series is among those that were learned from or validated on.
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
    assert not test.inputs[:, :, 1].any()  # a channel that is always 5 is only shifted
    training = kind.sets(np.random.default_rng(0))["train"]
    assert np.isfinite(training.inputs).all()
    assert len(training) == 2


def test_other_data_in_the_same_place_are_another_run(tmp_path):
    file = write(tmp_path)
    config = composed("task=time_series", f"task.path={file}", "model=rnn", "backend=torch", f"results_dir={tmp_path}")

    def prepared():
        for cached in (load, time_series._digest):
            cached.cache_clear()  # as in another process
        return prepare(config).config

    first = prepared()
    assert prepare(first).config == first
    write(tmp_path)
    assert folder_of(prepared()) == folder_of(first)
    write(tmp_path, test=GOOD[::-1])
    assert folder_of(prepared()) != folder_of(first)
    with pytest.raises(ValueError, match="holds other data now than data_[0-9a-f]{12}$"):
        prepare(first)


def test_empty_lines_comments_and_blanks_around_things_do_not_count(tmp_path):
    plain = write(tmp_path)
    (tmp_path / "loose").mkdir()
    loose = [GOOD[0].replace(":", " : ").replace(",", " , "), "", *GOOD[1:3], "# 1,2:5,5:a", f"{GOOD[3]} ", "", ""]
    other = write(tmp_path / "loose", train=loose, header=HEADER.replace("@data", "% a comment\n\n@data"))
    one, two = (task(path=path).training for path in (plain, other))
    np.testing.assert_array_equal(one.series, two.series)
    assert one.labels.tolist() == two.labels.tolist() == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train": []}, "Own_TRAIN.ts: holds no series"),
        ({"test": []}, "Own_TEST.ts: holds no series"),
        ({"train": [*GOOD, "1,NaN:5,5:a"]}, "Own_TRAIN.ts: series 5 has missing or infinite values"),
        ({"test": ["1,?:5,5:a"]}, "Own_TEST.ts: series 1 has missing or infinite values"),
        ({"train": ["1,x:5,5:a"]}, "Own_TRAIN.ts cannot be read as a .ts file: could not convert"),
        ({"train": ["1,2:5:a"]}, "Own_TRAIN.ts cannot be read as a .ts file: .*different number of obs"),
        (
            {"train": ["1,2,3"] * 3},
            "Own_TRAIN.ts: series 1 is of class 1,2,3; @classLabel names a, b, c, and a line is",
        ),
        ({"train": [*GOOD, "1,2:5,5:"]}, "Own_TRAIN.ts: series 5 has no class; @classLabel names a, b, c"),
        ({"train": [*GOOD, "1,2:5,5:d"]}, "Own_TRAIN.ts: series 5 is of class d; @classLabel names a, b, c"),
        ({"train": [*GOOD, "1,2:5,5"]}, "Inconsistent number of dimensions in case 5.*; a line is one series"),
        (
            {"train": [*GOOD, ":5,5:a"]},
            "Own_TRAIN.ts cannot be read as a .ts file: could not convert string to float: ''",
        ),
        ({"train": [*GOOD, "7:5:a"]}, "Own_TRAIN.ts: series 5 has one value; 2 to 100,000 can be learned from"),
        ({"test": ["7," * 100_000 + "7:" + "5," * 100_000 + "5:a"]}, "Own_TEST.ts: series 1 has 100,001 values; 2 to"),
        (
            {"test": ["1,2:5,1e29:a"], "train": [*GOOD, "1,2:5,5.0000001:a"]},
            "channel 2 has a value .* standard deviations from its mean",
        ),
        ({"header": "@problemName\n" + HEADER}, "Own_TRAIN.ts: a line of its header has nothing behind its name"),
        ({"test": [*GOOD, "-1e31,2:5,5:a"]}, r"Own_TEST.ts: series 5 has a value of 1e\+31, above 1e\+30"),
        ({"test": ["1,2:c"]}, "2 channels in the training part, 1 in the test part"),
        ({"test": ["1,2:5,5:c"]}, "no training series is of the test part's class c"),
        ({"train": GOOD[:2]}, "every training series is of class a"),
        ({"train": GOOD[1:3]}, "no class has two training series"),
        ({"header": HEADER.replace("timeStamps false", "timeStamps true")}, "time stamps are not supported"),
        ({"train": ["1,2:3,4"], "header": HEADER.replace("true a b c", "false")}, "has no class labels"),
        ({"header": HEADER.replace("@classLabel true a b c\n", "")}, "has no class labels; its header must name them"),
        ({"header": HEADER.replace("@data\n", "")}, "Own_TRAIN.ts: holds no series; they stand below a line @data"),
        ({"header": ""}, "Own_TRAIN.ts: holds no series"),
    ],
)
def test_files_that_are_no_use_are_refused_in_one_line(tmp_path, files, message):
    file = write(tmp_path, **files)
    with pytest.raises(ValueError, match=message) as error:
        task(path=file)
    assert "\n" not in str(error.value)


def test_files_that_are_not_there_are_named(tmp_path):
    file = write(tmp_path)
    with pytest.raises(ValueError, match="Away_TRAIN.ts: there is no such file"):
        task(path=str(tmp_path / "Away_TRAIN.ts"))
    with pytest.raises(ValueError, match="must be a file NAME_TRAIN.ts"):
        task(path=str(tmp_path / "Own_TEST.ts"))
    (tmp_path / "Own_TEST.ts").unlink()
    with pytest.raises(ValueError, match="Own_TEST.ts: there is no such file"):
        task(path=file)
    (tmp_path / "Own_TRAIN.ts").rename(tmp_path / "x.ts")
    with pytest.raises(ValueError, match="must hold one file NAME_TRAIN.ts .found: none"):
        task(path=str(tmp_path))


def test_exactly_one_of_name_and_path_is_wanted():
    with pytest.raises(ValueError, match="task.name=None task.path=None: give exactly one of them"):
        task()
    with pytest.raises(ValueError, match="give exactly one of them"):
        task("gun_point", path="somewhere")


# Sets that are not shipped ----------------------------------------------------------------------------------


def test_an_unknown_name_is_an_error_with_the_nearest_or_the_shipped_names():
    with pytest.raises(ValueError, match="task.name=Gunpoint is no .*did you mean GunPoint"):
        task(name="Gunpoint")
    with pytest.raises(ValueError, match="shipped with aeon: .*GunPoint.*JapaneseVowels"):
        task(name="qqqq")


def test_without_a_connection_the_shipped_sets_are_named(monkeypatch):
    def unreachable(name, *_, **__):
        raise ValueError(f"Could not download files for {name}:\n<urlopen error>")

    monkeypatch.setattr(aeon.datasets, "load_classification", unreachable)
    with pytest.raises(ValueError, match="task.name=Beef could not be had .*JapaneseVowels") as error:
        task(name="Beef")
    assert "\n" not in str(error.value)


def test_other_sets_come_from_aeon(monkeypatch):
    series = {"train": np.arange(24.0).reshape(4, 1, 6), "test": np.ones((2, 1, 6))}
    labels = {"train": np.array(list("aabb")), "test": np.array(list("ab"))}

    def download(name, split, **_):
        return series[split], labels[split]

    monkeypatch.setattr(aeon.datasets, "load_classification", download)
    kind = task(name="Coffee")
    assert kind.test().inputs.shape == (1, 2, 6, 1)
    load.cache_clear()  # these are not the real ones
