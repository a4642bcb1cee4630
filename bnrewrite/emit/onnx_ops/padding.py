"""Padding, and what writes a part of a tensor: slices and selections that go back to where they came from.

A negative pad crops. A slice of step s goes back by zero insertion: an axis of length s, filled behind, folded into the
sliced one; what then stands over or is missing at the ends is one Pad with signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from ..builder import Builder, Size
from .shape import END
from .sizes import multiply, plus, subtract
from .table import (
    arg_vals,
    axis,
    cast,
    dims,
    expand,
    is_static,
    lowering,
    number,
    reshape,
    same_dim,
    shape,
    slice_axis,
    transpose,
    unsqueeze,
    unsupported,
    val,
)

aten = torch.ops.aten

Extent = int | Size


def pad(
    b: Builder,
    x: str,
    v: torch.Tensor,
    amounts: dict[int, tuple[Extent, Extent]],
    rank: int,
    mode: str = "constant",
    value: Any = 0,
) -> str:
    """Pad `x` (rank `rank`, type of `v`) by (before, after) on the axes given; negative amounts crop."""
    amounts = {at: ends for at, ends in amounts.items() if any(isinstance(e, Size) or e != 0 for e in ends)}
    if not amounts:
        return x
    fixed = {at: (s, e) for at, (s, e) in amounts.items() if isinstance(s, int) and isinstance(e, int)}
    if mode == "constant" and len(fixed) == len(amounts):
        # Pad crops too, by its specification, but the ONNX project's own evaluator does not.
        x = _crop(b, x, {at: (min(s, 0), min(e, 0)) for at, (s, e) in fixed.items()})
        amounts = {at: (max(s, 0), max(e, 0)) for at, (s, e) in fixed.items() if max(s, e) > 0}
        if not amounts:
            return x
    before, after = ([amounts.get(i, (0, 0))[end] for i in range(rank)] for end in (0, 1))
    filling = [] if mode != "constant" or value == 0 else [number(b, value, v.dtype)]
    return b.op(
        "Pad", x, b.ints([*before, *after]), *filling, **({} if mode == "constant" else {"mode": mode})
    )


def _crop(b: Builder, x: str, amounts: dict[int, tuple[int, int]]) -> str:
    amounts = {at: ends for at, ends in amounts.items() if any(ends)}
    if not amounts:
        return x
    starts = [-before for before, _ in amounts.values()]
    ends = [after if after else END for _, after in amounts.values()]
    return b.op("Slice", x, b.ints(starts), b.ints(ends), b.ints(list(amounts)))


def _from_the_back(padding: Sequence[Extent], rank: int) -> dict[int, tuple[Extent, Extent]]:
    """PyTorch's list (last axis first, before and after) by axis."""
    return {rank - 1 - i: (padding[2 * i], padding[2 * i + 1]) for i in range(len(padding) // 2)}


@lowering(aten.constant_pad_nd.default)
def constant_pad_nd(b: Builder, node: fx.Node, x: str, padding: Sequence[Extent], value: Any) -> str:
    """A constant around (or a crop of) the last axes."""
    x_val = arg_vals(node)[0]
    return pad(b, x, x_val, _from_the_back(padding, x_val.dim()), x_val.dim(), value=value)


@lowering(
    aten.reflection_pad1d.default,
    aten.reflection_pad2d.default,
    aten.reflection_pad3d.default,
    aten.replication_pad1d.default,
    aten.replication_pad2d.default,
    aten.replication_pad3d.default,
)
def mirror_pad(b: Builder, node: fx.Node, x: str, padding: Sequence[Extent]) -> str:
    """The last axes continued by reflection (the edge itself not repeated), or by their edges."""
    x_val = arg_vals(node)[0]
    mode = "reflect" if "reflection" in str(node.target) else "edge"
    return pad(b, x, x_val, _from_the_back(padding, x_val.dim()), x_val.dim(), mode=mode)


# --- parts going back ------------------------------------------------------------------------------------------------


def bounds(b: Builder, start: Any, end: Any, size: Extent) -> tuple[Extent, Any]:
    """Start and end of a slice, counted from the front and clamped where that can be known; an open end is `size`."""
    start = 0 if start is None else start
    end = size if end is None or (isinstance(end, int) and end >= END) else end
    places: list[Any] = []
    for place in (start, end):
        if isinstance(place, int) and place < 0:
            place = plus(b, size, place)
        if isinstance(place, int) and isinstance(size, int):
            place = min(max(place, 0), size)
        places.append(place)
    return places[0], places[1]


@lowering(aten.slice_backward.default)
def slice_backward(
    b: Builder, node: fx.Node, y_bar: str, sizes: Sequence[Extent], dim: int, start: Any, end: Any, step: int
) -> str:
    """Zeros of shape `sizes` with y_bar at [start:end:step] along `dim`."""
    y_val = arg_vals(node)[0]
    at, source = axis(dim, y_val.dim()), shape(y_val)
    if same_dim(source[at], shape(val(node))[at]):
        return y_bar
    length: Extent = dims(b, y_bar, y_val)[at]
    if step != 1:
        y_bar = pad(b, unsqueeze(b, y_bar, [at + 1]), y_val, {at + 1: (0, step - 1)}, y_val.dim() + 1)
        length = multiply(b, length, step)
        # Two axes become one: the others are copied (0), the folded one is inferred (-1).
        spec = [0] * at + [-1] + [d if is_static(d) else None for d in source[at + 1 :]]
        if None in spec:
            raise unsupported(node, "Its slice has a step, and an axis behind the sliced one is symbolic.")
        y_bar = b.op("Reshape", y_bar, b.const(spec, np.int64))
    first, _ = bounds(b, start, None, sizes[at])
    after = subtract(b, subtract(b, sizes[at], first), length)
    return pad(b, y_bar, y_val, {at: (first, after)}, y_val.dim())


@lowering(aten.select_backward.default)
def select_backward(
    b: Builder, node: fx.Node, y_bar: str, sizes: Sequence[Extent], dim: int, index: Extent
) -> str:
    """Zeros of shape `sizes` with y_bar at `index` along `dim`."""
    y_val = arg_vals(node)[0]
    rank = y_val.dim() + 1
    at = axis(dim, rank)
    first, _ = bounds(b, index, None, sizes[at])
    after = subtract(b, subtract(b, sizes[at], first), 1)
    return pad(b, unsqueeze(b, y_bar, [at]), y_val, {at: (first, after)}, rank)


@lowering(aten.slice_scatter.default)
def slice_scatter(
    b: Builder, node: fx.Node, x: str, part: str, dim: int, start: Any, end: Any, step: int
) -> str:
    """x with x[start:end:step] along `dim` replaced by `part`."""
    x_val, part_val = arg_vals(node)[:2]
    part = cast(b, part, part_val, x_val.dtype)
    at = axis(dim, x_val.dim())
    size = dims(b, x, x_val)[at]
    first, last = bounds(b, start, end, size)
    if step == 1:
        return _spliced(b, x, part, at, size, first, last)
    if not isinstance(first, int) or not isinstance(last, int):
        raise unsupported(node, "A slice with a step along a symbolic axis is not supported.")
    places = np.arange(first, last, step).reshape([-1 if i == at else 1 for i in range(x_val.dim())])
    index = expand(b, b.const(places, np.int64), shape(part_val), list(places.shape))
    return b.op("ScatterElements", x, index, part, axis=at)


@lowering(aten.select_scatter.default)
def select_scatter(b: Builder, node: fx.Node, x: str, part: str, dim: int, index: Extent) -> str:
    """x with x[index] along `dim` replaced by `part`."""
    x_val, part_val = arg_vals(node)[:2]
    at = axis(dim, x_val.dim())
    size = dims(b, x, x_val)[at]
    first, _ = bounds(b, index, None, size)
    part = unsqueeze(b, cast(b, part, part_val, x_val.dtype), [at])
    return _spliced(b, x, part, at, size, first, plus(b, first, 1))


def _spliced(b: Builder, x: str, part: str, at: int, size: Extent, first: Extent, last: Extent) -> str:
    """x[:first], part, x[last:] along one axis."""
    front = [] if isinstance(first, int) and first == 0 else [slice_axis(b, x, at, 0, first)]
    back = [] if same_dim(last, size) else [slice_axis(b, x, at, last, END)]
    parts = [*front, part, *back]
    return part if len(parts) == 1 else b.op("Concat", *parts, axis=at)


@lowering(aten.diagonal.default, aten.diagonal_copy.default)
def diagonal(b: Builder, node: fx.Node, x: str, offset: int, first: int, second: int) -> str:
    """The diagonal of two axes as a new last axis: those two flattened, and every (columns + 1)-th element taken."""
    sizes = shape(arg_vals(node)[0])
    rank = len(sizes)
    order, places = _diagonal(node, offset, first, second)
    x = transpose(b, x, order)
    x = reshape(b, x, [*(sizes[k] for k in order[:-2]), sizes[order[-2]] * sizes[order[-1]]])
    return b.op("Gather", x, b.const(places, np.int64), axis=rank - 2)


def _diagonal(node: fx.Node, offset: int, first: int, second: int) -> tuple[list[int], np.ndarray]:
    """The axes with those of the diagonal last, and the places of its elements where those two are flattened."""
    sizes = shape(arg_vals(node)[0])
    i, j = axis(first, len(sizes)), axis(second, len(sizes))
    rows, columns = sizes[i], sizes[j]
    if not (is_static(rows) and is_static(columns)):
        raise unsupported(node, "The diagonal of a symbolic axis is not supported.")
    row = np.arange(max(0, -offset), min(rows, columns - offset))
    return [*(k for k in range(len(sizes)) if k not in (i, j)), i, j], row * columns + row + offset


@lowering(aten.diagonal_scatter.default)
def diagonal_scatter(
    b: Builder, node: fx.Node, x: str, source: str, offset: int, first: int, second: int
) -> str:
    """x with `source` on that diagonal: every element comes from one or the other."""
    sizes = shape(arg_vals(node)[0])
    order, places = _diagonal(node, offset, first, second)
    others, matrix = [sizes[k] for k in order[:-2]], [sizes[k] for k in order[-2:]]
    taken = np.zeros(matrix[0] * matrix[1], np.int64)
    taken[places] = np.arange(len(places))
    on_it = np.isin(np.arange(len(taken)), places)
    spread = reshape(
        b, b.op("Gather", source, b.const(taken, np.int64), axis=len(others)), [*others, *matrix]
    )
    y = b.op("Where", b.const(on_it.reshape(matrix), np.bool_), spread, transpose(b, x, order))
    return transpose(b, y, [order.index(k) for k in range(len(sizes))])


@lowering(aten.as_strided.default, aten.as_strided_copy.default)
def as_strided(b: Builder, node: fx.Node, x: str, size: Any, stride: Sequence[Any], offset: Any) -> str:
    """Only what is a reshape: all elements, in their order."""
    x_val, target = arg_vals(node)[0], shape(val(node))
    expected: Any = 1
    wanted: list[Any] = []
    for d in target[::-1]:
        wanted.insert(0, expected)
        expected = expected * d
    in_order = len(stride) == len(wanted) and all(
        isinstance(s, int) and str(s) == str(w) for s, w in zip(stride, wanted, strict=True)
    )
    if offset not in (None, 0) or not in_order or str(x_val.numel()) != str(val(node).numel()):
        raise unsupported(node, "ONNX values have no strides; write the model with view, permute and slices.")
    return reshape(b, x, target, shape(x_val))
