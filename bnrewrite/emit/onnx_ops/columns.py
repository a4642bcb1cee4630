"""The windows of a whole batch as one matrix, gathered by one operation.

    rows       [N * positions, taps * C]   of x with its channels last: a window sees runs of C numbers
    columns    [C * taps, positions * N]   of x with its batch last: runs of N numbers

`im2col` makes the same of one slice a tap and their concatenation, which onnxruntime copies twice, on one thread, in
runs as long as a row of the image: on images of 16 x 16 to 4 x 4 pixels the gathered form takes half to a tenth of the
time (docs/performance.md). Rows keep a large image fast whatever the batch; a weight [O, C, *kernel] is a matrix over
columns as it lies in memory, and has its axes turned for rows, which costs more than the windows of few pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

import numpy as np
import torch

from ..builder import Builder
from .geometry import Geometry
from .padding import pad
from .table import transpose

# A run shorter than this is copied slower than rows of an image are sliced; more places are too large a constant.
_SHORTEST_RUN, _MOST_PLACES = 16, 1 << 16


def can_gather(g: Geometry) -> bool:
    """Whether gathering the windows is the better way."""
    return (
        g.groups == 1 and g.taps > 1 and g.channels >= _SHORTEST_RUN and g.taps * g.positions <= _MOST_PLACES
    )


def rows(b: Builder, x: str, v: torch.Tensor, g: Geometry, *, taps_reversed: bool = False) -> str:
    """x [N, C, *image] as [N * positions, taps * C]; `v` gives the type."""
    pixels = prod(g.image)
    x = transpose(b, b.op("Reshape", x, b.ints([-1, g.channels, pixels])), [0, 2, 1])
    seen = _seen(b, x, v, np.array(list(places(g, taps_reversed))), pixels)
    return b.op("Reshape", seen, b.ints([-1, g.taps * g.channels]))


def columns(b: Builder, x: str, v: torch.Tensor, g: Geometry, *, taps_reversed: bool = False) -> str:
    """x [N, C, *image] as [C * taps, positions * N]; `v` gives the type."""
    pixels = prod(g.image)
    x = b.op("Reshape", batch_last(b, x, g.channels * pixels), b.ints([g.channels, pixels, -1]))
    seen = _seen(b, x, v, np.array(list(places(g, taps_reversed))).T, pixels)
    return b.op("Reshape", seen, b.ints([g.channels * g.taps, -1]))


def overlaid(b: Builder, seen: str, v: torch.Tensor, g: Geometry) -> str:
    """The adjoint of `rows`: [N * positions, taps * C] summed into an image [N, C, *image].

    Each pixel gathers what the windows that see it say, which are few where the windows are some pixels apart.
    """
    pixels, entries = prod(g.image), g.positions * g.taps
    holders: list[list[int]] = [[] for _ in range(pixels + 1)]
    for entry, pixel in enumerate(np.array(list(places(g))).reshape(-1)):
        holders[pixel].append(entry)
    most = max(len(entries) for entries in holders[:-1])
    table = np.array([found + [entries] * (most - len(found)) for found in holders[:-1]])
    seen = b.op("Reshape", seen, b.ints([-1, entries, g.channels]))
    x = b.op("Reshape", _seen(b, seen, v, table, entries), b.ints([-1, pixels, most, g.channels]))
    x = b.reduce("ReduceSum", x, [2], keepdims=False)
    return b.op("Reshape", transpose(b, x, [0, 2, 1]), b.ints([-1, g.channels, *g.image]))


def batch_last(b: Builder, x: str, sizes: int) -> str:
    """[N, ...] as [sizes, N]."""
    return transpose(b, b.op("Reshape", x, b.ints([-1, sizes])), [1, 0])


def _seen(b: Builder, x: str, v: torch.Tensor, places: np.ndarray, pixels: int) -> str:
    """Axis 1 of `x`, of `pixels` entries, at `places`, in their order; a zero stands behind the last one."""
    if places.max() == pixels:
        x = pad(b, x, v, {1: (0, 1)}, 3)
    return b.op("Gather", x, b.const(places.reshape(-1), np.int64), axis=1)


def places(g: Geometry, taps_reversed: bool = False) -> Iterator[list[int]]:
    """For each window the pixel under each tap; the number of pixels where that is beside the image."""
    steps = np.cumprod([1, *g.image[:0:-1]])[::-1]
    taps = list(product(*(range(k) for k in g.kernel)))
    for at in product(*(range(o) for o in g.out)):
        place = []
        for tap in reversed(taps) if taps_reversed else taps:
            pixel = [
                s * j + d * t - p
                for s, j, d, t, p in zip(g.stride, at, g.dilation, tap, g.padding, strict=True)
            ]
            inside = all(0 <= i < n for i, n in zip(pixel, g.image, strict=True))
            place.append(int(np.dot(pixel, steps)) if inside else prod(g.image))
        yield place
