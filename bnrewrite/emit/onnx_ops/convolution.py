"""Convolution, transposed or not, and its adjoints, as operations of a model.

    convolution             y = correlate(x, w)              transposed   y = data_gradient(x, w)
    x_bar                   data_gradient(y_bar, w)                       correlate(y_bar, w)
    w_bar                   weight_gradient(x, y_bar)                     weight_gradient(y_bar, x)

with the products of `correlation`: a transposed convolution is the adjoint of a convolution, from its small side to its
large one, and the geometry is that of the latter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from ..builder import Builder
from .correlation import add_bias, correlate, data_gradient, weight_gradient
from .geometry import Geometry, each_axis
from .queries import is_read
from .table import arg_vals, is_static, lowering, shape, unsupported, val

aten = torch.ops.aten


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
        raise unsupported(
            node, "A convolution needs static channels and image sizes; only the batch may be symbolic."
        )
    stride, padding, dilation = (each_axis(setting, len(large) - 1) for setting in window)
    return Geometry(
        image=tuple(large[1:]),
        out=tuple(small[1:]),
        kernel=tuple(kernel[2:]),
        stride=stride,
        padding=padding,
        dilation=dilation,
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
    return add_bias(b, data_gradient(b, x, w, x_val, g), bias or "", g.rank)


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
    wanted = [mask and is_read(node, i) for i, mask in enumerate(output_mask)]
    large, small = (y_val, x_val) if transposed else (x_val, y_val)
    g = _geometry(node, large, small, w_val, (stride, padding, dilation), groups)
    x_bar = w_bar = bias_bar = None
    if wanted[0]:
        x_bar = (correlate if transposed else data_gradient)(b, y_bar, w, y_val, g)
    if wanted[1]:
        w_bar = (
            weight_gradient(b, y_bar, x, y_val, g) if transposed else weight_gradient(b, x, y_bar, y_val, g)
        )
    if wanted[2]:
        bias_bar = b.reduce("ReduceSum", y_bar, [0, *range(2, y_val.dim())], keepdims=False)
    return x_bar, w_bar, bias_bar
