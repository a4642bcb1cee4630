"""Results that are chosen among the elements: extrema, order statistics.

By value (amax, amin, max, min of all): equal extrema share evenly, f_i = [x_i = y] / #[x = y].
By index (max.dim, min.dim, topk, sort, ...): y_dot = x_dot gathered at the indices, x_bar = y_bar scattered to them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Context, Needs, PerArgument, Rule, RuleTable
from .elementwise import indicator
from .spread import axes_of, restore

aten = torch.ops.aten


class Extremum(Rule):
    """amax, amin along axes, (x, dim, keepdim); max, min of all elements, (x)."""

    def __init__(self, op: Any) -> None:
        self.op = op

    def _static(self, ctx: Context) -> tuple[Any, bool]:
        return (ctx.args[1], ctx.args[2]) if len(ctx.args) == 3 else (None, False)

    def _share(self, ctx: Context) -> Tensor:
        if not hasattr(ctx, "share"):
            x, (dim, keepdim) = ctx.args[0], self._static(ctx)
            equal = indicator(x == restore(ctx.y, x, dim, keepdim), x)
            ctx.share = equal / equal.sum(axes_of(x, dim), keepdim=True)
        return ctx.share

    def value(self, ctx: Context, *args: Any) -> Tensor:
        return self.op(*args)

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        dim, keepdim = self._static(ctx)
        return (self._share(ctx) * dots[0]).sum(axes_of(ctx.args[0], dim), keepdim=keepdim)

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        x_bar = self._share(ctx) * restore(y_bar, ctx.args[0], *self._static(ctx))
        return [x_bar] + [None] * (len(ctx.args) - 1)


class Chosen(Rule):
    """(values, indices) along one axis. `axis(*args)` finds it; `reduces(*args)`: whether it is taken away."""

    def __init__(self, op: Any, axis: Any, reduces: Any = lambda *args: False) -> None:
        self.op, self.axis, self.reduces = op, axis, reduces

    def value(self, ctx: Context, *args: Any) -> tuple[Tensor, Tensor]:
        y, indices = self.op(*args)
        return y, indices

    def _indices(self, ctx: Context) -> Tensor:
        return self._kept(ctx, ctx.y[1])

    def _kept(self, ctx: Context, t: Tensor) -> Tensor:
        return t.unsqueeze(self.axis(*ctx.args)) if self.reduces(*ctx.args) else t

    def tangent(self, ctx: Context, dots: PerArgument) -> list[Any]:
        axis = self.axis(*ctx.args)
        y_dot = dots[0].gather(axis, self._indices(ctx))
        return [y_dot.squeeze(axis) if self.reduces(*ctx.args) else y_dot, None]

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        x, axis = ctx.args[0], self.axis(*ctx.args)
        x_bar = y_bar[0].new_zeros(x.shape).scatter_add(axis, self._indices(ctx), self._kept(ctx, y_bar[0]))
        return [x_bar] + [None] * (len(ctx.args) - 1)


def without_keepdim(x: Tensor, dim: int, keepdim: bool) -> bool:
    return not keepdim and x.dim() > 0


RULES: RuleTable = {
    aten.amax.default: Extremum(aten.amax.default),
    aten.amin.default: Extremum(aten.amin.default),
    aten.max.default: Extremum(aten.max.default),
    aten.min.default: Extremum(aten.min.default),
    aten.max.dim: Chosen(aten.max.dim, lambda x, dim, keepdim: dim, without_keepdim),
    aten.min.dim: Chosen(aten.min.dim, lambda x, dim, keepdim: dim, without_keepdim),
    aten.topk.default: Chosen(aten.topk.default, lambda x, k, dim, *_: dim),
    aten.sort.default: Chosen(aten.sort.default, lambda x, dim, *_: dim),
}
