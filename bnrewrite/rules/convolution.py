"""Convolution, transposed or not, any stride, padding, dilation and groups: bilinear in (x, w), affine in b.

    y     = x * w + b
    y_dot = x_dot * w + x * w_dot + b_dot
    x_bar = data(y_bar, w)            x_bar_dot = data(y_bar_dot, w) + data(y_bar, w_dot)
    w_bar = weight(y_bar, x)          w_bar_dot = weight(y_bar_dot, x) + weight(y_bar, x_dot)
    b_bar = sum(y_bar)                b_bar_dot = sum(y_bar_dot)

`data` and `weight` are the two bilinear adjoints of the product, each one kernel in PyTorch. Reverse over reverse
reaches the same sums through convolutions with swapped axes, which for grouped convolutions loop over the groups.

Shapes: x (N, C, *S), w (Co, C / groups, *K) or, transposed, (C, Co / groups, *K), b (Co,).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Context, Needs, PerArgument, Rule, RuleTable
from ..passes.zero import MaybeZero, add

aten = torch.ops.aten


def data(y_bar: Tensor, x: Tensor, w: Tensor, *geometry: Any) -> Tensor:
    """Adjoint of the product with respect to x; uses only the shape of `x`."""
    return aten.convolution_backward(y_bar, x, w, None, *geometry, [True, False, False])[0]


def weight(y_bar: Tensor, x: Tensor, w: Tensor, *geometry: Any) -> Tensor:
    """Adjoint of the product with respect to w; uses only the shape of `w`."""
    return aten.convolution_backward(y_bar, x, w, None, *geometry, [False, True, False])[1]


class Convolution(Rule):
    """`aten.convolution(x, w, b, stride, padding, dilation, transposed, output_padding, groups)`."""

    names = ("x", "w", "b")

    def value(self, ctx: Context, *args: Any) -> Tensor:
        return aten.convolution(*args)

    def tangent(self, ctx: Context, dots: PerArgument) -> MaybeZero:
        x, w, _, *geometry = ctx.args
        x_dot, w_dot, b_dot = dots[:3]
        y_dot = None
        if x_dot is not None:
            y_dot, b_dot = aten.convolution(x_dot, w, b_dot, *geometry), None
        if w_dot is not None:
            y_dot, b_dot = add(y_dot, aten.convolution(x, w_dot, b_dot, *geometry)), None
        if b_dot is not None:
            y_dot = b_dot.reshape([1, -1] + [1] * (x.dim() - 2)).expand(ctx.y.shape)
        return y_dot

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        x, w, _, *geometry = ctx.args
        return [
            data(y_bar, x, w, *geometry) if needs[0] else None,
            weight(y_bar, x, w, *geometry) if needs[1] else None,
            y_bar.sum([i for i in range(y_bar.dim()) if i != 1]) if needs[2] else None,
        ] + [None] * len(geometry)

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        x, w, _, *geometry = ctx.args
        x_dot, w_dot = dots[:2]
        return [
            data(y_bar, x, w_dot, *geometry) if needs[0] and w_dot is not None else None,
            weight(y_bar, x_dot, w, *geometry) if needs[1] and x_dot is not None else None,
            None,
        ] + [None] * len(geometry)


RULES: RuleTable = {aten.convolution.default: Convolution()}
