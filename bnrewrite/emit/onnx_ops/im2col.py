"""Sliding windows as matrices: im2col gathers every window of an image into a column, col2im is its adjoint.

    cols[c, t, j] = x[c, s j + d t - p]          (zero outside the image)
    x[c, i]       = sum of cols[c, t, j] over all t, j with s j + d t - p = i

with j a position, t a tap of the kernel, s stride, d dilation, p padding, along each spatial axis. Columns are ordered
(c, t) with t row-major, so a weight [O, C, *kernel] is a matrix over them as it lies in memory, and so is its gradient.

Two layouts, by where the batch axis goes: batch-major [N, C*taps, positions] needs nothing transposed and makes one
matrix product a sample; channel-major [C*taps, N*positions] makes one large product of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx

from ..builder import Builder
from .geometry import Geometry, each_axis
from .padding import Extent, pad
from .table import (
    arg_vals,
    is_static,
    lowering,
    np_dtype,
    shape,
    squeeze,
    transpose,
    unsqueeze,
    unsupported,
    val,
)

aten = torch.ops.aten

# Beyond this many taps the windows are gathered axis by axis: more copies, but far fewer nodes.
_FLAT_TAPS = 49


def im2col(b: Builder, x: str, v: torch.Tensor, g: Geometry, *, channel_major: bool = False) -> str:
    """Windows of x [N, C, *image] as [N, C*taps, positions], or of x [C, N, *image] as [C*taps, N*positions].

    `v` gives the type. With groups the channel axis is split in front: [N, groups, C/groups*taps, positions] and
    [groups, C/groups*taps, N*positions].
    """
    cols = _gather_windows(b, x, v, g, at=1 if channel_major else 2)
    rows = [g.groups, g.rows] if g.groups > 1 else [g.rows]
    return b.op("Reshape", cols, b.ints([*rows, -1] if channel_major else [-1, *rows, g.positions]))


def _gather_windows(b: Builder, x: str, v: torch.Tensor, g: Geometry, at: int) -> str:
    """x [.., .., *image] with its taps as a new axis (or one for each spatial axis) at `at` and *out behind."""
    if prod(g.stride) < g.taps <= _FLAT_TAPS and prod(g.stride) > 1 and g.kernel != g.stride:
        return _gather_phases(b, x, v, g, at)
    x = pad(
        b,
        x,
        v,
        {2 + i: (p, e) for i, (p, e) in enumerate(zip(g.padding, g.end_padding, strict=True))},
        2 + g.rank,
    )
    if g.taps == 1:
        return _take(b, x, g, 2, (0,) * g.rank, range(g.rank))
    if g.kernel == g.stride and set(g.dilation) == {1}:
        return _tile(b, x, g, at)
    spatial = range(g.rank)
    stages = [spatial] if g.taps <= _FLAT_TAPS else [range(i, i + 1) for i in spatial]
    for stage, axes in enumerate(stages):
        x = unsqueeze(b, x, [at + stage])
        taps = product(*(range(g.kernel[i]) for i in axes))
        x = b.op("Concat", *(_take(b, x, g, 3 + stage, tap, axes) for tap in taps), axis=at + stage)
    return x


def _gather_phases(b: Builder, x: str, v: torch.Tensor, g: Geometry, at: int) -> str:
    """The same for windows some pixels apart: pixel s q + r is pixel q of phase r. One transpose takes the image apart,
    and each tap sees runs of pixels of one phase (7 x 7 by 2 on 3 channels: 0.6 of the time of slices with steps)."""
    sizes = [-(-reach // s) for reach, s in zip(g.reach, g.stride, strict=True)]
    ends = [m * s - n - p for m, s, n, p in zip(sizes, g.stride, g.image, g.padding, strict=True)]
    x = pad(
        b, x, v, {2 + i: (p, e) for i, (p, e) in enumerate(zip(g.padding, ends, strict=True))}, 2 + g.rank
    )
    lead = [g.channels, -1] if at == 1 else [-1, g.channels]
    x = b.op("Reshape", x, b.ints([*lead, *(n for pair in zip(sizes, g.stride, strict=True) for n in pair)]))
    pixels, phases = [2 + 2 * i for i in range(g.rank)], [3 + 2 * i for i in range(g.rank)]
    x = transpose(b, x, [0, *phases, 1, *pixels] if at == 1 else [0, 1, *phases, *pixels])
    lead.insert(at, prod(g.stride))
    x = b.op("Reshape", x, b.ints([*lead, *sizes]))
    steps = np.cumprod([1, *g.stride[:0:-1]])[::-1]
    seen = []
    for tap in product(*map(range, g.kernel)):
        shifts, rests = zip(
            *(divmod(d * t, s) for d, t, s in zip(g.dilation, tap, g.stride, strict=True)), strict=True
        )
        phase = int(np.dot(rests, steps))
        ends = [phase + 1, *(q + o for q, o in zip(shifts, g.out, strict=True))]
        axes = [at, *range(3, 3 + g.rank)]
        seen.append(b.op("Slice", x, b.ints([phase, *shifts]), b.ints(ends), b.ints(axes)))
    return b.op("Concat", *seen, axis=at)


def _take(b: Builder, x: str, g: Geometry, first: int, tap: Sequence[int], axes: Sequence[int]) -> str:
    """The pixel that each window sees through `tap`, along spatial `axes` (spatial axis i of `x` is `first` + i)."""
    starts = [t * g.dilation[i] for t, i in zip(tap, axes, strict=True)]
    ends = [start + g.stride[i] * (g.out[i] - 1) + 1 for start, i in zip(starts, axes, strict=True)]
    steps = [g.stride[i] for i in axes]
    if not any(starts) and set(steps) == {1} and all(ends[k] == g.reach[i] for k, i in enumerate(axes)):
        return x
    return b.op("Slice", x, b.ints(starts), b.ints(ends), b.ints([first + i for i in axes]), b.ints(steps))


def _tile(b: Builder, x: str, g: Geometry, at: int) -> str:
    """Windows that do not overlap: a reshape and one transpose."""
    outer = [g.channels, -1] if at == 1 else [-1, g.channels]
    pairs = [size for i in range(g.rank) for size in (g.out[i], g.kernel[i])]
    x = b.op("Reshape", x, b.ints([*outer, *pairs]))
    positions, taps = [2 + 2 * i for i in range(g.rank)], [3 + 2 * i for i in range(g.rank)]
    return transpose(b, x, [0, *taps, 1, *positions] if at == 1 else [0, 1, *taps, *positions])


def col2im(b: Builder, cols: str, v: torch.Tensor, g: Geometry, *, channel_major: bool = False) -> str:
    """The adjoint: columns, as `im2col` makes them in either layout, summed into an image [N, C, *image].

    Along an axis of stride s, tap t falls on phase r of the padded image, q pixels of that phase further on, where
    d t = q s + r: the taps of one phase are added up, shifted, and the phases are interleaved at the end.
    """
    first_tap = 1 if channel_major else 2
    shape_ = [g.channels, *g.kernel, -1, *g.out] if channel_major else [-1, g.channels, *g.kernel, *g.out]
    x = b.op("Reshape", cols, b.ints(shape_))
    for i in range(g.rank):
        x = _sum_taps(b, x, v, g, i, first_tap + i)
    return _interleave(b, x, v, g, channel_major)


def _phase_sizes(g: Geometry) -> list[int]:
    """Pixels of one phase along each axis; padding is cropped by whole pixels of a phase before they interleave."""
    return [-(-(n + p % s) // s) for n, p, s in zip(g.image, g.padding, g.stride, strict=True)]


def _sum_taps(b: Builder, x: str, v: torch.Tensor, g: Geometry, i: int, tap_axis: int) -> str:
    """Spatial axis i: the axis of k taps becomes one of s phases, the axis of positions one of pixels of a phase."""
    k, s, d, p, out, size = (
        g.kernel[i],
        g.stride[i],
        g.dilation[i],
        g.padding[i],
        g.out[i],
        _phase_sizes(g)[i],
    )
    rank, out_axis = 2 + 2 * g.rank, 2 + g.rank + i
    if k == s and d == 1:
        return pad(b, x, v, {out_axis: (-(p // s), size - out + p // s)}, rank)
    parts = b.ops("Split", x, b.ints([1] * k), outputs=k, axis=tap_axis) if k > 1 else (x,)
    phases: list[list[str]] = [[] for _ in range(s)]
    for t, part in enumerate(parts):
        q, r = divmod(d * t, s)
        shift = q - p // s
        if -out < shift < size:
            phases[r].append(pad(b, part, v, {out_axis: (shift, size - out - shift)}, rank))
    zeros = "" if all(phases) else _zeros(b, parts[0], v, out_axis, size)
    summed = [(b.op("Sum", *terms) if len(terms) > 1 else terms[0]) if terms else zeros for terms in phases]
    return b.op("Concat", *summed, axis=tap_axis) if s > 1 else summed[0]


def _zeros(b: Builder, like: str, v: torch.Tensor, at: int, size: int) -> str:
    """Zeros of the shape of `like`, but for `size` along axis `at`."""
    before, behind = b.op("Shape", like, start=0, end=at), b.op("Shape", like, start=at + 1)
    return b.op("Expand", b.const(0, np_dtype(v)), b.op("Concat", before, b.ints([size]), behind, axis=0))


def _interleave(b: Builder, x: str, v: torch.Tensor, g: Geometry, channel_major: bool) -> str:
    """[N, C, *phases, *pixels] (or [C, *phases, N, *pixels]) as an image, cropped to its size."""
    sizes, strided = _phase_sizes(g), set(g.stride) != {1}
    if strided:
        batch, channel, phase = (1 + g.rank, 0, 1) if channel_major else (0, 1, 2)
        pixels = [axis for i in range(g.rank) for axis in (2 + g.rank + i, phase + i)]
        x = transpose(b, x, [batch, channel, *pixels])
    extents = [size * s for size, s in zip(sizes, g.stride, strict=True)]
    if channel_major and not strided:
        x = transpose(
            b, b.op("Reshape", x, b.ints([g.channels, -1, *extents])), [1, 0, *range(2, 2 + g.rank)]
        )
    else:
        x = b.op("Reshape", x, b.ints([-1, g.channels, *extents]))
    before = [p % s for p, s in zip(g.padding, g.stride, strict=True)]
    amounts: dict[int, tuple[Extent, Extent]] = {
        2 + i: (-f, n + f - e) for i, (f, n, e) in enumerate(zip(before, g.image, extents, strict=True))
    }
    return pad(b, x, v, amounts, 2 + g.rank)


# --- the same as operations of a model -------------------------------------------------------------------------------


def _unfold_geometry(node: fx.Node, image: Sequence[Any], window: Sequence[Sequence[int]]) -> Geometry:
    """`image` is [C, H, W]; `window` kernel, dilation, padding and stride."""
    if not all(is_static(d) for d in image):
        raise unsupported(
            node, "Its channels and image sizes must be static; only the batch may be symbolic."
        )
    channels, *sizes = image
    kernel, dilation, padding, stride = (each_axis(setting, 2) for setting in window)
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, d, p, s in zip(sizes, kernel, dilation, padding, stride, strict=True)
    ]
    return Geometry(tuple(sizes), tuple(out), kernel, stride, padding, dilation, channels)


@lowering(aten.im2col.default)
def unfold(b: Builder, node: fx.Node, x: str, *window: Sequence[int]) -> str:
    """F.unfold: x [N, C, H, W] -> [N, C*taps, positions], or all without N."""
    x_val = arg_vals(node)[0]
    g = _unfold_geometry(node, shape(x_val)[-3:], window)
    if x_val.dim() == 4:
        return im2col(b, x, x_val, g)
    return squeeze(b, im2col(b, unsqueeze(b, x, [0]), x_val, g), [0])


@lowering(aten.col2im.default)
def fold(b: Builder, node: fx.Node, cols: str, size: Sequence[int], *window: Sequence[int]) -> str:
    """F.fold: cols [N, C*taps, positions] -> [N, C, H, W], or all without N."""
    cols_val = arg_vals(node)[0]
    g = _unfold_geometry(node, shape(val(node))[-3:], window)
    if cols_val.dim() == 3:
        return col2im(b, cols, cols_val, g)
    return squeeze(b, col2im(b, cols, cols_val, g), [0])
