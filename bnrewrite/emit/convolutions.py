"""Convolutions as PyTorch computes them fastest (docs/performance.md has figures): as matrix products where its kernels
are slower, and without the taps of a filter that see nothing but padding.

    rows(x)       (N, C, H, W) -> (N H W, C): with the channels last in memory a view
    windows(x)    (N, C, H, W) -> (N H' W', C K L): what the filter sees at each of the H' W' places

    1 x 1         y = rows(x) w^T       x_bar = rows(y_bar) w       w_bar = rows(y_bar)^T rows(x)
    K x L         y = windows(x) w^T    x_bar = overlaid(rows(y_bar) w) w_bar = rows(y_bar)^T windows(x)

On images smaller than half a filter the outer taps always fall beside the image: a filter of 5 x 5 on 2 x 2 pixels is
one of 3 x 3, and the outer rows of its gradient are zero.

A filter of 1 x 1 with a stride reads the pixels that it sees, and its adjoint writes them apart, for which PyTorch's
kernels take 1.2 to 4 times as long.

Several products of one convolution read the same rows and windows, which are made once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import pad

from ..passes.graph import JointGraph
from ..passes.simplify import SIMPLIFY
from ..passes.splice import Splicer

aten = torch.ops.aten

FEW_ROWS = 64
"""Convolutions with at most so many pixels in the example's batch are matrix products: there the kernels spend their
time on reordering weights."""

SOME_ROWS = 512
"""Pixels up to which the gradient of a filter of 1 x 1 with a stride is a matrix product, channels last."""

FILTERS_A_ROW = 4
"""So are gradients of weights with at least so many filters for each of these pixels: the kernels reorder a result that
is larger than the factors (512 filters of 512 x 3 x 3 and 32 images of 2 x 2 pixels: 0.3 to 0.9 of their time)."""


def rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N H W, C)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0] * x.shape[2] * x.shape[3], x.shape[1])


def windows(x: Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """(N, C, H, W) -> (N H' W', C K L) for filters of `size` (K, L)."""
    if any(padding):
        x = pad(x, (padding[1], padding[1], padding[0], padding[0]))
    seen = x.unfold(2, size[0], stride[0]).unfold(3, size[1], stride[1])
    places = seen.shape[0] * seen.shape[2] * seen.shape[3]
    return seen.permute(0, 2, 3, 1, 4, 5).reshape(places, x.shape[1] * size[0] * size[1])


def image(r: Tensor, size: Sequence[Any]) -> Tensor:
    """(N H W, C) -> (N, C, H, W), channels last in memory, for `size` (N, H, W)."""
    return r.reshape(*size, r.shape[1]).permute(0, 3, 1, 2)


def apart(x: Tensor, size: Sequence[Any], stride: Sequence[int]) -> Tensor:
    """(N, C, H', W') -> (N, C, H, W) for `size` (H, W): the pixels `stride` apart, zeros between them."""
    if list(stride) == [1, 1]:
        return x
    n, c, h, w = x.shape
    cells = x.permute(0, 2, 3, 1).reshape(n, h, 1, w, 1, c)
    wide = pad(cells, (0, 0, 0, stride[1] - 1, 0, 0, 0, stride[0] - 1))
    wide = wide.reshape(n, h * stride[0], w * stride[1], c)[:, : size[0], : size[1]]
    return wide.permute(0, 3, 1, 2)


def seen_by(w: Tensor, x: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """What each place of the filter `w` sees of `x`, as rows."""
    if list(w.shape[2:]) != [1, 1] or any(padding):
        return windows(x, w.shape[2:], stride, padding)
    return rows(x if list(stride) == [1, 1] else x[:, :, :: stride[0], :: stride[1]])


def matrix(w: Tensor) -> Tensor:
    """(Co, C, K, L) -> (Co, C K L)."""
    return w.reshape(w.shape[0], -1)


def value(
    x: Tensor, w: Tensor, b: Tensor | None, stride: Sequence[int], padding: Sequence[int], size: Sequence[int]
) -> Tensor:
    """The convolution; its images have `size`."""
    seen = seen_by(w, x, stride, padding)
    r = seen.mm(matrix(w).t()) if b is None else torch.addmm(b, seen, matrix(w).t())
    return image(r, [x.shape[0], *size])


def data(y_bar: Tensor, x: Tensor, w: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The adjoint with respect to x, of which only the shape is used."""
    seen_bar = rows(y_bar).mm(matrix(w))
    if list(w.shape[2:]) == [1, 1] and not any(padding):
        return apart(image(seen_bar, [x.shape[0], *y_bar.shape[2:]]), x.shape[2:], stride)
    places = y_bar.shape[2] * y_bar.shape[3]
    columns = seen_bar.reshape(x.shape[0], places, seen_bar.shape[1]).transpose(1, 2)
    return aten.col2im(columns, x.shape[2:], w.shape[2:], [1, 1], padding, stride)


def data_in_order(
    y_bar: Tensor, x: Tensor, w: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """The same with the channels first in memory."""
    return data(y_bar, x, w, stride, padding).contiguous()


def weight(y_bar: Tensor, x: Tensor, w: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The adjoint with respect to w, of which only the shape is used."""
    return rows(y_bar).t().mm(seen_by(w, x, stride, padding)).reshape(w.shape)


Taps = tuple[tuple[int, int], tuple[int, int]]
"""The part of a filter that ever sees the image: first tap and the one after the last, in both axes."""


def taps_used(
    image: Sequence[int], size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Taps | None:
    """None where all are used, or where the rest would need more padding on one side than on the other."""
    taps = []
    for n, k, s, p in zip(image, size, stride, padding, strict=True):
        places = (n + 2 * p - k) // s + 1
        low, high = max(0, p - (places - 1) * s), min(k, n + p)
        if (n + 2 * (p - low) - (high - low)) // s + 1 != places:
            return None
        taps.append((low, high))
    return None if taps == [(0, k) for k in size] else (taps[0], taps[1])


def used(w: Tensor, taps: Taps) -> Tensor:
    (top, bottom), (left, right) = taps
    return w[:, :, top:bottom, left:right]


def cropped(stride: Any, padding: Any, groups: int, taps: Taps) -> tuple[Any, ...]:
    """The geometry that goes with the filter's `taps`."""
    inner = [p - low for p, (low, _) in zip(padding, taps, strict=True)]
    return stride, inner, [1, 1], False, [0, 0], groups


def cropped_value(
    x: Tensor, w: Tensor, b: Tensor | None, stride: Any, padding: Any, groups: int, taps: Taps
) -> Tensor:
    return aten.convolution(x, used(w, taps), b, *cropped(stride, padding, groups, taps))


def cropped_data(
    y_bar: Tensor, x: Tensor, w: Tensor, stride: Any, padding: Any, groups: int, taps: Taps
) -> Tensor:
    geometry = cropped(stride, padding, groups, taps)
    return aten.convolution_backward(y_bar, x, used(w, taps), None, *geometry, [True, False, False])[0]


def cropped_weight(
    y_bar: Tensor, x: Tensor, w: Tensor, stride: Any, padding: Any, groups: int, taps: Taps
) -> Tensor:
    geometry = cropped(stride, padding, groups, taps)
    inner = aten.convolution_backward(y_bar, x, used(w, taps), None, *geometry, [False, True, False])[1]
    (top, bottom), (left, right) = taps
    return pad(inner, (left, w.shape[3] - right, top, w.shape[2] - bottom))


def lower_convolutions(
    joint: JointGraph, reordered: bool, other: Callable[[fx.Node], bool] = lambda node: False
) -> JointGraph:
    """Before: a joint graph; it is left as it is. After: one without convolutions that are faster in another form.

    `reordered`: whether images have their channels last in memory; `other`: which to leave for another pass.
    """
    batch: int = joint.meta["batch"]  # type: ignore[assignment]
    splicer = Splicer()
    values: dict[fx.Node, Any] = {}
    changed = False
    for node in joint.graph.nodes:
        if node.op == "placeholder":
            values[node] = splicer.placeholder(node.name, node.meta["val"])
        elif node.op == "output":
            splicer.graph.output(fx.map_arg(node.args[0], values.__getitem__))
            continue
        elif node.target is operator.getitem and isinstance(values[node.args[0]], list):
            values[node] = values[node.args[0]][node.args[1]]
        else:
            lowered = None if other(node) else _lowered(splicer, node, values, reordered, batch)
            changed = changed or lowered is not None
            values[node] = splicer.copy(node, values.__getitem__) if lowered is None else lowered
        if isinstance(values[node], fx.Node):
            values[node].meta |= {key: value for key, value in node.meta.items() if key != "val"}
    if changed:  # rows and windows that several products read are one
        SIMPLIFY.run(splicer.graph, "eager-products-")
    return JointGraph(splicer.graph, joint.inputs, joint.outputs, joint.meta)


def _lowered(splicer: Splicer, node: fx.Node, values: dict[fx.Node, Any], reordered: bool, batch: int) -> Any:
    """What stands for a convolution, or (list) for one of its adjoints; None where the kernel is as good."""
    if node.target not in (aten.convolution.default, aten.convolution_backward.default):
        return None
    forward = node.target is aten.convolution.default
    args: Any = node.args
    x, w = args[:2] if forward else args[1:3]
    stride, padding, dilation, transposed, _, groups = args[3:9] if forward else args[4:10]
    shape = w.meta["val"].shape
    if len(shape) != 4 or transposed or list(dilation) != [1, 1]:
        return None
    y = node if forward else args[0]
    size = y.meta["val"].shape[2:]
    role = "value" if forward else _ROLES.get(tuple(args[10]))
    functions: tuple[Any, Any, Any]
    last: tuple[Any, ...] = ()
    geometry: tuple[Any, ...] = (list(stride), list(padding))
    if groups == 1 and _is_product(role, shape, stride, padding, size.numel(), batch, reordered):
        functions, last = (value, data if reordered else data_in_order, weight), (list(size),)
    else:
        taps = taps_used(x.meta["val"].shape[2:], shape[2:], stride, padding)
        if taps is None:
            return None
        functions = (cropped_value, cropped_data, cropped_weight)
        geometry = (*geometry, groups, taps)
    if role == "value":
        return _call(splicer, node, values, functions[0], x, w, args[2], *geometry, *last)
    if role == "data":
        return [_call(splicer, node, values, functions[1], y, x, w, *geometry), None, None]
    if role == "weight":
        return [None, _call(splicer, node, values, functions[2], y, x, w, *geometry), None]
    return None


_ROLES = {(True, False, False): "data", (False, True, False): "weight"}


def _is_product(
    role: str | None, shape: Any, stride: Any, padding: Any, places: int, batch: int, reordered: bool
) -> bool:
    """Whether the convolution with weights of `shape`, or its adjoint, is faster as a matrix product; `places`: pixels
    of one image of its result."""
    count = places * batch
    if count <= FEW_ROWS or (role == "weight" and count * FILTERS_A_ROW <= shape[0]):
        return True
    if list(shape[2:]) != [1, 1] or any(padding):
        return False
    if list(stride) == [1, 1]:
        return reordered or places == 1  # rows without a copy
    return role == "data" or (reordered and (role == "value" or count <= SOME_ROWS))


def _call(splicer: Splicer, node: fx.Node, values: dict[fx.Node, Any], function: Any, *args: Any) -> Any:
    """`function` in place of `node`."""
    origin: dict[str, str] = {
        key: node.meta[key] for key in ("module", "where", "site", "role") if key in node.meta
    }
    arguments = [values[arg] if isinstance(arg, fx.Node) else arg for arg in args]
    return splicer.call(function, *arguments, key=function, origin=origin)
