"""Views, permutations, joining, splitting, padding: what moves elements and computes nothing.

The target shape of every reshape is read off the result's FakeTensor, so that it is a constant with at most one -1
wherever at most one dimension is symbolic.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import fx

from ..builder import Builder, Size
from .sizes import subtract
from .table import (
    arg_vals,
    axes,
    axis,
    cast,
    dims,
    expand,
    is_static,
    lowering,
    number,
    reshape,
    same_shape,
    shape,
    size_of,
    slice_axis,
    squeeze,
    transpose,
    unsqueeze,
    unsupported,
    val,
)

aten = torch.ops.aten
END = np.iinfo(np.int64).max


@lowering(
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten._reshape_copy.default,
    aten.view_copy.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
)
def view(b: Builder, node: fx.Node, x: str, size: Any = None, *args: Any) -> str:
    """The same elements in another shape."""
    return reshape(b, x, with_arguments(b, shape(val(node)), size), shape(arg_vals(node)[0]))


def with_arguments(b: Builder, target: Sequence[Any], size: Any) -> list[Any]:
    """`target`, where a symbolic dimension that no value has yet is taken from the operation's own argument `size`."""
    if not isinstance(size, list) or len(size) != len(target):
        return list(target)
    return [
        given if isinstance(given, Size) and size_of(b, d) is None else d
        for given, d in zip(size, target, strict=True)
    ]


@lowering(aten.view_as.default, aten.reshape_as.default)
def view_as(b: Builder, node: fx.Node, x: str, y: str) -> str:
    """The same elements in the shape of another tensor."""
    return view(b, node, x)


@lowering(
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
    aten.lift_fresh.default,
    aten.lift.default,
    aten.positive.default,
    aten.view.dtype,
)
def same(b: Builder, node: fx.Node, x: str, *args: Any, **options: Any) -> str:
    """x itself: ONNX values are immutable and contiguous."""
    if val(node).dtype != arg_vals(node)[0].dtype:
        raise unsupported(node, "ONNX cannot read the bits of one type as another.")
    return x


@lowering(aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.type_as.default)
def to_copy(b: Builder, node: fx.Node, x: str, *args: Any, **options: Any) -> str:
    """x in another type."""
    return cast(b, x, arg_vals(node)[0], val(node).dtype)


@lowering(aten.copy.default)
def copy(b: Builder, node: fx.Node, x: str, source: str, non_blocking: bool) -> str:
    """`source` in the shape and type of x."""
    source_val, result = arg_vals(node)[1], val(node)
    return expand(b, cast(b, source, source_val, result.dtype), shape(result), shape(source_val))


# --- axes ------------------------------------------------------------------------------------------------------------


@lowering(aten.permute.default, aten.permute_copy.default)
def permute(b: Builder, node: fx.Node, x: str, order: Sequence[int]) -> str:
    """Axis i of the result is axis order[i] of x."""
    rank = arg_vals(node)[0].dim()
    return move(b, x, shape(arg_vals(node)[0]), [axis(d, rank) for d in order])


@lowering(aten.transpose.int, aten.transpose_copy.int)
def transpose_int(b: Builder, node: fx.Node, x: str, first: int, second: int) -> str:
    """Two axes swapped."""
    rank = arg_vals(node)[0].dim()
    order = list(range(rank))
    if rank:
        first, second = axis(first, rank), axis(second, rank)
        order[first], order[second] = order[second], order[first]
    return move(b, x, shape(arg_vals(node)[0]), order)


@lowering(aten.mT.default)
def last_two(b: Builder, node: fx.Node, x: str) -> str:
    """The last two axes swapped."""
    return transpose_int(b, node, x, -1, -2)


@lowering(aten.t.default, aten.numpy_T.default)
def t(b: Builder, node: fx.Node, x: str) -> str:
    """All axes reversed: a matrix transposed, a vector as it is."""
    rank = arg_vals(node)[0].dim()
    return move(b, x, shape(arg_vals(node)[0]), list(range(rank))[::-1])


@lowering(aten.movedim.intlist, aten.movedim.int)
def movedim(b: Builder, node: fx.Node, x: str, source: Any, destination: Any) -> str:
    """Axes moved to new places, the others in their order."""
    rank = arg_vals(node)[0].dim()
    places = dict(zip(as_axes(destination, rank), as_axes(source, rank), strict=True))
    others = iter(i for i in range(rank) if i not in places.values())
    return transpose(b, x, [places[i] if i in places else next(others) for i in range(rank)])


def as_axes(dim: int | Sequence[int], rank: int) -> list[int]:
    return [axis(d, rank) for d in ([dim] if isinstance(dim, int) else dim)]


def move(b: Builder, x: str, source: Sequence[Any], order: Sequence[int]) -> str:
    """Transpose, or Reshape where only axes of size 1 change places (which moves nothing)."""
    wide = [i for i in order if not (is_static(source[i]) and source[i] == 1)]
    # Matrices stay transpositions: their consumers take the flag (Gemm).
    if wide == sorted(wide) and list(order) != sorted(order) and len(order) > 2:
        return reshape(b, x, [source[i] for i in order], source)
    return transpose(b, x, order)


@lowering(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def squeeze_(b: Builder, node: fx.Node, x: str, dim: int | Sequence[int] | None = None) -> str:
    """Axes of size 1 removed: all of them, or those named."""
    sizes = shape(arg_vals(node)[0])
    if node.target is aten.squeeze.dims and not dim:
        return x
    return squeeze(b, x, [i for i in axes(dim, len(sizes)) if is_static(sizes[i]) and sizes[i] == 1])


@lowering(aten.unsqueeze.default, aten.unsqueeze_copy.default)
def unsqueeze_(b: Builder, node: fx.Node, x: str, dim: int) -> str:
    """An axis of size 1 inserted."""
    return unsqueeze(b, x, [axis(dim, val(node).dim())])


@lowering(aten.expand.default, aten.expand_copy.default, aten.expand_as.default, aten.broadcast_to.default)
def expand_(b: Builder, node: fx.Node, x: str, size: Any, *, implicit: bool = False) -> str:
    """Axes of size 1 repeated, without saying so in memory."""
    x_val, result = arg_vals(node)[0], val(node)
    return expand(b, x, with_arguments(b, shape(result), size), shape(x_val))


# --- joining and splitting -------------------------------------------------------------------------------------------


@lowering(aten.cat.default)
def cat(b: Builder, node: fx.Node, tensors: Sequence[str], dim: int) -> str:
    """Tensors one after the other along `dim`; an empty vector among them counts for nothing."""
    result = val(node)
    parts = [
        cast(b, x, v, result.dtype)
        for x, v in zip(tensors, arg_vals(node)[0], strict=True)
        if not (v.dim() == 1 and is_static(v.shape[0]) and v.shape[0] == 0 and result.dim() != 1)
    ]
    return parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=axis(dim, result.dim()))


@lowering(aten.stack.default)
def stack(b: Builder, node: fx.Node, tensors: Sequence[str], dim: int) -> str:
    """Tensors side by side along a new axis."""
    result = val(node)
    at = axis(dim, result.dim())
    parts = [
        unsqueeze(b, cast(b, x, v, result.dtype), [at])
        for x, v in zip(tensors, arg_vals(node)[0], strict=True)
    ]
    return parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=at)


@lowering(
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.split_copy.Tensor,
    aten.chunk.default,
    aten.split.sizes,
)
def split(b: Builder, node: fx.Node, x: str, sizes: Any, dim: int) -> tuple[str, ...]:
    """Consecutive parts along `dim`; their number is known, their lengths may be symbolic."""
    parts = val(node)
    at = axis(dim, arg_vals(node)[0].dim())
    if len(parts) == 1:
        return (x,)
    lengths: list[Any] = [shape(part)[at] for part in parts]
    if not all(is_static(n) for n in lengths):
        return _split_symbolic(b, node, x, sizes, lengths, at)
    return b.ops("Split", x, b.ints(lengths), outputs=len(parts), axis=at)


def _split_symbolic(
    b: Builder, node: fx.Node, x: str, sizes: Any, lengths: Sequence[Any], at: int
) -> tuple[str, ...]:
    """Parts of symbolic length: read off earlier values, or given, or what the parts before the last leave."""
    given = list(sizes) if isinstance(sizes, (list, tuple)) else [sizes] * (len(lengths) - 1) + [None]
    known = [size_of(b, n) or g for n, g in zip(lengths, given, strict=True)]
    if known[-1] is None:
        total = dims(b, x, arg_vals(node)[0])[at]
        known[-1] = reduce(lambda left, n: subtract(b, left, n), known[:-1], total)
    return b.ops("Split", x, b.ints(known), outputs=len(known), axis=at)


@lowering(aten.unbind.int)
def unbind(b: Builder, node: fx.Node, x: str, dim: int) -> tuple[str, ...]:
    """The slices along `dim`, without that axis."""
    at = axis(dim, arg_vals(node)[0].dim())
    return tuple(b.op("Gather", x, b.const(i, np.int64), axis=at) for i in range(len(val(node))))


@lowering(aten.slice.Tensor, aten.slice_copy.Tensor)
def slice_(b: Builder, node: fx.Node, x: str, dim: int, start: Any, end: Any, step: int) -> str:
    """x[start:end:step] along `dim`; ONNX clamps and counts from the end as Python does."""
    source = shape(arg_vals(node)[0])
    if same_shape(source, shape(val(node))):
        return x
    return slice_axis(
        b, x, axis(dim, len(source)), 0 if start is None else start, END if end is None else end, step
    )


@lowering(aten.select.int, aten.select_copy.int)
def select(b: Builder, node: fx.Node, x: str, dim: int, index: int | Size) -> str:
    """x[index] along `dim`."""
    return b.op("Gather", x, number(b, index, torch.int64), axis=axis(dim, arg_vals(node)[0].dim()))
