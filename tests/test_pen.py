"""Letters as moves of a pen: the font, how a drawn letter is judged, and how it is shown."""

from string import ascii_letters

import numpy as np
import pytest
from configured import task
from matplotlib.figure import Figure

from amu_experiments.analysis.handwriting import draw_letters, pen_path
from amu_experiments.tasks.pen import CAPITAL, letter_moves

I = [
    [0.71, 3.33, 0, 0],
    [0, -0.24, 1, 0],
    [0.24, 0, 1, 0],
    [0, 0.24, 1, 0],
    [-0.24, 0, 1, 0],
    [-0.71, -2.14, 0, 0],
    [0.48, 0.95, 1, 0],
    [-0.48, -1.43, 1, 0],
]
"""The first moves of the letter i: a dot, and the beginning of its stroke."""


def test_the_letter_i():
    moves = letter_moves("i")
    np.testing.assert_allclose(moves[:8], I, rtol=0, atol=0.01)
    assert (len(moves), moves[:, 3].tolist()) == (14, [0] * 13 + [1])


def test_the_alphabet_has_90_strokes_and_1307_points():
    moves = np.concatenate([letter_moves(letter) for letter in ascii_letters])
    assert (len(moves), (moves[:, 2] == 0).sum(), moves[:, 3].sum()) == (1307, 90, 52)


def test_a_network_reads_the_letter_and_the_last_move():
    data = task("pen", letters=9).test().take(0)
    letter, length = data.take(8), data.lengths[8]
    assert length == 14
    np.testing.assert_array_equal(letter.inputs[1:14, :4], letter.targets[:13])
    assert not letter.inputs[0, :4].any()
    assert (letter.inputs[:14, 4:] == np.eye(9)[8]).all()
    assert not letter.inputs[14:].any()


class Draws:
    """A network that makes these moves, whatever it reads."""

    def __init__(self, moves):
        self.moves = moves

    def free_run(self, given, steps, squash, feedback):
        assert (given.shape[2], steps, squash, feedback) == (1, self.moves.shape[2], "linear", "value")
        return self.moves


@pytest.mark.parametrize(
    ("move", "right"),
    [
        ([0, 0, 0, 0], 1),
        ([0.09 * CAPITAL, 0, 0, 0], 1),
        ([0, -0.11 * CAPITAL, 0, 0], 0.75),
        ([0, 0, 0.6, 0], 0.75),
        ([0, 0, 0, 0.6], 0.75),
        ([np.nan, 0, 0, 0], 0.75),
    ],
)
def test_a_letter_is_right_if_each_point_is_near_its_place(move, right):
    pen = task("pen", letters=4)
    sequences = pen.test()
    drawn = sequences.targets.copy()
    drawn[0, 1, 0] += np.array(move, np.float32)  # the first move of the b
    (measured,) = pen.measure_generated(Draws(drawn), sequences, [0])
    assert measured["letters_right"] == right
    apart = np.hypot(*move[:2]) / CAPITAL * sequences.lengths[0, 1] / sequences.lengths[0].sum()
    assert measured["pen_distance"] == (pytest.approx(apart, abs=1e-6) if np.isfinite(apart) else np.inf)


def test_moves_are_measured_up_to_the_end_of_a_letter():
    pen = task("pen", letters=3)
    data = pen.test().take(0)
    answers = data.targets + np.float32([0.3, 0.4, 0, 0])
    answers[0, 0, 2] = 1
    answers[1, data.lengths[1] :] = 7
    measured = pen.measure(answers, data)
    assert measured["move_error"] == pytest.approx(0.5 / CAPITAL)
    assert measured["wrong_pen"] == pytest.approx(1 / data.lengths.sum())


def test_a_path_is_broken_where_the_pen_is_lifted():
    path = pen_path(np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 2, 0, 0], [1, 0, 1, 1], [9, 9, 1, 0]]))
    nan = [np.nan, np.nan]
    np.testing.assert_array_equal(path, [nan, [1, 1], [2, 1], nan, [2, 3], [3, 3]])


def test_wrong_letters_are_coloured_and_counted():
    truth = task("pen", letters=3).test().targets[0]
    drawn = np.pad(truth, [(0, 0), (0, 4), (0, 0)])
    drawn[1, 5:, :2] = np.nan
    panel = Figure().subplots()
    assert draw_letters(panel, drawn, truth) == 2
    assert [line.get_color() for line in panel.lines[1::2]] == ["black", "#D55E00", "black"]
    assert draw_letters(Figure().subplots(), drawn[:, :5], truth) == 0  # letters without an end
    assert draw_letters(Figure().subplots(), drawn, None) is None
