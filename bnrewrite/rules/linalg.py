"""Inverse and determinant of square matrices, batched. With Y = A^-1:

    inverse        Y_dot = -Y A_dot Y             A_bar = -Y^T Y_bar Y^T
    determinant    d_dot = d tr(Y A_dot)          A_bar = d_bar d Y^T

(K. B. Petersen, M. S. Pedersen, The Matrix Cookbook, 2012, equations 59 and 46). PyTorch's own second derivative of the
determinant divides by what may be zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Context, Needs, PerArgument, Rule, RuleTable
from ..passes.zero import add

aten = torch.ops.aten


class Inverse(Rule):
    """`aten.linalg_inv(A)`."""

    names = ("A",)

    def value(self, ctx: Context, *args: Any) -> Tensor:
        return aten.linalg_inv.default(args[0])

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        return _inverse_tangent(ctx.y, dots[0])

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        return [-(ctx.y.mT @ y_bar @ ctx.y.mT)]

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        Y_dot = _inverse_tangent(ctx.y, dots[0])
        return [-(Y_dot.mT @ y_bar @ ctx.y.mT + ctx.y.mT @ y_bar @ Y_dot.mT)]


def _inverse_tangent(Y: Tensor, A_dot: Tensor) -> Tensor:
    return -(Y @ A_dot @ Y)


class Determinant(Rule):
    """`aten.linalg_det(A)`; A must have an inverse."""

    names = ("A",)

    def value(self, ctx: Context, *args: Any) -> Tensor:
        ctx.inverse = aten.linalg_inv.default(args[0])
        return aten.linalg_det.default(args[0])

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        return ctx.y * (ctx.inverse.mT * dots[0]).sum([-2, -1])

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        return [_as_matrices(y_bar * ctx.y) * ctx.inverse.mT]

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        Y_dot = _inverse_tangent(ctx.inverse, dots[0])
        d_dot = self.tangent(ctx, dots)
        first = _as_matrices(y_bar * d_dot) * ctx.inverse.mT
        return [add(first, _as_matrices(y_bar * ctx.y) * Y_dot.mT)]


def _as_matrices(numbers: Tensor) -> Tensor:
    return numbers.unsqueeze(-1).unsqueeze(-1)


RULES: RuleTable = {aten.linalg_inv.default: Inverse(), aten.linalg_det.default: Determinant()}
