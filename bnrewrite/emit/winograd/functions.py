"""A convolution and its adjoints, or sums of several, as nodes of a graph call them.

    value(x, w)            sum_t x_t * w_t        (N, C, H, W), (K, C, 3, 3) -> (N, K, H', W'), the channels last
    data(y_bar, w)         the sum of its adjoints with respect to x
    weight(x, y_bar)       with respect to w

All take lists of terms, and `padding`, on every side. Where the numbers are not plain ones on the CPU, PyTorch's own
operations do the same.
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

aten = torch.ops.aten


@whole
def value(x: Sequence[Tensor], w: Sequence[Tensor], padding: int) -> Tensor:
    """The sum of the convolutions of x with w."""
    n, _, h, v = x[0].shape
    k = w[0].shape[0]
    found = _convolved(x, w, [n, k, h + 2 * padding - 2, v + 2 * padding - 2], padding, False)
    if found is not None:
        return found
    return _sum([aten.convolution(a, b, None, *_geometry(padding)) for a, b in zip(x, w, strict=True)])


@whole
def data(y_bar: Sequence[Tensor], w: Sequence[Tensor], padding: int) -> Tensor:
    """The sum of the adjoints of y_bar with respect to the images."""
    n, _, h, v = y_bar[0].shape
    shape = [n, w[0].shape[1], h + 2 - 2 * padding, v + 2 - 2 * padding]
    found = _convolved(y_bar, w, shape, 2 - padding, True)
    if found is not None:
        return found
    x = y_bar[0].new_empty(shape)
    return _sum([_adjoint(a, x, b, padding, 0) for a, b in zip(y_bar, w, strict=True)])


@whole
def weight(x: Sequence[Tensor], y_bar: Sequence[Tensor], padding: int) -> Tensor:
    """The sum of the adjoints of y_bar with respect to the filters."""
    return weight_into(None, x, y_bar, padding)


@whole
def weight_into(out: Tensor | None, x: Sequence[Tensor], y_bar: Sequence[Tensor], padding: int) -> Tensor:
    """The same, in the memory of `out`, which is contiguous."""
    n, c, h, v = x[0].shape
    k = y_bar[0].shape[1]
    if are_numbers([*x, *y_bar]):
        w = x[0].new_empty([k, c, 3, 3]) if out is None else out.view(k, c, 3, 3)
        images, adjoints, result = _placed(x), _placed(y_bar), addresses([w])
        if images and adjoints and result:
            threads = torch.get_num_threads()
            _call("correlate", w.dtype, images, adjoints, *result, n, h, v, c, k, padding, threads)
            return w
    w = x[0].new_empty([k, c, 3, 3])
    found = _sum([_adjoint(b, a, w, padding, 1) for a, b in zip(x, y_bar, strict=True)])
    return found if out is None else out.view(found.shape).copy_(found)


FUNCTIONS = frozenset({value, data, weight})


def _convolved(
    x: Sequence[Tensor], w: Sequence[Tensor], shape: Sequence[int], padding: int, turned: bool
) -> Tensor | None:
    """A tensor of `shape`, from `convolve`; None where that cannot be had."""
    if not are_numbers([*x, *w]):
        return None
    y = torch.empty(shape, dtype=x[0].dtype, memory_format=torch.channels_last)
    images, result = _placed(x), addresses([y])
    filters = _Placed([b.contiguous() for b in w])
    if not (images and filters and result):
        return None
    n, c, h, v = x[0].shape
    threads = torch.get_num_threads()
    _call("convolve", y.dtype, images, filters, *result, n, h, v, c, shape[1], padding, turned, threads)
    return y


class _Placed:
    """Tensors with an array of their addresses; false where one has none."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        found = addresses(tensors)
        self.array = None if found is None else (ctypes.c_void_p * len(found))(*found)

    def __bool__(self) -> bool:
        return self.array is not None


def _placed(images: Sequence[Tensor]) -> _Placed:
    return _Placed([x.contiguous(memory_format=torch.channels_last) for x in images])


def _call(name: str, dtype: torch.dtype, first: _Placed, second: _Placed, *args: Any) -> None:
    function = getattr(library(NAMES[dtype]), name)
    if function(len(first.tensors), first.array, second.array, *args):
        raise MemoryError("no memory for the tiles of a convolution.")


@cache
def library(real: Real) -> Any:
    """`winograd.c` for this type, compiled once in a process."""
    found = library_of(__package__, "winograd.c", real)
    pointers, sizes = [ctypes.c_void_p] * 3, [ctypes.c_int64] * 6
    found.convolve.argtypes = [ctypes.c_int, *pointers, *sizes, ctypes.c_int, ctypes.c_int]
    found.correlate.argtypes = [ctypes.c_int, *pointers, *sizes, ctypes.c_int]
    return found


# With PyTorch's operations -------------------------------------------------------------------------------------


def _geometry(padding: int) -> tuple[Any, ...]:
    return [1, 1], [padding, padding], [1, 1], False, [0, 0], 1


def _adjoint(y_bar: Tensor, x: Tensor, w: Tensor, padding: int, place: int) -> Tensor:
    mask = [i == place for i in range(3)]
    found: Tensor = aten.convolution_backward(y_bar, x, w, None, *_geometry(padding), mask)[place]
    return found


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
