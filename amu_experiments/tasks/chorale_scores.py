"""The scores of Bach in four parts that music21 has, as frames of 88 keys, and how they are divided into sets.

music21 reads a score in a fifth of a second. Frames are kept in the cache of compiled code, so that this is done once.
"""

import functools
import hashlib
import importlib.metadata
import io
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from amu_experiments.console import say
from amu_experiments.options import ConfigurationError
from amu_experiments.scans import cache

KEYS, LOWEST = 88, 21
"""Keys of a piano, and the lowest of them as a number of MIDI."""

PARTS = 4

ALIKE = 0.5
"""Two pieces are near-duplicates if more than this share of the shorter one's steps from chord to chord, in any key,
are steps of the other."""

SHARE = 0.2
"""Share of all pieces in the validation set, and in the test set."""


@dataclass(frozen=True)
class Piece:
    """The frames (T, 88) of a piece, 1 for each key that sounds at the beginning of a quarter.

    name: that of its file, such as bwv269. alike: whether it has a near-duplicate among the pieces that were read.
    """

    name: str
    frames: np.ndarray
    alike: bool


@functools.cache
def load(count: int) -> tuple[Piece, ...]:
    """The first `count` pieces by name, or all if there are fewer; ConfigurationError without music21 or its scores."""
    try:
        version = importlib.metadata.version("music21")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigurationError(
            'the chorales need a package that is not installed (music21); pip install "amu-experiments[music]"'
        ) from None
    key = hashlib.sha256(f"chorales 1, music21 {version}, {count}".encode()).hexdigest()
    payload = cache.load(key)
    if payload is None:
        say("Reading the scores of music21. With all of them, this takes some minutes, once ...")
        payload = _packed(read_scores(count))
        cache.save(key, payload)
    pieces = _unpacked(payload)
    if len(pieces) < min(count, 10):
        raise ConfigurationError(f"music21 {version} has {len(pieces)} scores of Bach in four parts here, not ten")
    return pieces


def digest(pieces: tuple[Piece, ...]) -> str:
    """A digest of the frames of all pieces."""
    sums = (hashlib.sha256(np.packbits(piece.frames).tobytes()).digest() for piece in pieces)
    return f"chorales_{hashlib.sha256(b''.join(sums)).hexdigest()[:12]}"


def split(pieces: tuple[Piece, ...]) -> dict[str, list[Piece]]:
    """The pieces of each set, always the same; those with a near-duplicate are for training."""
    held = round(SHARE * len(pieces))
    alone = [piece for piece in pieces if not piece.alike]
    order = np.random.Generator(np.random.SFC64(0)).permutation(len(alone))
    test, validation = order[:held], order[held : 2 * held]
    named = {piece.name for piece in pieces} - {alone[place].name for place in order[: 2 * held]}
    return {
        "train": [piece for piece in pieces if piece.name in named],
        "validation": [alone[place] for place in validation],
        "test": [alone[place] for place in test],
    }


def read_scores(count: int) -> list[Piece]:
    """The first `count` pieces of exactly four parts among the files .mxl of Bach, by name.

    Files in other formats are analyses, or pieces that also exist as .mxl (except BWV 67.4).
    """
    from music21 import corpus

    read = {}
    for path in sorted(path for path in corpus.getComposer("bach") if path.suffix == ".mxl"):
        if len(read) == count:
            break
        score = corpus.parse(path)
        if len(score.parts) == PARTS:
            read[path.stem] = frames_of(score)
    return list(map(Piece, read, read.values(), near_duplicates(list(read.values()))))


def near_duplicates(pieces: list[np.ndarray]) -> list[bool]:
    """Whether each of these pieces (T, 88) has a near-duplicate among the others."""
    steps = [_steps(frames) for frames in pieces]
    return [any(other is not own and _are_alike(own, other) for other in steps) for own in steps]


def frames_of(score) -> np.ndarray:
    """The frames (T, 88) of a score of music21."""
    frames = np.zeros((math.ceil(score.highestTime), KEYS), np.uint8)
    for part in score.parts:
        for note in part.flatten().notes:
            sounding = slice(math.ceil(note.offset), math.ceil(note.offset + note.quarterLength))
            for pitch in note.pitches:
                frames[sounding, pitch.midi - LOWEST] = 1
    return frames


def _steps(frames: np.ndarray) -> Counter:
    """How often each pair of consecutive chords occurs, in intervals above the bass of the first."""
    chords = [np.flatnonzero(frame) for frame in frames]
    pairs = [(a, b) for a, b in zip(chords, chords[1:], strict=False) if len(a) and len(b)]
    return Counter((tuple(a - a[0]), tuple(b - a[0])) for a, b in pairs)


def _are_alike(steps: Counter, others: Counter) -> bool:
    return (steps & others).total() > ALIKE * min(steps.total(), others.total())


def _packed(pieces: list[Piece]) -> bytes:
    file = io.BytesIO()
    np.savez(
        file,
        names=np.array([piece.name for piece in pieces]),
        alike=np.array([piece.alike for piece in pieces]),
        lengths=np.array([len(piece.frames) for piece in pieces]),
        frames=np.packbits(
            np.concatenate([np.zeros((0, KEYS), np.uint8), *(piece.frames for piece in pieces)]), axis=1
        ),
    )
    return file.getvalue()


def _unpacked(payload: bytes) -> tuple[Piece, ...]:
    with np.load(io.BytesIO(payload)) as arrays:
        known = {name: arrays[name] for name in arrays.files}
    frames = np.split(np.unpackbits(known["frames"], axis=1, count=KEYS), known["lengths"].cumsum()[:-1])
    return tuple(map(Piece, known["names"].tolist(), frames, known["alike"].tolist()))
