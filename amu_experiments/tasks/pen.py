"""Handwriting: draw a letter move by move, from the letter's name and the last move of the pen.

The letters are the single-stroke script of A. V. Hershey (1967), in the package Hershey-Fonts. The form of the moves is
that of Graves 2013, "Generating sequences with recurrent neural networks", section 4; the protocol is our own.
"""

import functools
from collections.abc import Mapping
from string import ascii_letters
from typing import Annotated

import numpy as np

from amu_experiments.options import whole
from amu_experiments.tasks.task import Sequences, Task, one_hot, read_criteria

FONT = "cursive"

CAPITAL = 5.0
"""Height of a capital letter; lengths in inputs and outputs are in fifths of it, so that moves are of size 1."""

TOLERANCE = 0.1
"""Largest distance of a point of a right letter from its place, in heights of a capital."""

DRAWN, LAST = 2, 3
"""Outputs that are above 0.5 in a move that draws, and in the last move."""


class Pen(Task):
    """The first `letters` of a..z, A..Z; each is a sequence of moves (dx, dy, drawn, last) of a pen.

    The pen begins at the left end of the baseline. A move draws a line, or the pen is lifted; the last move ends the
    letter. The network reads the letter, one-hot and the same at every step, and the pen's last move, and answers with
    the next one. The letter i is a dot and a stroke, 14 moves; the first eight of them, in fifths of a capital:

        read   dx      0    0.71  0     0.24  0    -0.24 -0.71  0.48
               dy      0    3.33 -0.24  0     0.24  0    -2.14  0.95
               drawn   0    0     1     1     1     1     0     1
        answer dx      0.71 0     0.24  0    -0.24 -0.71  0.48 -0.48
               dy      3.33 -0.24 0     0.24  0    -2.14  0.95 -1.43
               drawn   0    1     1     1     1     0     1     1

    Every output is trained on its squared error, so `drawn` and `last` become probabilities. There is one hand: the
    network is judged on the letters that it learned, validation and test use the same letters, and all it can do is to
    keep them in its weights. Metrics, in heights of a capital:
        move_error     root of the mean squared distance between a move and the true one
        wrong_pen      share of moves whose `drawn` or `last` is wrong
    and at the test, of letters that the network draws alone, reading its own moves:
        letters_right  share of letters whose every point is within 0.1 of its place, and whose pen and end are right
        pen_distance   mean distance of the points from their places
    """

    answer = "every"
    feedback = "value"
    fixed = True
    output_size = 4
    metrics = ("move_error", "wrong_pen")
    generated_metrics = ("letters_right", "pen_distance")
    media = ("svg", "png")

    def __init__(self, trials, *, letters: Annotated[int, whole(2, len(ascii_letters))], criteria: Mapping):
        super().__init__(trials)
        moves = [letter_moves(letter) for letter in ascii_letters[:letters]]
        self.letters = self.shown = letters
        self.input_size = self.output_size + letters
        self.training_size, self.validation_size, self.test_size = 2 * letters, letters, letters
        lengths = np.array([len(each) for each in moves])
        self.steps = int(lengths.max())
        targets = np.zeros((letters, self.steps, self.output_size), np.float32)
        for row, each in enumerate(moves):
            targets[row, : len(each)] = each
        self.known = Sequences(self._inputs(targets, lengths), lengths, targets)
        self.criteria = read_criteria(criteria, self.metrics)

    def _inputs(self, targets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The move before each target, none before the first, and the letter."""
        before = np.pad(targets[:, :-1], [(0, 0), (1, 0), (0, 0)])
        letter = np.tile(one_hot(np.arange(self.letters), self.letters)[:, None], (1, self.steps, 1))
        running = np.arange(self.steps) < lengths[:, None]
        return np.concatenate([before, letter], axis=2) * running[..., None]

    def sets(self, rng):
        return {"train": self.known, "validation": self.known, "test": self.known}

    def start(self, rng, count):
        return self.known.inputs[np.arange(count) % self.letters, :1]

    def measure(self, outputs, sequences):
        running = np.arange(outputs.shape[1]) < sequences.lengths[:, None]
        answers, moves = outputs[running].astype(np.float64), sequences.targets[running]
        wrong = (answers[:, DRAWN:] > 0.5) != (moves[:, DRAWN:] > 0.5)
        distance = ((answers - moves)[:, :DRAWN] ** 2).sum(axis=1) / CAPITAL**2
        return {"move_error": float(np.sqrt(distance.mean())), "wrong_pen": float(wrong.any(axis=1).mean())}

    def measure_generated(self, network, sequences, trials):
        prime, truth = self.continuation(sequences)
        drawn = network.free_run(prime, self.steps, self.squash, self.feedback)
        return [
            {"letters_right": float(right_letters(one, true).mean()), "pen_distance": pen_distance(one, true)}
            for one, true in zip(drawn, truth, strict=True)
        ]


def right_letters(drawn: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Which letters are right (B,), of moves (B, T, 4) and the true ones, which may end in zeros."""
    running = np.arange(truth.shape[1]) <= truth[..., LAST].argmax(axis=1)[:, None]
    flags = ((drawn[..., DRAWN:] > 0.5) == (truth[..., DRAWN:] > 0.5)).all(axis=2)
    near = _distances(drawn, truth) <= TOLERANCE
    return ((near & flags) | ~running).all(axis=1)


def pen_distance(drawn: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of the points of letters from their places, in heights of a capital; infinite if not a number."""
    running = np.arange(truth.shape[1]) <= truth[..., LAST].argmax(axis=1)[:, None]
    distance = float(_distances(drawn, truth)[running].mean())
    return distance if np.isfinite(distance) else float("inf")


def _distances(drawn: np.ndarray, truth: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.cumsum((drawn - truth)[..., :DRAWN], axis=1, dtype=np.float64)
        return np.sqrt((apart**2).sum(axis=-1)) / CAPITAL


def letter_moves(letter: str) -> np.ndarray:
    """The moves (n, 4) of a letter."""
    font = _font()
    options = font.render_options
    strokes = [np.array(list(stroke), float) for stroke in font.strokes_for_text(letter)]
    origin = np.array([[0, options["base_line"]]])
    steps = np.diff(np.concatenate([origin, *strokes]), axis=0)
    # In the font, y points downwards.
    moves = steps * CAPITAL / (options["base_line"] - options["cap_line"]) * [1, -1]
    drawn = np.concatenate([np.arange(len(stroke)) > 0 for stroke in strokes])
    last = np.arange(len(moves)) == len(moves) - 1
    return np.concatenate([moves, drawn[:, None], last[:, None]], axis=1).astype(np.float32)


@functools.cache
def _font():
    from HersheyFonts import HersheyFonts

    return HersheyFonts(load_default_font=FONT)
