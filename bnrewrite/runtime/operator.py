"""The Hessian, or the Gauss-Newton matrix, as a SciPy `LinearOperator`: symmetric, flat, never formed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

Array = NDArray[np.float64]


class CurvatureOperator(LinearOperator):
    """Shape (n, n), dtype float64. `products` counts the matrix-vector products made so far.

    `block`: how many columns at a time `matmat` takes at the best price; any number is right.
    """

    def __init__(self, apply: Callable[[Array], Array], size: int, block: int = 1) -> None:
        super().__init__(np.dtype(np.float64), (size, size))
        self._apply = apply
        self.block = block
        self.products = 0

    def _matmat(self, X: NDArray[Any]) -> Array:
        self.products += X.shape[1]
        return self._apply(np.ascontiguousarray(X.T, dtype=np.float64)).T

    def _matvec(self, x: NDArray[Any]) -> Array:
        return self._matmat(np.asarray(x, dtype=np.float64).reshape(-1, 1))[:, 0]

    def _adjoint(self) -> CurvatureOperator:
        return self

    def _transpose(self) -> CurvatureOperator:
        return self
