"""Averages over windows.

    y = A_1 x A_2' ...          A[j, i] = 1 / (size of window j) for the pixels i of window j
    x_bar = A_1' y_bar A_2 ...

PyTorch's conventions: with `ceil_mode` the last window may reach beyond the padding but not start there, and its size
counts no further than the padding. The windows of adaptive pooling, of n pixels to m, go from floor(j n / m) to
ceil((j + 1) n / m).

onnxruntime's CPU provider has AveragePool in float32 only; in float64, and where AveragePool cannot say it, the average
is the product with the matrices A.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx

from ..builder import Builder
from .geometry import Geometry, window
from .resize import repeat
from .separable import Matrix, apply_along_axes, matrix_of
from .table import arg_vals, lowering, np_dtype, shape, squeeze, unsqueeze, val

aten = torch.ops.aten


def _matrices(g: Geometry, ceil: bool, count_padding: bool, divisor: int | None) -> list[Matrix]:
    """The average along each axis; with a divisor, the sum, and the first axis divides."""

    def average(i: int) -> Matrix:
        k, s, p = [g.kernel[i]], [g.stride[i]], [g.padding[i]]
        return matrix_of(lambda x: aten.avg_pool1d.default(x, k, s, p, ceil, count_padding), g.image[i])

    averages = [average(i) for i in range(g.rank)]
    if divisor is None:
        return averages
    sums = [(a > 0).astype(np.float64) for a in averages]
    return [sums[0] / divisor, *sums[1:]]


def _adaptive_matrices(g: Geometry) -> list[Matrix]:
    """The average along each axis, over `out` windows of adaptive pooling."""

    def average(n: int, m: int) -> Matrix:
        return matrix_of(lambda x: aten.adaptive_avg_pool1d.default(x, [m]), n)

    return [average(n, m) for n, m in zip(g.image, g.out, strict=True)]


def _average_pool(b: Builder, x: str, v: torch.Tensor, g: Geometry, count_padding: bool) -> str:
    """AveragePool of x [N, C, *image] or [C, *image]."""
    batched = v.dim() == g.rank + 2
    y = b.op(
        "AveragePool",
        x if batched else unsqueeze(b, x, [0]),
        kernel_shape=list(g.kernel),
        strides=list(g.stride),
        pads=[*g.padding, *(max(end, 0) for end in g.end_padding)],
        count_include_pad=int(count_padding),
    )
    return y if batched else squeeze(b, y, [0])


def _spread(b: Builder, y_bar: str, v: torch.Tensor, g: Geometry) -> str:
    """The adjoint where the windows tile the image: every pixel gets its share."""
    return repeat(b, b.op("Mul", y_bar, b.const(1 / g.taps, np_dtype(v))), v, shape(v), g.kernel)


@lowering(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
def avg_pool(
    b: Builder,
    node: fx.Node,
    x: str,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil: bool,
    count_padding: bool,
    divisor: int | None = None,
) -> str:
    """The average of each window."""
    v = arg_vals(node)[0]
    g = window(node, v, val(node), kernel, stride, padding)
    # AveragePool counts the padding of a window to its end, however far it reaches.
    beyond = any(end > p for end, p in zip(g.end_padding, g.padding, strict=True))
    if v.dtype == torch.float64 or divisor is not None or (count_padding and beyond):
        return apply_along_axes(b, x, v, shape(v), _matrices(g, ceil, count_padding, divisor))
    return _average_pool(b, x, v, g, count_padding)


@lowering(aten.avg_pool2d_backward.default, aten.avg_pool3d_backward.default)
def avg_pool_backward(
    b: Builder,
    node: fx.Node,
    y_bar: str,
    x: str,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil: bool,
    count_padding: bool,
    divisor: int | None,
) -> str:
    """y_bar spread over each window."""
    v, x_val = arg_vals(node)[:2]
    g = window(node, x_val, v, kernel, stride, padding)
    if divisor is None and g.is_divisible and g == g.tiles():
        return _spread(b, y_bar, v, g)
    matrices = _matrices(g, ceil, count_padding, divisor)
    return apply_along_axes(b, y_bar, v, shape(v), [a.T for a in matrices])


@lowering(
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
    aten._adaptive_avg_pool2d.default,
    aten._adaptive_avg_pool3d.default,
)
def adaptive_avg_pool(b: Builder, node: fx.Node, x: str, size: Sequence[int]) -> str:
    """The average of each of `size` windows."""
    v = arg_vals(node)[0]
    g = window(node, v, val(node), 1)
    if g.positions == 1:
        return b.reduce("ReduceMean", x, list(range(v.dim() - g.rank, v.dim())), keepdims=True)
    if v.dtype != torch.float64 and g.is_divisible:
        return _average_pool(b, x, v, g.tiles(), count_padding=False)
    return apply_along_axes(b, x, v, shape(v), _adaptive_matrices(g))


@lowering(aten._adaptive_avg_pool2d_backward.default, aten._adaptive_avg_pool3d_backward.default)
def adaptive_avg_pool_backward(b: Builder, node: fx.Node, y_bar: str, x: str) -> str:
    """y_bar spread over each window."""
    v, x_val = arg_vals(node)[:2]
    g = window(node, x_val, v, 1)
    if g.positions == 1:
        share = b.op("Mul", y_bar, b.const(1 / prod(g.image), np_dtype(v)))
        return b.op("Expand", share, b.ints([1] * (v.dim() - g.rank) + list(g.image)))
    if g.is_divisible:
        return _spread(b, y_bar, v, g.tiles())
    return apply_along_axes(b, y_bar, v, shape(v), [a.T for a in _adaptive_matrices(g)])
