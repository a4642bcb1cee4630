"""Repeating, reversing, rolling and shuffling: what puts elements in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from ..builder import Builder, Size
from .shape import END, as_axes
from .sizes import modulo, negate
from .table import (
    arg_vals,
    axes,
    dims,
    is_static,
    lowering,
    reshape,
    shape,
    slice_axis,
    transpose,
    unsqueeze,
    val,
)

aten = torch.ops.aten


@lowering(aten.repeat.default, aten.tile.default)
def repeat(b: Builder, node: fx.Node, x: str, repeats: Sequence[int | Size]) -> str:
    """Whole copies along each axis; new axes come in front."""
    x_val = arg_vals(node)[0]
    times = [1] * (x_val.dim() - len(repeats)) + list(repeats)
    x = unsqueeze(b, x, list(range(len(times) - x_val.dim())))
    if all(isinstance(n, int) and n == 1 for n in times):
        return x
    return b.op("Tile", x, b.ints(times))


@lowering(aten.flip.default)
def flip(b: Builder, node: fx.Node, x: str, dim: Sequence[int]) -> str:
    """Axes reversed."""
    over = axes(dim, arg_vals(node)[0].dim()) if dim else []
    if not over:
        return x
    one = [1] * len(over)
    starts, ends = [-n for n in one], [-END for _ in one]
    return b.op("Slice", x, b.ints(starts), b.ints(ends), b.ints(over), b.ints(starts))


@lowering(aten.roll.default)
def roll(b: Builder, node: fx.Node, x: str, shifts: Sequence[Any], dim: Sequence[int]) -> str:
    """Axes turned by `shifts`; without axes, the flattened tensor."""
    x_val = arg_vals(node)[0]
    sizes = dims(b, x, x_val)
    if not dim:
        flat = b.op("Reshape", x, b.const([-1], np.int64))
        total = val(node).numel()
        size = total if is_static(total) else b.size(flat, 0)
        return reshape(b, _roll(b, flat, 0, size, shifts[0]), shape(x_val))
    for at, shift in zip(as_axes(dim, x_val.dim()), shifts, strict=True):
        x = _roll(b, x, at, sizes[at], shift)
    return x


def _roll(b: Builder, x: str, at: int, size: int | Size, shift: int | Size) -> str:
    cut = modulo(b, negate(b, shift), size)
    if isinstance(cut, int) and cut == 0:
        return x
    return b.op("Concat", slice_axis(b, x, at, cut, END), slice_axis(b, x, at, 0, cut), axis=at)


@lowering(aten.pixel_shuffle.default)
def pixel_shuffle(b: Builder, node: fx.Node, x: str, r: int) -> str:
    """(..., C r^2, H, W) to (..., C, H r, W r)."""
    *lead, c, h, w = shape(arg_vals(node)[0])
    k = len(lead)
    x = reshape(b, x, [*lead, c // (r * r), r, r, h, w])
    x = transpose(b, x, [*range(k), k, k + 3, k + 1, k + 4, k + 2])
    return reshape(b, x, shape(val(node)))


@lowering(aten.pixel_unshuffle.default)
def pixel_unshuffle(b: Builder, node: fx.Node, x: str, r: int) -> str:
    """(..., C, H r, W r) to (..., C r^2, H, W)."""
    *lead, c, h, w = shape(arg_vals(node)[0])
    k = len(lead)
    x = reshape(b, x, [*lead, c, h // r, r, w // r, r])
    x = transpose(b, x, [*range(k), k, k + 2, k + 4, k + 1, k + 3])
    return reshape(b, x, shape(val(node)))


@lowering(aten.channel_shuffle.default)
def channel_shuffle(b: Builder, node: fx.Node, x: str, groups: int) -> str:
    """Channels read across the groups instead of along them."""
    n, c, *rest = shape(arg_vals(node)[0])
    x = reshape(b, x, [n, groups, c // groups, *rest])
    x = transpose(b, x, [0, 2, 1, *range(3, 3 + len(rest))])
    return reshape(b, x, [n, c, *rest])
