"""Vector norms along axes, y = (sum |x|^p)^(1/p).

    p = 2        f_i = x_i / y                            f_ij x_dot_j = (x_dot_i - f_i y_dot) / y
    p = 1        f_i = sign(x_i)
    p = 0        0
    p = +-inf    f_i = sign(x_i) [|x_i| = y] / #[|x| = y]
    other p      f_i = x_i |x_i|^(p-2) / y^(p-1)
                 f_ij x_dot_j = (p-1) (|x_i|^(p-2) / y^(p-1) x_dot_i - f_i y_dot / y)

Where y = 0 derivatives are zero (PyTorch's choice).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Context, Needs, PerArgument, Rule, RuleTable
from .elementwise import drop
from .spread import axes_of, restore

aten = torch.ops.aten


class Norm(Rule):
    """`arrange(*args)` gives (p, dim, keepdim, dtype) whatever the order of the schema."""

    def __init__(self, arrange: Any) -> None:
        self.arrange = arrange

    def value(self, ctx: Context, x: Tensor, *args: Any) -> Tensor:
        p, ctx.dim, ctx.keepdim, dtype = self.arrange(*args)
        ctx.p = 2.0 if p is None else float(p)
        y = aten.linalg_vector_norm.default(x, ctx.p, ctx.dim, ctx.keepdim, dtype=dtype)
        ctx.axes = axes_of(x, ctx.dim)
        ctx.y_kept = restore(y, x, ctx.dim, ctx.keepdim)
        return y

    def _slope(self, ctx: Context) -> Tensor:
        x, y, p = ctx.args[0], ctx.y_kept, ctx.p
        if p == 1:
            return x.sign()
        if math.isinf(p):
            at_norm = x.abs() == y
            return x.sign() * at_norm / at_norm.sum(ctx.axes, keepdim=True)
        if p == 2:
            return drop(y == 0, x / y)
        return drop((y == 0) | (x == 0), x.sign() * x.abs() ** (p - 1) / y ** (p - 1))

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor | None:
        if ctx.p == 0:
            return None
        return (self._slope(ctx) * dots[0]).sum(ctx.axes, keepdim=ctx.keepdim).to(ctx.y.dtype)

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        rest = [None] * (len(ctx.args) - 1)
        if ctx.p == 0:
            return [None, *rest]
        x = ctx.args[0]
        return [(self._slope(ctx) * restore(y_bar, x, ctx.dim, ctx.keepdim)).to(x.dtype), *rest]

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Tensor, needs: Needs) -> PerArgument:
        rest = [None] * (len(ctx.args) - 1)
        if ctx.p in (0, 1) or math.isinf(ctx.p):
            return [None, *rest]
        x, y, p, x_dot = ctx.args[0], ctx.y_kept, ctx.p, dots[0]
        slope = self._slope(ctx)
        y_dot = (slope * x_dot).sum(ctx.axes, keepdim=True)
        if p == 2:
            second = drop(y == 0, (x_dot - slope * y_dot) / y)
        else:
            along = x.abs() ** (p - 2) / y ** (p - 1) * x_dot
            if p < 2:
                along = drop(x == 0, along)
            second = drop(y == 0, (p - 1) * (along - slope * y_dot / y))
        return [(second * restore(y_bar, x, ctx.dim, ctx.keepdim)).to(x.dtype), *rest]


RULES: RuleTable = {
    aten.linalg_vector_norm.default: Norm(lambda p, dim, keepdim, dtype: (p, dim, keepdim, dtype)),
    aten.norm.Scalar: Norm(lambda p: (p, None, False, None)),
    aten.norm.ScalarOpt_dim: Norm(lambda p, dim, keepdim: (p, dim, keepdim, None)),
}
