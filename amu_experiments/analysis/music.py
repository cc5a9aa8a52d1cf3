"""Music that a network composed, as notes: frames of 88 keys, as in tasks/chorales.py, become MIDI and piano rolls."""

from typing import NamedTuple

import numpy as np

from amu_experiments.tasks.chorale_scores import LOWEST

TEMPO = 80
"""Quarter notes per minute."""

OCTAVE_NAMES = {24: "C1", 36: "C2", 48: "C3", 60: "C4", 72: "C5", 84: "C6", 96: "C7"}
"""Names of octaves by the MIDI number of their lowest note."""


class Note(NamedTuple):
    """A note: its start and length in quarter notes, and its pitch as a MIDI number."""

    begin: int
    length: int
    pitch: int


def notes_of(frames: np.ndarray) -> list[Note]:
    """The notes of frames (T, 88); a key that sounds in consecutive frames is one note. Sorted."""
    sounds = np.pad(frames > 0.5, [(1, 1), (0, 0)]).astype(np.int8)
    changes = np.diff(sounds, axis=0).T
    (keys, begins), (_, ends) = np.nonzero(changes == 1), np.nonzero(changes == -1)
    return sorted(
        Note(int(begin), int(end - begin), int(key) + LOWEST)
        for key, begin, end in zip(keys, begins, ends, strict=True)
    )


def midi(frames: np.ndarray) -> bytes:
    """Frames (T, 88) as a MIDI file, for an organ. Needs music21."""
    from music21 import instrument, note, stream, tempo
    from music21.midi.translate import streamToMidiFile

    part = stream.Part([instrument.PipeOrgan(), tempo.MetronomeMark(number=TEMPO)])
    for begin, length, pitch in notes_of(frames):
        part.insert(begin, note.Note(pitch, quarterLength=length))
    return streamToMidiFile(part).writestr()


def draw_roll(panel, prime: np.ndarray, generated: np.ndarray, truth: np.ndarray | None) -> None:
    """Draw a piano roll into a matplotlib panel; quarter 0 is the first one that the network composed."""
    # The first frame that is read is silence before the piece.
    pieces = [
        (notes_of(prime[1:]), 1 - len(prime), "0.4", "given", 3.0),
        (notes_of(generated), 0, "#D55E00", "composed", 2.0),
    ]
    if truth is not None:
        pieces.insert(0, (notes_of(truth[: len(generated)]), 0, "0.75", "the piece", 4.5))
    pitches = [pitch for notes, *_ in pieces for _, _, pitch in notes] or [60]
    for notes, first, colour, label, width in pieces:
        begins = np.array([begin for begin, _, _ in notes]) + first
        lengths = np.array([length for _, length, _ in notes])
        if len(notes):
            height = [pitch for _, _, pitch in notes]
            panel.hlines(height, begins + 0.1, begins + lengths - 0.1, color=colour, linewidth=width, label=label)
    panel.set_yticks(*zip(*OCTAVE_NAMES.items(), strict=True))
    panel.set_ylim(min(pitches) - 2, max(pitches) + 2)
    panel.set_xlim(1 - len(prime), len(generated))
