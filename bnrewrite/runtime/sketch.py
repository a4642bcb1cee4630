"""A growing random subspace of the range of a matrix, shared by XTrace and XDiag."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from .monitor import Steps
from .probes import rademacher, spherical

Matrix = NDArray[np.float64]


class Sketch:
    """Probes Omega (n, m), images A Omega = Q R, and products Z = A Q; `grow` adds probes without changing the others.

    Probes are uniform on a sphere, or signs with `signs=True`.
    """

    def __init__(self, steps: Steps, seed: int, *, signs: bool = False) -> None:
        n = steps.shape[0]
        self._steps, self._seed = steps, seed
        self._draw = rademacher if signs else spherical
        self.probes, self.images = np.zeros((n, 0)), np.zeros((n, 0))
        self.basis, self.products = np.zeros((n, 0)), np.zeros((n, 0))
        self.triangle = np.zeros((0, 0))

    @property
    def size(self) -> int:
        """How many probes there are; every one costs two products."""
        return self.probes.shape[1]

    def grow(self, count: int) -> None:
        """Add `count` probes: by block Gram-Schmidt the vectors of the basis that are there stay."""
        probes = self._draw(self._steps.shape[0], self._seed, "sketch", range(self.size, self.size + count))
        images = self._steps.matmat(probes)
        rest, above = images, np.zeros((self.size, count))
        for _ in range(2):  # once more for what rounding left
            inside = self.basis.T @ rest
            rest, above = rest - self.basis @ inside, above + inside
        added, corner = np.linalg.qr(rest)
        added -= self.basis @ (self.basis.T @ added)
        products = self._steps.matmat(added)
        below = np.zeros((count, self.size))
        self.triangle = np.block([[self.triangle, above], [below, corner]])
        self.probes, self.images = np.hstack([self.probes, probes]), np.hstack([self.images, images])
        self.basis, self.products = np.hstack([self.basis, added]), np.hstack([self.products, products])

    def left_out(self) -> Matrix:
        """Columns s_i (m, m): Q s_i is the unit vector of the subspace that is orthogonal to all images but i."""
        triangle = self.triangle.copy()
        diagonal = np.einsum("ii->i", triangle)
        least = np.finfo(np.float64).eps * max(np.abs(triangle).max(), np.finfo(np.float64).tiny)
        diagonal[np.abs(diagonal) < least] = least  # images that are dependent: the rest of A is nothing
        inverse = solve_triangular(triangle, np.eye(self.size), trans="T")
        return inverse / np.linalg.norm(inverse, axis=0)
