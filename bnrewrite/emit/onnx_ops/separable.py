"""Linear maps of images that act along each axis by itself: averages over windows, interpolation.

    y = A_1 along the first axis of x, A_2 along the second, ...         x_bar = the same with A_1', A_2', ...

Sizes are static, so every A is a small constant, read off the map's values on the unit vectors. Both directions use the
same constants, exact in either precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch

from ..builder import Builder
from .table import np_dtype, reshape

Matrix = np.ndarray


def matrix_of(f: Callable[[torch.Tensor], torch.Tensor], n: int) -> Matrix:
    """The matrix [m, n] of a linear map given as f: [rows, n] -> [rows, m], row by row."""
    return f(torch.eye(n, dtype=torch.float64)).T.numpy()


def apply_along_axes(
    b: Builder, x: str, v: torch.Tensor, source: Sequence[Any], matrices: Sequence[Matrix]
) -> str:
    """x of shape `source` with its last axes multiplied by one matrix each; `v` gives the type.

    Axes that shrink go first. One or two axes need no reshape: A_1 x A_2', batched.
    """
    sizes, dtype = list(source), np_dtype(v)
    order = sorted(range(-len(matrices), 0), key=lambda i: matrices[i].shape[0] / matrices[i].shape[1])
    for i in order:
        a = matrices[i]
        if a.shape[0] == a.shape[1] and np.array_equal(a, np.eye(len(a))):
            continue
        if i == -1:
            x = b.op("MatMul", x, b.const(a.T, dtype))
        elif i == -2:
            x = b.op("MatMul", b.const(a, dtype), x)
        else:
            x = b.op("Reshape", x, b.ints([-1, sizes[i], prod(sizes[i + 1 :])]))
            x = b.op("MatMul", b.const(a, dtype), x)
        sizes[i] = a.shape[0]
        if i < -2:
            x = reshape(b, x, sizes)
    return x
