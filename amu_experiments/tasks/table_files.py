"""Reads series from tables: CSV files with a row for each step, and numpy archives (.npz).

CSV, NAME_TRAIN.csv with NAME_TEST.csv beside it, in UTF-8: the first row names the columns. `series` says which series
a row belongs to; the rows of a series follow each other. One of these says what the answer is:

    class              a text, the same in all rows of a series
    target, target_X   numbers, the same in all rows of a series: answered at its last step
    answer, answer_X   numbers, answered at every step
    (none)             the values of a later step of the series: forecasting

All other columns are channels.

numpy, NAME.npz: arrays x_train and x_test (B, T, I), or (B, T) for one channel; lengths_train and lengths_test (B,), if
not every series has T steps; y_train and y_test: texts or whole numbers (B,) are classes; other numbers (B,) or (B, O)
are answered at the last step, and (B, T, O) at every step. Without y, it is forecasting.
"""

import csv
import io
import zipfile
from itertools import groupby
from pathlib import Path

import numpy as np

from amu_experiments.tasks.series_files import LARGEST, Part, excerpt, explained, make_part, number

CSV_FORM = (
    "a row is one step: the column series, channels, and class, target (one number a series) or answer (one a step)"
)
NPZ_FORM = (
    "it must have x_train, x_test (series, steps, channels), and may have y_train, y_test, lengths_train, lengths_test"
)

_ARRAYS = ("x_train", "x_test", "y_train", "y_test", "lengths_train", "lengths_test")


# CSV --------------------------------------------------------------------------------------------------------


def read_table(file: Path, data: bytes) -> Part:
    """The series of a CSV file with these contents; ValueError that names file, line and value of a mistake."""
    with explained(file):
        rows = csv.reader(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline=""), strict=True)
        try:
            header = [name.strip() for name in next(rows, [])]
            roles = _roles(file, header)
            lines = [(f"{file}, line {rows.line_num}", [cell.strip() for cell in row]) for row in rows if any(row)]
        except csv.Error as error:
            raise ValueError(f"{file}, line {rows.line_num}: {error}; {CSV_FORM}") from None
        if not lines:
            raise ValueError(f"{file}: contains no rows below the names of its columns; {CSV_FORM}")
        for place, row in lines:
            if len(row) != len(header):
                raise ValueError(f"{place}: {len(row)} values, but the first row names {len(header)} columns")
        _check_channels(file, header, roles, [row for _, row in lines])
        return _part_of(header, roles, lines)


def _roles(file: Path, header: list[str]) -> list[str]:
    """What each column is: series, class, target, answer or channel."""
    if not any(header):
        raise ValueError(f"{file}: the first row names no columns; {CSV_FORM}")
    for place, name in enumerate(header):
        if not name:
            raise ValueError(f"{file}: column {place + 1} has no name")
        if name in header[:place]:
            raise ValueError(f"{file}: two columns are named {excerpt(name)}")
    roles = [
        name if name in ("series", "class") else next((r for r in ("target", "answer") if _is(name, r)), "channel")
        for name in header
    ]
    if "series" not in roles:
        raise ValueError(f"{file}: no column is named series; {CSV_FORM}")
    if "channel" not in roles:
        raise ValueError(f"{file}: no column is a channel; {CSV_FORM}")
    if len(kinds := set(roles) - {"series", "channel"}) > 1:
        raise ValueError(f"{file}: has columns {' and '.join(sorted(kinds))}; give one of class, target and answer")
    return roles


def _check_channels(file: Path, header: list[str], roles: list[str], rows: list[list[str]]) -> None:
    """Raise ValueError for a channel that has a word in every row: it may be a class under another name."""
    answered = set(roles) - {"series", "channel"}
    for name, role, cells in zip(header, roles, zip(*rows, strict=True), strict=True):
        if role == "channel" and all(cell[:1].isalpha() and cell.lower() != "nan" for cell in cells):
            remedy = "leave it out" if answered else "name it class if it is the answer, or leave it out"
            raise ValueError(
                f"{file}: the column {excerpt(name)} has words, such as {excerpt(cells[0])}, but a channel has "
                f"numbers; {remedy}"
            )


def _is(name: str, role: str) -> bool:
    return name == role or name.startswith(f"{role}_")


def _part_of(header: list[str], roles: list[str], lines: list[tuple[str, list[str]]]) -> Part:
    by_role = {role: [place for place, each in enumerate(roles) if each == role] for role in set(roles)}
    (own,) = by_role["series"]
    places, series, labels, answers, seen = [], [], [], [], set()
    for name, group in groupby(lines, key=lambda line: line[1][own]):
        rows = list(group)
        place = rows[0][0]
        if not name:
            raise ValueError(f"{place}: the column series is empty")
        if name in seen:
            raise ValueError(f"{place}: series {excerpt(name)} goes on here; the rows of a series follow each other")
        seen.add(name)
        for role in ("class", "target"):
            for column in by_role.get(role, []):
                _check_constant(rows, column, header[column])
        places.append(place)
        series.append(_values(rows, by_role["channel"], header).T)
        labels += [rows[0][1][column] for column in by_role.get("class", [])]
        if "target" in by_role:
            answers.append(_values(rows[:1], by_role["target"], header)[0])
        if "answer" in by_role:
            answers.append(_values(rows, by_role["answer"], header))
    part = make_part(places, series, labels or [""] * len(series))
    if labels:
        return part
    every = "answer" in by_role
    return Part(part.series, part.lengths, None, _padded(answers) if every else np.array(answers) if answers else None)


def _check_constant(rows: list[tuple[str, list[str]]], column: int, name: str) -> None:
    first = rows[0][1][column]
    if not first:
        raise ValueError(f"{rows[0][0]}: the column {name} is empty")
    for place, row in rows:
        if row[column] != first:
            raise ValueError(
                f"{place}: {name} is {excerpt(row[column]) or 'empty'}, but {excerpt(first)} in the first row of the "
                "series; it must be the same in all"
            )


def _values(rows: list[tuple[str, list[str]]], columns: list[int], header: list[str]) -> np.ndarray:
    """The numbers of these columns, (rows, columns)."""
    return np.array(
        [[number(f"{place}, {excerpt(header[c])}", row[c], CSV_FORM) for c in columns] for place, row in rows]
    )


def _padded(answers: list[np.ndarray]) -> np.ndarray:
    """Answers of every step, (T, O) each, as one array (B, T, O)."""
    steps = max(len(each) for each in answers)
    return np.stack([np.pad(each, [(0, steps - len(each)), (0, 0)]) for each in answers])


# numpy ------------------------------------------------------------------------------------------------------


def read_arrays(file: Path, data: bytes) -> tuple[Part, Part]:
    """Both parts of a numpy archive with these contents; ValueError that names file and array of a mistake."""
    with explained(file):
        try:
            arrays = dict(np.load(io.BytesIO(data), allow_pickle=False)) if data.startswith(b"PK\3\4") else None
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            reason = "contains objects" if "allow_pickle" in str(error) else "is damaged"
            raise ValueError(f"{file}: {reason}; {NPZ_FORM}") from None
        if arrays is None:
            raise ValueError(f"{file}: is no numpy archive (numpy.savez); {NPZ_FORM}")
        for name in arrays:
            if name not in _ARRAYS:
                raise ValueError(f"{file}: {excerpt(name)} is none of {', '.join(_ARRAYS)}")
        for name in ("x_train", "x_test"):
            if name not in arrays:
                raise ValueError(f"{file}: has no array {name}; {NPZ_FORM}")
        if ("y_train" in arrays) != ("y_test" in arrays):
            raise ValueError(f"{file}: has only one of y_train and y_test")
        return _part_of_arrays(file, arrays, "train"), _part_of_arrays(file, arrays, "test")


def _part_of_arrays(file: Path, arrays: dict[str, np.ndarray], split: str) -> Part:
    x = arrays[f"x_{split}"]
    if x.ndim == 2:
        x = x[:, :, None]
    if x.ndim != 3 or x.dtype.kind not in "iufb" or 0 in x.shape:
        raise ValueError(f"{file}: x_{split} {_form(x)}: must be numbers (series, steps, channels)")
    B, T, _ = x.shape
    lengths = arrays.get(f"lengths_{split}", np.full(B, T))
    if lengths.shape != (B,) or lengths.dtype.kind not in "iu" or lengths.min() < 1 or lengths.max() > T:
        raise ValueError(f"{file}: lengths_{split} {_form(lengths)}: must be whole numbers ({B},) from 1 to {T}")
    places = [f"{file}: x_{split}, series {number + 1}" for number in range(B)]
    series = [one[:length].T.astype(float) for one, length in zip(x, lengths, strict=True)]
    y = arrays.get(f"y_{split}")
    if y is not None and y.shape == (B,) and y.dtype.kind in "iubUS":
        labels = [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in y.tolist()]
        if "" in labels:
            raise ValueError(f"{file}: y_{split}, series {labels.index('') + 1}: the class is empty")
        return make_part(places, series, labels)
    part = make_part(places, series, [""] * B)
    if y is None:
        return Part(part.series, part.lengths, None)
    if y.dtype.kind not in "iuf" or y.shape[:1] != (B,) or not (y.ndim <= 2 or (y.ndim == 3 and y.shape[1] == T)):
        raise ValueError(
            f"{file}: y_{split} {_form(y)}: must be classes ({B},), or numbers ({B},), ({B}, O) or ({B}, {T}, O)"
        )
    y = y.reshape(B, -1) if y.ndim < 3 else y
    if y.ndim == 3:
        y = np.where(part.counts[:, :T, None], y[:, : part.series.shape[1]], 0)
    if not (np.abs(y) <= LARGEST).all():
        raise ValueError(f"{file}: y_{split}: missing values, or values above {LARGEST:g} in size")
    return Part(part.series, part.lengths, None, y.astype(float))


def _form(array: np.ndarray) -> str:
    return f"has the shape {array.shape} and the type {array.dtype}"
