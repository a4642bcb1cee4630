"""Convolution, transposed or not, and its two adjoints, each in the form that runs fastest for its shape class.

    y[n, o, j]     = sum over c, t      of w[o, c, t] x[n, c, s j + d t - p]
    x_bar[n, c, i] = sum over o, t, j   of w[o, c, t] y_bar[n, o, j]            with s j + d t - p = i
    w_bar[o, c, t] = sum over n, j      of y_bar[n, o, j] x[n, c, s j + d t - p]

with c and o in the same group. A transposed convolution is the second line taken as the forward map; its own adjoints
are then the first line (of x) and the third with the images exchanged (of w). All three are matrix products over the
columns of `im2col`: y = w cols(x), x_bar = col2im(w' y_bar), w_bar = y_bar cols(x)'.

In float64 these products are the lowering (onnxruntime's CPU provider has no float64 convolution). In float32, as
measured there on the layers of ResNets and MobileNets:

- y is Conv; x_bar is Conv with the kernel flipped where every stride is 1 (constant weights are then packed in advance),
  else ConvTranspose;
- images of a few pixels with weights that are not constant are one matrix product (two to seven times faster);
- w_bar is one product over the whole batch in channel-major layout, or, where the weight is smaller than the images
  that would have to be transposed, a product a sample and a sum;
- depthwise convolution: see `depthwise`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import fx

from ..builder import Builder
from . import depthwise
from .constants import is_constant
from .im2col import Geometry, col2im, im2col
from .padding import pad
from .table import arg_vals, is_static, lowering, shape, transpose, unsupported, val

aten = torch.ops.aten

# Up to this many output pixels an image, one product of the whole batch beats Conv (unless weights are constant).
_FEW_POSITIONS = 9


# --- the three products ----------------------------------------------------------------------------------------------


def correlate(b: Builder, x: str, w: str, v: torch.Tensor, g: Geometry, bias: str = "") -> str:
    """y [N, filters, *out] from x [N, channels, *image]; `v` gives the type, `bias` [filters] may be absent."""
    constant = is_constant(b, w)
    if depthwise.is_narrow(g) and (v.dtype == torch.float64 or not constant and depthwise.is_tiny(g)):
        y = depthwise.correlate(b, x, w, v, g)
    elif v.dtype == torch.float64 or (_has_few_positions(g) and not constant):
        y = _correlate_columns(b, x, w, v, g)
    else:
        return _conv(b, x, w, v, g, bias)
    return _add_bias(b, y, bias, g.rank)


def data_gradient(b: Builder, y_bar: str, w: str, v: torch.Tensor, g: Geometry) -> str:
    """x_bar [N, channels, *image] from y_bar [N, filters, *out]."""
    if v.dtype == torch.float64:
        return _data_gradient_columns(b, y_bar, w, v, g)
    unit_stride = set(g.stride) == {1}
    if _has_few_positions(g) and not (unit_stride and is_constant(b, w)):
        return _data_gradient_columns(b, y_bar, w, v, g)
    if unit_stride:
        return correlate(b, y_bar, _flipped(b, w, g), v, _flipped_geometry(g))
    return _conv_transpose(b, y_bar, w, v, g)


def weight_gradient(b: Builder, x: str, y_bar: str, v: torch.Tensor, g: Geometry) -> str:
    """w_bar [filters, channels / groups, *kernel] from x [N, channels, *image] and y_bar [N, filters, *out]."""
    if depthwise.is_depthwise(g):
        w_bar = depthwise.weight_gradient(b, x, y_bar, v, g)
    elif g.filters * _rows(g) < g.channels * _pixels(g) + g.filters * g.positions:
        w_bar = _weight_gradient_by_sample(b, x, y_bar, v, g)
    else:
        w_bar = _weight_gradient_of_batch(b, x, y_bar, v, g)
    return b.op("Reshape", w_bar, b.ints([g.filters, g.channels // g.groups, *g.kernel]))


def _rows(g: Geometry) -> int:
    """Rows of a group's columns, which are the columns of its weight."""
    return g.channels // g.groups * g.taps


def _pixels(g: Geometry) -> int:
    pixels = 1
    for n in g.image:
        pixels *= n
    return pixels


def _has_few_positions(g: Geometry) -> bool:
    return g.groups == 1 and g.positions <= _FEW_POSITIONS


# --- as matrix products ----------------------------------------------------------------------------------------------


def _grouped(g: Geometry, *sizes: int) -> list[int]:
    """A matrix for each group, or just a matrix."""
    return [g.groups, *sizes] if g.groups > 1 else list(sizes)


def _weight_matrix(b: Builder, w: str, g: Geometry) -> str:
    return b.op("Reshape", w, b.ints(_grouped(g, g.filters // g.groups, _rows(g))))


def _swap_last(b: Builder, x: str, rank: int) -> str:
    return transpose(b, x, [*range(rank - 2), rank - 1, rank - 2])


def _swap_batch(b: Builder, x: str, g: Geometry) -> str:
    """[N, C, *S] <-> [C, N, *S]."""
    return transpose(b, x, [1, 0, *range(2, 2 + g.rank)])


def _correlate_columns(b: Builder, x: str, w: str, v: torch.Tensor, g: Geometry) -> str:
    """y = w cols(x)."""
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
    if _rows(g) < g.filters // g.groups:
        return b.reduce("ReduceSum", b.op("MatMul", y_bar, _swap_last(b, cols, rank)), [0], keepdims=False)
    transposed = b.reduce("ReduceSum", b.op("MatMul", cols, _swap_last(b, y_bar, rank)), [0], keepdims=False)
    return _swap_last(b, transposed, rank - 1)


# --- as Conv and ConvTranspose ---------------------------------------------------------------------------------------


def _conv(b: Builder, x: str, w: str, v: torch.Tensor, g: Geometry, bias: str = "") -> str:
    """Conv; what its pads cannot say (cropping) is cropped from x."""
    # A rest that is smaller than a stride is left over by Conv itself.
    ends = [0 if -s < end < 0 else end for end, s in zip(g.end_padding, g.stride, strict=True)]
    crops = {
        2 + i: (min(before, 0), min(after, 0)) for i, (before, after) in enumerate(zip(g.padding, ends, strict=True))
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


def _add_bias(b: Builder, y: str, bias: str, rank: int) -> str:
    return b.op("Add", y, b.op("Reshape", bias, b.ints([-1] + [1] * rank))) if bias else y


# --- lowerings -------------------------------------------------------------------------------------------------------


def _geometry(
    node: fx.Node,
    image: torch.Tensor,
    out: torch.Tensor,
    w: torch.Tensor,
    window: Sequence[Sequence[int]],
    groups: int,
) -> Geometry:
    """Shapes of the large and the small side and of the weight, which must be known but for the batch."""
    large, small, kernel = shape(image)[1:], shape(out)[1:], shape(w)
    if not all(is_static(d) for d in (*large, *small, *kernel)):
        raise unsupported(node, "A convolution needs static channels and image sizes; only the batch may be symbolic.")
    stride, padding, dilation = ([*p] * (len(large) - 1) if len(p) == 1 else [*p] for p in window)
    return Geometry(
        image=tuple(large[1:]),
        out=tuple(small[1:]),
        kernel=tuple(kernel[2:]),
        stride=tuple(stride),
        padding=tuple(padding),
        dilation=tuple(dilation),
        channels=large[0],
        filters=small[0],
        groups=groups,
    )


@lowering(aten.convolution.default)
def convolution(
    b: Builder,
    node: fx.Node,
    x: str,
    w: str,
    bias: str | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> str:
    """y = x * w + bias. The output padding of a transposed convolution is in the shape of y."""
    (x_val, w_val), y_val = arg_vals(node)[:2], val(node)
    window = (stride, padding, dilation)
    if not transposed:
        return correlate(b, x, w, x_val, _geometry(node, x_val, y_val, w_val, window, groups), bias or "")
    g = _geometry(node, y_val, x_val, w_val, window, groups)
    return _add_bias(b, data_gradient(b, x, w, x_val, g), bias or "", g.rank)


@lowering(aten.convolution_backward.default)
def convolution_backward(
    b: Builder,
    node: fx.Node,
    y_bar: str,
    x: str,
    w: str,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[str | None, str | None, str | None]:
    """x_bar, w_bar, bias_bar: those of them that the mask asks for and somebody reads."""
    y_val, x_val, w_val = arg_vals(node)[:3]
    wanted = [mask and _is_read(node, i) for i, mask in enumerate(output_mask)]
    large, small = (y_val, x_val) if transposed else (x_val, y_val)
    g = _geometry(node, large, small, w_val, (stride, padding, dilation), groups)
    x_bar = w_bar = bias_bar = None
    if wanted[0]:
        x_bar = (correlate if transposed else data_gradient)(b, y_bar, w, y_val, g)
    if wanted[1]:
        w_bar = weight_gradient(b, y_bar, x, y_val, g) if transposed else weight_gradient(b, x, y_bar, y_val, g)
    if wanted[2]:
        bias_bar = b.reduce("ReduceSum", y_bar, [0, *range(2, y_val.dim())], keepdims=False)
    return x_bar, w_bar, bias_bar


def _is_read(node: fx.Node, index: int) -> bool:
    """Whether output `index` of `node` is used at all."""
    users = list(node.users)
    return any(user.target is not operator.getitem or (user.args[1] == index and user.users) for user in users)
