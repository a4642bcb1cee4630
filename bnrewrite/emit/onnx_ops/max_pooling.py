"""Maxima over windows.

    y[j] = x[i*]      i* the first maximum of window j in row-major order, as an index into the flattened plane
    x_bar[i]          the sum of y_bar[j] over the windows j with i* = i

The windows of adaptive pooling, of n pixels to m, go from floor(j n / m) to ceil((j + 1) n / m).
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
from .queries import is_read
from .table import (
    arg_vals,
    dims,
    lowering,
    np_dtype,
    reshape,
    shape,
    squeeze,
    transpose,
    unsqueeze,
    val,
)

aten = torch.ops.aten


def _max_pool(b: Builder, x: str, v: torch.Tensor, g: Geometry, with_indices: bool) -> tuple[str, str | None]:
    """y, and where asked for the index of each maximum within its plane. x: [N, C, *image] or [C, *image]."""
    batched = v.dim() == g.rank + 2
    x = x if batched else unsqueeze(b, x, [0])
    ends = (max(end, 0) for end in g.end_padding)
    outputs = b.ops(
        "MaxPool",
        x,
        outputs=2 if with_indices else 1,
        kernel_shape=list(g.kernel),
        strides=list(g.stride),
        dilations=list(g.dilation),
        pads=[*g.padding, *ends],
    )
    y = outputs[0] if batched else squeeze(b, outputs[0], [0])
    if not with_indices:
        return y, None
    # ONNX counts through the whole tensor.
    indices = b.op("Mod", outputs[1], b.const(prod(g.image), np.int64))
    return y, indices if batched else squeeze(b, indices, [0])


@lowering(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
def max_pool(
    b: Builder, node: fx.Node, x: str, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> str:
    """The maximum of each window."""
    x_val = arg_vals(node)[0]
    g = window(node, x_val, val(node), kernel, stride, padding, dilation)
    return _max_pool(b, x, x_val, g, with_indices=False)[0]


@lowering(
    aten.max_pool1d_with_indices.default,
    aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
)
def max_pool_with_indices(
    b: Builder, node: fx.Node, x: str, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> tuple[str, str | None]:
    """The maximum of each window, and its index within the plane."""
    x_val = arg_vals(node)[0]
    g = window(node, x_val, val(node)[0], kernel, stride, padding, dilation)
    return _max_pool(b, x, x_val, g, with_indices=is_read(node, 1))


@lowering(
    aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default
)
def adaptive_max_pool(b: Builder, node: fx.Node, x: str, size: Sequence[int]) -> tuple[str, str | None]:
    """The maximum of each of `size` windows, and its index within the plane."""
    x_val = arg_vals(node)[0]
    g = window(node, x_val, val(node)[0], 1)
    if g.is_divisible:
        return _max_pool(b, x, x_val, g.tiles(), with_indices=is_read(node, 1))
    return _max_of_uneven_windows(b, x, shape(x_val), g.image, g.out)


def _max_of_uneven_windows(
    b: Builder, x: str, source: Sequence[Any], image: Sequence[int], out: Sequence[int]
) -> tuple[str, str]:
    """Windows gathered at the size of the largest, the shorter ones filled up with their last pixel, then ArgMax.

    A repeated pixel is never the first maximum, so the index stays that of the pixel itself.
    """
    axes, lead = len(image), len(source) - len(image)
    starts, kernel = [], []
    for i, (n, m) in enumerate(zip(image, out, strict=True)):
        start = np.arange(m) * n // m
        end = -(-(np.arange(m) + 1) * n // m)
        k = int((end - start).max())
        pixels = np.minimum(start[:, None] + np.arange(k), end[:, None] - 1)
        x = b.op("Gather", x, b.const(pixels, np.int64), axis=lead + 2 * i)
        starts.append(start)
        kernel.append(k)
    positions, taps = [lead + 2 * i for i in range(axes)], [lead + 2 * i + 1 for i in range(axes)]
    x = transpose(b, x, [*range(lead), *positions, *taps])
    windows = reshape(b, x, [*source[:lead], *out, prod(kernel)])
    last = lead + axes
    y = b.reduce("ReduceMax", windows, [last], keepdims=False)
    tap = b.op("ArgMax", windows, axis=last, keepdims=0)
    first_pixel = np.ravel_multi_index(np.meshgrid(*starts, indexing="ij"), image)
    # The last taps of a window may lie outside an image that is one pixel wide; only their distance counts.
    strides = [prod(image[i + 1 :]) for i in range(axes)]
    distance = sum(grid * s for grid, s in zip(np.indices(kernel), strides, strict=True)).reshape(-1)
    step = b.op("Gather", b.const(distance, np.int64), tap, axis=0)
    return y, b.op("Add", step, b.const(first_pixel, np.int64))


@lowering(
    aten.max_pool2d_with_indices_backward.default,
    aten.max_pool3d_with_indices_backward.default,
    aten.adaptive_max_pool2d_backward.default,
    aten.adaptive_max_pool3d_backward.default,
)
def max_pool_backward(b: Builder, node: fx.Node, y_bar: str, x: str, *window_and_indices: Any) -> str:
    """y_bar added up at the pixels that the indices name."""
    indices = window_and_indices[-1]
    y_val, x_val = arg_vals(node)[:2]
    g = window(node, x_val, y_val, 1)
    lead = dims(b, y_bar, y_val)[: -g.rank]
    source, target, plane = shape(y_val), shape(x_val), prod(g.image)
    zeros = b.op("Expand", b.const(0, np_dtype(y_val)), b.ints([*lead, plane]))
    flat = [*source[: -g.rank], g.positions]
    values, places = reshape(b, y_bar, flat, source), reshape(b, indices, flat, source)
    x_bar = b.op("ScatterElements", zeros, places, values, axis=len(lead), reduction="add")
    return reshape(b, x_bar, target, [*target[: -g.rank], plane])
