"""Losses: element by element, then reduced (none, mean, sum). Cross entropy has a file of its own.

    y = R f(x, t)      x_bar = f_x R^T y_bar      and so on, with f's partial derivatives from the table of each loss

A loss of the difference d = x - t alone has f_x = f' = -f_t and f_xx = f_tt = -f_xt = f''. At kinks f' is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Context, Needs, PerArgument, Rule, RuleTable
from ..passes.zero import MaybeZero
from .activation import log_sigmoid
from .cross_entropy import MEAN, NONE
from .cross_entropy import RULES as CROSS_ENTROPY
from .elementwise import Elementwise, drop, keep

aten = torch.ops.aten


class Reduced(Rule):
    """`losses` (element by element), reduced as argument number `position` says; `f` is the whole operation."""

    def __init__(self, f: Callable[..., Tensor], losses: Elementwise, position: int) -> None:
        self.f, self.losses, self.position, self.names = f, losses, position, ("x", "t", "w")

    def value(self, ctx: Context, *args: Any) -> Tensor:
        shape = torch.broadcast_shapes(*(a.shape for a in args[:2]))
        # Only the shape and the type of the unreduced losses are ever asked for.
        ctx.inner = Context(args=args, y=args[0].new_zeros(()).expand(shape))
        ctx.kind = args[self.position]
        return self.f(*args)

    def _count(self, ctx: Context) -> Any:
        n: Any = 1
        for size in ctx.inner.y.shape:
            n = n * size
        return n

    def _rows(self, ctx: Context, y_bar: MaybeZero) -> MaybeZero:
        if y_bar is None or ctx.kind == NONE:
            return y_bar
        return (y_bar / self._count(ctx) if ctx.kind == MEAN else y_bar).expand(ctx.inner.y.shape)

    def tangent(self, ctx: Context, dots: PerArgument) -> MaybeZero:
        rows = self.losses.tangent(ctx.inner, dots)
        if rows is None or ctx.kind == NONE:
            return rows
        return rows.sum() / self._count(ctx) if ctx.kind == MEAN else rows.sum()

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        return self.losses.adjoint(ctx.inner, self._rows(ctx, y_bar), needs)

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        return self.losses.curvature(ctx.inner, dots, self._rows(ctx, y_bar), needs)

    def adjoint_tangent(
        self, ctx: Context, dots: PerArgument, y_bar: Any, y_bar_dot: Any, needs: Needs
    ) -> PerArgument:
        rows, rows_dot = self._rows(ctx, y_bar), self._rows(ctx, y_bar_dot)
        return self.losses.adjoint_tangent(ctx.inner, dots, rows, rows_dot, needs)


def reduced(f: Callable[..., Tensor], first: dict, second: dict | None, position: int) -> Reduced:
    return Reduced(f, Elementwise(f, first, second), position)


def of_difference(f: Callable[..., Tensor], first: Any, second: Any = None) -> Reduced:
    """`first(g, d, *static)` is g f'(d); `second` likewise, `None` where f'' = 0."""
    partials = {
        0: lambda g, y, x, t, kind, *static: first(g, x - t, *static),
        1: lambda g, y, x, t, kind, *static: -first(g, x - t, *static),
    }
    seconds = {
        (0, 0): lambda g, y, x, t, kind, *static: second(g, x - t, *static),
        (0, 1): lambda g, y, x, t, kind, *static: -second(g, x - t, *static),
        (1, 1): lambda g, y, x, t, kind, *static: second(g, x - t, *static),
    }
    return reduced(f, partials, seconds if second is not None else None, 2)


# f = d^2


def square_first(g: Tensor, d: Tensor) -> Tensor:
    return 2 * g * d


def square_second(g: Tensor, d: Tensor) -> Tensor:
    return 2 * g


# f = |d|


def absolute_first(g: Tensor, d: Tensor) -> Tensor:
    return g * d.sign()


# f = d^2 / (2 beta) for |d| < beta, else |d| - beta / 2.


def smooth_first(g: Tensor, d: Tensor, beta: float) -> Tensor:
    return absolute_first(g, d) if beta == 0 else g * (d / beta).clamp(-1, 1)


def smooth_second(g: Tensor, d: Tensor, beta: float) -> Tensor:
    return torch.zeros_like(g) if beta == 0 else keep(d.abs() < beta, g / beta)


# f = d^2 / 2 for |d| < delta, else delta (|d| - delta / 2).


def huber_first(g: Tensor, d: Tensor, delta: float) -> Tensor:
    return g * d.clamp(-delta, delta)


def huber_second(g: Tensor, d: Tensor, delta: float) -> Tensor:
    return keep(d.abs() < delta, g)


# Binary cross entropy of a logit x, s = sigmoid(x), positive weight v, weight w:
#     f    = w ((1 - t) x + m softplus(-x)),  m = 1 + (v - 1) t
#     f_x  = w ((1 - t) - m (1 - s))          f_t  = w (-x + (v - 1) softplus(-x))
#     f_xx = w m s (1 - s)                    f_xt = -w (1 + (v - 1) (1 - s))


def weighted(g: Tensor, w: Tensor | None) -> Tensor:
    return g if w is None else g * w


def logits_x(g: Tensor, y: Any, x: Tensor, t: Tensor, w: Tensor | None, v: Tensor | None, *_: Any) -> Tensor:
    if v is None:
        return weighted(g, w) * (torch.sigmoid(x) - t)
    return weighted(g, w) * ((1 - t) - (1 + (v - 1) * t) * torch.sigmoid(-x))


def logits_t(g: Tensor, y: Any, x: Tensor, t: Tensor, w: Tensor | None, v: Tensor | None, *_: Any) -> Tensor:
    return weighted(g, w) * (-x if v is None else -x - (v - 1) * log_sigmoid(x))


def logits_xx(g: Tensor, y: Any, x: Tensor, t: Tensor, w: Tensor | None, v: Tensor | None, *_: Any) -> Tensor:
    s = torch.sigmoid(x)
    slope = s * (1 - s)
    return weighted(g, w) * (slope if v is None else (1 + (v - 1) * t) * slope)


def logits_xt(g: Tensor, y: Any, x: Tensor, t: Tensor, w: Tensor | None, v: Tensor | None, *_: Any) -> Tensor:
    return -weighted(g, w) if v is None else -weighted(g, w) * (1 + (v - 1) * torch.sigmoid(-x))


# Binary cross entropy of a probability x:  f = -w (t log x + (1 - t) log(1 - x)), logarithms cut at -100.

SMALLEST = 1e-12


def probability_x(g: Tensor, y: Any, x: Tensor, t: Tensor, w: Tensor | None, *_: Any) -> Tensor:
    return weighted(g, w) * (x - t) / (x * (1 - x)).clamp_min(SMALLEST)


def probability_t(g: Tensor, y: Any, x: Tensor, t: Tensor, w: Tensor | None, *_: Any) -> Tensor:
    return weighted(g, w) * (torch.log1p(-x).clamp_min(-100) - x.log().clamp_min(-100))


def probability_xx(g: Tensor, y: Any, x: Tensor, t: Tensor, w: Tensor | None, *_: Any) -> Tensor:
    slope = (x * (1 - x)).clamp_min(SMALLEST)
    return weighted(g, w) * (1 - (x - t) * (1 - 2 * x) / slope) / slope


def probability_xt(g: Tensor, y: Any, x: Tensor, t: Tensor, w: Tensor | None, *_: Any) -> Tensor:
    return -weighted(g, w) / (x * (1 - x)).clamp_min(SMALLEST)


# Kullback-Leibler divergence from log-probabilities x:  f = t (log t - x)   or, with log t given,  e^t (t - x).


def divergence_x(g: Tensor, y: Any, x: Tensor, t: Tensor, kind: int, log_target: bool) -> Tensor:
    return -g * (t.exp() if log_target else t)


def divergence_t(g: Tensor, y: Any, x: Tensor, t: Tensor, kind: int, log_target: bool) -> Tensor:
    return g * (t.exp() * (t - x + 1)) if log_target else drop(t <= 0, g * (t.log() + 1)) - g * x


def divergence_xt(g: Tensor, y: Any, x: Tensor, t: Tensor, kind: int, log_target: bool) -> Tensor:
    return -g * t.exp() if log_target else -g


def divergence_tt(g: Tensor, y: Any, x: Tensor, t: Tensor, kind: int, log_target: bool) -> Tensor:
    return g * (t.exp() * (t - x + 2)) if log_target else drop(t <= 0, g / t)


def divergence(x: Tensor, t: Tensor, kind: int, log_target: bool) -> Tensor:
    return aten.kl_div.default(x, t, kind, log_target=log_target)


# Soft margin:  f = log(1 + exp(-t x)),  s = sigmoid(-t x):  f_x = -t s,  f_xx = t^2 s (1 - s); the target is +-1.


def margin_x(g: Tensor, y: Any, x: Tensor, t: Tensor, kind: int) -> Tensor:
    return -g * (t * torch.sigmoid(-t * x))


def margin_xx(g: Tensor, y: Any, x: Tensor, t: Tensor, kind: int) -> Tensor:
    s = torch.sigmoid(-t * x)
    return g * (t * t * s * (1 - s))


LOGITS = {0: logits_x, 1: logits_t}
LOGITS_SECOND = {(0, 0): logits_xx, (0, 1): logits_xt}
PROBABILITY = {0: probability_x, 1: probability_t}
PROBABILITY_SECOND = {(0, 0): probability_xx, (0, 1): probability_xt}
DIVERGENCE = {0: divergence_x, 1: divergence_t}
DIVERGENCE_SECOND = {(0, 1): divergence_xt, (1, 1): divergence_tt}

RULES: RuleTable = {
    **CROSS_ENTROPY,
    aten.mse_loss.default: of_difference(aten.mse_loss.default, square_first, square_second),
    aten.l1_loss.default: of_difference(aten.l1_loss.default, absolute_first),
    aten.smooth_l1_loss.default: of_difference(aten.smooth_l1_loss.default, smooth_first, smooth_second),
    aten.huber_loss.default: of_difference(aten.huber_loss.default, huber_first, huber_second),
    aten.binary_cross_entropy_with_logits.default: reduced(
        aten.binary_cross_entropy_with_logits.default, LOGITS, LOGITS_SECOND, 4
    ),
    aten.binary_cross_entropy.default: reduced(
        aten.binary_cross_entropy.default, PROBABILITY, PROBABILITY_SECOND, 3
    ),
    aten.kl_div.default: reduced(divergence, DIVERGENCE, DIVERGENCE_SECOND, 2),
    aten.soft_margin_loss.default: reduced(
        aten.soft_margin_loss.default, {0: margin_x}, {(0, 0): margin_xx}, 2
    ),
}
