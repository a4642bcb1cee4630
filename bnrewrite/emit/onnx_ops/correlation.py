"""Correlation of images with kernels, and its two adjoints, each in the form that runs fastest for its shapes.

    y[n, o, j]     = sum over c, t      of w[o, c, t] x[n, c, s j + d t - p]
    x_bar[n, c, i] = sum over o, t, j   of w[o, c, t] y_bar[n, o, j]            with s j + d t - p = i
    w_bar[o, c, t] = sum over n, j      of y_bar[n, o, j] x[n, c, s j + d t - p]

with c and o in the same group. All three are matrix products over the columns of `im2col`:

    y = w cols(x)          x_bar = col2im(w' y_bar)          w_bar = y_bar cols(x)'

In float64 these products are the lowering (onnxruntime's CPU provider has no float64 convolution). In float32, as
measured there on the layers of ResNets and MobileNets:

- y is Conv; x_bar is Conv with the kernel flipped where every stride is 1 (constant weights are then packed in
  advance), else ConvTranspose;
- images with fewer pixels than a constant filter has taps are rows of one product: see `whole_images`;
- images of a few pixels with weights that are not constant are one matrix product (two to four times faster);
- w_bar is one product over the whole batch in channel-major layout, or, where the weight is smaller than the images
  that would have to be transposed, a product a sample and a sum;
- depthwise convolution: see `depthwise`.
"""

from __future__ import annotations

from math import prod

import torch

from ..builder import Builder
from . import columns, depthwise, whole_images
from .geometry import Geometry
from .im2col import col2im, im2col
from .padding import Extent, pad
from .queries import is_constant
from .table import transpose

# Up to this many output pixels an image, one product of the whole batch beats Conv (unless weights are constant): with
# windows sliced, and with windows gathered. Up to `_BATCH_LAST` gathered windows have the batch last.
_FEW_POSITIONS, _SOME_POSITIONS, _BATCH_LAST = 9, 64, 16


# --- the three products ----------------------------------------------------------------------------------------------


def correlate(b: Builder, x: str, w: str, v: torch.Tensor, g: Geometry, bias: str = "") -> str:
    """y [N, filters, *out] from x [N, channels, *image]; `v` gives the type, `bias` [filters] may be absent."""
    constant = is_constant(b, w)
    if depthwise.is_narrow(g) and (v.dtype == torch.float64 or (not constant and depthwise.is_tiny(g))):
        y = depthwise.correlate(b, x, w, v, g)
    elif constant and whole_images.is_small(g):
        y = whole_images.correlate(b, x, w, v, g)
    elif v.dtype == torch.float64 or (not constant and _is_small(g)):
        y = _correlate_columns(b, x, w, v, g)
    else:
        return _conv(b, x, w, v, g, bias)
    return add_bias(b, y, bias, g.rank)


def data_gradient(b: Builder, y_bar: str, w: str, v: torch.Tensor, g: Geometry) -> str:
    """x_bar [N, channels, *image] from y_bar [N, filters, *out]."""
    unit_stride, constant = set(g.stride) == {1}, is_constant(b, w)
    flipped = _flipped_geometry(g)
    if constant and whole_images.is_small(g):
        return whole_images.data_gradient(b, y_bar, w, v, g)
    if unit_stride and columns.can_gather(flipped):
        if v.dtype == torch.float64 or (not constant and _is_small(flipped)):
            return _data_gradient_rows(b, y_bar, w, v, flipped)
    elif not unit_stride and columns.can_gather(g):
        return _data_gradient_overlaid(b, y_bar, w, v, g)
    elif v.dtype == torch.float64 or (_has_few_positions(g) and not (unit_stride and constant)):
        return _data_gradient_columns(b, y_bar, w, v, g)
    if unit_stride:
        return correlate(b, y_bar, _flipped(b, w, g), v, flipped)
    return _conv_transpose(b, y_bar, w, v, g)


def weight_gradient(b: Builder, x: str, y_bar: str, v: torch.Tensor, g: Geometry) -> str:
    """w_bar [filters, channels / groups, *kernel] from x [N, channels, *image] and y_bar [N, filters, *out]."""
    if depthwise.is_depthwise(g):
        w_bar = depthwise.weight_gradient(b, x, y_bar, v, g)
    elif columns.can_gather(g):
        w_bar = _weight_gradient_gathered(b, x, y_bar, v, g)
    elif g.filters * g.rows < g.channels * prod(g.image) + g.filters * g.positions:
        w_bar = _weight_gradient_by_sample(b, x, y_bar, v, g)
    else:
        w_bar = _weight_gradient_of_batch(b, x, y_bar, v, g)
    return b.op("Reshape", w_bar, b.ints([g.filters, g.channels // g.groups, *g.kernel]))


def _has_few_positions(g: Geometry) -> bool:
    return g.groups == 1 and g.positions <= _FEW_POSITIONS


def _is_small(g: Geometry) -> bool:
    """Whether one product of the whole batch beats Conv with weights that are not constant."""
    return _has_few_positions(g) or (columns.can_gather(g) and g.positions <= _SOME_POSITIONS)


# --- as matrix products ----------------------------------------------------------------------------------------------


def _grouped(g: Geometry, *sizes: int) -> list[int]:
    """A matrix for each group, or just a matrix."""
    return [g.groups, *sizes] if g.groups > 1 else list(sizes)


def _weight_matrix(b: Builder, w: str, g: Geometry) -> str:
    return b.op("Reshape", w, b.ints(_grouped(g, g.filters // g.groups, g.rows)))


def _swap_last(b: Builder, x: str, rank: int) -> str:
    return transpose(b, x, [*range(rank - 2), rank - 1, rank - 2])


def _swap_batch(b: Builder, x: str, g: Geometry) -> str:
    """[N, C, *S] <-> [C, N, *S]."""
    return transpose(b, x, [1, 0, *range(2, 2 + g.rank)])


def _correlate_columns(b: Builder, x: str, w: str, v: torch.Tensor, g: Geometry) -> str:
    """y = w cols(x)."""
    if columns.can_gather(g) and g.positions <= _BATCH_LAST:
        y = b.op("MatMul", _weight_matrix(b, w, g), columns.columns(b, x, v, g))
        y = transpose(b, b.op("Reshape", y, b.ints([g.filters * g.positions, -1])), [1, 0])
        return b.op("Reshape", y, b.ints([-1, g.filters, *g.out]))
    if columns.can_gather(g):
        w_t = transpose(b, _taps_first(b, w, g), [1, 0])
        return _from_rows(b, b.op("MatMul", columns.rows(b, x, v, g), w_t), g)
    if not _has_few_positions(g):
        y = b.op("MatMul", _weight_matrix(b, w, g), im2col(b, x, v, g))
        return b.op("Reshape", y, b.ints([-1, g.filters, *g.out]))
    y = b.op("MatMul", _weight_matrix(b, w, g), im2col(b, _swap_batch(b, x, g), v, g, channel_major=True))
    return _swap_batch(b, b.op("Reshape", y, b.ints([g.filters, -1, *g.out])), g)


def _data_gradient_columns(b: Builder, y_bar: str, w: str, v: torch.Tensor, g: Geometry) -> str:
    """x_bar = col2im(w' y_bar)."""
    w_t = _swap_last(b, _weight_matrix(b, w, g), 2 if g.groups == 1 else 3)
    if not _has_few_positions(g):
        y_bar = b.op("Reshape", y_bar, b.ints([-1, *_grouped(g, g.filters // g.groups, g.positions)]))
        return col2im(b, b.op("MatMul", w_t, y_bar), v, g)
    y_bar = b.op("Reshape", _swap_batch(b, y_bar, g), b.ints([g.filters, -1]))
    return col2im(b, b.op("MatMul", w_t, y_bar), v, g, channel_major=True)


def _taps_first(b: Builder, w: str, g: Geometry) -> str:
    """[O, C, *kernel] as [O, taps * C], the order of rows."""
    w = transpose(b, b.op("Reshape", w, b.ints([g.filters, g.channels, g.taps])), [0, 2, 1])
    return b.op("Reshape", w, b.ints([g.filters, g.rows]))


def _from_rows(b: Builder, y: str, g: Geometry) -> str:
    """[N * positions, O] as [N, O, *out]."""
    y = transpose(b, b.op("Reshape", y, b.ints([-1, g.positions, g.filters])), [0, 2, 1])
    return b.op("Reshape", y, b.ints([-1, g.filters, *g.out]))


def _data_gradient_rows(b: Builder, y_bar: str, w: str, v: torch.Tensor, flipped: Geometry) -> str:
    """x_bar = rows(y_bar) w', for the adjoint at stride 1 as a convolution: its taps are in reverse."""
    w = b.op("Reshape", w, b.ints([flipped.channels, flipped.filters, flipped.taps]))
    w_t = b.op("Reshape", transpose(b, w, [2, 0, 1]), b.ints([flipped.rows, flipped.filters]))
    y_rows = columns.rows(b, y_bar, v, flipped, taps_reversed=True)
    return _from_rows(b, b.op("MatMul", y_rows, w_t), flipped)


def _data_gradient_overlaid(b: Builder, y_bar: str, w: str, v: torch.Tensor, g: Geometry) -> str:
    """x_bar = overlaid(rows of y_bar w)."""
    y_bar = b.op("Reshape", y_bar, b.ints([-1, g.filters, g.positions]))
    y_rows = b.op("Reshape", transpose(b, y_bar, [0, 2, 1]), b.ints([-1, g.filters]))
    return columns.overlaid(b, b.op("MatMul", y_rows, _taps_first(b, w, g)), v, g)


def _weight_gradient_gathered(b: Builder, x: str, y_bar: str, v: torch.Tensor, g: Geometry) -> str:
    """w_bar = y_bar cols(x)' = y_bar rows(x); at stride 1 also x rows(y_bar)', whose taps are in reverse, which has
    fewer windows to gather where there are fewer filters than channels."""
    if set(g.stride) == {1} and 2 * g.filters <= g.channels and columns.can_gather(_flipped_geometry(g)):
        w_bar = _windows_product(b, x, y_bar, v, _flipped_geometry(g), taps_reversed=True)
        return transpose(b, w_bar, [1, 0, 2])
    return _windows_product(b, y_bar, x, v, g)


def _windows_product(
    b: Builder, y: str, x: str, v: torch.Tensor, g: Geometry, *, taps_reversed: bool = False
) -> str:
    """y cols(x)' as [filters, channels, taps], from y [N, filters, *out] and x [N, channels, *image]."""
    if g.positions <= _BATCH_LAST:
        cols = columns.columns(b, x, v, g, taps_reversed=taps_reversed)
        y = b.op("Reshape", columns.batch_last(b, y, g.filters * g.positions), b.ints([g.filters, -1]))
        found = b.op("MatMul", y, _swap_last(b, cols, 2))
        return b.op("Reshape", found, b.ints([g.filters, g.channels, g.taps]))
    y = b.op("Reshape", _swap_batch(b, y, g), b.ints([g.filters, -1]))
    found = b.op("MatMul", y, columns.rows(b, x, v, g, taps_reversed=taps_reversed))
    return transpose(b, b.op("Reshape", found, b.ints([g.filters, g.taps, g.channels])), [0, 2, 1])


def _weight_gradient_of_batch(b: Builder, x: str, y_bar: str, v: torch.Tensor, g: Geometry) -> str:
    """w_bar = y_bar cols(x)', with the batch in the columns."""
    cols = im2col(b, _swap_batch(b, x, g), v, g, channel_major=True)
    y_bar = b.op("Reshape", _swap_batch(b, y_bar, g), b.ints(_grouped(g, g.filters // g.groups, -1)))
    return b.op("MatMul", y_bar, _swap_last(b, cols, 2 if g.groups == 1 else 3))


def _weight_gradient_by_sample(b: Builder, x: str, y_bar: str, v: torch.Tensor, g: Geometry) -> str:
    """w_bar = sum over n of y_bar_n cols(x_n)'; of the two factors the smaller one is transposed."""
    rank = 3 if g.groups == 1 else 4
    cols = im2col(b, x, v, g)
    y_bar = b.op("Reshape", y_bar, b.ints([-1, *_grouped(g, g.filters // g.groups, g.positions)]))
    if g.rows < g.filters // g.groups:
        return b.reduce("ReduceSum", b.op("MatMul", y_bar, _swap_last(b, cols, rank)), [0], keepdims=False)
    transposed = b.reduce("ReduceSum", b.op("MatMul", cols, _swap_last(b, y_bar, rank)), [0], keepdims=False)
    return _swap_last(b, transposed, rank - 1)


# --- as Conv and ConvTranspose ---------------------------------------------------------------------------------------


def _conv(b: Builder, x: str, w: str, v: torch.Tensor, g: Geometry, bias: str = "") -> str:
    """Conv; what its pads cannot say (cropping) is cropped from x."""
    # A rest that is smaller than a stride is left over by Conv itself.
    ends = [0 if -s < end < 0 else end for end, s in zip(g.end_padding, g.stride, strict=True)]
    crops: dict[int, tuple[Extent, Extent]] = {
        2 + i: (min(before, 0), min(after, 0))
        for i, (before, after) in enumerate(zip(g.padding, ends, strict=True))
    }
    x = pad(b, x, v, crops, 2 + g.rank)
    return b.op(
        "Conv",
        x,
        w,
        *([bias] if bias else []),
        kernel_shape=list(g.kernel),
        strides=list(g.stride),
        dilations=list(g.dilation),
        pads=[max(p, 0) for p in (*g.padding, *ends)],
        group=g.groups,
    )


def _conv_transpose(b: Builder, y_bar: str, w: str, v: torch.Tensor, g: Geometry) -> str:
    """ConvTranspose; the pixels behind the last window are its output padding, or zeros where they are too many."""
    rest = [max(-end, 0) for end in g.end_padding]
    fits = all(r < s for r, s in zip(rest, g.stride, strict=True))
    x_bar = b.op(
        "ConvTranspose",
        y_bar,
        w,
        kernel_shape=list(g.kernel),
        strides=list(g.stride),
        dilations=list(g.dilation),
        pads=[*g.padding, *(max(end, 0) for end in g.end_padding)],
        output_padding=rest if fits else [0] * g.rank,
        group=g.groups,
    )
    return x_bar if fits else pad(b, x_bar, v, {2 + i: (0, r) for i, r in enumerate(rest)}, 2 + g.rank)


def _flipped(b: Builder, w: str, g: Geometry) -> str:
    """The kernel of the adjoint at stride 1: [channels, filters / groups, *kernel], its taps in reverse."""
    filters, channels = g.filters // g.groups, g.channels // g.groups
    if g.groups > 1:
        w = b.op("Reshape", w, b.ints([g.groups, filters, channels, *g.kernel]))
        w = transpose(b, w, [0, 2, 1, *range(3, 3 + g.rank)])
        w = b.op("Reshape", w, b.ints([g.channels, filters, *g.kernel]))
    else:
        w = transpose(b, w, [1, 0, *range(2, 2 + g.rank)])
    if g.taps == 1:
        return w
    spatial, last = list(range(2, 2 + g.rank)), [-1] * g.rank
    return b.op("Slice", w, b.ints(last), b.ints([-(k + 1) for k in g.kernel]), b.ints(spatial), b.ints(last))


def _flipped_geometry(g: Geometry) -> Geometry:
    """The convolution that is the adjoint at stride 1."""
    return Geometry(
        image=g.out,
        out=g.image,
        kernel=g.kernel,
        stride=g.stride,
        padding=tuple(e - p for e, p in zip(g.spread, g.padding, strict=True)),
        dilation=g.dilation,
        channels=g.filters,
        filters=g.channels,
        groups=g.groups,
    )


def add_bias(b: Builder, y: str, bias: str, rank: int) -> str:
    """y [N, C, *S] + bias [C], where there is one."""
    return b.op("Add", y, b.op("Reshape", bias, b.ints([-1] + [1] * rank))) if bias else y
