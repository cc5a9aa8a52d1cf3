"""Chorales: frames of scores, the sets, how composed music is judged, and how it is written."""

import importlib.metadata

import numpy as np
import pytest
from configured import task
from matplotlib.figure import Figure
from music21 import chord, corpus, note, stream
from music21.midi import MidiFile

from amu_experiments.analysis.music import Note, draw_roll, midi, notes_of
from amu_experiments.analysis.samples import read_samples
from amu_experiments.cli import main as run
from amu_experiments.sampling import main as sample
from amu_experiments.tasks.chorale_scores import KEYS, LOWEST, Piece, frames_of, near_duplicates, split
from amu_experiments.tasks.chorales import chords

TEN = {"pieces": 10, "samples": 2}


def keys(*pitches):
    frame = np.zeros(KEYS, np.uint8)
    frame[np.array(pitches, int) - LOWEST] = 1
    return frame


def pitches(frame):
    return (np.flatnonzero(frame) + LOWEST).tolist()


# Scores -----------------------------------------------------------------------------------------------------


def test_a_key_sounds_in_a_frame_if_it_sounds_at_its_begin():
    upper = stream.Part([note.Note(72, quarterLength=2.5), note.Note(74, quarterLength=0.5), note.Note(76)])
    lower = stream.Part([note.Rest(), chord.Chord([48, 55], quarterLength=1.5), note.Note(50, quarterLength=0.25)])
    frames = frames_of(stream.Score([upper, lower]))
    assert [pitches(frame) for frame in frames] == [[72], [48, 55, 72], [48, 55, 72], [76]]


def test_the_first_quarters_of_bwv_269():
    frames = frames_of(corpus.parse("bach/bwv269"))
    assert [pitches(frame) for frame in frames[:4]] == [
        [43, 59, 62, 67],
        [55, 59, 62, 67],
        [52, 60, 64, 67],
        [54, 57, 62, 74],
    ]


def random_piece(seed, steps=20):
    rng = np.random.default_rng(seed)
    return np.stack([keys(*rng.choice(np.arange(40, 80), 4, replace=False)) for _ in range(steps)])


def test_a_piece_in_another_key_or_with_another_end_is_a_near_duplicate():
    first, second, third = random_piece(0), random_piece(1), random_piece(2)
    higher = np.roll(first, 3, axis=1)
    cut = np.concatenate([second[:15], random_piece(3, 5)])
    assert near_duplicates([first, second, third, higher, cut]) == [True, True, False, True, True]
    assert near_duplicates([second, np.concatenate([second[:8], random_piece(3, 12)])]) == [False, False]


def test_pieces_are_divided_into_60_20_and_20_percent():
    pieces = [Piece(f"{number}", keys(60)[None], number % 4 == 0) for number in range(50)]
    sets = split(tuple(pieces))
    names = {name: {piece.name for piece in each} for name, each in sets.items()}
    assert {name: len(each) for name, each in names.items()} == {"train": 30, "validation": 10, "test": 10}
    assert len(set.union(*names.values())) == 50
    assert not any(piece.alike for piece in sets["validation"] + sets["test"])
    assert split(tuple(pieces)) == sets


# The task ---------------------------------------------------------------------------------------------------


def test_a_network_reads_silence_and_then_the_frame_before():
    data = task("chorales", **TEN).train_batch(0, 6).take(0)
    assert data.inputs.shape[0] == 6
    assert not data.inputs[:, 0].any()
    for inputs, targets, length in zip(data.inputs, data.targets, data.lengths, strict=True):
        np.testing.assert_array_equal(inputs[1:length], targets[: length - 1])
        assert not inputs[length:].any()
        assert targets[:length].sum(axis=1).mean() == pytest.approx(4, abs=0.5)


def test_nats_of_a_frame():
    chorales = task("chorales", **TEN)
    data = chorales.test().take(0)
    assert chorales.measure(np.full_like(data.targets, 0.5), data)["nats_per_frame"] == pytest.approx(88 * np.log(2))
    known = chorales.measure(data.targets, data)
    assert known == {"nats_per_frame": pytest.approx(0, abs=1e-4), "accuracy": 1}
    doubled = chorales.measure(data.targets + np.roll(data.targets, 1, axis=2), data)
    assert doubled["accuracy"] == pytest.approx(0.5, abs=0.05)


def test_chords_are_sets_of_names_without_octaves():
    major, higher, minor = keys(48, 52, 55), keys(60, 67, 76), keys(48, 51, 55)
    numbers = chords(np.stack([major, higher, minor, keys()]))
    assert numbers.tolist() == [0b10010001, 0b10010001, 0b10001001, 0]


class Composes:
    """A network that plays these frames."""

    def __init__(self, frames):
        self.frames = frames

    def free_run(self, given, steps, squash, feedback, draws, temperature):
        assert (given.any(), squash, feedback, temperature) == (False, "logistic", "bits", 1)
        assert draws.shape == (*given.shape[:2], steps, KEYS)
        return np.broadcast_to(self.frames, (*given.shape[:2], steps, KEYS))


def test_composed_chords_are_compared_with_those_of_the_training_set():
    chorales = task("chorales", **TEN)
    true = chorales.train_batch(0, 1).targets[0, 0, 0]
    (measured,) = chorales.measure_generated(Composes(true), chorales.test(), [0])
    assert measured == {"right_chords": 1, "keys_error": pytest.approx(0, abs=0.3)}
    for frame, count in ((keys(*range(40, 52)), 12), (keys(), 0)):
        (measured,) = chorales.measure_generated(Composes(frame), chorales.test(), [0])
        assert measured == {"right_chords": 0, "keys_error": pytest.approx(abs(count - 3.9), abs=0.3)}


def test_other_scores_than_those_of_a_stored_run_are_an_error():
    with pytest.raises(ValueError, match="task.contents=chorales_000: music21 has other scores now"):
        task("chorales", **TEN, contents="chorales_000")


def test_without_music21_there_is_one_line(monkeypatch, capsys):
    found = importlib.metadata.version

    def version(name):
        if name == "music21":
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert run(["task=chorales", "model=rnn", "task.pieces=11"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        'amu-run: the chorales need a package that is not installed (music21); pip install "amu-experiments[music]"'
    )


# Music ------------------------------------------------------------------------------------------------------

FRAMES = np.stack([keys(60, 64), keys(60), keys(62), keys(), keys(60)])
NOTES = [Note(0, 1, 64), Note(0, 2, 60), Note(2, 1, 62), Note(4, 1, 60)]


def heard(data: bytes) -> list[Note]:
    """The notes of a file of MIDI."""
    file, notes = MidiFile(), []
    file.readstr(data)
    for track in file.tracks:
        time, begun = 0, {}
        for event in track.events:
            if event.isDeltaTime():
                time += event.time
            elif event.isNoteOn():
                begun[event.pitch] = time
            elif event.isNoteOff():
                begin = begun.pop(event.pitch)
                quarters = [ticks / file.ticksPerQuarterNote for ticks in (begin, time - begin)]
                notes.append(Note(*quarters, event.pitch))
        assert not begun
    return sorted(notes)


def test_a_key_that_goes_on_sounding_is_one_note():
    assert notes_of(FRAMES) == NOTES
    assert heard(midi(FRAMES)) == NOTES


def test_a_piano_roll_shows_what_was_given_and_what_was_composed():
    panel = Figure().subplots()
    draw_roll(panel, np.stack([keys(), keys(59)]), FRAMES, FRAMES[:, ::-1])
    ends = {each.get_label(): [segment[0].tolist() for segment in each.get_segments()] for each in panel.collections}
    assert ends["given"] == [[-0.9, 59]]
    assert ends["composed"] == [[begin + 0.1, pitch] for begin, _, pitch in NOTES]
    assert len(ends["the piece"]) == len(NOTES)
    draw_roll(panel, keys()[None], np.zeros((3, KEYS)), None)  # silence


def test_a_piece_is_written_as_midi(tmp_path, capsys):
    short = ["training.max_sequences=2", "training.evaluate_every=2", "training.batch_size=2", "trials=1"]
    command = ["task=chorales", "task.pieces=10", "task.samples=1", "model=rnn", "model.units=2", *short]
    command += ["backend=torch", f"results_dir={tmp_path / 'runs'}"]
    assert run(command) == 0
    assert sample([*command, "--primed", "--count", "1", "--length", "5", "--out", str(tmp_path / "out")]) == 0
    (made,) = read_samples(tmp_path / "out", [])
    shapes = {name: values.shape[1:] for name, values in made.series.items()}
    assert shapes == {"prime": (17, KEYS), "generated": (5, KEYS), "truth": (shapes["truth"][0], KEYS)}
    folder = tmp_path / "out" / made.name
    assert capsys.readouterr().out.splitlines()[-1] == f"sample.mid, sample.png in {folder}"
    whole = np.concatenate([made.series["prime"][0, 1:], made.series["generated"][0]])
    assert heard((folder / "sample.mid").read_bytes()) == notes_of(whole)
