"""Convolution of images with fewer pixels than the filter has taps, as a matrix over whole images.

    y = x M        x_bar = y_bar M'        M[(c, i), (o, j)] = w[o, c, t]  with s j + d t - p = i,  else 0

Windows of such images see more padding than pixels: 3 x 3 on 2 x 2 takes 4 products a pixel here, 9 as windows. Images
are rows of x as they lie in memory. M is larger than w, so this is for weights that are constant, whose M a runtime
computes once, when it loads the model (512 channels, 3 x 3 on 2 x 2 pixels: 0.5 of the time of Conv).
"""

from __future__ import annotations

from math import prod

import numpy as np
import torch

from ..builder import Builder
from .columns import places
from .geometry import Geometry
from .padding import pad
from .table import transpose

_LARGEST = 1 << 23
"""Numbers of M up to which it is made; and M may have twice as many as w."""


def is_small(g: Geometry) -> bool:
    """Whether this is the better way, for constant weights."""
    pixels = prod(g.image)
    entries = g.channels * pixels * g.filters * g.positions
    return g.groups == 1 and pixels < g.taps and pixels * g.positions <= 2 * g.taps and entries <= _LARGEST


def correlate(b: Builder, x: str, w: str, v: torch.Tensor, g: Geometry) -> str:
    """y [N, filters, *out] from x [N, channels, *image]; `v` gives the type."""
    rows = b.op("Reshape", x, b.ints([-1, g.channels * prod(g.image)]))
    matrix = b.op(
        "Reshape", transpose(b, _entries(b, w, v, g), [1, 2, 0, 3]), b.ints([g.channels * prod(g.image), -1])
    )
    return b.op("Reshape", b.op("MatMul", rows, matrix), b.ints([-1, g.filters, *g.out]))


def data_gradient(b: Builder, y_bar: str, w: str, v: torch.Tensor, g: Geometry) -> str:
    """x_bar [N, channels, *image] from y_bar [N, filters, *out]."""
    rows = b.op("Reshape", y_bar, b.ints([-1, g.filters * g.positions]))
    matrix = b.op(
        "Reshape", transpose(b, _entries(b, w, v, g), [0, 3, 1, 2]), b.ints([g.filters * g.positions, -1])
    )
    return b.op("Reshape", b.op("MatMul", rows, matrix), b.ints([-1, g.channels, *g.image]))


def _entries(b: Builder, w: str, v: torch.Tensor, g: Geometry) -> str:
    """M as [filters, channels, pixels, positions]."""
    taps = np.full((prod(g.image) + 1, g.positions), g.taps)
    for position, seen in enumerate(places(g)):
        taps[seen, position] = range(g.taps)
    taps = taps[:-1]
    w = b.op("Reshape", w, b.ints([g.filters, g.channels, g.taps]))
    if taps.max() == g.taps:
        w = pad(b, w, v, {2: (0, 1)}, 3)
    return b.op("Gather", w, b.const(taps, np.int64), axis=2)
