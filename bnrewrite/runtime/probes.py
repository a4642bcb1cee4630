"""Random probe vectors, each known by its number alone.

Philox is counter-based: probe i of a seed is the same whichever were drawn before it, so that a run can be cut into
blocks, stopped and taken up again without a change in its numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

STREAMS = {"trace": 0, "sketch": 1, "density": 2, "start": 3, "landscape": 4}
"""Independent sequences of one seed."""


def generator(seed: int, stream: str, number: int) -> np.random.Generator:
    """The generator of probe `number` of a stream."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, STREAMS[stream], number]))


def rademacher(n: int, seed: int, stream: str, numbers: range) -> Matrix:
    """Columns (n, m) of independent signs, +1 or -1."""
    signs = [generator(seed, stream, i).integers(0, 2, n, dtype=np.int8) for i in numbers]
    return np.stack(signs, axis=1).astype(np.float64) * 2 - 1


def gaussian(n: int, seed: int, stream: str, numbers: range) -> Matrix:
    """Columns (n, m) of independent standard normal numbers."""
    return np.stack([generator(seed, stream, i).standard_normal(n) for i in numbers], axis=1)


def spherical(n: int, seed: int, stream: str, numbers: range) -> Matrix:
    """Columns (n, m), uniform on the sphere of radius sqrt(n)."""
    columns = gaussian(n, seed, stream, numbers)
    return columns * (np.sqrt(n) / np.linalg.norm(columns, axis=0))
