"""Views, permutations, joining, splitting, padding: what moves elements and computes nothing.

The target shape of every reshape is read off the result's FakeTensor, so that it is a constant with at most one -1
wherever at most one dimension is symbolic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from ..builder import Builder, Size
from .sizes import modulo, negate
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


@lowering(aten.t.default, aten.numpy_T.default, aten.mT.default)
def t(b: Builder, node: fx.Node, x: str) -> str:
    """A matrix transposed; a vector as it is."""
    rank = arg_vals(node)[0].dim()
    return move(b, x, shape(arg_vals(node)[0]), list(range(rank))[::-1])


@lowering(aten.movedim.intlist, aten.movedim.int)
def movedim(b: Builder, node: fx.Node, x: str, source: Any, destination: Any) -> str:
    """Axes moved to new places, the others in their order."""
    rank = arg_vals(node)[0].dim()
    places = dict(zip(_as_axes(destination, rank), _as_axes(source, rank), strict=True))
    others = iter(i for i in range(rank) if i not in places.values())
    return transpose(b, x, [places[i] if i in places else next(others) for i in range(rank)])


def _as_axes(dim: int | Sequence[int], rank: int) -> list[int]:
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
    """Slices: the last part takes what is left, so one symbolic length at the end needs no arithmetic."""
    given = sizes if isinstance(sizes, list) else [sizes] * len(lengths)
    if node.target is aten.chunk.default:
        given = lengths
    known = [
        n if is_static(n) else g if isinstance(g, (int, Size)) else size_of(b, n)
        for n, g in zip(lengths, given)
    ]
    if any(n is None for n in known):
        raise unsupported(node, "The lengths of its parts are symbolic and not known in the graph.")
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


# --- repeating and reordering ----------------------------------------------------------------------------------------


@lowering(aten.repeat.default, aten.tile.default)
def repeat(b: Builder, node: fx.Node, x: str, repeats: Sequence[int | Size]) -> str:
    """Whole copies along each axis; new axes come in front."""
    x_val = arg_vals(node)[0]
    repeats = [1] * (x_val.dim() - len(repeats)) + list(repeats)
    x = unsqueeze(b, x, list(range(len(repeats) - x_val.dim())))
    if all(isinstance(r, int) and r == 1 for r in repeats):
        return x
    return b.op("Tile", x, b.ints(repeats))


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
    for at, shift in zip(_as_axes(dim, x_val.dim()), shifts, strict=True):
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


@lowering(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def channel_shuffle(b: Builder, node: fx.Node, x: str, groups: int) -> str:
    """Channels read across the groups instead of along them."""
    n, c, *rest = shape(arg_vals(node)[0])
    x = reshape(b, x, [n, groups, c // groups, *rest])
    x = transpose(b, x, [0, 2, 1, *range(3, 3 + len(rest))])
    return reshape(b, x, [n, c, *rest])
