"""Padding: with a constant, by reflection, by replication, circularly.

Along one axis of n elements, with l elements before and r after (g = y_bar, in three parts: before, middle, after):

    constant      x_bar = middle
    reflection    x_bar = middle + flip(before) at 1..l + flip(after) at n-1-r..n-2
    replication   x_bar = middle + sum(before) at 0     + sum(after) at n-1
    circular      x_bar = middle + before at n-l..n-1   + after at 0..r-1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Context, Linear, Needs, PerArgument, Rule, RuleTable

aten = torch.ops.aten


def pad_axis(x: Tensor, dim: int, left: Any, right: Any) -> Tensor:
    """x with `left` zeros before and `right` after it along one axis (negative: cut off)."""
    if isinstance(left, int) and isinstance(right, int) and left == 0 and right == 0:
        return x
    behind = x.dim() - 1 - dim % x.dim()
    return aten.constant_pad_nd.default(x, [0, 0] * behind + [left, right])


class ConstantPad(Rule):
    """The tangent is padded with zeros, whatever the constant."""

    def value(self, ctx: Context, x: Tensor, pad: Sequence[Any], value: Any) -> Tensor:
        return aten.constant_pad_nd.default(x, pad, value)

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        return aten.constant_pad_nd.default(dots[0], ctx.args[1])

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        return [aten.constant_pad_nd.default(y_bar, [-p for p in ctx.args[1]]), None, None]


Fold = Callable[[Tensor, Tensor, int, Any], Tensor]


def fold_reflected_before(g: Tensor, dim: int, n: Any) -> Tensor:
    return pad_axis(g.flip(dim), dim, 1, n - 1 - g.shape[dim])


def fold_reflected_after(g: Tensor, dim: int, n: Any) -> Tensor:
    return pad_axis(g.flip(dim), dim, n - 1 - g.shape[dim], 1)


def fold_replicated_before(g: Tensor, dim: int, n: Any) -> Tensor:
    return pad_axis(g.sum(dim, keepdim=True), dim, 0, n - 1)


def fold_replicated_after(g: Tensor, dim: int, n: Any) -> Tensor:
    return pad_axis(g.sum(dim, keepdim=True), dim, n - 1, 0)


def fold_circular_before(g: Tensor, dim: int, n: Any) -> Tensor:
    return pad_axis(g, dim, n - g.shape[dim], 0)


def fold_circular_after(g: Tensor, dim: int, n: Any) -> Tensor:
    return pad_axis(g, dim, 0, n - g.shape[dim])


def folding(before: Callable[..., Tensor], after: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The adjoint of a padding, axis by axis from the last one."""

    def transpose(y_bar: Tensor, x: Tensor, pad: Sequence[int]) -> Tensor:
        for k in range(len(pad) // 2):
            dim, left, right = x.dim() - 1 - k, pad[2 * k], pad[2 * k + 1]
            # A negative padding cuts elements off: their adjoint is zero.
            n = x.shape[dim] + min(left, 0) + min(right, 0)
            total = y_bar.narrow(dim, max(left, 0), n)
            if left > 0:
                total = total + before(y_bar.narrow(dim, 0, left), dim, n)
            if right > 0:
                total = total + after(y_bar.narrow(dim, y_bar.shape[dim] - right, right), dim, n)
            y_bar = pad_axis(total, dim, max(-left, 0), max(-right, 0))
        return y_bar

    return transpose


REFLECT = folding(fold_reflected_before, fold_reflected_after)
REPLICATE = folding(fold_replicated_before, fold_replicated_after)
CIRCULAR = folding(fold_circular_before, fold_circular_after)


def circular_pad(x: Tensor, pad: Sequence[int]) -> Tensor:
    for k in range(len(pad) // 2):
        dim, left, right = x.dim() - 1 - k, pad[2 * k], pad[2 * k + 1]
        n = x.shape[dim] + min(left, 0) + min(right, 0)
        x = x.narrow(dim, max(-left, 0), n)
        x = torch.cat(
            [x.narrow(dim, n - max(left, 0), max(left, 0)), x, x.narrow(dim, 0, max(right, 0))], dim
        )
    return x


RULES: RuleTable = {
    aten.constant_pad_nd.default: ConstantPad(),
    **{
        op.default: Linear(op.default, REFLECT)
        for op in (aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad3d)
    },
    **{
        op.default: Linear(op.default, REPLICATE)
        for op in (aten.replication_pad1d, aten.replication_pad2d, aten.replication_pad3d)
    },
    aten._pad_circular.default: Linear(circular_pad, CIRCULAR),
}
