"""Cross entropy and the negative log-likelihood, over classes c; n runs over samples and further (spatial) positions.

Both are linear in log P, with coefficients q that do not depend on the logits z:

    L = sum_n h_n loss_n    loss_n = -sum_c q_nc log P_nc    r_n = sum_c q_nc    h = 1, 1 / norm, or loss_n's adjoint

    class target y_n        q_nc = e_n [c = y_n] + s_n w_c   e_n = (1 - ls) w_y  s_n = ls / C  (0 on ignored rows)
                            norm = sum_n w_y over the rows that are not ignored
    probability target t    q_nc = w_c ((1 - ls) t_nc + ls / C)                  norm = number of rows

Cross entropy, P = softmax(z), u = z_dot, P_dot = P (u - P . u):

    loss_dot_n = r_n (P . u) - sum_c q_nc u_c
    z_bar      = h (r P - q)
    z_bar_dot  = h_dot (r P - q) + h r P_dot
    t_bar      = -h (1 - ls) w log P
    t_bar_dot  = -h_dot (1 - ls) w log P - h (1 - ls) w (u - P . u)        and terms of q_dot and r_dot where t moves

A class that is negative and not the ignored one gives NaN where the runtime's gather lets it pass.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..passes.rule import Context, Needs, PerArgument, Rule, RuleTable, State
from ..passes.zero import MaybeZero, add, apply, mul
from .elementwise import FirstOutput, drop, indicator, keep
from .softmax import softmax_dot

aten = torch.ops.aten

NONE, MEAN, SUM = 0, 1, 2


def class_axis(z: Tensor) -> int:
    return 1 if z.dim() > 1 else 0


def per_class(w: Tensor, z: Tensor) -> Tensor:
    """Class weights, shaped to broadcast against z."""
    return w.reshape([-1] + [1] * (z.dim() - 1 - class_axis(z)))


class Reduction(State):
    """From losses per row to the result, for a norm that does not depend on what is differentiated."""

    def __init__(self, kind: int, norm: Any, norm_bar: Any = None) -> None:
        """`norm_bar`: the norm of the adjoint, where it is another one."""
        self.kind, self.norm, self.norm_bar = kind, norm, norm if norm_bar is None else norm_bar

    def __call__(self, losses: Tensor) -> Tensor:
        if self.kind == NONE:
            return losses
        return losses.sum() / self.norm if self.kind == MEAN else losses.sum()

    def transpose(self, y_bar: Tensor) -> Tensor:
        """h: the multiplier of each row."""
        return y_bar / self.norm_bar if self.kind == MEAN else y_bar


class ClassTarget(State):
    """q for class indices: one coefficient e at the class y, and s w over all classes."""

    def __init__(self, z: Tensor, y: Tensor, w: Tensor | None, kind: int, ignored: Any, ls: float) -> None:
        self.axis = class_axis(z)
        valid = y != ignored
        # An index below zero that is not the ignored one: some runtimes count it from the end.
        one = torch.where(valid & (y < 0), z.new_full((), math.nan), z.new_ones(()))
        row = indicator(valid, z) * one
        self.y = drop(~valid, y).to(torch.int64).unsqueeze(self.axis)
        weight = row if w is None else keep(valid, w.gather(0, self.y.reshape(-1)).reshape(y.shape)) * one
        self.w = None if w is None else per_class(w, z)
        self.e = weight.unsqueeze(self.axis) * (1 - ls) if ls else weight.unsqueeze(self.axis)
        self.s = row.unsqueeze(self.axis) * (ls / z.shape[self.axis]) if ls else None
        self.r = (
            self.e if self.s is None else self.e + self.s * (z.shape[self.axis] if w is None else w.sum())
        )
        self.weight = weight
        self.reduction = Reduction(kind, None)
        if kind == MEAN:
            # Where every row is ignored the loss is 0 / 0, and its gradient zero (PyTorch's choice).
            norm = weight.sum()
            self.reduction = Reduction(kind, norm, torch.where(valid.sum() == 0, norm.new_ones(()), norm))

    def dot(self, u: Tensor) -> Tensor:
        """sum_c q_nc u_nc."""
        total = self.e * u.gather(self.axis, self.y)
        if self.s is not None:
            total = total + self.s * (u if self.w is None else self.w * u).sum(self.axis, keepdim=True)
        return total

    def subtract(self, h: Tensor, x: Tensor) -> Tensor:
        """x - h q."""
        if self.s is not None:
            x = x - (h * self.s if self.w is None else h * self.s * self.w)
        return x.scatter_add(self.axis, self.y, -(h * self.e))


class ProbabilityTarget(State):
    """q for class probabilities t."""

    def __init__(self, z: Tensor, t: Tensor, w: Tensor | None, kind: int, ls: float) -> None:
        self.axis = class_axis(z)
        classes = z.shape[self.axis]
        self.scale: Any = 1 - ls if w is None else (1 - ls) * per_class(w, z)
        smooth = t * (1 - ls) + ls / classes if ls else t
        self.q = smooth if w is None else smooth * per_class(w, z)
        self.r = self.q.sum(self.axis, keepdim=True)
        rows: Any = 1
        for i, size in enumerate(z.shape):
            rows = rows if i == self.axis else rows * size
        self.reduction = Reduction(kind, rows)

    def dot(self, u: Tensor) -> Tensor:
        return (self.q * u).sum(self.axis, keepdim=True)

    def subtract(self, h: Tensor, x: Tensor) -> Tensor:
        return x - h * self.q


def expand_rows(h: Tensor, q: ClassTarget | ProbabilityTarget) -> Tensor:
    """h of a row as a factor of the row's classes."""
    return h.unsqueeze(q.axis) if q.reduction.kind == NONE else h


class CrossEntropy(Rule):
    """aten.cross_entropy_loss(z, target, weight, reduction, ignore_index, label_smoothing)."""

    names = ("z", "t", "w")

    def value(
        self, ctx: Context, z: Tensor, t: Tensor, w: Tensor | None, kind: int, ignored: Any, ls: float
    ) -> Tensor:
        probabilities = t.is_floating_point()
        ctx.q = (
            ProbabilityTarget(z, t, w, kind, ls) if probabilities else ClassTarget(z, t, w, kind, ignored, ls)
        )
        ctx.log_P = torch.log_softmax(z, ctx.q.axis)
        return ctx.q.reduction(-ctx.q.dot(ctx.log_P).squeeze(ctx.q.axis))

    def _softmax(self, ctx: Context) -> Tensor:
        if not hasattr(ctx, "P"):
            ctx.P = ctx.log_P.exp()
        return ctx.P

    def _target_dot(self, ctx: Context, dots: PerArgument) -> MaybeZero:
        """q_dot: how the coefficients move with the target."""
        if dots[2] is not None:
            raise InputError(
                "the class weights of the cross entropy are constants: no derivative along them."
            )
        return apply(lambda t_dot: ctx.q.scale * t_dot, dots[1])

    def tangent(self, ctx: Context, dots: PerArgument) -> MaybeZero:
        q, u, q_dot = ctx.q, dots[0], self._target_dot(ctx, dots)
        rows: MaybeZero = None
        if u is not None:
            rows = q.r * (self._softmax(ctx) * u).sum(q.axis, keepdim=True) - q.dot(u)
        if q_dot is not None:
            rows = add(rows, -(q_dot * ctx.log_P).sum(q.axis, keepdim=True))
        return apply(lambda rows: q.reduction(rows.squeeze(q.axis)), rows)

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        q = ctx.q
        h = expand_rows(q.reduction.transpose(y_bar), q)
        z_bar = q.subtract(h, (h * q.r) * self._softmax(ctx)) if needs[0] else None
        t_bar = -h * q.scale * ctx.log_P if needs[1] else None
        return [z_bar, t_bar, None, None, None, None]

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Tensor, needs: Needs) -> PerArgument:
        q, P, u, q_dot = ctx.q, self._softmax(ctx), dots[0], self._target_dot(ctx, dots)
        h = expand_rows(q.reduction.transpose(y_bar), q)
        z_bar: MaybeZero = None
        t_bar: MaybeZero = None
        if needs[0]:
            z_bar = mul(h * q.r, apply(lambda u: softmax_dot(P, u, q.axis), u))
            if q_dot is not None:
                z_bar = add(z_bar, h * (q_dot.sum(q.axis, keepdim=True) * P - q_dot))
        if needs[1] and u is not None:
            t_bar = -h * q.scale * (u - (P * u).sum(q.axis, keepdim=True))
        return [z_bar, t_bar, None, None, None, None]


class NegativeLogLikelihood(Rule):
    """aten.nll_loss_nd(log_P, target, weight, reduction, ignore_index) and its kin: L = sum_n h_n (-q_n . log P_n)."""

    names = ("log_P", "y", "w")

    def value(
        self, ctx: Context, log_P: Tensor, y: Tensor, w: Tensor | None, kind: int, ignored: Any
    ) -> Tensor:
        ctx.q = ClassTarget(log_P, y, w, kind, ignored, 0.0)
        return self._loss(ctx.q, log_P)

    def _loss(self, q: ClassTarget, log_P: Tensor) -> Tensor:
        return q.reduction(-q.dot(log_P).squeeze(q.axis))

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        return self._loss(ctx.q, dots[0])

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        h = expand_rows(ctx.q.reduction.transpose(y_bar), ctx.q)
        zeros = y_bar.new_zeros(ctx.args[0].shape)
        return [ctx.q.subtract(h.expand(ctx.q.y.shape), zeros), None, None, None, None]


def total_weight(
    ctx: Context, log_P: Tensor, y: Tensor, w: Tensor | None, kind: int, ignored: Any
) -> tuple[Tensor]:
    return (log_P.new_zeros(()) if kind == NONE else ctx.q.weight.sum(),)


NLL = NegativeLogLikelihood()
NLL_FORWARD = FirstOutput(NLL, total_weight)

RULES: RuleTable = {
    aten.cross_entropy_loss.default: CrossEntropy(),
    aten.nll_loss_nd.default: NLL,
    aten.nll_loss.default: NLL,
    aten.nll_loss2d.default: NLL,
    aten.nll_loss_forward.default: NLL_FORWARD,
    aten.nll_loss2d_forward.default: NLL_FORWARD,
}
