"""Draws letters that a network wrote: moves of a pen (dx, dy, drawn, last), as in tasks/pen.py."""

import numpy as np

from amu_experiments.tasks.pen import CAPITAL, DRAWN, LAST, right_letters

LINE, MOST = 42 * CAPITAL, 26
"""Length of a line of letters, and the maximum number of letters in it."""

SPACE = CAPITAL / 2
"""Gap between two letters; a letter is clipped where it leaves its place by more than this."""

TOP, BOTTOM = 1.2 * CAPITAL, -0.8 * CAPITAL
"""Upper and lower edge of a line of letters; the baseline is at 0."""

RIGHT, WRONG, TRUTH = "black", "#D55E00", "0.8"


def draw_letters(panel, drawn: np.ndarray, truth: np.ndarray | None) -> int | None:
    """Draw letters (B, T, 4) into a matplotlib panel, line by line, with the true letters in grey behind them.

    Returns the number of right letters, which are black, or None without true ones; wrong letters are coloured.
    """
    right, known = None, drawn
    if truth is not None:
        steps = truth.shape[1]
        padded = np.pad(drawn[:, :steps], [(0, 0), (0, max(steps - drawn.shape[1], 0)), (0, 0)])
        right, known = right_letters(padded, truth), truth
    x, y = 0.0, 0.0
    for row, moves in enumerate(drawn):
        path = pen_path(known[row])
        low, high = np.clip([np.nanmin(path[:, 0], initial=0), np.nanmax(path[:, 0], initial=0)], -LINE, LINE)
        if row and (row % MOST == 0 or x + high - low > LINE):
            x, y = 0.0, y + BOTTOM - TOP
        place = np.array([x - low, y])
        if truth is not None:
            panel.plot(*(path + place).T, color=TRUTH, linewidth=3.2, solid_capstyle="round")
        least, most = np.array([low - SPACE, BOTTOM]), np.array([high + SPACE, TOP])
        own = np.clip(pen_path(moves), least, most) + place
        colour = RIGHT if right is None or right[row] else WRONG
        panel.plot(*own.T, color=colour, linewidth=1.1, solid_capstyle="round", solid_joinstyle="round")
        x += high - low + SPACE
    panel.set_xlim(-SPACE, LINE + SPACE)
    panel.set_ylim(y + BOTTOM, TOP)
    panel.set_aspect("equal")
    panel.axis("off")
    return None if right is None else int(right.sum())


def lines_of(letters: int) -> int:
    """Approximate number of lines for this number of letters."""
    return -(-letters // MOST)


def pen_path(moves: np.ndarray) -> np.ndarray:
    """The points of a letter (n, 2), with (nan, nan) where the pen is lifted.

    Moves after the first one with `last` > 0.5 are left out.
    """
    end = moves[:, LAST] > 0.5
    moves = moves[: end.argmax() + 1 if end.any() else len(moves)]
    with np.errstate(over="ignore", invalid="ignore"):
        points = np.cumsum(moves[:, :DRAWN], axis=0, dtype=np.float64)
    lifted = np.flatnonzero(moves[:, DRAWN] <= 0.5)
    return np.insert(points, lifted, np.nan, axis=0)
