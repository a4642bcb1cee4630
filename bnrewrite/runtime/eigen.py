"""Eigenpairs at the ends of a spectrum, by Lanczos (ARPACK through `scipy.sparse.linalg.eigsh`).

The residual norm of a pair, |A u - lambda u| with |u| = 1, bounds its error: an eigenvalue of A lies within it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from ..errors import InputError, NumericalError
from .operator import CurvatureOperator

Which = Literal["LM", "LA", "SA"]
_ORDER = {"LM": lambda values: -np.abs(values), "LA": lambda values: -values, "SA": lambda values: values}

# Below this dimension the matrix is formed from n products: Lanczos would need as many.
_DENSE = 20


@dataclass(frozen=True)
class Eigs:
    """k eigenpairs: `values` (k,), `vectors` (n, k), `residuals` (k,) norms; `products` made to find them."""

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    residuals: NDArray[np.float64]
    products: int

    def __str__(self) -> str:
        pairs = zip(self.values, self.residuals, strict=True)
        return "\n".join(f"{value: .6e}  (residual {residual:.1e})" for value, residual in pairs)


def lanczos(
    operator: CurvatureOperator, k: int, which: Which, *, tol: float, seed: int, maxiter: int | None = None
) -> Eigs:
    """The k eigenpairs of `operator` that `which` names, the outermost first.

    `"LM"`: largest magnitude, `"LA"`: largest, `"SA"`: smallest algebraic. `tol` is relative to the eigenvalue;
    `seed` fixes the start vector. Raises InputError for a wrong k or `which`, NumericalError without convergence.
    """
    n = operator.shape[0]
    if which not in _ORDER:
        raise InputError(f"which must be one of 'LM', 'LA', 'SA', not {which!r}.")
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= n:
        raise InputError(f"k must be a whole number from 1 to {n}, the dimension of the matrix, not {k!r}.")
    before = operator.products
    if n <= _DENSE or k == n:
        values, vectors = np.linalg.eigh(_symmetric(operator))
    else:
        start = np.random.Generator(np.random.Philox(key=seed)).standard_normal(n)
        try:
            values, vectors = eigsh(operator, k=int(k), which=which, v0=start, tol=tol, maxiter=maxiter)
        except ArpackNoConvergence as error:
            raise NumericalError(
                f"Lanczos found {len(error.eigenvalues)} of {k} eigenvalues in {operator.products - before} products: "
                "allow more with maxiter=, or ask for less accuracy with tol=."
            ) from error
    order = np.argsort(_ORDER[which](values), kind="stable")[:k]
    values, vectors = values[order], vectors[:, order]
    residuals = np.array(
        [np.linalg.norm(operator.matvec(u) - value * u) for value, u in zip(values, vectors.T, strict=True)]
    )
    return Eigs(values, vectors, residuals, operator.products - before)


def _symmetric(operator: CurvatureOperator) -> NDArray[np.float64]:
    matrix = operator.matmat(np.eye(operator.shape[0]))
    return (matrix + matrix.T) / 2
