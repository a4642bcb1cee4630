"""Windows along one axis (`Tensor.unfold`) and their adjoint, both as one Gather with constant indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from ..builder import Builder, Size
from .padding import pad
from .table import arg_vals, axis, is_static, lowering, reshape, shape, transpose, unsupported, val

aten = torch.ops.aten


@lowering(aten.unfold.default)
def unfold(b: Builder, node: fx.Node, x: str, dim: int, size: int, step: int) -> str:
    """y[..., i, ..., j] = x[..., i step + j, ...]: windows along `dim`, their elements along a new last axis."""
    x_val = arg_vals(node)[0]
    at, rank = axis(dim, x_val.dim()), x_val.dim()
    if rank == 0:
        return reshape(b, x, [1])
    index = _index(node, shape(val(node))[at], size, step)
    y = b.op("Gather", x, b.const(index, np.int64), axis=at)
    return transpose(b, y, [i for i in range(rank + 1) if i != at + 1] + [at + 1])


@lowering(aten.unfold_backward.default)
def unfold_backward(
    b: Builder, node: fx.Node, y_bar: str, sizes: Sequence[int | Size], dim: int, size: int, step: int
) -> str:
    """Every element collects what the windows that hold it say: at most ceil(size / step) of them."""
    y_val, rank = arg_vals(node)[0], len(sizes)
    if rank == 0:
        return reshape(b, y_bar, [])
    at = axis(dim, rank)
    windows, length = shape(y_val)[at], shape(val(node))[at]
    index = _index(node, windows, size, step)
    if not is_static(length):
        raise unsupported(node, "The size of its axis must be static; only the batch may be symbolic.")
    holders: list[list[int]] = [[] for _ in range(length)]
    for place, element in enumerate(index.reshape(-1)):
        holders[element].append(place)
    most = max(len(places) for places in holders)
    ragged = any(len(places) < most for places in holders)
    nowhere = windows * size  # a zero that is padded behind all windows
    table = [places + [nowhere] * (most - len(places)) for places in holders]

    flat_shape = [*shape(y_val)[:at], windows * size, *shape(y_val)[at + 1 : -1]]
    flat = reshape(b, transpose(b, y_bar, [*range(at + 1), rank, *range(at + 1, rank)]), flat_shape)
    if ragged:
        flat = pad(b, flat, y_val, {at: (0, 1)}, rank)
    found = b.op("Gather", flat, b.const(table, np.int64), axis=at)
    return b.reduce("ReduceSum", found, [at + 1], False)


def _index(node: fx.Node, windows: Any, size: int, step: int) -> np.ndarray:
    """Where element j of window i stands along the axis."""
    if not is_static(windows):
        raise unsupported(node, "The size of its axis must be static; only the batch may be symbolic.")
    return np.arange(windows)[:, None] * step + np.arange(size)[None, :]
