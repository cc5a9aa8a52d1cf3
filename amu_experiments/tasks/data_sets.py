"""Data sets of time series: of the UCR/UEA archive by name, or in files of the user.

The archive's own training and test parts are used. aeon ships some sets and downloads the others. series_files.py and
table_files.py read all files except downloads: aeon knows where it stores these, and reads them. A download whose
classes aeon would merge is refused.
"""

import difflib
import functools
import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from amu_experiments.tasks.series_files import LARGEST, Part, excerpt, make_part, read_bytes, read_part
from amu_experiments.tasks.table_files import read_arrays, read_table

SMALLEST = 1e-30
"""A channel whose standard deviation is smaller counts as constant."""

ENDINGS = ("_TRAIN.ts", "_TRAIN.csv", ".npz")
"""The end of the name of a file of training series, after NAME."""

FILES = "NAME_TRAIN.ts or NAME_TRAIN.csv, with NAME_TEST beside it, or NAME.npz"


@dataclass(frozen=True)
class DataSet:
    """Both parts of a data set.

    origin: for data given by path, the options name, path and contents that identify them.
    """

    training: Part
    test: Part
    origin: Mapping[str, str] = field(default_factory=dict)


def load(name: str | None, path: str | None) -> DataSet:
    """A data set by its name in the archive or by the path of its files, read once per process.

    Raises ValueError, which names the file or data set and the mistake, unless:
        exactly one of name and path is given;
        the series have no missing values, and both parts have the same channels and the same kind of answers;
        with classes, the training part has two or more, at least one of them with two or more series, and the test
        part has no further class;
        with numbers as answers, the training part has two or more series.
    """
    if (name is None) == (path is None):
        raise ValueError(
            f"task.name={name} task.path={path}: give exactly one of them, task.name=JapaneseVowels (a set "
            f"of the UCR/UEA archive) or task.path=FILE (your own: {FILES})"
        )
    source = f"task.name={name}" if path is None else f"task.path={path}"
    data = _by_name(name) if path is None else _by_path(path)
    training, test = data.training, data.test
    channels = training.series.shape[2], test.series.shape[2]
    if channels[0] != channels[1]:
        raise ValueError(f"{source}: {channels[0]} channels in the training part, {channels[1]} in the test part")
    kinds = [_kind_of_answers(part) for part in (training, test)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{source}: the training part has {kinds[0]}, the test part {kinds[1]}")
    if training.labels is not None:
        _check_classes(source, training.labels, test.labels)
    elif len(training.lengths) < 2:
        raise ValueError(f"{source}: one training series, so there is none for validation; cut it into shorter ones")
    _check_far(source, "channel", *(part.series[part.counts] for part in (training, test)))
    if training.answers is not None:
        _check_far(source, "answer", *(answers_in_rows(part) for part in (training, test)))
    return data


def answers_in_rows(part: Part) -> np.ndarray:
    """All numbers that are answers, (answers, O)."""
    return part.answers[part.counts] if part.answers.ndim == 3 else part.answers


def shift_and_scale(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (X,) of each column of numbers (rows, X); 1 for a column that is constant."""
    deviation = rows.std(axis=0)
    return rows.mean(axis=0), np.where((np.ptp(rows, axis=0) == 0) | (deviation < SMALLEST), 1, deviation)


def _kind_of_answers(part: Part) -> str:
    if part.labels is not None:
        return "classes"
    if part.answers is None:
        return "no answers"
    return f"{part.answers.shape[-1]} answers at {'every' if part.answers.ndim == 3 else 'the last'} step"


def _check_classes(source: str, training: np.ndarray, test: np.ndarray) -> None:
    classes, sizes = np.unique(training, return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f"{source}: every training series is of class {excerpt(classes[0])}; at least two classes are needed"
        )
    if sizes.max() < 2:
        raise ValueError(f"{source}: no class has two training series, so there is none for validation")
    unseen = sorted(set(test) - set(classes))
    if unseen:
        raise ValueError(f"{source}: no training series has the class {excerpt(', '.join(unseen))} of the test part")


def _check_far(source: str, what: str, training: np.ndarray, test: np.ndarray) -> None:
    """Raise ValueError for a column of numbers (rows, X) with a value that overflows when it is scaled."""
    shift, scale = shift_and_scale(training)
    for rows in (training, test):
        far = np.abs((rows - shift) / scale).max(axis=0)
        if far.max() > LARGEST:
            raise ValueError(
                f"{source}: {what} {far.argmax() + 1} has a value {far.max():.3g} standard deviations from its mean, "
                f"above {LARGEST:g}"
            )


def load_stored(name: str | None, path: str | None, contents: str) -> DataSet:
    """The data of a stored or prepared configuration; ValueError if the files now contain other data."""
    if (name, contents) in _by_contents:
        return _by_contents[name, contents]
    if path is None:
        files = [f"{name}{ending}" for ending in ENDINGS]
        path = next((file for file in files if Path(file).exists()), None)
        if path is None:
            raise ValueError(
                f"none of {', '.join(files)} is in the current folder; the data of a stored run must be there, so "
                "change to their folder"
            )
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
            f"{', '.join(shipped)}; nor do your own (task.path: {FILES})"
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
    files = _files(path)
    contents = [read_bytes(file) for file in files]
    sums = b"".join(hashlib.sha256(data).digest() for data in contents)
    # Twelve digits, as in a run's identity.
    key = _name_of(files[0]), f"data_{hashlib.sha256(sums).hexdigest()[:12]}"
    if key not in _by_contents:
        if files[0].suffix == ".npz":
            parts = read_arrays(files[0], contents[0])
        else:
            read = read_part if files[0].suffix == ".ts" else read_table
            parts = [read(file, data) for file, data in zip(files, contents, strict=True)]
        origin = {"name": key[0], "path": str(files[0]), "contents": key[1]}
        _by_contents[key] = DataSet(*parts, origin)
    return _by_contents[key]


_by_contents: dict[tuple[str, str], DataSet] = {}
"""All data read by this process, by NAME and digest: a run has the same data to its end, even if the files change."""


def _files(path: str | Path) -> list[Path]:
    """The training and the test file, or the file of both parts, as absolute paths.

    Symbolic links are resolved, except one to a file with another ending or with another test file.
    """
    try:
        train = Path(str(path)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"task.path={path}: not the name of a file ({error})") from None
    if train.is_dir():
        train = _only_one(path, train)
    ending = _ending_of(train)
    if ending is None or not _name_of(train):
        raise ValueError(f"task.path={path} must be {FILES}, or their folder")
    if not _name_of(train).isprintable():
        raise ValueError(f"task.path={ascii(str(path))}: the data set's name must be printable text")
    target = train.resolve()
    if ending == ".npz":
        return [target if target.suffix == ".npz" else train.parent.resolve() / train.name]
    # A link's target names the data, unless its name has another ending or it has another test file.
    own = _beside(train)
    if _ending_of(target) == ending and (not own.exists() or own.resolve() == _beside(target)):
        train = target
    else:
        train = train.parent.resolve() / train.name
    return [train, _beside(train)]


def _only_one(path: str | Path, folder: Path) -> Path:
    """The only file of training series in a folder, in the first format of which it has any."""
    for ending in ENDINGS:
        found = sorted(file for file in folder.glob(f"*{ending}") if not file.name.startswith("."))
        if len(found) == 1:
            return found[0]
        if found:
            break
    names = ", ".join([*(file.name for file in found[:3]), *["..."] * (len(found) > 3)]) or "none"
    raise ValueError(
        f"task.path={path} must contain one file NAME_TRAIN.ts, NAME_TRAIN.csv or NAME.npz (found: {names}), or be "
        "that file"
    )


def _ending_of(file: Path) -> str | None:
    return next((ending for ending in ENDINGS if file.name.endswith(ending)), None)


def _beside(train: Path) -> Path:
    return train.with_name(f"{train.name.removesuffix(f'_TRAIN{train.suffix}')}_TEST{train.suffix}")


def _name_of(train: Path) -> str:
    """NAME in the composed form of Unicode: some file systems decompose the names of files."""
    return unicodedata.normalize("NFC", train.name.removesuffix(_ending_of(train) or ""))


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
