"""What amu-sample keeps of a network that went on by itself, and how it is read again."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from amu_experiments.files import UnusableError, read_bytes

MOST_NUMBERS = 10**7
"""Maximum number of values of a series that are read."""


@dataclass(frozen=True)
class Sample:
    """Sequences of one trial of a run.

    media: the kinds of files that show them: "txt", "png", "wav".
    texts: each with the place of its first wrong symbol, or None if all are right.
    series: prime (count, G), generated (count, steps) and truth, of the same shape, or None; empty for texts.
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

    def marked_texts(self) -> list[str]:
        return [marked(*text) for text in self.texts]

    def as_json(self) -> dict:
        series = {
            name: None if values is None else [[float(f"{v:.7g}") for v in row] for row in values]
            for name, values in self.series.items()
        }
        return asdict(self) | {"series": series}


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
        sound = known.keys() == {each.name for each in fields(Sample)} and all(map(_sound, series.values()))
        sound = (
            sound and made.name == path.parent.name and (bool(texts) or {"prime", "generated", "truth"} <= set(series))
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise UnusableError(path, "holds no sample of amu-sample")
    return made


def _sound(values: np.ndarray | None) -> bool:
    return values is None or (values.ndim == 2 and 0 < values.size <= MOST_NUMBERS)
