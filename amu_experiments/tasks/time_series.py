"""Classification of real time series: data sets of the UCR/UEA archive by name, or a pair of .ts files.

The archive's own training and test parts are kept; aeon ships some sets and downloads the others.

Files are read here, not by aeon's loader. That lowercases whole lines and replaces "nan" and "?" in them, class labels
included: it merges classes that differ only in case, and rewrites "banana". It ignores unknown header lines, and it
accepts any text that Python's float() accepts, such as 1_000. Sets that aeon downloads are still read by aeon, which
knows where it keeps them; a set whose classes it would merge is refused.
"""

import difflib
import functools
import hashlib
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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
    """A part of a data set: series (B, T, I), zero after the end; lengths (B,); labels (B,), strings as objects."""

    series: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Which steps belong to a series: (B, T) bool."""
        return np.arange(self.series.shape[1]) < self.lengths[:, None]


@dataclass(frozen=True)
class DataSet:
    """Both parts of a data set.

    origin: for data given by path the options name, path and contents that say which data these are.
    """

    training: Part
    test: Part
    origin: Mapping[str, str] = field(default_factory=dict)


class TimeSeries(Task):
    """A series of one or more channels is read step by step; its class is told at its own last step.

    The worked example is JapaneseVowels: 12 cepstrum coefficients of a speaker saying "ae", 7 to 29 steps
    long; the classes are the nine speakers, 270 training and 370 test utterances.

    Exactly one of two options says where the data are from:
        name  a data set of the UCR/UEA archive. What aeon ships needs no connection; it downloads any other
              (where values are missing, in the archive's own version with these filled in).
        path  a file NAME_TRAIN.ts with NAME_TEST.ts beside it, or a folder that holds one such pair. A run's
              identity has NAME and the digest `contents` of both files, and not where they are: other data in
              the same place are another run, and the same data in another place are the same run.

    Class labels are taken as written: `Run` and `run` are two classes, and so are `1` and `1.0`. The outputs
    are in the order of the labels in lower case.

    A run's kept configuration has NAME and `contents` and no path; a task made from it finds the files in the
    current folder.

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
        data = load(name, path) if contents is None else _load_kept(name, path, contents)
        self.contents = data.origin
        self.training, self.held_out = data.training, data.test
        # The order in lower case is that of aeon's labels: it numbers the classes of the archive's sets.
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
    """(kept, split off): sorted indices, about this share of every class being split off."""
    split = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        split.append(rng.permutation(members)[:count])
    split = np.sort(np.concatenate(split))
    return np.setdiff1d(np.arange(len(labels)), split), split


def load(name: str | None, path: str | None) -> DataSet:
    """A data set by its name in the archive or by the path of its files, read once per process.

    Raises ValueError, saying which file or data set and what is wrong with it, unless exactly one of name and
    path is given and leads to labelled series without missing values, with the same channels in both parts,
    two or more classes in training, one of them with two or more series, and no other class in the test part.
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
            f"{source}: every training series is of class {_cut(classes[0])}; there is nothing to tell apart"
        )
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
    unseen = sorted(set(test.labels) - set(classes))
    if unseen:
        raise ValueError(f"{source}: no training series is of the test part's class {_cut(', '.join(unseen))}")
    return data


def _load_kept(name: str | None, path: str | None, contents: str) -> DataSet:
    """The data of a kept or prepared configuration; ValueError where other data are in their place now."""
    if (name, contents) in _by_contents:
        return _by_contents[name, contents]
    if path is None:
        path = f"{name}_TRAIN.ts"
        if not Path(path).exists():
            raise ValueError(f"{path}: not in the current folder, where the data of a kept run have to be")
    data = load(None, path)
    if data.origin["contents"] != contents or name not in (None, data.origin["name"]):
        raise ValueError(f"task.path={path}: holds other data now than {contents}")
    return data


# Where the data are -----------------------------------------------------------------------------------------


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
        raise ValueError(f"task.name={name} is no classification data set that aeon knows; {hint}")
    try:
        loaded = {
            split: load_classification(name, split, load_no_missing=True, return_metadata=True)
            for split in ("train", "test")
        }
    except (OSError, ValueError) as error:
        raise ValueError(
            f"task.name={name} could not be had ({_one_line(error)}); without a connection there are "
            f"{', '.join(shipped)}, or task.path=NAME_TRAIN.ts"
        ) from None
    parts = []
    for split, (series, labels, header) in loaded.items():
        named = header["class_values"]
        if len({label.replace("nan", "NaN").replace("?", "NaN") for label in named}) < len(named):
            raise ValueError(
                f"task.name={name} ({split}): aeon merges classes that differ in case, or in nan and ?; "
                "give the files themselves by task.path=NAME_TRAIN.ts"
            )
        places = [f"task.name={name} ({split}), series {number + 1}" for number in range(len(series))]
        parts.append(_part(places, series, [label.strip() for label in labels]))
    return DataSet(*parts)


def _by_path(path: str | Path) -> DataSet:
    train, test = _pair(path)
    contents = [_bytes_of(file) for file in (train, test)]
    sums = b"".join(hashlib.sha256(data).digest() for data in contents)
    # As many digits as a run's identity has.
    key = _name_of(train), f"data_{hashlib.sha256(sums).hexdigest()[:12]}"
    if key not in _by_contents:
        parts = [_read(file, data) for file, data in zip((train, test), contents, strict=True)]
        origin = {"name": key[0], "path": str(train), "contents": key[1]}
        _by_contents[key] = DataSet(*parts, origin)
    return _by_contents[key]


_by_contents: dict[tuple[str, str], DataSet] = {}
"""What was read in this process, by NAME and digest: a run keeps its data, whatever happens to the files."""


def _bytes_of(file: Path) -> bytes:
    with _explained(file):
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise ValueError(f"{file}: is no file")
        return file.read_bytes()


def _pair(path: str | Path) -> tuple[Path, Path]:
    """The training and the test file, absolute, without symbolic links."""
    try:
        train = Path(str(path)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"task.path={path}: no name for a file ({_one_line(error)})") from None
    if train.is_dir():
        pairs = sorted(file for file in train.glob("*_TRAIN.ts") if not file.name.startswith("."))
        if len(pairs) != 1:
            found = ", ".join([*(pair.name for pair in pairs[:3]), *["..."] * (len(pairs) > 3)]) or "none"
            raise ValueError(f"task.path={path} must hold one file NAME_TRAIN.ts (found: {found}), or be that file")
        train = pairs[0]
    if not train.name.endswith("_TRAIN.ts") or not _name_of(train):
        raise ValueError(f"task.path={path} must be a file NAME_TRAIN.ts, with NAME_TEST.ts beside it, or their folder")
    if not _name_of(train).isprintable():
        raise ValueError(f"task.path={ascii(str(path))}: the data set's name must be printable text")
    target = train.resolve()
    # A link's target names the data, unless it has a name of its store's own or belongs to another test file.
    own = _beside(train)
    if target.name.endswith("_TRAIN.ts") and (not own.exists() or own.resolve() == _beside(target)):
        train = target
    else:
        train = train.parent.resolve() / train.name
    return train, _beside(train)


def _beside(train: Path) -> Path:
    return train.with_name(train.name.removesuffix("_TRAIN.ts") + "_TEST.ts")


def _name_of(train: Path) -> str:
    """NAME, in the composed form of Unicode: some file systems decompose the names of files."""
    return unicodedata.normalize("NFC", train.name.removesuffix("_TRAIN.ts"))


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


# The .ts format ---------------------------------------------------------------------------------------------

_KEYS = (
    *("@problemName", "@timeStamps", "@missing", "@univariate", "@dimensions", "@dimension", "@equalLength"),
    *("@seriesLength", "@classLabel", "@targetLabel", "@data"),
)
"""What the lines of a header begin with, in any case."""

_TRUE_OR_FALSE = ("timestamps", "missing", "univariate", "equallength", "targetlabel")

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def _read(file: Path, data: bytes) -> Part:
    """A .ts file; ValueError that names file, line and value where it is not as it should be."""
    with _explained(file):
        lines = _lines(file, data)
        header = _read_header(file, lines)
        places, series, labels = [], [], []
        for place, line in lines:
            *channels, label = (part.strip() for part in line.split(":"))
            _check_class(place, label if channels else "", header["classlabel"])
            values = [_numbers(place, channel) for channel in channels]
            _check_shape(place, values, header, series[0].shape if series else None)
            places.append(place)
            series.append(np.array(values))
            labels.append(label)
        if not series:
            raise ValueError(f"{file}: holds no series; they stand below a line @data, and {FORM}")
        return _part(places, series, labels)


def _lines(file: Path, data: bytes) -> Iterator[tuple[str, str]]:
    """(file and number, text) of each line that is neither empty nor a comment."""
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig"), start=1):
        line = line.strip()
        if line and line[0] not in "#%":
            yield f"{file}, line {number}", line


def _read_header(file: Path, lines: Iterator[tuple[str, str]]) -> dict:
    """What the header says up to @data, by key in lower case; class labels as a list."""
    known = {key[1:].lower(): key for key in _KEYS}
    header = {}
    for place, line in lines:
        word, *rest = line.split(maxsplit=1)
        key, value = word[1:].lower(), "".join(rest)
        if word[0] != "@":
            raise ValueError(
                f"{place}: {_cut(line)} does not begin with @, as all lines above @data do; series stand below it, "
                f"and {FORM}"
            )
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean {known[near[0]]}?)" if near else ""
            raise ValueError(f"{place}: {_cut(word)} is none of {', '.join(_KEYS)}{hint}")
        if key == "data":
            if value:
                raise ValueError(f"{place}: {_cut(value)} stands behind @data; series stand on the lines below it")
            break
        if not value:
            raise ValueError(f"{place}: nothing stands behind {word}")
        value = _header_value(place, known[key], key, value)
        key = key.removesuffix("s") if key == "dimensions" else key
        if key != "problemname" and header.setdefault(key, value) != value:
            raise ValueError(f"{place}: {word} stands here again, with something else behind it")
    if not header.get("classlabel"):
        raise ValueError(f"{file}: has no class labels; its header must name them (@classLabel true a b ...)")
    return header


def _header_value(place: str, word: str, key: str, value: str) -> str | bool | int | list[str]:
    """What stands behind a header's word, in its type; ValueError where it is not possible, or not supported."""
    if key == "classlabel":
        flag, *labels = value.split()
        if flag.lower() not in ("true", "false") or (flag.lower() == "true" and not labels):
            raise ValueError(
                f"{place}: {_cut(value)} must be true and then the class labels (@classLabel true a b ...)"
            )
        return labels if flag.lower() == "true" else []
    if key in ("dimension", "dimensions", "serieslength"):
        if not re.fullmatch("[0-9]{1,12}", value):
            raise ValueError(f"{place}: {word} {_cut(value)} must be a whole number")
        return int(value)
    if key not in _TRUE_OR_FALSE:
        return value
    if value.lower() not in ("true", "false"):
        raise ValueError(f"{place}: {word} {_cut(value)} must be true or false")
    if value.lower() == "true" and key == "timestamps":
        raise ValueError(f"{place}: series with time stamps are not supported; leave out the time stamps")
    if value.lower() == "true" and key == "targetlabel":
        raise ValueError(
            f"{place}: @targetLabel true asks for regression, which is not supported; class labels are needed "
            "(@classLabel true a b ...)"
        )
    return value.lower() == "true"


def _check_class(place: str, label: str, named: Sequence[str]) -> None:
    """ValueError unless the label is one that the header names, written the same."""
    if label in named:
        return
    told = f"is of class {_cut(label)}" if label else "has no class"
    if "," in label:
        told = f"ends with {_cut(label)}, where its class belongs"
    alike = next((other for other in named if _folded(other) == _folded(label)), None)
    hint = f" (labels are taken as written, and {_cut(alike)} is another)" if alike else ""
    raise ValueError(f"{place}: {told}; @classLabel names {_cut(', '.join(named))}{hint}, and {FORM}")


def _folded(label: str) -> str:
    """Equal for labels that look alike."""
    return unicodedata.normalize("NFKC", label.casefold())


def _numbers(place: str, channel: str) -> list[float]:
    # Of these characters float() makes what _NUMBER allows, in half the time; what it refuses is told by _number.
    if set(channel) <= set("0123456789+-.eE, "):
        with suppress(ValueError):
            values = [float(value) for value in channel.split(",")]
            if min(values) >= -LARGEST and max(values) <= LARGEST:
                return values
    return [_number(place, value.strip()) for value in channel.split(",")]


def _number(place: str, text: str) -> float:
    if _NUMBER.fullmatch(text):
        value = float(text)
        if abs(value) > LARGEST:
            raise ValueError(f"{place}: a value of {_cut(text)}, above {LARGEST:g} in size")
        return value
    if text.lower() in ("", "?", "nan"):
        raise ValueError(f"{place}: a missing value ({_cut(text) or 'nothing'}); fill it in")
    raise ValueError(f"{place}: {_cut(text)} is no number, as 12, -0.5 and 1e-3 are; {FORM}")


def _check_shape(place: str, values: list[list], header: Mapping, first: tuple[int, int] | None) -> None:
    """ValueError unless a series has as many channels and values as the header says and the first series has."""
    channels, lengths = len(values), [len(channel) for channel in values]
    other = next((number for number, length in enumerate(lengths) if length != lengths[0]), None)
    if other is not None:
        raise ValueError(
            f"{place}: {_count(lengths[other], 'value')} in channel {other + 1}, {lengths[0]} in channel 1; "
            "the channels of a series must have the same length"
        )
    if channels > 1 and header.get("univariate", True):
        raise ValueError(f"{place}: {channels} channels; for more than one the header must say @univariate false")
    for right, who in ((header.get("dimension"), "@dimensions says"), (first and first[0], "the first series has")):
        if right not in (None, channels):
            raise ValueError(f"{place}: {_count(channels, 'channel')}, where {who} {right}; {FORM}")
    if not header.get("equallength", True):
        return
    for right, who in (
        (header.get("serieslength"), "@seriesLength says"),
        (first and first[1], "the first series has"),
    ):
        if right not in (None, lengths[0]):
            raise ValueError(
                f"{place}: {_count(lengths[0], 'value')}, where {who} {right}; where lengths differ, the header must "
                "say @equalLength false"
            )


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Whatever reading the file raises, as a ValueError that names it and says what it should be like."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{file}: there is no such file") from None
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _one_line(error)
        raise ValueError(f"{file} cannot be read as a .ts file: {reason}; {FORM}") from None


def _part(places: list[str], series, labels: list[str]) -> Part:
    """Series (I, T) of one length or many as (B, T, I), zero after the end; ValueError that names the place of one
    that is of no use."""
    lengths = np.array([one.shape[1] for one in series])
    padded = np.zeros((len(series), min(lengths.max(), STEPS[1]), series[0].shape[0]))
    for number, (place, one) in enumerate(zip(places, series, strict=True)):
        if not STEPS[0] <= one.shape[1] <= STEPS[1]:
            count = "one value" if one.shape[1] == 1 else f"{one.shape[1]:,} values"
            raise ValueError(f"{place}: {count}; {STEPS[0]} to {STEPS[1]:,} can be learned from")
        if not (np.abs(one) <= LARGEST).all():
            raise ValueError(f"{place}: missing values, or values above {LARGEST:g} in size")
        padded[number, : lengths[number]] = one.T
    return Part(padded, lengths, np.array(labels, dtype=object))


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + "s" * (number != 1)


def _cut(text: str) -> str:
    """A piece of a file as an error shows it: printable, in a line, and not long."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
