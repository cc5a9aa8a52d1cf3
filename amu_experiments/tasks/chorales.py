"""Bach's chorales: predict which keys sound in the next quarter, and compose.

The form of the data and the nats per frame are those of Boulanger-Lewandowski, Bengio & Vincent 2012. Their set of
chorales has another split, and another choice of pieces.
"""

from collections.abc import Mapping
from typing import Annotated

import numpy as np

from amu_experiments.options import Count, whole
from amu_experiments.tasks.chorale_scores import KEYS, LOWEST, digest, load, split
from amu_experiments.tasks.task import Sequences, Task, random_generator, read_criteria

LENGTH = 64
"""Frames of a piece that a network composes."""

LEAST = 1e-7
"""Probabilities are kept away from 0 and 1 by this much, which a float32 can still tell from 1."""


class Chorales(Task):
    """Pieces of J. S. Bach in exactly four parts, from music21, in a grid of quarter notes with 88 keys.

    A key is 1 in a frame if its note sounds at the beginning of that quarter, struck or held. The network reads the
    frames one by one, first a frame of silence, and answers with the probability of each key in the next frame. The
    first quarters of BWV 269, in numbers of MIDI (60 is the middle C):

        read    -             43 59 62 67   55 59 62 67   52 60 64 67
        answer  43 59 62 67   55 59 62 67   52 60 64 67   54 57 62 74

    The first `pieces` by name are used: 60 percent for training, and 20 each for validation and test, the same in every
    trial. A piece with a near-duplicate (chorale_scores.py) is for training. Metrics:
        nats_per_frame  -ln p of the true keys, summed over the keys, mean over all frames
        accuracy        keys that are true and above 0.5, divided by keys that are true or above 0.5
    and at the test, of `samples` pieces of 64 frames that the network composes, reading the keys that it draws, each
    with its own probability:
        right_chords    share of frames that sound and whose notes, in any octave, are those of a frame of the training
                        set
        keys_error      difference between their mean number of keys and that of the test pieces
    With music21 10.5, the test set has 73 pieces and 3,798 frames. Its nats_per_frame are 11.51 if each key has its
    frequency in the training set, and 10.82 for a Markov chain of each key. right_chords is 0.98 for the test pieces
    themselves, and 0.43 for keys that are drawn by their frequencies alone.
    """

    input_size = KEYS
    output_size = KEYS
    answer = "every"
    loss = "binary_cross_entropy"
    squash = "logistic"
    feedback = "bits"
    given_steps = 17
    shown = 2
    media = ("mid", "png")
    metrics = ("nats_per_frame", "accuracy")
    generated_metrics = ("right_chords", "keys_error")

    def __init__(
        self,
        trials,
        *,
        pieces: Annotated[int, whole(10, 10_000)],
        samples: Count,
        criteria: Mapping,
        contents: str | None = None,
    ):
        super().__init__(trials)
        read = load(pieces)
        self.contents = {"contents": digest(read)}
        if contents not in (None, self.contents["contents"]):
            raise ValueError(f"task.contents={contents}: music21 has other scores now, {self.contents['contents']}")
        self.samples = samples
        self.steps = max(len(piece.frames) for piece in read)
        self.known = {name: next_frames([piece.frames for piece in each]) for name, each in split(read).items()}
        sizes = {name: len(sequences) for name, sequences in self.known.items()}
        self.training_size, self.validation_size, self.test_size = (
            2 * sizes["train"],
            sizes["validation"],
            sizes["test"],
        )
        self.criteria = read_criteria(criteria, self.metrics)

    def sets(self, rng):
        return self.known

    def start(self, rng, count):
        return np.zeros((count, 1, KEYS))

    def longest_generated(self):
        return LENGTH

    def measure(self, outputs, sequences):
        answers, keys = (values[_running(sequences)] for values in (outputs, sequences.targets))
        p = np.clip(answers.astype(np.float64), LEAST, 1 - LEAST)
        nats = -np.log(np.where(keys > 0, p, 1 - p)).sum(axis=1)
        true, said = keys > 0, answers > 0.5
        return {"nats_per_frame": float(nats.mean()), "accuracy": float((true & said).sum() / (true | said).sum())}

    def measure_generated(self, network, sequences, trials):
        rng = [random_generator(trial, "samples") for trial in trials]
        composed = self.generate(network, rng, self.samples, LENGTH)
        train, test = (self.known[name].targets[_running(self.known[name])] for name in ("train", "test"))
        known = np.unique(chords(train))
        return [
            {
                "right_chords": float((np.isin(chords(each), known) & each.any(axis=-1)).mean()),
                "keys_error": abs(float(each.sum(axis=-1).mean() - test.sum(axis=-1).mean())),
            }
            for each in composed
        ]


def next_frames(pieces: list[np.ndarray]) -> Sequences:
    """Each frame of pieces (T, 88) as the target of the frame before it; before the first one there is silence."""
    lengths = np.array([len(frames) for frames in pieces])
    targets = np.zeros((len(pieces), lengths.max(), KEYS), np.float32)
    for row, frames in enumerate(pieces):
        targets[row, : len(frames)] = frames
    inputs = np.pad(targets[:, :-1], [(0, 0), (1, 0), (0, 0)])
    return Sequences(inputs * (np.arange(lengths.max()) < lengths[:, None])[..., None], lengths, targets)


def chords(frames: np.ndarray) -> np.ndarray:
    """The names of the notes that sound in frames (..., 88), octaves left out, as a number for each set of them."""
    numbers = np.zeros(frames.shape[:-1], np.int64)
    for name in range(12):
        numbers |= frames[..., (name - LOWEST) % 12 :: 12].any(axis=-1).astype(np.int64) << name
    return numbers


def _running(sequences: Sequences) -> np.ndarray:
    """Which frames (B, T) are before the end of their piece."""
    return np.arange(sequences.targets.shape[1]) < sequences.lengths[:, None]
