"""softmax, log-softmax and log-sum-exp along an axis; P = softmax(x), sums along that axis.

    softmax        y = P                 y_dot = P (x_dot - sum(P x_dot))        x_bar = P (y_bar - sum(P y_bar))
                   curvature             P_dot (y_bar - sum(P y_bar)) - P sum(P_dot y_bar)
    log_softmax    y = x - lse(x)        y_dot = x_dot - sum(P x_dot)            x_bar = y_bar - P sum(y_bar)
                   curvature             -P_dot sum(y_bar)
    logsumexp      y = log sum exp(x)    y_dot = sum(P x_dot)                    x_bar = P y_bar
                   curvature             P_dot y_bar

with P_dot = P (x_dot - sum(P x_dot)) throughout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Context, Needs, PerArgument, Rule, RuleTable
from .spread import axes_of, restore

aten = torch.ops.aten


def softmax_dot(P: Tensor, x_dot: Tensor, dim: Any) -> Tensor:
    return P * (x_dot - (P * x_dot).sum(dim, keepdim=True))


class Softmax(Rule):
    """aten._softmax(x, dim, half_to_float); P = y."""

    def __init__(self, op: Any) -> None:
        self.op = op

    def value(self, ctx: Context, x: Tensor, dim: int, *static: Any) -> Tensor:
        return self.op(x, dim, *static)

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        return softmax_dot(ctx.y, dots[0], ctx.args[1])

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        return [softmax_dot(ctx.y, y_bar, ctx.args[1]).to(ctx.args[0].dtype), None, None]

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Tensor, needs: Needs) -> PerArgument:
        P, dim = ctx.y, ctx.args[1]
        P_dot = softmax_dot(P, dots[0], dim)
        x_bar = P_dot * (y_bar - (P * y_bar).sum(dim, keepdim=True)) - P * (P_dot * y_bar).sum(
            dim, keepdim=True
        )
        return [x_bar.to(ctx.args[0].dtype), None, None]


class LogSoftmax(Rule):
    """aten._log_softmax(x, dim, half_to_float); P = exp(y)."""

    def __init__(self, op: Any) -> None:
        self.op = op

    def value(self, ctx: Context, x: Tensor, dim: int, *static: Any) -> Tensor:
        return self.op(x, dim, *static)

    def _softmax(self, ctx: Context) -> Tensor:
        if not hasattr(ctx, "P"):
            ctx.P = ctx.y.exp()
        return ctx.P

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        return dots[0] - (self._softmax(ctx) * dots[0]).sum(ctx.args[1], keepdim=True)

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        x_bar = y_bar - self._softmax(ctx) * y_bar.sum(ctx.args[1], keepdim=True)
        return [x_bar.to(ctx.args[0].dtype), None, None]

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Tensor, needs: Needs) -> PerArgument:
        dim = ctx.args[1]
        P_dot = softmax_dot(self._softmax(ctx), dots[0], dim)
        return [(-P_dot * y_bar.sum(dim, keepdim=True)).to(ctx.args[0].dtype), None, None]


class LogSumExp(Rule):
    """aten.logsumexp(x, dim, keepdim); P = exp(x - y)."""

    def value(self, ctx: Context, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
        return aten.logsumexp.default(x, dim, keepdim)

    def _softmax(self, ctx: Context) -> Tensor:
        if not hasattr(ctx, "P"):
            ctx.P = (ctx.args[0] - restore(ctx.y, *ctx.args)).exp()
        return ctx.P

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        x, dim, keepdim = ctx.args
        return (self._softmax(ctx) * dots[0]).sum(axes_of(x, dim), keepdim=keepdim)

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        return [self._softmax(ctx) * restore(y_bar, *ctx.args), None, None]

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Tensor, needs: Needs) -> PerArgument:
        P_dot = softmax_dot(self._softmax(ctx), dots[0], axes_of(*ctx.args[:2]))
        return [P_dot * restore(y_bar, *ctx.args), None, None]


RULES: RuleTable = {
    aten._softmax.default: Softmax(aten._softmax.default),
    aten._log_softmax.default: LogSoftmax(aten._log_softmax.default),
    aten.logsumexp.default: LogSumExp(),
}
