"""What amu-sample keeps of a network that went on by itself, and how it is read again."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from amu_experiments.files import UnusableError, read_bytes

MOST_NUMBERS = 10**7
"""Maximum number of values of a series that are read."""

COLUMNS = {"strokes": 4, "notes": 88}
"""Values of a step; one step of a series is one value."""


@dataclass(frozen=True)
class Sample:
    """Sequences of one trial of a run.

    media: the kinds of files that show them, as in a task.
    texts: each with the place of its first wrong symbol, or None if all are right.
    series: prime (count, G), generated (count, steps) and truth, as long as it is known, or None; empty for texts.
        With a further axis for moves of a pen (dx, dy, drawn, last), and for notes (1 for each key that sounds).
    """

    task: str
    model: str
    identity: str
    trial: int
    seed: int
    primed: bool
    temperature: float
    media: tuple[str, ...]
    texts: list[tuple[str, int | None]]
    series: dict[str, np.ndarray | None]

    @property
    def name(self) -> str:
        """The name of its folder."""
        parts = [self.task, self.model, self.identity, f"trial-{self.trial}", f"seed-{self.seed}"]
        parts += ["primed"] * self.primed + [f"temperature-{self.temperature:g}"] * (self.temperature != 1)
        return "-".join(parts)

    @property
    def kind(self) -> str:
        """What is sampled: "texts", "series", "strokes" of a pen, or "notes"."""
        kinds = {"txt": "texts", "svg": "strokes", "mid": "notes"}
        return next((kind for medium, kind in kinds.items() if medium in self.media), "series")

    def marked_texts(self) -> list[str]:
        return [marked(*text) for text in self.texts]

    def as_json(self) -> dict:
        series = {
            name: None if values is None else np.vectorize(_short, otypes=[object])(values).tolist()
            for name, values in self.series.items()
        }
        return asdict(self) | {"series": series}


def _short(value: float) -> float | int:
    """Seven digits; a whole number without a point."""
    short = float(f"{value:.7g}")
    return int(short) if short.is_integer() else short


def marked(text: str, wrong: int | None) -> str:
    """The text with its first wrong symbol in brackets; [] at the end of a text that lacks its end."""
    return text if wrong is None else f"{text[:wrong]}[{text[wrong : wrong + 1]}]{text[wrong + 1 :]}"


def read_samples(folder: Path, left_out: list[UnusableError | OSError]) -> list[Sample]:
    """The samples under a folder, sorted by name; `left_out` takes the error of each that cannot be used."""
    samples = []
    for path in sorted(folder.glob("*/sample.json")):
        try:
            samples.append(_read(path))
        except (UnusableError, OSError) as error:
            left_out.append(error)
    return samples


def _read(path: Path) -> Sample:
    try:
        known = json.loads(read_bytes(path))
        series = {
            name: None if values is None else np.array(values, np.float64) for name, values in known["series"].items()
        }
        texts = [(str(text), None if wrong is None else int(wrong)) for text, wrong in known["texts"]]
        made = Sample(**known | {"series": series, "texts": texts, "media": tuple(known["media"])})
        sound = known.keys() == {each.name for each in fields(Sample)} and made.name == path.parent.name
        if made.kind == "texts":
            sound = sound and bool(texts)
        else:
            columns = (COLUMNS[made.kind],) if made.kind in COLUMNS else ()
            known_to_all = series["prime"] is not None and series["generated"] is not None
            sound = sound and known_to_all and series.keys() == {"prime", "generated", "truth"}
            sound = sound and all(_sound(values, columns) for values in series.values())
            sound = sound and len({len(values) for values in series.values() if values is not None}) == 1
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise UnusableError(path, "holds no sample of amu-sample")
    return made


def _sound(values: np.ndarray | None, columns: tuple[int, ...]) -> bool:
    return values is None or (values.shape[2:] == columns and values.ndim >= 2 and 0 < values.size <= MOST_NUMBERS)
