"""A symmetric matrix of low rank, whole, from little more products than its rank.

With random probes Omega (n, m), m above the rank, and images Y = A Omega

    A = Y (Omega^T Y)^+ Y^T                                    (the Nystroem approximation, which is exact here)

The Gauss-Newton matrix of few samples is such a matrix: its rank is at most the number of outputs, N C. How many probes
it takes need not be known: more join until A itself, on probes of its own, confirms what was found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .monitor import Steps, Stopped
from .probes import rademacher

Array = NDArray[np.float64]

FIRST, CHECKS = 8, 4
"""Probes to begin with and the fewest that join them at a time, and probes that only check."""
_ROUNDINGS = 1e5
"""A residual of so many rounding errors of a product (at most the root of one) is nothing but rounding: random matrices
with eigenvalues over eight orders of magnitude leave about a hundred."""
_MEMORY = 1 << 28
"""Numbers that probes, images and vectors may take together (two gigabytes)."""


@dataclass(frozen=True)
class LowRank:
    """A = vectors diag(values) vectors^T: eigenvalues other than zero (r,), largest magnitude first, and orthonormal
    eigenvectors (n, r).

    `residual`: |A w - found w| / |A w| over the probes w that check; `converged`: whether that is rounding alone, so
    that nothing is missing. `rest` (n,): the diagonal of what is missing, as these probes estimate it.
    """

    values: Array
    vectors: Array
    residual: float
    rest: Array
    products: int
    converged: bool
    complete: bool = True

    def __str__(self) -> str:
        state = "" if self.complete else ", stopped early"
        return f"rank {len(self.values)}, residual {self.residual:.1e} ({self.products} products{state})"

    def diagonal(self) -> Array:
        """The diagonal (n,) of what was found."""
        return (self.vectors**2) @ self.values


def low_rank(steps: Steps, *, samples: int, seed: int, eps: float) -> LowRank:
    """All of a symmetric matrix in at most `samples` products; `eps`: relative rounding error of a product.

    Stops as soon as the check is passed. Raises Stopped where it was stopped before there was anything.
    """
    n = steps.shape[0]
    if samples < 2 * CHECKS:
        raise InputError(f"samples must be at least {2 * CHECKS} for this method, not {samples}.")
    probes, images = np.zeros((n, 0)), np.zeros((n, 0))
    found: LowRank | None = None
    while found is None or not found.converged:
        size = probes.shape[1] + max(FIRST, probes.shape[1] // 4)
        size = min(size, n, samples - CHECKS)
        if size + CHECKS <= probes.shape[1]:
            return found  # type: ignore[return-value]
        count = size + CHECKS - probes.shape[1]
        if 3 * n * (size + CHECKS) > _MEMORY:
            raise InputError(
                f"{size} probes and what comes of them take {24 * n * (size + CHECKS):,} bytes, more than the "
                f"{8 * _MEMORY:,} that are kept: choose samples= below that, another method, or fewer data."
            )
        more = rademacher(n, seed, "sketch", range(probes.shape[1], probes.shape[1] + count))
        try:
            images = np.hstack([images, steps.matmat(more)])
        except Stopped:
            if found is None:
                raise
            return LowRank(**{**vars(found), "complete": False})
        probes = np.hstack([probes, more])
        values, vectors = _decomposed(probes[:, :size], images[:, :size], eps)
        rest = images[:, size:] - vectors @ (values[:, None] * (vectors.T @ probes[:, size:]))
        whole = float(np.linalg.norm(images[:, size:]))
        residual = float(np.linalg.norm(rest)) / whole if whole > 0 else 0.0
        diagonal = np.mean(probes[:, size:] * rest, axis=1)
        found = LowRank(
            values,
            vectors,
            residual,
            diagonal,
            steps.products,
            bool(residual <= min(_ROUNDINGS * eps, eps**0.5)),
        )
        steps.monitor.tell(
            "low rank", probes.shape[1], samples, f"rank {len(values)}, residual {residual:.1e}"
        )
    return found


def _decomposed(probes: Array, images: Array, eps: float) -> tuple[Array, Array]:
    """Eigenpairs of Y (Omega^T Y)^+ Y^T."""
    core = probes.T @ images
    sizes, w = np.linalg.eigh((core + core.T) / 2)
    inside = np.abs(sizes) > eps * len(sizes) * np.abs(sizes).max(initial=0.0)
    basis, triangle = np.linalg.qr(images @ w[:, inside])
    values, turned = np.linalg.eigh(triangle @ (triangle / sizes[inside]).T)
    kept = np.abs(values) > eps * len(sizes) * np.abs(values).max(initial=0.0)
    order = np.argsort(-np.abs(values[kept]), kind="stable")
    return values[kept][order], (basis @ turned[:, kept])[:, order]
