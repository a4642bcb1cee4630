"""BatchNorm as a rule: with batch statistics the closed form of `bnrewrite.formulas.phases`.

With running statistics mu and s are constants:

    y_dot = k x_dot + gamma_dot x_hat + beta_dot          x_bar = k y_bar          k_dot = gamma_dot s
    x_bar_dot = k y_bar_dot + k_dot y_bar                 q_dot = sum(x_hat y_bar_dot + s x_dot y_bar)
"""

from __future__ import annotations

import math
from typing import Any, overload

import torch
from torch import Tensor

from ..formulas.phases import Adjoint, Tangent, adjoint, adjoint_tangent, standardize, tangent, total
from ..passes.rule import Context, Needs, PerArgument, Rule, RuleTable, is_zero
from ..passes.zero import MaybeZero, add, mul


def working_type(x: Tensor) -> torch.dtype:
    """The type statistics are accumulated in: float32 for half precision, else that of `x`."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


@overload
def cast(x: Tensor, dtype: torch.dtype) -> Tensor: ...
@overload
def cast(x: None, dtype: torch.dtype) -> None: ...
def cast(x: MaybeZero, dtype: torch.dtype) -> MaybeZero:
    """`x` in `dtype`, untouched if it already is."""
    return x if x is None or x.dtype == dtype else x.to(dtype)


class BatchNorm(Rule):
    """`aten.batch_norm(x, gamma, beta, running_mean, running_var, training, momentum, eps, cudnn_enabled)`.

    x is (N, C, ...); gamma, beta and the running statistics are (C,) or absent.
    """

    names = ("x", "gamma", "beta")

    def value(self, ctx: Context, *args: Any) -> Tensor:
        x, gamma, beta, running_mean, running_var, training, _, eps, _ = args
        ctx.axes = [i for i in range(x.dim()) if i != 1]
        ctx.shape = [1, x.shape[1]] + [1] * (x.dim() - 2)
        ctx.count = math.prod(x.shape[i] for i in ctx.axes)
        ctx.dtype = working_type(x)
        ctx.batch_statistics = training
        x = cast(x, ctx.dtype)
        if training:
            ctx.x_hat, ctx.s = standardize(x, eps, ctx.axes)
        else:
            ctx.s = (self._channel(ctx, running_var) + eps).rsqrt()
            ctx.x_hat = (x - self._channel(ctx, running_mean)) * ctx.s
        gamma, beta = self._channel(ctx, gamma), self._channel(ctx, beta)
        ctx.k = ctx.s if gamma is None else gamma * ctx.s
        y = ctx.x_hat if gamma is None else gamma * ctx.x_hat
        return cast(y if beta is None else y + beta, args[0].dtype)

    @staticmethod
    def _channel(ctx: Context, v: MaybeZero) -> Any:
        """A per-channel vector (C,) in the working type, shaped to broadcast against x."""
        return None if v is None else cast(v, ctx.dtype).reshape(ctx.shape)

    @staticmethod
    def _vector(ctx: Context, letter: MaybeZero, like: Tensor | None) -> MaybeZero:
        """A per-channel letter as a vector (C,) in the type of the parameter it belongs to."""
        return None if letter is None or like is None else cast(letter.reshape([ctx.shape[1]]), like.dtype)

    def tangent(self, ctx: Context, dots: PerArgument) -> MaybeZero:
        dot = self._tangent(ctx, dots)
        y_dot = dot.y_dot
        if y_dot is not None and dots[0] is None and dots[1] is None:
            y_dot = y_dot.expand(ctx.args[0].shape)  # beta_dot alone
        return cast(y_dot, ctx.args[0].dtype)

    def _tangent(self, ctx: Context, dots: PerArgument) -> Tangent:
        """The tangent's letters; those of the same `dots` are computed once."""
        if _same(getattr(ctx, "dots", None), dots[:3]):
            return ctx.dot
        x_dot = cast(dots[0], ctx.dtype)
        gamma_dot, beta_dot = self._channel(ctx, dots[1]), self._channel(ctx, dots[2])
        if ctx.batch_statistics:
            dot = tangent(ctx.x_hat, ctx.s, ctx.k, x_dot, gamma_dot, beta_dot, ctx.axes, ctx.count)
        else:
            y_dot = add(mul(ctx.k, x_dot), mul(gamma_dot, ctx.x_hat), beta_dot)
            dot = Tangent(y_dot, None, None, mul(gamma_dot, ctx.s))
        ctx.dots, ctx.dot = list(dots[:3]), dot
        return dot

    def _adjoint(self, ctx: Context, y_bar: Tensor, need_x: bool) -> Adjoint:
        """The adjoint's letters; those of the same `y_bar` are computed once."""
        if getattr(ctx, "y_bar", None) is y_bar and (ctx.bar.x_bar is not None or not need_x):
            return ctx.bar
        ctx.y_bar = y_bar
        y_bar = cast(y_bar, ctx.dtype)
        if ctx.batch_statistics:
            ctx.bar = adjoint(ctx.x_hat, ctx.k, y_bar, ctx.axes, ctx.count, need_x)
        else:
            q, p = (ctx.x_hat * y_bar).sum(ctx.axes, keepdim=True), y_bar.sum(ctx.axes, keepdim=True)
            ctx.bar = Adjoint(ctx.k * y_bar if need_x else None, q, p)
        return ctx.bar

    def _bars(
        self, ctx: Context, x_bar: MaybeZero, q: MaybeZero, p: MaybeZero, needs: Needs
    ) -> list[MaybeZero]:
        x, gamma, beta = ctx.args[:3]
        bars = [cast(x_bar, x.dtype), self._vector(ctx, q, gamma), self._vector(ctx, p, beta)]
        return [bar if need else None for bar, need in zip(bars, needs[:3], strict=True)] + [None] * 6

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        bar = self._adjoint(ctx, y_bar, needs[0])
        return self._bars(ctx, bar.x_bar, bar.q, bar.p, needs)

    def adjoint_tangent(
        self, ctx: Context, dots: PerArgument, y_bar: Any, y_bar_dot: Any, needs: Needs
    ) -> PerArgument:
        q = p = None
        if y_bar is not None:
            _, q, p = self._adjoint(ctx, y_bar, need_x=False)
        dot = Tangent(None, None, None, None) if is_zero(dots[:3]) else self._tangent(ctx, dots)
        x_dot, y_bar, y_bar_dot = (cast(t, ctx.dtype) for t in (dots[0], y_bar, y_bar_dot))
        if ctx.batch_statistics:
            x_bar_dot, q_dot, p_dot = adjoint_tangent(
                ctx.x_hat, ctx.s, ctx.k, x_dot, dot.m, dot.a, dot.k_dot, y_bar, q, p, y_bar_dot,
                ctx.axes, ctx.count, needs[0],
            )  # fmt: skip
        else:
            x_bar_dot = add(mul(ctx.k, y_bar_dot), mul(dot.k_dot, y_bar)) if needs[0] else None
            q_dot = total(add(mul(ctx.x_hat, y_bar_dot), mul(ctx.s, x_dot, y_bar)), ctx.axes)
            p_dot = total(y_bar_dot, ctx.axes)
        return self._bars(ctx, x_bar_dot, q_dot, p_dot, needs)


def _same(before: Any, now: PerArgument) -> bool:
    return before is not None and all(a is b for a, b in zip(before, now, strict=True))


OVERLOAD = torch.ops.aten.batch_norm.default
"""The one form in which a captured graph holds a BatchNorm."""

RULES: RuleTable = {OVERLOAD: BatchNorm()}
