"""Sums, means, moments and products along axes.

Letters: x the argument, n the number of elements that one result gathers, m = mean(x), g an adjoint spread back over x.

    sum     y_dot = sum(x_dot)                        x_bar = g
    mean    y_dot = sum(x_dot) / n                    x_bar = g / n
    var     y = sum((x - m)^2) / (n - c)              f_i = 2 (x_i - m) / (n - c)
            f_ij x_dot_j = 2 (x_dot - mean(x_dot))_i / (n - c)
    std     y = sqrt(var)                             f_i = (x_i - m) / ((n - c) y)
            f_ij x_dot_j = ((x_dot - mean(x_dot))_i / (n - c) - f_i y_dot) / y
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Context, Linear, Needs, PerArgument, Rule, RuleTable
from ..passes.zero import MaybeZero, add
from .elementwise import indicator, keep
from .norm import RULES as NORM
from .selection import RULES as SELECTION
from .softmax import RULES as SOFTMAX
from .spread import axes_of, count, restore, spread

aten = torch.ops.aten


# Linear reductions. The schema orders differ: (x, dim, keepdim, dtype) or (x, dtype).


def sum_all(x: Tensor, dtype: Any) -> Tensor:
    return aten.sum.default(x, dtype=dtype)


def sum_dim(x: Tensor, dim: Any, keepdim: bool, dtype: Any) -> Tensor:
    return aten.sum.dim_IntList(x, dim, keepdim, dtype=dtype)


def mean_all(x: Tensor, dtype: Any) -> Tensor:
    return aten.mean.default(x, dtype=dtype)


def mean_dim(x: Tensor, dim: Any, keepdim: bool, dtype: Any) -> Tensor:
    return aten.mean.dim(x, dim, keepdim, dtype=dtype)


def sum_transpose(
    y_bar: Tensor, x: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    return spread(y_bar, x, dim, keepdim)


def mean_transpose(
    y_bar: Tensor, x: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    return spread(y_bar / count(x, dim), x, dim, keepdim)


def cumsum(x: Tensor, dim: int, dtype: Any) -> Tensor:
    return aten.cumsum.default(x, dim, dtype=dtype)


def cumsum_transpose(y_bar: Tensor, x: Tensor, dim: int, dtype: Any) -> Tensor:
    return y_bar.flip([dim]).cumsum(dim).flip([dim]).to(x.dtype)


# Moments. All take (x, dim, correction, keepdim).


class Variance(Rule):
    """var along axes, over n - c elements (c = `correction`, 1 if not given)."""

    def _prepare(self, ctx: Context) -> None:
        x, dim, correction, _ = ctx.args
        axes = axes_of(x, dim)
        if not hasattr(ctx, "centred"):
            ctx.centred = x - x.mean(axes, keepdim=True)
            ctx.freedom = count(x, dim) - (1 if correction is None else correction)

    def value(self, ctx: Context, x: Tensor, dim: Any, correction: Any, keepdim: bool) -> Tensor:
        return aten.var.correction(x, dim, correction=correction, keepdim=keepdim)

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        x, dim, _, keepdim = ctx.args
        self._prepare(ctx)
        return 2 * (ctx.centred * dots[0]).sum(axes_of(x, dim), keepdim=keepdim) / ctx.freedom

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        x, dim, _, keepdim = ctx.args
        self._prepare(ctx)
        return [2 * ctx.centred * (restore(y_bar, x, dim, keepdim) / ctx.freedom), None, None, None]

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Tensor, needs: Needs) -> PerArgument:
        x, dim, _, keepdim = ctx.args
        self._prepare(ctx)
        centred_dot = dots[0] - dots[0].mean(axes_of(x, dim), keepdim=True)
        return [2 * centred_dot * (restore(y_bar, x, dim, keepdim) / ctx.freedom), None, None, None]


class Deviation(Variance):
    """std along axes. Where it is zero, so is its derivative (PyTorch's choice)."""

    def value(self, ctx: Context, x: Tensor, dim: Any, correction: Any, keepdim: bool) -> Tensor:
        return aten.std.correction(x, dim, correction=correction, keepdim=keepdim)

    def _slope(self, ctx: Context) -> Tensor:
        """f_i = (x_i - m) / ((n - c) y)."""
        x, dim, _, keepdim = ctx.args
        self._prepare(ctx)
        y = restore(ctx.y, x, dim, keepdim)
        return keep(y != 0, ctx.centred / (ctx.freedom * y))

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        x, dim, _, keepdim = ctx.args
        return (self._slope(ctx) * dots[0]).sum(axes_of(x, dim), keepdim=keepdim)

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        x, dim, _, keepdim = ctx.args
        return [self._slope(ctx) * restore(y_bar, x, dim, keepdim), None, None, None]

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Tensor, needs: Needs) -> PerArgument:
        x, dim, _, keepdim = ctx.args
        axes = axes_of(x, dim)
        slope, y = self._slope(ctx), restore(ctx.y, x, dim, keepdim)
        y_dot = (slope * dots[0]).sum(axes, keepdim=True)
        centred_dot = dots[0] - dots[0].mean(axes, keepdim=True)
        second = keep(y != 0, (centred_dot / ctx.freedom - slope * y_dot) / y)
        return [second * restore(y_bar, x, dim, keepdim), None, None, None]


class WithMean(Rule):
    """(spread measure, mean): the pair that `var_mean` and `std_mean` return."""

    def __init__(self, measure: Rule) -> None:
        self.measure = measure

    def value(self, ctx: Context, *args: Any) -> tuple[Tensor, Tensor]:
        x, dim, _, keepdim = args
        ctx.inner = Context(args=args)
        ctx.inner.y = self.measure.value(ctx.inner, *args)
        return ctx.inner.y, x.mean(axes_of(x, dim), keepdim=keepdim)

    def tangent(self, ctx: Context, dots: PerArgument) -> list[Any]:
        x, dim, _, keepdim = ctx.args
        return [self.measure.tangent(ctx.inner, dots), dots[0].mean(axes_of(x, dim), keepdim=keepdim)]

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        x, dim, _, keepdim = ctx.args
        measure_bar, mean_bar = y_bar
        x_bar: MaybeZero = None
        if measure_bar is not None:
            x_bar = self.measure.adjoint(ctx.inner, measure_bar, needs)[0]
        if mean_bar is not None:
            x_bar = add(x_bar, mean_transpose(mean_bar, x, dim, keepdim))
        return [x_bar, None, None, None]

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        if y_bar[0] is None:
            return [None] * 4
        return self.measure.curvature(ctx.inner, dots, y_bar[0], needs)


class Product(Rule):
    """y = prod_i x_i along an axis, also through zeros.

    With r_i = 1 / x_i, z_i = [x_i = 0] (then r_i = 1), Y the product of the elements that are not zero, Z their number:
        f_i  = Y r_i      if no other element is zero (Z = z_i)                 else 0
        f_ij = Y r_i r_j  if no third element is zero (Z = z_i + z_j), i /= j   else 0
    """

    def _parts(self, ctx: Context) -> tuple[Tensor, Tensor, Tensor, Tensor, Any]:
        """r, z, Z and Y, the last two with the axes kept, and the axes."""
        x = ctx.args[0]
        axes = axes_of(x, ctx.args[1] if len(ctx.args) == 4 else None)
        is_zero = x == 0
        filled = torch.where(is_zero, x.new_ones(()), x)
        z = indicator(is_zero, x)
        nonzero = filled
        for axis in axes:
            nonzero = nonzero.prod(axis, keepdim=True)
        return 1 / filled, z, z.sum(axes, keepdim=True), nonzero, axes

    def _slope(self, ctx: Context) -> Tensor:
        r, z, zeros, nonzero, _ = self._parts(ctx)
        return keep(zeros == z, nonzero * r)

    def _keepdim(self, ctx: Context) -> bool:
        return len(ctx.args) == 4 and ctx.args[2]

    def _dim(self, ctx: Context) -> Any:
        return ctx.args[1] if len(ctx.args) == 4 else None

    def value(self, ctx: Context, *args: Any) -> Tensor:
        if len(args) == 4:
            return aten.prod.dim_int(*args[:3], dtype=args[3])
        return aten.prod.default(args[0], dtype=args[1])

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        axes = axes_of(ctx.args[0], self._dim(ctx))
        return (self._slope(ctx) * dots[0]).sum(axes, keepdim=self._keepdim(ctx))

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        x_bar = self._slope(ctx) * restore(y_bar, ctx.args[0], self._dim(ctx), self._keepdim(ctx))
        return [x_bar] + [None] * (len(ctx.args) - 1)

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Tensor, needs: Needs) -> PerArgument:
        r, z, zeros, nonzero, axes = self._parts(ctx)
        u = r * dots[0]
        among_nonzero = ((1 - z) * u).sum(axes, keepdim=True)
        among_zero = (z * u).sum(axes, keepdim=True)
        # The partner j of element i: any nonzero one, or the one zero that there is, by how many zeros remain.
        others = zeros - z
        partners = torch.where(
            others == 0, among_nonzero - (1 - z) * u, keep(others == 1, among_zero - z * u)
        )
        x_bar = nonzero * r * partners * restore(y_bar, ctx.args[0], self._dim(ctx), self._keepdim(ctx))
        return [x_bar] + [None] * (len(ctx.args) - 1)


RULES: RuleTable = {
    aten.sum.default: Linear(sum_all, lambda y_bar, x, dtype: sum_transpose(y_bar, x)),
    aten.sum.dim_IntList: Linear(sum_dim, sum_transpose),
    aten.mean.default: Linear(mean_all, lambda y_bar, x, dtype: mean_transpose(y_bar, x)),
    aten.mean.dim: Linear(mean_dim, mean_transpose),
    aten.cumsum.default: Linear(cumsum, cumsum_transpose),
    aten.var.correction: Variance(),
    aten.std.correction: Deviation(),
    aten.var_mean.correction: WithMean(Variance()),
    aten.std_mean.correction: WithMean(Deviation()),
    aten.prod.default: Product(),
    aten.prod.dim_int: Product(),
    **SELECTION,
    **NORM,
    **SOFTMAX,
}
