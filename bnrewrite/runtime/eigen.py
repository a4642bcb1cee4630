"""Eigenpairs at the ends of a spectrum, by Lanczos (ARPACK through `scipy.sparse.linalg.eigsh`).

The residual norm of a pair, |A u - lambda u| with |u| = 1, bounds its error: an eigenvalue of A lies within it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from ..errors import InputError, NumericalError
from .monitor import Monitor, Steps, Stopped, shown
from .plain import plain
from .probes import generator

Which = Literal["LM", "LA", "SA"]
Array = NDArray[np.float64]
_ORDER = {"LM": lambda values: -np.abs(values), "LA": lambda values: -values, "SA": lambda values: values}

# Below this dimension the matrix is formed from n products: Lanczos would need as many.
_DENSE = 20
_KEPT = 1 << 28
"""Numbers that are kept of vectors and images, for an estimate on the way (two gigabytes)."""


@dataclass(frozen=True)
class Eigs:
    """k eigenpairs: `values` (k,), `vectors` (n, k), `residuals` (k,) norms; `products` made to find them.

    `complete`: false where the run was stopped early; the residuals are those of what had been found by then.
    """

    values: Array
    vectors: Array
    residuals: Array
    products: int
    complete: bool = True

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the vectors."""
        return plain(
            {
                "values": self.values,
                "residuals": self.residuals,
                "products": self.products,
                "complete": self.complete,
            }
        )

    def __str__(self) -> str:
        pairs = zip(self.values, self.residuals, strict=True)
        rows = [f"{value: .6e}  (residual {residual:.1e})" for value, residual in pairs]
        return "\n".join(rows if self.complete else [*rows, "stopped early"])


def lanczos(
    operator: LinearOperator,
    k: int,
    which: Which,
    *,
    tol: float,
    seed: int,
    maxiter: int | None = None,
    monitor: Monitor | None = None,
    task: str = "eigs",
) -> Eigs:
    """The k eigenpairs of `operator` that `which` names, the outermost first.

    `"LM"`: largest magnitude, `"LA"`: largest, `"SA"`: smallest algebraic. `tol` is relative to the eigenvalue;
    `seed` fixes the start vector. Raises InputError for a wrong k or `which`, NumericalError without convergence,
    Stopped where it was stopped before there was an estimate.
    """
    n = operator.shape[0]
    if which not in _ORDER:
        raise InputError(f"which must be one of 'LM', 'LA', 'SA', not {which!r}.")
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= n:
        raise InputError(f"k must be a whole number from 1 to {n}, the dimension of the matrix, not {k!r}.")
    steps = Steps(operator, f"{task} {which} {k} tol {tol} seed {seed}", monitor or Monitor())
    seen = _Seen(steps, int(k), which)
    complete = True
    try:
        if n <= _DENSE or k == n:
            matrix = steps.matmat(np.eye(n))
            values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        else:
            start = generator(seed, "start", 0).standard_normal(n)
            values, vectors = eigsh(seen, k=int(k), which=which, v0=start, tol=tol, maxiter=maxiter)
        values, vectors = _ordered(values, vectors, which, k)
        images = np.stack([steps.matvec(u) for u in vectors.T], axis=1)
    except ArpackNoConvergence as error:
        raise NumericalError(
            f"Lanczos found {len(error.eigenvalues)} of {k} eigenvalues in {steps.products} products: "
            "allow more with maxiter=, or ask for less accuracy with tol=."
        ) from error
    except Stopped:
        complete = False
        values, vectors, images = seen.ritz()
    residuals = np.linalg.norm(images - vectors * values, axis=0)
    return Eigs(values, vectors, residuals, steps.products, complete)


def _ordered(values: Array, vectors: Array, which: Which, k: int) -> tuple[Array, Array]:
    order = np.argsort(_ORDER[which](values), kind="stable")[:k]
    return values[order], vectors[:, order]


class _Seen(LinearOperator):
    """`steps`, and of the vectors and images that went through what their best Ritz pairs on the way are made from."""

    def __init__(self, steps: Steps, k: int, which: Which) -> None:
        super().__init__(np.dtype(np.float64), steps.shape)
        self._steps, self._k, self._which = steps, k, which
        self._most = max(k + 2, min(2 * k + 20, _KEPT // (2 * steps.shape[0])))
        self._count = 0
        self._vectors = np.zeros((0, steps.shape[0]))
        self._images = self._vectors
        self._overlaps = np.zeros((3, 0, 0))
        """Inner products: vectors with vectors, vectors with images, images with images."""

    def _matvec(self, x: Array) -> Array:
        x = np.asarray(x, np.float64).reshape(-1)
        image = self._steps.matvec(x)
        self._keep(x, image)
        values, c = self._projected()
        spread = c[:, 0] @ (self._overlaps[2] @ c[:, 0]) - values[0] ** 2
        estimate = shown(float(values[0]), float(np.sqrt(max(spread, 0.0))))
        self._steps.monitor.tell("eigs", self._steps.products, 0, f"outermost of {self._k}: {estimate}")
        return image

    def _keep(self, x: Array, image: Array) -> None:
        if not len(self._vectors):
            self._vectors, self._images = np.empty((2, self._most, len(x)))
        if self._count == self._most:
            # ARPACK restarts and does not ask again for what it has: the best of it stands for the rest.
            _, c = self._projected()
            c = c[:, : self._k + 1]
            self._count = c.shape[1]
            for kept in (self._vectors, self._images):
                kept[: self._count] = c.T @ kept
            self._overlaps = c.T @ self._overlaps @ c
        self._vectors[self._count], self._images[self._count] = x, image
        self._count += 1
        row = np.empty((3, self._count))
        row[:2] = (self._vectors[: self._count] @ np.stack([x, image], axis=1)).T
        row[2] = self._images[: self._count] @ image
        self._overlaps = np.pad(self._overlaps, ((0, 0), (0, 1), (0, 1)))
        self._overlaps[:, :, -1] = self._overlaps[:, -1, :] = row

    def _projected(self) -> tuple[Array, Array]:
        """Ritz values in order, and the coefficients of their vectors (kept, values)."""
        sizes, u = eigh(self._overlaps[0])
        independent = sizes > 1e-10 * sizes[-1]
        w = u[:, independent] / np.sqrt(sizes[independent])
        values, c = eigh(w.T @ self._overlaps[1] @ w)
        return _ordered(values, w @ c, self._which, len(values))

    def ritz(self) -> tuple[Array, Array, Array]:
        """Ritz values, vectors and images on the span of what is kept, in order; Stopped where there is nothing."""
        if not self._count:
            raise Stopped("stopped before the first product.")
        values, c = self._projected()
        values, c = values[: self._k], c[:, : self._k]
        return values, self._vectors[: self._count].T @ c, self._images[: self._count].T @ c
