"""Classification of real time series: data sets of the UCR/UEA archive by name, or a pair of .ts files.

The archive's own training and test parts are kept; aeon ships some sets and downloads the others.
"""

import difflib
import functools
import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from amu_experiments.options import PROPER_FRACTION, TEXT
from amu_experiments.tasks.task import Sequences, Task, one_hot, read_criteria

FORM = "a line is one series, its channels (values with ',' between) and then its class, with ':' between"

STEPS = (2, 100_000)
"""How many a series may have: one value is none, and through more steps nothing is learned in any useful time."""

LARGEST = 1e30
"""In size, of a value: larger ones would not survive being scaled and squared in single precision."""

SMALLEST = 1e-30
"""Of a channel's standard deviation: one that varies less is as good as constant."""


@dataclass(frozen=True)
class Part:
    """A part of a data set as it was read: series (B, T, I), zero after the end; lengths and labels (B,)."""

    series: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Which steps belong to a series: (B, T) bool."""
        return np.arange(self.series.shape[1]) < self.lengths[:, None]


class TimeSeries(Task):
    """A series of one or more channels is read step by step; its class is told at its own last step.

    The worked example is JapaneseVowels: 12 cepstrum coefficients of a speaker saying "ae", 7 to 29 steps
    long; the classes are the nine speakers, 270 training and 370 test utterances.

    Exactly one of two options says where the data are from:
        name  a data set of the UCR/UEA archive. What aeon ships needs no connection; it downloads any other
              (where values are missing, in the archive's own version with these filled in).
        path  a file NAME_TRAIN.ts with NAME_TEST.ts beside it, or a folder that holds one such pair. What is in
              them, told by `contents`, is part of a run's identity: other data in the same place are another run.

    Of each class a share of the training series, drawn anew for every trial, becomes validation data: the
    share rounded, but at least one series where the class has two or more, and never all of them. Each
    channel is brought to mean 0 and standard deviation 1 of what is left for training (a channel that is
    constant there is only shifted); the same shift and scale are applied to validation and test data. Targets
    are one-hot.

    Metric: accuracy, the share of series whose own class is the most active output.
    """

    loss = "cross_entropy"
    squash = "softmax"
    metrics = ("accuracy",)

    def __init__(
        self,
        trials,
        *,
        name: Annotated[str, TEXT] | None,
        path: Annotated[str, TEXT] | None,
        validation_share: Annotated[float, PROPER_FRACTION],
        criteria: Mapping,
        contents: str | None = None,
    ):
        super().__init__(trials)
        self.validation_share = validation_share
        self.criteria = read_criteria(criteria, self.metrics)
        self.training, self.held_out = load(name, path)
        if path is not None:
            self.contents = {"contents": f"data_{_digest(path)}"}
            if contents not in (None, self.contents["contents"]):
                raise ValueError(f"task.path={path}: holds other data now than {contents}")
        self.classes = np.unique(self.training.labels)
        self.input_size = self.training.series.shape[2]
        self.output_size = len(self.classes)
        self.training_size, self.validation_size = len(self.training.labels), 0
        self.test_size = len(self.held_out.labels)
        self.steps = max(self.training.series.shape[1], self.held_out.series.shape[1])

    def sets(self, rng):
        train, validation = split_off(self.training.labels, self.validation_share, rng)
        shift, scale = _shift_and_scale(self.training, train)
        everything = slice(None)
        return {
            "train": self._sequences(self.training, train, shift, scale),
            "validation": self._sequences(self.training, validation, shift, scale),
            "test": self._sequences(self.held_out, everything, shift, scale),
        }

    def measure(self, outputs, sequences):
        right = outputs.argmax(axis=-1) == sequences.targets.argmax(axis=-1)
        return {"accuracy": float(right.mean())}

    def _sequences(self, part: Part, index, shift: np.ndarray, scale: np.ndarray) -> Sequences:
        with np.errstate(over="ignore"):
            inputs = ((part.series[index] - shift) / scale * part.counts[index][:, :, None]).astype(np.float32)
        targets = one_hot(np.searchsorted(self.classes, part.labels[index]), len(self.classes))
        return Sequences(inputs, part.lengths[index], targets[:, None])


def _shift_and_scale(part: Part, index) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (I,) of each channel of these series; 1 for a channel that is constant."""
    real = part.series[index][part.counts[index]]
    deviation = real.std(axis=0)
    return real.mean(axis=0), np.where((np.ptp(real, axis=0) == 0) | (deviation < SMALLEST), 1, deviation)


def split_off(labels: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(kept, split off): sorted indices, about this share of every class being split off."""
    split = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        split.append(rng.permutation(members)[:count])
    split = np.sort(np.concatenate(split))
    return np.setdiff1d(np.arange(len(labels)), split), split


@functools.cache
def load(name: str | None, path: str | None) -> tuple[Part, Part]:
    """The training and test part of a data set, read once per process.

    Raises ValueError, saying which file or data set and what is wrong with it, unless exactly one of name and
    path is given and leads to labelled series without missing values, with the same channels in both parts,
    two or more classes in training, one of them with two or more series, and no other class in the test part.
    """
    if (name is None) == (path is None):
        raise ValueError(
            f"task.name={name} task.path={path}: give exactly one of them, task.name=JapaneseVowels (a set "
            "of the UCR/UEA archive) or task.path=NAME_TRAIN.ts (your own, with NAME_TEST.ts beside it)"
        )
    training, test = [
        _part(source, *content) for source, content in (_by_name(name) if path is None else _by_path(path))
    ]
    source = f"task.name={name}" if path is None else f"task.path={path}"
    channels = training.series.shape[2], test.series.shape[2]
    if channels[0] != channels[1]:
        raise ValueError(f"{source}: {channels[0]} channels in the training part, {channels[1]} in the test part")
    classes, sizes = np.unique(training.labels, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"{source}: every training series is of class {classes[0]}; there is nothing to tell apart")
    if sizes.max() < 2:
        raise ValueError(f"{source}: no class has two training series, so none can be kept for validation")
    shift, scale = _shift_and_scale(training, slice(None))
    for part in (training, test):
        far = np.abs((part.series - shift) / scale).max(axis=(0, 1))
        if far.max() > LARGEST:
            raise ValueError(
                f"{source}: channel {far.argmax() + 1} has a value {far.max():.3g} standard deviations from its mean, "
                f"above {LARGEST:g}"
            )
    unseen = np.setdiff1d(test.labels, classes)
    if len(unseen):
        raise ValueError(f"{source}: no training series is of the test part's class {', '.join(unseen)}")
    return training, test


def _by_name(name: str) -> list[tuple]:
    """For the training and the test part: (what it is, (series, labels)) as aeon gives them."""
    from aeon.datasets import load_classification
    from aeon.datasets.tsc_datasets import tsc_zenodo

    shipped = _shipped()
    if name in shipped:
        return _by_path(shipped[name])
    if name not in tsc_zenodo:
        near = difflib.get_close_matches(str(name), {*shipped, *tsc_zenodo}, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"shipped with aeon: {', '.join(shipped)}"
        raise ValueError(f"task.name={name} is no classification data set that aeon knows; {hint}")
    try:
        return [
            (f"task.name={name} ({split})", load_classification(name, split, load_no_missing=True))
            for split in ("train", "test")
        ]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"task.name={name} could not be had ({_one_line(error)}); without a connection there are "
            f"{', '.join(shipped)}, or task.path=NAME_TRAIN.ts"
        ) from None


def _by_path(path: str | Path) -> list[tuple]:
    return [(str(file), _read(file)) for file in _pair(path)]


@functools.cache
def _digest(path: str) -> str:
    """Of the SHA-256 of both files twelve hexadecimal digits, as many as a run's identity has."""
    sums = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in _pair(path))
    return hashlib.sha256(sums).hexdigest()[:12]


def _pair(path: str | Path) -> tuple[Path, Path]:
    """The training and the test file."""
    train = Path(str(path)).expanduser()
    if train.is_dir():
        pairs = sorted(train.glob("*_TRAIN.ts"))
        if len(pairs) != 1:
            found = ", ".join([*(pair.name for pair in pairs[:3]), *["..."] * (len(pairs) > 3)]) or "none"
            raise ValueError(f"task.path={path} must hold one file NAME_TRAIN.ts (found: {found}), or be that file")
        train = pairs[0]
    if not train.name.endswith("_TRAIN.ts"):
        raise ValueError(f"task.path={path} must be a file NAME_TRAIN.ts, with NAME_TEST.ts beside it, or their folder")
    return train, train.with_name(train.name.removesuffix("_TRAIN.ts") + "_TEST.ts")


def _shipped() -> dict[str, Path]:
    """The classification data sets that came with aeon: name to training file."""
    import aeon.datasets
    from aeon.datasets.tser_datasets import tsr_zenodo

    folder = Path(aeon.datasets.__file__).parent / "data"
    files = {file.parent.name: file for file in sorted(folder.glob("*/*_TRAIN.ts"))}
    return {
        name: folder / name / f"{name}_TRAIN.ts"
        for name in files
        if name not in tsr_zenodo and (folder / name / f"{name}_TEST.ts").exists()
    }


def _read(file: Path) -> tuple:
    """(series, labels) of a .ts file: a list or array of (I, T) arrays, and strings."""
    from aeon.datasets import load_from_ts_file

    with _explained(file):
        lines = list(_lines(file))
    with tempfile.NamedTemporaryFile("w", suffix=".ts", encoding="utf-8") as plain:
        plain.writelines(lines)
        plain.flush()
        with _explained(file):
            series, labels, header = load_from_ts_file(plain.name, return_meta_data=True)
    if len(series) == 0:
        raise ValueError(f"{file}: holds no series; they stand below a line @data, and {FORM}")
    if not (header["classlabel"] and header["class_values"]):
        raise ValueError(f"{file}: has no class labels; its header must name them (@classLabel true a b ...)")
    declared = dict.fromkeys(header["class_values"])
    labels = np.array([label.strip() for label in labels])
    for number, label in enumerate(labels):
        if label.lower() not in declared:
            raise ValueError(
                f"{file}: series {number + 1} {f'is of class {label}' if label else 'has no class'}; "
                f"@classLabel names {', '.join(declared)}, and {FORM}"
            )
    return series, labels


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Whatever reading the file raises, as a ValueError that names it and says what it should be like."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{file}: there is no such file") from None
    except IndexError:
        raise ValueError(f"{file}: a line of its header has nothing behind its name") from None
    except (OSError, ValueError) as error:
        if str(error).startswith(f"{file}:"):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _one_line(error)
        reason = re.sub(r"^Error loading <.*?>\. ", "", reason).rstrip(".")
        raise ValueError(f"{file} cannot be read as a .ts file: {reason}; {FORM}") from None


def _lines(file: Path) -> Iterator[str]:
    """The lines of a .ts file without those that are empty or a comment."""
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise ValueError(f"{file}: is no file")
    with open(file, encoding="utf-8-sig") as lines:
        for line in lines:
            words = line.lower().split()
            if words[:2] == ["@timestamps", "true"]:
                raise ValueError(f"{file}: series with time stamps are not supported; leave out the time stamps")
            if words and words[0][0] not in "#%":
                yield f"{line.strip()}\n"


def _part(source: str, series, labels: np.ndarray) -> Part:
    """Series (I, T) of one length or many as (B, T, I), zero after the end; ValueError if they are no use."""
    lengths = np.array([one.shape[1] for one in series])
    padded = np.zeros((len(series), min(lengths.max(), STEPS[1]), series[0].shape[0]))
    if 0 in padded.shape:
        raise ValueError(f"{source}: series without values; {FORM}")
    for number, one in enumerate(series):
        if not STEPS[0] <= one.shape[1] <= STEPS[1]:
            few = "one value" if one.shape[1] == 1 else f"{one.shape[1]:,} values"
            raise ValueError(f"{source}: series {number + 1} has {few}; {STEPS[0]} to {STEPS[1]:,} can be learned from")
        if not np.isfinite(one).all():
            raise ValueError(f"{source}: series {number + 1} has missing or infinite values; fill them in")
        if np.abs(one).max() > LARGEST:
            raise ValueError(f"{source}: series {number + 1} has a value of {np.abs(one).max():.3g}, above {LARGEST:g}")
        padded[number, : lengths[number]] = one.T
    return Part(padded, lengths, np.asarray(labels))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
