"""A sum of matrix products as nodes of a graph call it.

    product(a, b)          sum_t a_t b_t          lists of (M, D) and of (D, N) -> (M, N)

Where the numbers are not plain ones on the CPU, PyTorch's own operations do the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...passes.graph import whole
from ..addresses import NAMES, Real, addresses, are_numbers
from ..compiling import library_of


@whole
def product(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The sum of the products of a and b."""
    return product_into(None, a, b)


@whole
def product_into(out: Tensor | None, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The same, in the memory of `out`, which is contiguous."""
    rows, depth = a[0].shape
    columns = b[0].shape[1]
    if are_numbers([*a, *b]):
        y = a[0].new_empty([rows, columns]) if out is None else out.view(rows, columns)
        left, right = [_by_rows_or_columns(x) for x in a], [_by_rows_or_columns(x) for x in b]
        found = addresses([*left, *right, y])
        if found:
            count = len(left)
            terms = (_Term * count)(
                *(
                    _Term(found[i], found[count + i], *left[i].stride(), *right[i].stride())
                    for i in range(count)
                )
            )
            multiply = library(NAMES[y.dtype]).multiply_all
            if multiply(count, terms, found[-1], rows, columns, depth, torch.get_num_threads()):
                raise MemoryError("no memory for the panels of a matrix product.")
            return y
    total = _sum(a, b)
    return total if out is None else out.view(rows, columns).copy_(total)


FUNCTIONS = frozenset({product})


def _by_rows_or_columns(x: Tensor) -> Tensor:
    return x if 1 in x.stride() else x.contiguous()


def _sum(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """With PyTorch's operations."""
    total = torch.mm(a[0], b[0])
    for left, right in zip(a[1:], b[1:], strict=True):
        total = torch.addmm(total, left, right)
    return total


class _Term(ctypes.Structure):
    _fields_ = (
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("row", "step", "down", "across")),
    )


@cache
def library(real: Real) -> Any:
    """`products.c` for this type, compiled once in a process."""
    found = library_of(__package__, "products.c", real)
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    found.multiply_all.argtypes = [
        ctypes.c_int,
        ctypes.POINTER(_Term),
        pointer,
        size,
        size,
        size,
        ctypes.c_int,
    ]
    return found
