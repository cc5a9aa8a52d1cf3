"""Reads files of labelled time series in the .ts format.

aeon's loader is not used for them. It lowercases whole lines and replaces "nan" and "?" in them, class labels included:
it merges classes that differ only in case, and rewrites "banana". It ignores unknown header lines. It accepts any text
that Python's float() accepts, such as 1_000.
"""

import difflib
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

FORM = "a line is one series: its channels and then its class, separated by ':'; ',' separates the values of a channel"

STEPS = (2, 100_000)
"""Limits for the number of steps of a series. One value is not a series; learning from more steps takes too long."""

LARGEST = 1e30
"""Largest size of a value. Larger ones overflow when they are scaled and squared in single precision."""

_KEYS = (
    "problemName timeStamps missing univariate dimensions dimension equalLength seriesLength classLabel targetLabel "
    "data"
)
"""The first words of header lines, without @; upper and lower case are the same."""

_TRUE_OR_FALSE = ("timestamps", "missing", "univariate", "equallength", "targetlabel")

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Part:
    """The training or the test part of a data set.

    series: (B, T, I), zero after a series' end; lengths: (B,).
    labels: (B,) strings, as objects; None for series without classes.
    answers: (B, O), numbers for the last step of a series; or (B, T, O), for every step. None for classes, and for
        series whose answers are their own later values.
    """

    series: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray | None
    answers: np.ndarray | None = None

    @cached_property
    def counts(self) -> np.ndarray:
        """Which steps belong to a series: (B, T) bool."""
        return np.arange(self.series.shape[1]) < self.lengths[:, None]


def make_part(places: list[str], series: Sequence[np.ndarray], labels: list[str]) -> Part:
    """Series (I, T) of any lengths, and their labels, as one part.

    places: the name of each series in an error. Raises ValueError for a series with too few or too many steps, missing
    values or values that are too large.
    """
    lengths = np.array([one.shape[1] for one in series])
    padded = np.zeros((len(series), min(lengths.max(), STEPS[1]), series[0].shape[0]))
    for number, (place, one) in enumerate(zip(places, series, strict=True)):
        if not STEPS[0] <= one.shape[1] <= STEPS[1]:
            raise ValueError(
                f"{place}: {_count(one.shape[1], 'value')}; a series must have {STEPS[0]} to {STEPS[1]:,} values"
            )
        if not (np.abs(one) <= LARGEST).all():
            raise ValueError(f"{place}: missing values, or values above {LARGEST:g} in size")
        padded[number, : lengths[number]] = one.T
    return Part(padded, lengths, np.array(labels, dtype=object))


def read_bytes(file: Path) -> bytes:
    """The contents of a file; ValueError, with the reason, if it cannot be read."""
    with explained(file):
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise ValueError(f"{file}: not a regular file")
        return file.read_bytes()


def read_part(file: Path, data: bytes) -> Part:
    """The series of a .ts file with these contents; ValueError that names file, line and value of a mistake."""
    with explained(file):
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
            raise ValueError(f"{file}: contains no series; they follow a line @data, and {FORM}")
        return make_part(places, series, labels)


@contextmanager
def explained(file: Path) -> Iterator[None]:
    """Turns every error of reading the file into a ValueError that names the file and the reason."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{file}: there is no such file") from None
    except UnicodeError as error:
        raise ValueError(f"{file}: is not text in UTF-8 ({error}); save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror or error})") from None


def _lines(file: Path, data: bytes) -> Iterator[tuple[str, str]]:
    """(file and number, text) of each line, without empty lines and comments."""
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig"), start=1):
        line = line.strip()
        if line and line[0] not in "#%":
            yield f"{file}, line {number}", line


# Header -----------------------------------------------------------------------------------------------------


def _read_header(file: Path, lines: Iterator[tuple[str, str]]) -> dict:
    """Reads the lines up to @data. Returns their values by key in lower case; class labels are a list."""
    known = {key.lower(): f"@{key}" for key in _KEYS.split()}
    header = {}
    for place, line in lines:
        word, *rest = line.split(maxsplit=1)
        key, value = word[1:].lower(), "".join(rest)
        if word[0] != "@":
            raise ValueError(
                f"{place}: {excerpt(line)} does not begin with @, as every line above @data must; series follow "
                f"@data, and {FORM}"
            )
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean {known[near[0]]}?)" if near else ""
            raise ValueError(f"{place}: {excerpt(word)} is none of {', '.join(known.values())}{hint}")
        if key == "data":
            if value:
                raise ValueError(f"{place}: {excerpt(value)} follows @data; series begin on the next line")
            break
        if not value:
            raise ValueError(f"{place}: {word} has no value")
        value = _header_value(place, known[key], key, value)
        key = key.removesuffix("s") if key == "dimensions" else key
        if key != "problemname" and header.setdefault(key, value) != value:
            raise ValueError(f"{place}: {word} is repeated with another value")
    if not header.get("classlabel"):
        raise ValueError(f"{file}: has no class labels; its header must name them (@classLabel true a b ...)")
    return header


def _header_value(place: str, word: str, key: str, value: str) -> str | bool | int | list[str]:
    """The value of a header line, in its type; ValueError if it is not allowed or not supported."""
    if key == "classlabel":
        flag, *labels = value.split()
        if flag.lower() not in ("true", "false") or (flag.lower() == "true" and not labels):
            raise ValueError(
                f"{place}: {excerpt(value)} must be true and then the class labels (@classLabel true a b ...)"
            )
        return labels if flag.lower() == "true" else []
    if key in ("dimension", "dimensions", "serieslength"):
        if not re.fullmatch("[0-9]{1,12}", value):
            raise ValueError(f"{place}: {word} {excerpt(value)} must be a whole number")
        return int(value)
    if key not in _TRUE_OR_FALSE:
        return value
    if value.lower() not in ("true", "false"):
        raise ValueError(f"{place}: {word} {excerpt(value)} must be true or false")
    if value.lower() == "true" and key == "timestamps":
        raise ValueError(f"{place}: series with time stamps are not supported; leave out the time stamps")
    if value.lower() == "true" and key == "targetlabel":
        raise ValueError(
            f"{place}: @targetLabel true asks for regression, which is not supported in this format; give a "
            ".csv or .npz file, or class labels (@classLabel true a b ...)"
        )
    return value.lower() == "true"


# Series -----------------------------------------------------------------------------------------------------


def _check_class(place: str, label: str, named: Sequence[str]) -> None:
    """Raise ValueError unless the header names this label, in the same letters."""
    if label in named:
        return
    found = f"is of class {excerpt(label)}" if label else "has no class"
    if "," in label:
        found = f"ends with {excerpt(label)} in place of its class"
    alike = next((other for other in named if _folded(other) == _folded(label)), None)
    hint = f" (labels must match exactly; did you mean {excerpt(alike)}?)" if alike else ""
    raise ValueError(f"{place}: {found}; @classLabel names {excerpt(', '.join(named))}{hint}, and {FORM}")


def _folded(label: str) -> str:
    """A form of a label that is the same for all labels that look alike."""
    return unicodedata.normalize("NFKC", label.casefold())


def _numbers(place: str, channel: str) -> list[float]:
    # With these characters alone, float() accepts just what _NUMBER allows and takes half the time. If it refuses,
    # number() finds the value and explains.
    if set(channel) <= set("0123456789+-.eE, "):
        with suppress(ValueError):
            values = [float(value) for value in channel.split(",")]
            if min(values) >= -LARGEST and max(values) <= LARGEST:
                return values
    return [number(place, value.strip()) for value in channel.split(",")]


def number(place: str, text: str, form: str = FORM) -> float:
    """The value of a decimal number; ValueError, with its place, for another text, a missing or too large value."""
    if _NUMBER.fullmatch(text):
        value = float(text)
        if abs(value) > LARGEST:
            raise ValueError(f"{place}: the value {excerpt(text)} is above {LARGEST:g} in size")
        return value
    if text.lower() in ("", "?", "nan"):
        raise ValueError(f"{place}: a missing value ({excerpt(text) or 'nothing'}); fill it in")
    raise ValueError(f"{place}: {excerpt(text)} is not a number such as 12, -0.5 or 1e-3; {form}")


def _check_shape(place: str, values: list[list], header: Mapping, first: tuple[int, int] | None) -> None:
    """Raise ValueError unless a series has as many channels and values as the header and the first series."""
    channels, lengths = len(values), [len(channel) for channel in values]
    other = next((number for number, length in enumerate(lengths) if length != lengths[0]), None)
    if other is not None:
        raise ValueError(
            f"{place}: {_count(lengths[other], 'value')} in channel {other + 1}, {lengths[0]} in channel 1; "
            "the channels of a series must have the same length"
        )
    if channels > 1 and header.get("univariate", True):
        raise ValueError(f"{place}: {channels} channels; with more than one, the header must say @univariate false")
    first_channels, first_steps = first or (None, None)
    for wanted, who in ((header.get("dimension"), "@dimensions says"), (first_channels, "the first series has")):
        if wanted not in (None, channels):
            raise ValueError(f"{place}: {_count(channels, 'channel')}, but {who} {wanted}; {FORM}")
    if not header.get("equallength", True):
        return
    for wanted, who in ((header.get("serieslength"), "@seriesLength says"), (first_steps, "the first series has")):
        if wanted not in (None, lengths[0]):
            raise ValueError(
                f"{place}: {_count(lengths[0], 'value')}, but {who} {wanted}; if lengths differ, the header must "
                "say @equalLength false"
            )


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + "s" * (number != 1)


def excerpt(text: str) -> str:
    """Text of a file for an error message: printable, on one line, at most 60 characters."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 60 else f"{text[:57]}..."
