"""Initial values used by several cells, and a seed for torch's modules, which draw from global generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def orthogonal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A random matrix (rows, columns) with orthonormal columns, or orthonormal rows if there are fewer of them."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))  # without it, some rotations would be more likely than others
    return (q if rows >= columns else q.T).astype(np.float32)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, the global random generators of torch, numpy and Python begin at this seed; then they go on as before."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
