"""Scaled dot-product attention in its mathematical form: no fused kernel has a second derivative.

    S = s q k^T + mask           P = softmax(S)          y = P v
    P_dot = softmax'(S_dot)      y_dot = P_dot v + P v_dot
    P_bar = y_bar v^T            S_bar = P (P_bar - r)   r = sum(P P_bar)
    v_bar = P^T y_bar            q_bar = s S_bar k       k_bar = s S_bar^T q       mask_bar = S_bar
    S_bar_dot = P_dot (P_bar - r) - P sum(P_dot P_bar) + softmax'(P_bar_dot)

with softmax'(t) = P (t - sum(P t)) and sums along the last axis. A row that the mask takes out altogether has P = 0, as
in PyTorch. With `enable_gqa` each head of k and v serves a group of heads of q.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError
from ..passes.rule import Context, Needs, PerArgument, Rule, RuleTable, unbroadcast
from ..passes.zero import MaybeZero, add, apply
from .softmax import softmax_dot

aten = torch.ops.aten


class Attention(Rule):
    """aten.scaled_dot_product_attention(q, k, v, mask, dropout_p, is_causal, scale, enable_gqa).

    All leading axes (batch, heads) are one axis inside: each operand is brought into that form once.
    """

    names = ("q", "k", "v", "mask")

    def value(self, ctx: Context, *args: Any) -> Tensor:
        q, k, v, mask, dropout_p, is_causal, scale, enable_gqa = args
        if dropout_p:
            raise CaptureError("attention with dropout draws random numbers: pass dropout_p=0.")
        ctx.scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        ctx.grouped = enable_gqa
        ctx.lead = list(q.shape[:-2]) if enable_gqa else _common(q, k, v)
        ctx.q, ctx.k, ctx.v = self._fold(ctx, q) * ctx.scale, self._fold(ctx, k), self._fold(ctx, v)
        S = torch.bmm(ctx.q, _transposed(ctx.k))
        if is_causal:
            S = S.masked_fill(torch.ones_like(S, dtype=torch.bool).tril().logical_not(), -math.inf)
        if mask is None:
            ctx.P = torch.softmax(S, -1)
        else:
            S = self._unfold(ctx, S)
            S = S.masked_fill(mask.logical_not(), -math.inf) if mask.dtype == torch.bool else S + mask
            P = torch.where(S.eq(-math.inf).all(-1, keepdim=True), S.new_zeros(()), torch.softmax(S, -1))
            ctx.P = P.reshape(-1, *P.shape[-2:])
        return self._unfold(ctx, torch.bmm(ctx.P, ctx.v))

    @staticmethod
    def _fold(ctx: Context, x: Tensor) -> Tensor:
        """x for every head of q, as (samples and heads, length, width)."""
        length, width = x.shape[-2:]
        if ctx.grouped:
            *lead, heads = x.shape[:-2]
            x = x.unsqueeze(-3).expand(*lead, heads, ctx.lead[-1] // heads, length, width)
        elif x.dim() - 2 != len(ctx.lead) or _stretched(x.shape, ctx.lead):
            x = x.expand(*ctx.lead, length, width)
        return x.reshape(-1, length, width)

    @staticmethod
    def _unfold(ctx: Context, y: Tensor) -> Tensor:
        """(samples and heads, length, width) with the leading axes of the result."""
        return y.reshape(*ctx.lead, *y.shape[-2:])

    def _own(self, ctx: Context, x_bar: MaybeZero, x: Tensor) -> MaybeZero:
        """Adjoint of `_fold`."""
        if x_bar is None:
            return None
        if ctx.grouped:
            *lead, heads, length, width = x.shape
            return x_bar.reshape(*lead, heads, ctx.lead[-1] // heads, length, width).sum(-3)
        return unbroadcast(self._unfold(ctx, x_bar), x.shape)

    def _dots(self, ctx: Context, dots: PerArgument) -> tuple[MaybeZero, MaybeZero, MaybeZero, MaybeZero]:
        """Tangents of s q, k, v (folded) and of P."""
        q_dot, k_dot, v_dot = (apply(lambda t: self._fold(ctx, t), t) for t in dots[:3])
        q_dot = apply(lambda t: t * ctx.scale, q_dot)
        S_dot = add(_product(q_dot, _transposed(ctx.k)), _product(ctx.q, apply(_transposed, k_dot)))
        if dots[3] is not None:
            mask_dot = dots[3].expand(*ctx.lead, *ctx.P.shape[-2:]).reshape(ctx.P.shape)
            S_dot = add(S_dot, mask_dot)
        return q_dot, k_dot, v_dot, apply(lambda t: softmax_dot(ctx.P, t, -1), S_dot)

    def tangent(self, ctx: Context, dots: PerArgument) -> MaybeZero:
        _, _, v_dot, P_dot = self._dots(ctx, dots)
        return apply(lambda t: self._unfold(ctx, t), add(_product(P_dot, ctx.v), _product(ctx.P, v_dot)))

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        return self.adjoint_tangent(ctx, [None] * 4, None, y_bar, needs)

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        return self.adjoint_tangent(ctx, dots, y_bar, None, needs)

    def adjoint_tangent(
        self, ctx: Context, dots: PerArgument, y_bar: Any, y_bar_dot: Any, needs: Needs
    ) -> PerArgument:
        q_dot, k_dot, v_dot, P_dot = self._dots(ctx, dots)
        y_bar, y_bar_dot = (apply(lambda t: t.reshape(-1, *t.shape[-2:]), t) for t in (y_bar, y_bar_dot))
        P = ctx.P
        S_bar = S_bar_dot = None
        if needs[0] or needs[1] or needs[3]:
            P_bar = _product(y_bar, _transposed(ctx.v))
            P_bar_dot = add(
                _product(y_bar_dot, _transposed(ctx.v)), _product(y_bar, apply(_transposed, v_dot))
            )
            S_bar, S_bar_dot = (apply(lambda t: softmax_dot(P, t, -1), t) for t in (P_bar, P_bar_dot))
            if P_bar is not None and P_dot is not None:
                curved = P_dot * (P_bar - (P * P_bar).sum(-1, keepdim=True))
                S_bar_dot = add(S_bar_dot, curved - P * (P_dot * P_bar).sum(-1, keepdim=True))
        q, k, v, mask = ctx.args[:4]
        bars: list[MaybeZero] = [None] * len(ctx.args)
        if needs[0]:
            q_bar = add(_product(S_bar_dot, ctx.k), _product(S_bar, k_dot))
            bars[0] = self._own(ctx, apply(lambda t: t * ctx.scale, q_bar), q)
        if needs[1]:
            bars[1] = self._own(ctx, add(_left(S_bar_dot, ctx.q), _left(S_bar, q_dot)), k)
        if needs[2]:
            bars[2] = self._own(ctx, add(_left(P, y_bar_dot), _left(P_dot, y_bar)), v)
        if mask is not None and needs[3]:
            bars[3] = apply(lambda t: unbroadcast(self._unfold(ctx, t), mask.shape), S_bar_dot)
        return bars


def _common(*tensors: Tensor) -> list[Any]:
    """The leading axes that the tensors broadcast to."""
    rank = max(t.dim() for t in tensors)
    sizes = [[t.shape[axis] for t in tensors if t.dim() >= -axis] for axis in range(-rank, -2)]
    return [next((size for size in given if not _is_one(size)), 1) for given in sizes]


def _stretched(shape: Any, lead: list[Any]) -> bool:
    return any(_is_one(p) and not _is_one(q) for p, q in zip(shape[:-2], lead, strict=True))


def _is_one(size: Any) -> bool:
    # A symbolic size is never 1; comparing it would put a guard on the batch.
    return isinstance(size, int) and size == 1


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(-2, -1)


def _product(a: MaybeZero, b: MaybeZero) -> MaybeZero:
    return None if a is None or b is None else torch.bmm(a, b)


def _left(a: MaybeZero, b: MaybeZero) -> MaybeZero:
    """a^T b."""
    return None if a is None else _product(_transposed(a), b)


RULES: RuleTable = {aten.scaled_dot_product_attention.default: Attention()}
