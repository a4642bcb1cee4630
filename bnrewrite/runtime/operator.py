"""The Hessian, or the Gauss-Newton matrix, as a SciPy `LinearOperator`: symmetric, flat, never formed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator


class CurvatureOperator(LinearOperator):
    """Shape (n, n), dtype float64. `products` counts the matrix-vector products made so far."""

    def __init__(self, apply: Callable[[NDArray[np.float64]], NDArray[np.float64]], size: int) -> None:
        super().__init__(np.dtype(np.float64), (size, size))
        self._apply = apply
        self.products = 0

    def _matvec(self, x: NDArray[Any]) -> NDArray[np.float64]:
        self.products += 1
        return self._apply(np.asarray(x, dtype=np.float64).reshape(-1))

    def _adjoint(self) -> CurvatureOperator:
        return self

    def _transpose(self) -> CurvatureOperator:
        return self
