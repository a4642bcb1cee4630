"""Pooling.

Max pooling is linear once the indices of the maxima are known (planes flattened):

    y = x gathered at the indices      y_dot = x_dot gathered      x_bar = y_bar scattered and added

Average pooling is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Context, Linear, Needs, PerArgument, Rule, RuleTable
from .resize import RULES as RESIZE

aten = torch.ops.aten


def gather_planes(x: Tensor, indices: Tensor, axes: int) -> Tensor:
    """x at `indices`, which count within the last `axes` axes of x taken as one."""
    return x.flatten(-axes).gather(-1, indices.flatten(-axes)).reshape(indices.shape)


def scatter_planes(y_bar: Tensor, indices: Tensor, x: Tensor, axes: int) -> Tensor:
    """Adjoint of `gather_planes`."""
    zeros = y_bar.new_zeros(x.shape).flatten(-axes)
    return zeros.scatter_add(-1, indices.flatten(-axes), y_bar.flatten(-axes)).reshape(x.shape)


class MaxPool(Rule):
    """y, or (y, indices), of a maximum over windows. `pool(x, *static)` returns both."""

    def __init__(
        self,
        pool: Callable[..., tuple[Tensor, Tensor]],
        axes: int,
        with_indices: bool,
        scatter: Callable[..., Tensor] | None = None,
    ) -> None:
        self.pool, self.axes, self.with_indices, self.scatter = pool, axes, with_indices, scatter

    def value(self, ctx: Context, x: Tensor, *static: Any) -> Any:
        y, ctx.indices = self.pool(x, *static)
        return (y, ctx.indices) if self.with_indices else y

    def tangent(self, ctx: Context, dots: PerArgument) -> Any:
        y_dot = gather_planes(dots[0], ctx.indices, self.axes)
        return [y_dot, None] if self.with_indices else y_dot

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        g = y_bar[0] if self.with_indices else y_bar
        if self.scatter is not None:
            x_bar = self.scatter(g, ctx.indices, *ctx.args)
        else:
            x_bar = scatter_planes(g, ctx.indices, ctx.args[0], self.axes)
        return [x_bar] + [None] * (len(ctx.args) - 1)


def scatter_2d(
    g: Tensor,
    indices: Tensor,
    x: Tensor,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
) -> Tensor:
    """`scatter_planes` by PyTorch's own kernel, which is faster."""
    return aten.max_pool2d_with_indices_backward.default(
        g, x, kernel, stride, padding, dilation, ceil_mode, indices
    )


# One axis is two, of which the first has one element.


def wide(sizes: Sequence[Any], one: int) -> list[Any]:
    return [one, *sizes] if len(sizes) else []


def max_pool_1d(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    y, indices = aten.max_pool2d_with_indices.default(
        x.unsqueeze(-2), wide(kernel, 1), wide(stride, 1), wide(padding, 0), wide(dilation, 1), ceil_mode
    )
    return y.squeeze(-2), indices.squeeze(-2)


def avg_pool_1d(
    x: Tensor, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_pad: bool
) -> Tensor:
    return aten.avg_pool2d.default(
        x.unsqueeze(-2), wide(kernel, 1), wide(stride, 1), wide(padding, 0), ceil_mode, count_pad
    ).squeeze(-2)


def avg_pool_1d_transpose(
    y_bar: Tensor, x: Tensor, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_pad: bool
) -> Tensor:
    sizes = (wide(kernel, 1), wide(stride, 1), wide(padding, 0))
    return aten.avg_pool2d_backward.default(
        y_bar.unsqueeze(-2), x.unsqueeze(-2), *sizes, ceil_mode, count_pad, None
    ).squeeze(-2)


def adaptive_max_pool_1d(x: Tensor, size: Sequence[Any]) -> tuple[Tensor, Tensor]:
    y, indices = aten.adaptive_max_pool2d.default(x.unsqueeze(-2), [1, *size])
    return y.squeeze(-2), indices.squeeze(-2)


# Adaptive averages: the global one is a mean, which every runtime knows.


def is_global(size: Sequence[Any]) -> bool:
    return all(isinstance(s, int) and s == 1 for s in size)


def mean_of_plane(x: Tensor, axes: int) -> Tensor:
    return x.mean(list(range(-axes, 0)), keepdim=True)


def mean_of_plane_transpose(y_bar: Tensor, x: Tensor, axes: int) -> Tensor:
    n: Any = 1
    for axis in range(-axes, 0):
        n = n * x.shape[axis]
    return (y_bar / n).expand(x.shape)


def adaptive_average(op: Any, op_backward: Any, axes: int) -> Linear:
    def f(x: Tensor, size: Sequence[Any]) -> Tensor:
        return mean_of_plane(x, axes) if is_global(size) else op(x, size)

    def transpose(y_bar: Tensor, x: Tensor, size: Sequence[Any]) -> Tensor:
        return mean_of_plane_transpose(y_bar, x, axes) if is_global(size) else op_backward(y_bar, x)

    return Linear(f, transpose)


def adaptive_average_1d(x: Tensor, size: Sequence[Any]) -> Tensor:
    if is_global(size):
        return mean_of_plane(x, 1)
    return aten._adaptive_avg_pool2d.default(x.unsqueeze(-2), [1, *size]).squeeze(-2)


def adaptive_average_1d_transpose(y_bar: Tensor, x: Tensor, size: Sequence[Any]) -> Tensor:
    if is_global(size):
        return mean_of_plane_transpose(y_bar, x, 1)
    return aten._adaptive_avg_pool2d_backward.default(y_bar.unsqueeze(-2), x.unsqueeze(-2)).squeeze(-2)


def plain(op: Any) -> Any:
    """An average pooling as (x, *static), and its adjoint from the kernel of the same name."""
    backward = getattr(aten, op.__name__.split(".")[0] + "_backward").default
    return Linear(op, lambda y_bar, x, *static: backward(y_bar, x, *static))


AVERAGE_2D = adaptive_average(
    aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d_backward.default, 2
)
AVERAGE_3D = adaptive_average(
    aten._adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d_backward.default, 3
)

RULES: RuleTable = {
    aten.max_pool1d.default: MaxPool(max_pool_1d, 1, False),
    aten.max_pool1d_with_indices.default: MaxPool(max_pool_1d, 1, True),
    aten.max_pool2d.default: MaxPool(aten.max_pool2d_with_indices.default, 2, False, scatter_2d),
    aten.max_pool2d_with_indices.default: MaxPool(aten.max_pool2d_with_indices.default, 2, True, scatter_2d),
    aten.max_pool3d.default: MaxPool(aten.max_pool3d_with_indices.default, 3, False),
    aten.max_pool3d_with_indices.default: MaxPool(aten.max_pool3d_with_indices.default, 3, True),
    aten.adaptive_max_pool1d.default: MaxPool(adaptive_max_pool_1d, 1, True),
    aten.adaptive_max_pool2d.default: MaxPool(aten.adaptive_max_pool2d.default, 2, True),
    aten.adaptive_max_pool3d.default: MaxPool(aten.adaptive_max_pool3d.default, 3, True),
    aten.avg_pool1d.default: Linear(avg_pool_1d, avg_pool_1d_transpose),
    aten.avg_pool2d.default: plain(aten.avg_pool2d.default),
    aten.avg_pool3d.default: plain(aten.avg_pool3d.default),
    aten.adaptive_avg_pool1d.default: Linear(adaptive_average_1d, adaptive_average_1d_transpose),
    aten.adaptive_avg_pool2d.default: AVERAGE_2D,
    aten._adaptive_avg_pool2d.default: AVERAGE_2D,
    aten.adaptive_avg_pool3d.default: AVERAGE_3D,
    aten._adaptive_avg_pool3d.default: AVERAGE_3D,
    **RESIZE,
}
