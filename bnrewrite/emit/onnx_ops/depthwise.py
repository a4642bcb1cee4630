"""Depthwise convolution (every channel its own group, one filter each) as matrix products and element-wise sums.

onnxruntime runs a grouped convolution one small product for each group and sample unless the weights are constant.
On narrow images it is faster to make every row of pixels one operand. With the last axis of the image of width W and
the kernel's row w[c, t, :] written as a band matrix,

    T[c, t][i, j] = w[c, t, u]  where  i = s j + d u - p          (i < W, j < W_out; zero elsewhere)

    y[c, row]      = sum over t of x[c, row + t] T[c, t]
    w_bar[c, t, u] = sum over (i, j) in band u of (sum over rows of x[c, row + t]' y_bar[c, row])[i, j]

with t the taps along the other axes, and rows those of all images of the batch (so in channel-major layout). The bands
are one constant 0/1 matrix in both lines.
"""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import torch

from ..builder import Builder
from .geometry import Geometry
from .padding import Extent, pad
from .table import np_dtype, transpose, unsqueeze

# Widths up to which the products over rows won, as measured; a product's cost grows with W / kernel width.
_NARROW, _TINY = 16, 8


def is_depthwise(g: Geometry) -> bool:
    """Whether every channel is its own group, with one filter."""
    return g.groups > 1 and g.groups == g.channels == g.filters


def is_narrow(g: Geometry) -> bool:
    """Whether products over rows are the better way to the weight gradient."""
    return is_depthwise(g) and g.out[-1] <= _NARROW


def is_tiny(g: Geometry) -> bool:
    """Whether products over rows beat Conv with weights that are not constant."""
    return is_narrow(g) and max(g.image[-1], g.out[-1]) <= _TINY and set(g.stride) == {1}


def correlate(b: Builder, x: str, w: str, v: torch.Tensor, g: Geometry) -> str:
    """y [N, C, *out] = sum over t of rows(x, t) T[t]."""
    rows = _rows(b, x, v, g, tap_axis=1 + g.rank)
    rows = b.op("Reshape", rows, b.ints([g.channels, -1, prod(g.kernel[:-1]) * g.image[-1]]))
    taps = b.op("Reshape", w, b.ints([-1, g.kernel[-1]]))
    bands = b.op("MatMul", taps, b.const(_bands(g).T, np_dtype(v)))
    y = b.op("MatMul", rows, b.op("Reshape", bands, b.ints([g.channels, -1, g.out[-1]])))
    return _swap_batch(b, b.op("Reshape", y, b.ints([g.channels, -1, *g.out])), g)


def weight_gradient(b: Builder, x: str, y_bar: str, v: torch.Tensor, g: Geometry) -> str:
    """w_bar, as [C, taps] or in any shape of that order."""
    if is_narrow(g):
        return _weight_gradient_by_rows(b, x, y_bar, v, g)
    if v.dtype == torch.float64 or set(g.stride) == {1}:
        return _weight_gradient_by_taps(b, x, y_bar, v, g)
    return _weight_gradient_as_conv(b, x, y_bar, v, g)


def _weight_gradient_by_rows(b: Builder, x: str, y_bar: str, v: torch.Tensor, g: Geometry) -> str:
    rows = b.op(
        "Reshape", _rows(b, x, v, g, tap_axis=1), b.ints([g.channels, prod(g.kernel[:-1]), -1, g.image[-1]])
    )
    y_rows = b.op("Reshape", _swap_batch(b, y_bar, g), b.ints([g.channels, 1, -1, g.out[-1]]))
    pairs = b.op("MatMul", transpose(b, rows, [0, 1, 3, 2]), y_rows)
    pairs = b.op("Reshape", pairs, b.ints([-1, g.image[-1] * g.out[-1]]))
    return b.op("MatMul", pairs, b.const(_bands(g), np_dtype(v)))


def _weight_gradient_by_taps(b: Builder, x: str, y_bar: str, v: torch.Tensor, g: Geometry) -> str:
    """For each tap, x seen through it times y_bar, summed."""
    spatial = list(range(2, 2 + g.rank))
    x = pad(b, x, v, dict(zip(spatial, zip(g.padding, g.end_padding, strict=True), strict=True)), 2 + g.rank)
    sums = []
    for tap in product(*(range(k) for k in g.kernel)):
        starts = [d * t for d, t in zip(g.dilation, tap, strict=True)]
        ends = [start + s * (o - 1) + 1 for start, s, o in zip(starts, g.stride, g.out, strict=True)]
        seen = b.op("Slice", x, b.ints(starts), b.ints(ends), b.ints(spatial), b.ints(g.stride))
        sums.append(b.reduce("ReduceSum", b.op("Mul", seen, y_bar), [0, *spatial], keepdims=False))
    stacked = b.op("Concat", *(unsqueeze(b, s, [1]) for s in sums), axis=1)
    return b.op("Reshape", stacked, b.ints([g.channels, 1, *g.kernel]))


def _weight_gradient_as_conv(b: Builder, x: str, y_bar: str, v: torch.Tensor, g: Geometry) -> str:
    """One image of C groups whose input channels are the samples, y_bar its kernel; stride and dilation exchanged."""
    crops: dict[int, tuple[Extent, Extent]] = {2 + i: (0, min(end, 0)) for i, end in enumerate(g.end_padding)}
    x = _swap_batch(b, pad(b, x, v, crops, 2 + g.rank), g)
    x = b.op(
        "Reshape",
        x,
        b.ints([1, -1, *(n + min(end, 0) for n, end in zip(g.image, g.end_padding, strict=True))]),
    )
    return b.op(
        "Conv",
        x,
        _swap_batch(b, y_bar, g),
        strides=list(g.dilation),
        dilations=list(g.stride),
        pads=[*g.padding, *(max(end, 0) for end in g.end_padding)],
        group=g.groups,
    )


def _swap_batch(b: Builder, x: str, g: Geometry) -> str:
    """[N, C, *S] <-> [C, N, *S]."""
    return transpose(b, x, [1, 0, *range(2, 2 + g.rank)])


def _rows(b: Builder, x: str, v: torch.Tensor, g: Geometry, tap_axis: int) -> str:
    """x [N, C, *image] as [C, N, *rows, W], for every tap along the other axes: a new axis at `tap_axis`."""
    first = 2 if tap_axis > 1 else 3
    others = range(g.rank - 1)
    x = pad(b, _swap_batch(b, x, g), v, {2 + i: (g.padding[i], g.end_padding[i]) for i in others}, 2 + g.rank)
    x = unsqueeze(b, x, [tap_axis])
    if g.rank == 1:
        return x
    seen = []
    for tap in product(*(range(g.kernel[i]) for i in others)):
        starts = [g.dilation[i] * tap[i] for i in others]
        ends = [starts[i] + g.stride[i] * (g.out[i] - 1) + 1 for i in others]
        axes = [first + i for i in others]
        seen.append(
            b.op(
                "Slice", x, b.ints(starts), b.ints(ends), b.ints(axes), b.ints([g.stride[i] for i in others])
            )
        )
    return b.op("Concat", *seen, axis=tap_axis)


def _bands(g: Geometry) -> np.ndarray:
    """[W * W_out, kernel width]: entry ((i, j), u) is 1 where i = s j + d u - p."""
    s, d, p = g.stride[-1], g.dilation[-1], g.padding[-1]
    i, j, u = np.ogrid[: g.image[-1], : g.out[-1], : g.kernel[-1]]
    return (i == s * j + d * u - p).reshape(-1, g.kernel[-1])
