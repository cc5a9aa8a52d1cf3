"""Classification of real time series: data sets of the UCR/UEA archive by name, or a pair of .ts files.

The archive's own training and test parts are used. aeon ships some sets and downloads the others. series_files.py reads
all files except downloads: aeon knows where it stores these, and reads them. A download whose classes aeon would merge
is refused.
"""

import difflib
import functools
import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np

from amu_experiments.options import PROPER_FRACTION, TEXT
from amu_experiments.tasks.series_files import LARGEST, Part, excerpt, make_part, read_bytes, read_part
from amu_experiments.tasks.task import Sequences, Task, one_hot, read_criteria

SMALLEST = 1e-30
"""A channel whose standard deviation is smaller counts as constant."""


@dataclass(frozen=True)
class DataSet:
    """Both parts of a data set.

    origin: for data given by path, the options name, path and contents that identify them.
    """

    training: Part
    test: Part
    origin: Mapping[str, str] = field(default_factory=dict)


class TimeSeries(Task):
    """Read a series of one or more channels step by step, and answer with its class at its last step.

    The worked example is JapaneseVowels: 12 cepstrum coefficients of a speaker saying "ae", 7 to 29 steps
    long; the classes are the nine speakers, 270 training and 370 test utterances.

    Exactly one of two options gives the data:
        name  a data set of the UCR/UEA archive. aeon ships some sets, which need no connection, and downloads the
              others. If a set has missing values, aeon downloads the archive's version in which they are filled in.
        path  a file NAME_TRAIN.ts with NAME_TEST.ts beside it, or a folder that contains one such pair. A run's
              identity has NAME and `contents`, a digest of both files, but not their path. Other data at the same
              path are another run; the same data at another path are the same run.

    Labels must match exactly: `Run` and `run` are two classes, and so are `1` and `1.0`. The outputs are in the order
    of the labels in lower case.

    The stored configuration of a run has NAME and `contents` and no path. A task made from it finds the files in the
    current folder.

    A share of each class's training series becomes validation data, drawn anew for every trial. The share is rounded,
    but never all series of a class are drawn, and at least one if the class has two or more. Each channel is shifted
    and scaled to mean 0 and standard deviation 1 on the remaining training series; a channel that is constant there is
    only shifted. Validation and test data get the same shift and scale. Targets are one-hot.

    Metric: accuracy, the share of series whose class is the most active output.
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
        data = load(name, path) if contents is None else _load_stored(name, path, contents)
        self.contents = data.origin
        self.training, self.held_out = data.training, data.test
        # aeon lowercases labels: with this order, the archive's sets have the same class numbers as with aeon.
        self.classes = sorted(set(self.training.labels), key=lambda label: (label.lower(), label))
        self.input_size = self.training.series.shape[2]
        self.output_size = len(self.classes)
        self.training_size, self.validation_size = len(self.training.labels), 0
        self.test_size = len(self.held_out.labels)
        self.steps = max(self.training.series.shape[1], self.held_out.series.shape[1])

    def sets(self, rng):
        train, validation = split_off(self._classes_of(self.training), self.validation_share, rng)
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
        targets = one_hot(self._classes_of(part)[index], len(self.classes))
        return Sequences(inputs, part.lengths[index], targets[:, None])

    def _classes_of(self, part: Part) -> np.ndarray:
        """The number of each series' class: (B,)."""
        numbers = {label: number for number, label in enumerate(self.classes)}
        return np.array([numbers[label] for label in part.labels])


def _shift_and_scale(part: Part, index) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (I,) of each channel of these series; 1 for a channel that is constant."""
    real = part.series[index][part.counts[index]]
    deviation = real.std(axis=0)
    return real.mean(axis=0), np.where((np.ptp(real, axis=0) == 0) | (deviation < SMALLEST), 1, deviation)


def split_off(labels: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices (rest, split off); about this share of every class is split off."""
    split = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        split.append(rng.permutation(members)[:count])
    split = np.sort(np.concatenate(split))
    return np.setdiff1d(np.arange(len(labels)), split), split


def load(name: str | None, path: str | None) -> DataSet:
    """A data set by its name in the archive or by the path of its files, read once per process.

    Raises ValueError, which names the file or data set and the mistake, unless:
        exactly one of name and path is given;
        the series have labels and no missing values, and both parts have the same channels;
        the training part has two or more classes, at least one of them with two or more series;
        the test part has no further class.
    """
    if (name is None) == (path is None):
        raise ValueError(
            f"task.name={name} task.path={path}: give exactly one of them, task.name=JapaneseVowels (a set "
            "of the UCR/UEA archive) or task.path=NAME_TRAIN.ts (your own, with NAME_TEST.ts beside it)"
        )
    source = f"task.name={name}" if path is None else f"task.path={path}"
    data = _by_name(name) if path is None else _by_path(path)
    training, test = data.training, data.test
    channels = training.series.shape[2], test.series.shape[2]
    if channels[0] != channels[1]:
        raise ValueError(f"{source}: {channels[0]} channels in the training part, {channels[1]} in the test part")
    classes, sizes = np.unique(training.labels, return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f"{source}: every training series is of class {excerpt(classes[0])}; at least two classes are needed"
        )
    if sizes.max() < 2:
        raise ValueError(f"{source}: no class has two training series, so there is none for validation")
    shift, scale = _shift_and_scale(training, slice(None))
    for part in (training, test):
        far = np.abs((part.series - shift) / scale).max(axis=(0, 1))
        if far.max() > LARGEST:
            raise ValueError(
                f"{source}: channel {far.argmax() + 1} has a value {far.max():.3g} standard deviations from its mean, "
                f"above {LARGEST:g}"
            )
    unseen = sorted(set(test.labels) - set(classes))
    if unseen:
        raise ValueError(f"{source}: no training series has the class {excerpt(', '.join(unseen))} of the test part")
    return data


def _load_stored(name: str | None, path: str | None, contents: str) -> DataSet:
    """The data of a stored or prepared configuration; ValueError if the files now contain other data."""
    if (name, contents) in _by_contents:
        return _by_contents[name, contents]
    if path is None:
        path = f"{name}_TRAIN.ts"
        if not Path(path).exists():
            raise ValueError(f"{path}: not in the current folder, where the data of a stored run must be")
    data = load(None, path)
    if data.origin["contents"] != contents or name not in (None, data.origin["name"]):
        raise ValueError(f"task.path={path}: now contains other data than {contents}")
    return data


# Sources ----------------------------------------------------------------------------------------------------


@functools.cache
def _by_name(name: str) -> DataSet:
    from aeon.datasets import load_classification
    from aeon.datasets.tsc_datasets import tsc_zenodo

    shipped = _shipped()
    if name in shipped:
        data = _by_path(shipped[name])
        return DataSet(data.training, data.test)
    if name not in tsc_zenodo:
        near = difflib.get_close_matches(str(name), {*shipped, *tsc_zenodo}, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"shipped with aeon: {', '.join(shipped)}"
        raise ValueError(f"task.name={name} is not a classification data set of the archive; {hint}")
    try:
        loaded = {
            split: load_classification(name, split, load_no_missing=True, return_metadata=True)
            for split in ("train", "test")
        }
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"task.name={name} could not be downloaded ({reason}); these sets need no connection: "
            f"{', '.join(shipped)}, and task.path=NAME_TRAIN.ts"
        ) from None
    parts = []
    for split, (series, labels, header) in loaded.items():
        named = header["class_values"]
        if len({label.replace("nan", "NaN").replace("?", "NaN") for label in named}) < len(named):
            raise ValueError(
                f"task.name={name} ({split}): aeon merges classes that differ only in case, or in nan and ?; "
                "download the files and give task.path=NAME_TRAIN.ts"
            )
        places = [f"task.name={name} ({split}), series {number + 1}" for number in range(len(series))]
        parts.append(make_part(places, series, [label.strip() for label in labels]))
    return DataSet(*parts)


def _by_path(path: str | Path) -> DataSet:
    train, test = _pair(path)
    contents = [read_bytes(file) for file in (train, test)]
    sums = b"".join(hashlib.sha256(data).digest() for data in contents)
    # Twelve digits, as in a run's identity.
    key = _name_of(train), f"data_{hashlib.sha256(sums).hexdigest()[:12]}"
    if key not in _by_contents:
        parts = [read_part(file, data) for file, data in zip((train, test), contents, strict=True)]
        origin = {"name": key[0], "path": str(train), "contents": key[1]}
        _by_contents[key] = DataSet(*parts, origin)
    return _by_contents[key]


_by_contents: dict[tuple[str, str], DataSet] = {}
"""All data read by this process, by NAME and digest: a run has the same data to its end, even if the files change."""


def _pair(path: str | Path) -> tuple[Path, Path]:
    """The training and the test file, absolute, without symbolic links."""
    try:
        train = Path(str(path)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"task.path={path}: not the name of a file ({error})") from None
    if train.is_dir():
        pairs = sorted(file for file in train.glob("*_TRAIN.ts") if not file.name.startswith("."))
        if len(pairs) != 1:
            found = ", ".join([*(pair.name for pair in pairs[:3]), *["..."] * (len(pairs) > 3)]) or "none"
            raise ValueError(f"task.path={path} must contain one file NAME_TRAIN.ts (found: {found}), or be that file")
        train = pairs[0]
    if not train.name.endswith("_TRAIN.ts") or not _name_of(train):
        raise ValueError(f"task.path={path} must be a file NAME_TRAIN.ts, with NAME_TEST.ts beside it, or their folder")
    if not _name_of(train).isprintable():
        raise ValueError(f"task.path={ascii(str(path))}: the data set's name must be printable text")
    target = train.resolve()
    # A link's target names the data, unless its name does not end in _TRAIN.ts or it has another test file.
    own = _beside(train)
    if target.name.endswith("_TRAIN.ts") and (not own.exists() or own.resolve() == _beside(target)):
        train = target
    else:
        train = train.parent.resolve() / train.name
    return train, _beside(train)


def _beside(train: Path) -> Path:
    return train.with_name(train.name.removesuffix("_TRAIN.ts") + "_TEST.ts")


def _name_of(train: Path) -> str:
    """NAME in the composed form of Unicode: some file systems decompose the names of files."""
    return unicodedata.normalize("NFC", train.name.removesuffix("_TRAIN.ts"))


def _shipped() -> dict[str, Path]:
    """The classification data sets that aeon ships: name to training file."""
    import aeon.datasets
    from aeon.datasets.tser_datasets import tsr_zenodo

    folder = Path(aeon.datasets.__file__).parent / "data"
    files = {file.parent.name: file for file in sorted(folder.glob("*/*_TRAIN.ts"))}
    return {
        name: folder / name / f"{name}_TRAIN.ts"
        for name in files
        if name not in tsr_zenodo and (folder / name / f"{name}_TEST.ts").exists()
    }
