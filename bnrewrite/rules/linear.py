"""Matrix products: bilinear, with an additive term where the operation has one.

linear   y = x w^T + b     x_bar = y_bar w       w_bar = y_bar^T x     b_bar = sum(y_bar)
             x (..., I), w (O, I), b (O,)
mm, bmm  y = a b           a_bar = y_bar b^T     b_bar = a^T y_bar
addmm    y = beta c + alpha a b  (baddbmm likewise)
mv       y = a b           a_bar = y_bar b^T (outer)      b_bar = a^T y_bar
dot      y = a . b         a_bar = y_bar b       b_bar = y_bar a
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Bilinear, Context, Needs, PerArgument, Rule, RuleTable, unbroadcast
from ..passes.zero import MaybeZero, add, apply

aten = torch.ops.aten


def _rows(x: Tensor) -> Tensor:
    """(..., I) as a matrix (rows, I)."""
    return x.reshape(-1, x.shape[-1])


class Linear(Rule):
    """`aten.linear(x, w, b)`."""

    names = ("x", "w", "b")

    def value(self, ctx: Context, *args: Any) -> Tensor:
        return self._product(args[0], args[1], args[2])

    @staticmethod
    def _product(x: Tensor, w: Tensor, b: MaybeZero) -> Tensor:
        # Written out so that the graph holds one matrix product, whatever the number of leading axes.
        rows = x if x.dim() == 2 else _rows(x)
        y = rows.mm(w.t()) if b is None else torch.addmm(b, rows, w.t())
        return y if x.dim() == 2 else y.reshape([*x.shape[:-1], w.shape[0]])

    def tangent(self, ctx: Context, dots: PerArgument) -> MaybeZero:
        x, w, _ = ctx.args
        x_dot, w_dot, b_dot = dots
        y_dot = None
        if x_dot is not None:
            y_dot, b_dot = self._product(x_dot, w, b_dot), None
        if w_dot is not None:
            y_dot, b_dot = add(y_dot, self._product(x, w_dot, b_dot)), None
        return y_dot if b_dot is None else b_dot.expand(ctx.y.shape)

    @staticmethod
    def _data(y_bar: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return y_bar.mm(w) if y_bar.dim() == 2 else _rows(y_bar).mm(w).reshape(x.shape)

    @staticmethod
    def _weight(y_bar: Tensor, x: Tensor) -> Tensor:
        return _rows(y_bar).t().mm(_rows(x))

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        x, w, _ = ctx.args
        return [
            self._data(y_bar, x, w) if needs[0] else None,
            self._weight(y_bar, x) if needs[1] else None,
            _rows(y_bar).sum(0) if needs[2] else None,
        ]

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        x, _, _ = ctx.args
        x_dot, w_dot, _ = dots
        return [
            self._data(y_bar, x, w_dot) if needs[0] and w_dot is not None else None,
            self._weight(y_bar, x_dot) if needs[1] and x_dot is not None else None,
            None,
        ]


class PlusProduct(Rule):
    """y = beta c + alpha a b for a product of matrices or of batches of matrices (`addmm`, `baddbmm`, `addmv`)."""

    names = ("c", "a", "b")

    def __init__(self, f: Callable[..., Tensor], product: Bilinear) -> None:
        self.f, self.product = f, product

    def value(self, ctx: Context, *args: Any) -> Tensor:
        c, a, b, beta, alpha = args
        ctx.product = Context(args=(a, b))
        return self.f(c, a, b, beta=beta, alpha=alpha)

    def tangent(self, ctx: Context, dots: PerArgument) -> MaybeZero:
        beta, alpha = ctx.args[3:]
        c_dot = apply(lambda t: _times(t, beta), dots[0])
        ab_dot = apply(lambda t: _times(t, alpha), self.product.tangent(ctx.product, dots[1:3]))
        y_dot = add(c_dot, ab_dot)
        return y_dot if ab_dot is not None or y_dot is None else y_dot.expand(ctx.y.shape)

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        c, _, _, beta, alpha = ctx.args
        c_bar = unbroadcast(_times(y_bar, beta), c.shape) if needs[0] else None
        return [c_bar, *self.product.adjoint(ctx.product, _times(y_bar, alpha), needs[1:3]), None, None]

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        alpha = ctx.args[4]
        ab = self.product.curvature(ctx.product, dots[1:3], _times(y_bar, alpha), needs[1:3])
        return [None, *ab, None, None]


def _times(x: Tensor, factor: Any) -> Tensor:
    return x if factor == 1 else x * factor


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(-2, -1)


_mm = Bilinear(torch.mm, lambda y_bar, a, b: y_bar.mm(b.t()), lambda y_bar, a, b: a.t().mm(y_bar))
_bmm = Bilinear(
    torch.bmm,
    lambda y_bar, a, b: y_bar.bmm(_transposed(b)),
    lambda y_bar, a, b: _transposed(a).bmm(y_bar),
)
_mv = Bilinear(torch.mv, lambda y_bar, a, b: torch.outer(y_bar, b), lambda y_bar, a, b: a.t().mv(y_bar))
_dot = Bilinear(torch.dot, lambda y_bar, a, b: y_bar * b, lambda y_bar, a, b: y_bar * a)

RULES: RuleTable = {
    aten.linear.default: Linear(),
    aten.mm.default: _mm,
    aten.bmm.default: _bmm,
    aten.mv.default: _mv,
    aten.dot.default: _dot,
    aten.addmm.default: PlusProduct(torch.addmm, _mm),
    aten.baddbmm.default: PlusProduct(torch.baddbmm, _bmm),
    aten.addmv.default: PlusProduct(torch.addmv, _mv),
}
