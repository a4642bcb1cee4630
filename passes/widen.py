"""One operation over a leading axis K of some of its arguments: K results as one call, where the operation allows it.

Each function here takes the operation, its arguments in full, for each of them whether it has the axis K ("is wide"),
and K; the result has the axis K first. What has no such function runs K times and is stacked, so nothing is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .rule import call

aten = torch.ops.aten

Widening = Callable[[Any, Sequence[Any], Sequence[Any], int], Any]


def widening(op: Any, args: Sequence[Any], wide: Sequence[Any]) -> Widening:
    """How to widen `op` at arguments of these shapes."""
    rule = TABLE.get(op)
    if rule is None and torch.Tag.pointwise in op.tags:
        rule = pointwise
    return rule if rule is not None and _applies(op, args, wide) else one_by_one


def one_by_one(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Any:
    """K calls, stacked."""
    results = [
        call(op, [_select(arg, w, k) for arg, w in zip(args, wide, strict=True)]) for k in range(count)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results)
    return [
        torch.stack(entries) if isinstance(entries[0], Tensor) else None
        for entries in zip(*results, strict=True)
    ]


def _select(arg: Any, wide: Any, k: int) -> Any:
    if isinstance(arg, (list, tuple)) and isinstance(wide, (list, tuple)):
        return [_select(a, w, k) for a, w in zip(arg, wide, strict=True)]
    return arg.select(0, k) if wide is True else arg


def _spread(x: Tensor, wide: Any, count: int) -> Tensor:
    """`x` with the axis K, stretched where it has none."""
    return x if wide else x.unsqueeze(0).expand([count, *x.shape])


def _lift(x: Tensor, rank: int) -> Tensor:
    """A wide tensor whose samples get leading axes of length 1 up to `rank`."""
    missing = rank - (x.dim() - 1)
    return x.reshape([x.shape[0], *[1] * missing, *x.shape[1:]]) if missing > 0 else x


def _next(axis: int) -> int:
    return axis + 1 if axis >= 0 else axis


# Element by element, reductions, shapes ------------------------------------------------------------------------------


def pointwise(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    ranks = [a.dim() - bool(w) for a, w in zip(args, wide, strict=True) if isinstance(a, Tensor)]
    return call(op, [_lift(a, max(ranks)) if w else a for a, w in zip(args, wide, strict=True)])


def as_it_is(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    """Operations that count axes from the end, or see none."""
    return call(op, args)


def along(*positions: int) -> Widening:
    """Axes, or lists of axes, at these positions; an empty list of axes means all."""

    def widened(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Any:
        args = [_spread(a, w, count) if isinstance(a, Tensor) else a for a, w in zip(args, wide, strict=True)]
        for position in positions:
            axes = args[position]
            if axes is None or axes == []:
                axes = range(args[0].dim() - 1)
            args[position] = _next(axes) if isinstance(axes, int) else [_next(axis) for axis in axes]
        return call(op, args)

    return widened


def whole(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    """sum() and mean() of everything."""
    reduce = {aten.sum.default: torch.sum, aten.mean.default: torch.mean}[op]
    x, dtype = args
    return reduce(x.reshape([count, -1]), 1, dtype=dtype)


def sizes(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    return args[0].reshape([count, *args[1]])


def expand(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    return _lift(args[0], len(args[1])).expand([count, *args[1]])


def repeat(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    return _lift(args[0], len(args[1])).repeat([1, *args[1]])


def permute(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    rank = args[0].dim() - 1
    return args[0].permute([0, *[1 + axis % rank for axis in args[1]]])


def transpose_matrix(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    return args[0].transpose(1, 2) if args[0].dim() == 3 else args[0]


def join(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    parts = [_spread(a, w, count) for a, w in zip(args[0], wide[0], strict=True)]
    return op(parts, _next(args[1]))


# Indices -------------------------------------------------------------------------------------------------------------


def index(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    x, indices = args
    y = aten.index(x, [None, *indices])
    used = [i for i, entry in enumerate(indices) if entry is not None]
    if used[-1] - used[0] + 1 == len(used):
        return y
    # Indices apart from each other: their axes come first, before K.
    return y.movedim(max(indices[i].dim() for i in used), 0)


def index_select(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    return args[0].index_select(_next(args[1]), args[2])


def look_up(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    """Embedding: rows of a wide matrix at fixed indices."""
    w, indices = args[:2]
    return w.index_select(1, indices.reshape([-1])).reshape([count, *indices.shape, *w.shape[2:]])


# Matrix products -----------------------------------------------------------------------------------------------------


def mm(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    a, b = args
    if not wide[1]:
        return a.reshape([-1, a.shape[2]]).mm(b).reshape([count, a.shape[1], b.shape[1]])
    return torch.bmm(_spread(a, wide[0], count), b)


def addmm(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    c, a, b, beta, alpha = args
    y = mm(aten.mm.default, (a, b), wide[1:3], count) if any(wide[1:3]) else a.mm(b)
    y = y if alpha == 1 else y * alpha
    c = c if beta == 1 else c * beta
    return _lift(c, 2) + y if wide[0] else c + y


def bmm(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    a, b = (_spread(x, w, count) for x, w in zip(args, wide, strict=True))
    y = torch.bmm(a.reshape([-1, *a.shape[2:]]), b.reshape([-1, *b.shape[2:]]))
    return y.reshape([count, -1, *y.shape[1:]])


# Images: K joins the batch, or the channels --------------------------------------------------------------------------


def fold_batch(*positions: int) -> Widening:
    """The tensors at these positions have a batch axis, which K joins."""

    def widened(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
        folded = list(args)
        for position in positions:
            x = _spread(args[position], wide[position], count)
            folded[position] = x.reshape([-1, *x.shape[2:]])
        y = call(op, folded)
        return y.reshape([count, -1, *y.shape[1:]])

    return widened


def _channels_first(x: Tensor, axis: int, groups: int) -> Tensor:
    """K joins the channels at `axis` of the sample: (K, ..., g C, ...) becomes (..., g K C, ...)."""
    shape = list(x.shape[1:])
    channels = shape[axis] // groups
    split = x.reshape([x.shape[0], *shape[:axis], groups, channels, *shape[axis + 1 :]])
    merged = split.movedim(0, axis + 1)
    return merged.reshape([*shape[:axis], -1, *shape[axis + 1 :]])


def _channels_back(y: Tensor, axis: int, groups: int, count: int) -> Tensor:
    """The way back: (..., g K C, ...) becomes (K, ..., g C, ...)."""
    shape = list(y.shape)
    channels = shape[axis] // (groups * count)
    split = y.reshape([*shape[:axis], groups, count, channels, *shape[axis + 1 :]]).movedim(axis + 1, 0)
    return split.reshape([count, *shape[:axis], groups * channels, *shape[axis + 1 :]])


def convolution(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> Tensor:
    """A wide image: K joins the batch. A wide filter on one image: K joins the outputs of the filter."""
    x, w, b, *geometry = args
    transposed, groups = geometry[3], geometry[5]
    if wide[0]:
        y = op(x.reshape([-1, *x.shape[2:]]), w, None, *geometry)
        y = y.reshape([count, -1, *y.shape[1:]])
    else:
        filters = _beside(w, 1) if transposed else _channels_first(w, 0, groups)
        y = _channels_back(op(x, filters, None, *geometry), 1, groups, count)
    if b is None:
        return y
    return y + b.reshape([count if wide[2] else 1, 1, -1, *[1] * (y.dim() - 3)])


def convolution_backward(op: Any, args: Sequence[Any], wide: Sequence[Any], count: int) -> list[Any]:
    """One of the two adjoints of a convolution; what is only asked for its shape is a stretched zero here.

    With respect to x, K joins the batch where y_bar is wide and the channels of x where the filter is. With respect to
    the filter, K joins its outputs where y_bar is wide and its inputs where x is.
    """
    y_bar, x, w, _, *geometry, mask = args
    transposed, groups = geometry[3], geometry[5]
    if mask[0]:
        if wide[0]:
            like = _shaped(x, [count * x.shape[0], *x.shape[1:]])
            x_bar = op(y_bar.reshape([-1, *y_bar.shape[2:]]), like, w, None, *geometry, mask)[0]
            return [x_bar.reshape([count, -1, *x_bar.shape[1:]]), None, None]
        filters = _channels_first(w, 0, groups) if transposed else _beside(w, 1)
        like = _shaped(x, [x.shape[0], count * x.shape[1], *x.shape[2:]])
        x_bar = op(y_bar, like, filters, None, *geometry, mask)[0]
        return [_channels_back(x_bar, 1, groups, count), None, None]
    if wide[0]:
        y_bar = _channels_first(y_bar, 1, groups)
    else:
        x = _channels_first(x, 1, groups)
    # Axis 0 of a filter holds its outputs with all groups, axis 1 its inputs of one group; transposed, the other way.
    axis = 0 if wide[0] != transposed else 1
    shape = list(w.shape)
    shape[axis] = count * shape[axis]
    w_bar = op(y_bar, x, _shaped(w, shape), None, *geometry, mask)[1]
    return [None, _channels_back(w_bar, axis, groups if axis == 0 else 1, count), None]


def _beside(w: Tensor, axis: int) -> Tensor:
    """K joins axis `axis` of the sample, which has no groups."""
    return _channels_first(w, axis, 1)


def _shaped(x: Tensor, shape: Sequence[Any]) -> Tensor:
    return x.new_zeros([1] * len(shape)).expand(shape)


def _applies(op: Any, args: Sequence[Any], wide: Sequence[Any]) -> bool:
    """Whether the call is of the usual form that its function is written for."""
    if op is aten.convolution_backward.default:
        only_one = args[-1][:2] in ([True, False], [False, True]) and not args[-1][2]
        return only_one and not wide[1 if args[-1][0] else 2]
    if op is aten.index.Tensor:
        return bool(wide[0]) and all(i is None or i.dtype != torch.bool for i in args[1]) and not any(wide[1])
    if op is aten.embedding.default:
        return bool(wide[0]) and not wide[1]
    if op is aten.roll.default:
        return len(args[2]) > 0
    if op in (aten.sum.dim_IntList, aten.mean.dim, aten.flip.default):
        return args[0].dim() > 1  # of a number: an empty list of axes would mean K
    if op in IMAGES:
        axes, (position, *_) = IMAGES[op]
        return args[position].dim() - bool(wide[position]) == 2 + axes
    return True


def _images(axes: int, positions: tuple[int, ...], names: str) -> dict[Any, tuple[int, tuple[int, ...]]]:
    return {getattr(aten, name).default: (axes, positions) for name in names.split()}


IMAGES: dict[Any, tuple[int, tuple[int, ...]]] = {
    **_images(
        1, (0,), "avg_pool1d reflection_pad1d replication_pad1d upsample_nearest1d _upsample_nearest_exact1d"
    ),
    **_images(1, (0,), "upsample_linear1d"),
    **_images(
        2, (0,), "avg_pool2d _adaptive_avg_pool2d reflection_pad2d replication_pad2d upsample_nearest2d"
    ),
    **_images(2, (0,), "_upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d"),
    **_images(2, (0,), "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    **_images(
        3, (0,), "avg_pool3d _adaptive_avg_pool3d reflection_pad3d replication_pad3d upsample_nearest3d"
    ),
    **_images(3, (0,), "_upsample_nearest_exact3d upsample_trilinear3d"),
    **_images(1, (0, 1), "reflection_pad1d_backward replication_pad1d_backward"),
    **_images(2, (0, 1), "avg_pool2d_backward _adaptive_avg_pool2d_backward reflection_pad2d_backward"),
    **_images(2, (0, 1), "replication_pad2d_backward"),
    **_images(3, (0, 1), "avg_pool3d_backward _adaptive_avg_pool3d_backward reflection_pad3d_backward"),
    **_images(3, (0, 1), "replication_pad3d_backward"),
    **_images(2, (0, 1, 7), "max_pool2d_with_indices_backward"),
    **_images(3, (0, 1, 7), "max_pool3d_with_indices_backward"),
}
"""Operations on (N, C, *image): how many axes an image has, and which arguments have the batch axis."""

TABLE: dict[Any, Widening] = {
    aten.where.self: pointwise,
    aten._to_copy.default: pointwise,
    aten.masked_fill.Scalar: pointwise,
    aten.masked_fill.Tensor: pointwise,
    aten.clone.default: as_it_is,
    aten.detach.default: as_it_is,
    aten.alias.default: as_it_is,
    aten.constant_pad_nd.default: as_it_is,
    aten.zeros_like.default: as_it_is,
    aten.ones_like.default: as_it_is,
    aten.pixel_shuffle.default: as_it_is,
    aten.pixel_unshuffle.default: as_it_is,
    aten.sum.dim_IntList: along(1),
    aten.mean.dim: along(1),
    aten.cumsum.default: along(1),
    aten.flip.default: along(1),
    aten.select.int: along(1),
    aten.slice.Tensor: along(1),
    aten.unsqueeze.default: along(1),
    aten.squeeze.dim: along(1),
    aten.squeeze.dims: along(1),
    aten.unbind.int: along(1),
    aten.gather.default: along(1),
    aten.scatter.value: along(1),
    aten.scatter.src: along(1),
    aten.scatter_add.default: along(1),
    aten.slice_scatter.default: along(2),
    aten.select_scatter.default: along(2),
    aten.split.Tensor: along(2),
    aten.split_with_sizes.default: along(2),
    aten.roll.default: along(2),
    aten._softmax_backward_data.default: along(2),
    aten._log_softmax_backward_data.default: along(2),
    aten.transpose.int: along(1, 2),
    aten.diagonal.default: along(2, 3),
    aten.sum.default: whole,
    aten.mean.default: whole,
    aten.view.default: sizes,
    aten._unsafe_view.default: sizes,
    aten.reshape.default: sizes,
    aten.expand.default: expand,
    aten.repeat.default: repeat,
    aten.permute.default: permute,
    aten.t.default: transpose_matrix,
    aten.cat.default: join,
    aten.stack.default: join,
    aten.index.Tensor: index,
    aten.index_select.default: index_select,
    aten.embedding.default: look_up,
    aten.mm.default: mm,
    aten.addmm.default: addmm,
    aten.bmm.default: bmm,
    aten.convolution.default: convolution,
    aten.convolution_backward.default: convolution_backward,
    **{op: fold_batch(*positions) for op, (_, positions) in IMAGES.items()},
}
