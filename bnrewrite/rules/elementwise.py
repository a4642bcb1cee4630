"""Operations of several arguments that act element by element, with broadcasting.

    y           = f(a_1, ..., a_n)                                   all of them broadcast against each other
    y_dot       = sum_i f_i a_i_dot                                  f_i = df / da_i
    a_i_bar     = S_i (f_i y_bar)                                    S_i: sum over the axes that a_i was stretched along
    a_i_bar_dot = S_i (f_i y_bar_dot + sum_j f_ij a_j_dot y_bar)     f_ij = d2f / (da_i da_j)

A partial derivative is given as a function that multiplies by it, so that masks can select instead of multiply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError
from ..passes.rule import Context, Linear, Needs, PerArgument, Rule, call, is_zero, unbroadcast
from ..passes.zero import MaybeZero, add

Partial = Callable[..., Any]
"""`partial(g, y, *args)`: g times one partial derivative; `None` where it vanishes."""


def to_argument(x_bar: MaybeZero, x: Tensor) -> MaybeZero:
    """Adjoint of broadcasting `x` and of promoting its type."""
    if x_bar is None:
        return None
    x_bar = unbroadcast(x_bar, x.shape)
    return x_bar if x_bar.dtype == x.dtype else x_bar.to(x.dtype)


def to_result(y_dot: MaybeZero, y: Tensor) -> MaybeZero:
    """`y_dot` in the shape and the type of `y`: a sum of tangents may miss an argument that stretches it."""
    if y_dot is None or not y.is_floating_point():
        return None
    if y_dot.dtype != y.dtype:
        y_dot = y_dot.to(y.dtype)
    if y_dot.dim() == y.dim() and not any(
        _is_one(p) and not _is_one(q) for p, q in zip(y_dot.shape, y.shape, strict=True)
    ):
        return y_dot
    return y_dot.expand(y.shape)


def _is_one(size: Any) -> bool:
    # A symbolic size is never 1; comparing it would put a guard on the batch.
    return isinstance(size, int) and size == 1


def keep(mask: Tensor, g: Tensor) -> Tensor:
    """g where `mask`, else zero (also where g is not finite)."""
    return torch.where(mask, g, g.new_zeros(()))


def drop(mask: Tensor, g: Tensor) -> Tensor:
    """Zero where `mask`, else g."""
    return torch.where(mask, g.new_zeros(()), g)


def positional(op: Any) -> Callable[..., Any]:
    """`op` as a function of all its schema arguments in order, keyword-only ones too."""
    return lambda *args: call(op, args)


def indicator(mask: Tensor, like: Tensor) -> Tensor:
    """1 where `mask`, else 0, in whatever type `like` has when the graph runs."""
    return torch.where(mask, like.new_ones(()), like.new_zeros(()))


class Elementwise(Rule):
    """y = f(args) from its partial derivatives: `first[i]`, and `second[i, j]` with i <= j; a missing one is zero."""

    def __init__(
        self,
        f: Callable[..., Tensor],
        first: Mapping[int, Partial],
        second: Mapping[tuple[int, int], Partial] | None = None,
        names: tuple[str, ...] = ("a", "b"),
    ) -> None:
        self.f, self.first, self.second, self.names = f, first, second or {}, names

    def value(self, ctx: Context, *args: Any) -> Tensor:
        return self.f(*args)

    def tangent(self, ctx: Context, dots: PerArgument) -> MaybeZero:
        terms = [f_i(dots[i], ctx.y, *ctx.args) for i, f_i in self.first.items() if dots[i] is not None]
        return to_result(add(*terms), ctx.y)

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        return self.adjoint_tangent(ctx, [None] * len(ctx.args), None, y_bar, needs)

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        return self.adjoint_tangent(ctx, dots, y_bar, None, needs)

    def adjoint_tangent(
        self, ctx: Context, dots: PerArgument, y_bar: Any, y_bar_dot: Any, needs: Needs
    ) -> PerArgument:
        bars: list[MaybeZero] = [None] * len(ctx.args)
        for i, f_i in self.first.items():
            if not needs[i]:
                continue
            terms = [] if y_bar_dot is None else [f_i(y_bar_dot, ctx.y, *ctx.args)]
            if y_bar is not None:
                terms += self._second_order(ctx, i, dots, y_bar)
            bars[i] = to_argument(add(*terms), ctx.args[i])
        return bars

    def _second_order(self, ctx: Context, i: int, dots: PerArgument, y_bar: Tensor) -> list[MaybeZero]:
        terms = []
        for j in self.first:
            f_ij = self.second.get((min(i, j), max(i, j)))
            if f_ij is not None and dots[j] is not None:
                terms.append(f_ij(y_bar * dots[j], ctx.y, *ctx.args))
        return terms


class ZeroDerivative(Rule):
    """Piecewise constant functions, and those that stop derivatives on purpose (`detach`)."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f = f

    def value(self, ctx: Context, *args: Any) -> Any:
        return self.f(*args)

    def tangent(self, ctx: Context, dots: PerArgument) -> None:
        return None

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        return [None] * len(ctx.args)


class Choice(Rule):
    """An overload that is one of several rules, depending on its static arguments: `choose(*args)`."""

    def __init__(self, choose: Callable[..., Rule], names: tuple[str, ...] = ("x",)) -> None:
        self.choose, self.names = choose, names

    def value(self, ctx: Context, *args: Any) -> Any:
        ctx.rule = self.choose(*args)
        return ctx.rule.value(ctx, *args)

    def tangent(self, ctx: Context, dots: PerArgument) -> Any:
        return ctx.rule.tangent(ctx, dots)

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        return ctx.rule.adjoint(ctx, y_bar, needs)

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        return ctx.rule.curvature(ctx, dots, y_bar, needs)

    def adjoint_tangent(
        self, ctx: Context, dots: PerArgument, y_bar: Any, y_bar_dot: Any, needs: Needs
    ) -> PerArgument:
        return ctx.rule.adjoint_tangent(ctx, dots, y_bar, y_bar_dot, needs)


class FirstOutput(Rule):
    """y = (f(args), more): a rule for f, where the other outputs (masks, indices, statistics) carry no derivative."""

    def __init__(self, rule: Rule, more: Callable[..., tuple[Any, ...]], refusal: str = "") -> None:
        """`more(ctx, *args)` gives the other outputs, after `rule` has filled the context. `refusal`: what to say to a
        model that computes further with one of them, where it does depend on the arguments."""
        self.rule, self.more, self.refusal, self.names = rule, more, refusal, rule.names

    def value(self, ctx: Context, *args: Any) -> tuple[Any, ...]:
        ctx.inner = Context(args=tuple(args))
        ctx.inner.y = self.rule.value(ctx.inner, *args)
        return (ctx.inner.y, *self.more(ctx.inner, *args))

    def tangent(self, ctx: Context, dots: PerArgument) -> Any:
        return [self.rule.tangent(ctx.inner, dots)] + [None] * (len(ctx.y) - 1)

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        return self.adjoint_tangent(ctx, [None] * len(ctx.args), None, y_bar, needs)

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        return self.adjoint_tangent(ctx, dots, y_bar, None, needs)

    def adjoint_tangent(
        self, ctx: Context, dots: PerArgument, y_bar: Any, y_bar_dot: Any, needs: Needs
    ) -> PerArgument:
        first = None if is_zero(y_bar) else self._only_first(y_bar)
        first_dot = None if is_zero(y_bar_dot) else self._only_first(y_bar_dot)
        return self.rule.adjoint_tangent(ctx.inner, dots, first, first_dot, needs)

    def _only_first(self, bars: Any) -> Any:
        if self.refusal and not is_zero(bars[1:]):
            raise CaptureError(self.refusal)
        return bars[0]


IDENTITY = Linear(lambda x, *_: x, lambda y_bar, *_: y_bar)
"""y = x, whatever the other arguments."""
