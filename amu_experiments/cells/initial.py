"""Initial values that several cells share."""

import numpy as np


def orthogonal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A random matrix (rows, columns) with orthonormal columns, or orthonormal rows if there are fewer of them."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))  # without it, some rotations would be more likely than others
    return (q if rows >= columns else q.T).astype(np.float32)
