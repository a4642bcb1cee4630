"""Arithmetic with broadcasting and type promotion: sums, products, quotients, powers, extrema, selections.

Letters: a, b the operands, g what is multiplied by a partial derivative. At ties and kinks the conventions are
PyTorch's: `maximum` and `minimum` share a tie half and half, a power with exponent 0 has derivative 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Context, Needs, PerArgument, Rule, RuleTable
from ..passes.zero import MaybeZero
from .elementwise import Choice, Elementwise, ZeroDerivative, drop, keep, positional, to_argument, to_result

aten = torch.ops.aten


def scaled(g: Tensor, factor: Any) -> Tensor:
    """g times a number, without a multiplication by one."""
    return g if isinstance(factor, (int, float)) and factor == 1 else g * factor


# y = a + alpha b,   y = a - alpha b,   y = b - alpha a

ADD = {0: lambda g, *_: g, 1: lambda g, y, a, b, alpha: scaled(g, alpha)}
SUB = {0: lambda g, *_: g, 1: lambda g, y, a, b, alpha: g * -alpha}
RSUB = {0: lambda g, y, a, b, alpha: g * -alpha, 1: lambda g, *_: g}


def rsub(a: Tensor, b: Any, alpha: Any) -> Tensor:
    return aten.sub.Tensor(b, a, alpha=alpha)


# y = a b

MUL = {0: lambda g, y, a, b: g * b, 1: lambda g, y, a, b: g * a}
MUL_SECOND = {(0, 1): lambda g, *_: g}

# y = a / b:   f_a = 1 / b,   f_b = -y / b,   f_ab = -1 / b^2,   f_bb = 2 y / b^2

DIV = {0: lambda g, y, a, b, *_: g / b, 1: lambda g, y, a, b, *_: -g * (y / b)}
DIV_SECOND = {(0, 1): lambda g, y, a, b, *_: -g / (b * b), (1, 1): lambda g, y, a, b, *_: 2 * g * (y / b) / b}
QUOTIENT = Elementwise(positional(aten.div.Tensor_mode), DIV, DIV_SECOND)
QUOTIENT_SCALAR = Elementwise(positional(aten.div.Scalar_mode), {0: DIV[0]})

# y = s + v a b   and   y = s + v a / b

ADDCMUL = {
    0: lambda g, *_: g,
    1: lambda g, y, s, a, b, v: scaled(g * b, v),
    2: lambda g, y, s, a, b, v: scaled(g * a, v),
}
ADDCMUL_SECOND = {(1, 2): lambda g, y, s, a, b, v: scaled(g, v)}
ADDCDIV = {
    0: lambda g, *_: g,
    1: lambda g, y, s, a, b, v: scaled(g / b, v),
    2: lambda g, y, s, a, b, v: -scaled(g * (a / b) / b, v),
}
ADDCDIV_SECOND = {
    (1, 2): lambda g, y, s, a, b, v: -scaled(g / (b * b), v),
    (2, 2): lambda g, y, s, a, b, v: scaled(2 * g * (a / b) / (b * b), v),
}

# y = a^b:   f_a = b a^(b-1),  f_b = y log a,  f_aa = b (b-1) a^(b-2),  f_ab = a^(b-1) (1 + b log a),  f_bb = y log^2 a


def power_a(g: Tensor, y: Tensor, a: Any, b: Tensor) -> Tensor:
    return drop(b == 0, g * (b * a ** (b - 1)))


def power_b(g: Tensor, y: Tensor, a: Tensor, b: Any) -> Tensor:
    return drop((a == 0) & (b >= 0), g * (y * a.log()))


def power_aa(g: Tensor, y: Tensor, a: Any, b: Tensor) -> Tensor:
    return drop((b == 0) | (b == 1), g * (b * (b - 1) * a ** (b - 2)))


def power_ab(g: Tensor, y: Tensor, a: Tensor, b: Any) -> Tensor:
    return drop((a == 0) & (b >= 1), g * (a ** (b - 1) * (1 + b * a.log())))


def power_bb(g: Tensor, y: Tensor, a: Tensor, b: Any) -> Tensor:
    return drop((a == 0) & (b >= 0), g * (y * a.log() ** 2))


POWER = {0: power_a, 1: power_b}
POWER_SECOND = {(0, 0): power_aa, (0, 1): power_ab, (1, 1): power_bb}


def logarithm(s: Any) -> float:
    """log of a number, with the values that tensors give at zero and below."""
    return math.log(s) if s > 0 else (-math.inf if s == 0 else math.nan)


def scalar_power_b(g: Tensor, y: Tensor, s: Any, b: Tensor) -> Tensor:
    g_b = g * (y * logarithm(s))
    return drop(b >= 0, g_b) if s == 0 else g_b


def scalar_power_bb(g: Tensor, y: Tensor, s: Any, b: Tensor) -> Tensor:
    g_bb = g * (y * logarithm(s) ** 2)
    return drop(b >= 0, g_bb) if s == 0 else g_bb


# y = max(a, b) and min(a, b); a tie gives each half.


def larger(g: Tensor, a: Any, b: Any) -> Tensor:
    """g where a > b, half of it at ties."""
    return torch.where(a == b, g / 2, drop(a < b, g))


def smaller(g: Tensor, a: Any, b: Any) -> Tensor:
    """g where a < b, half of it at ties."""
    return torch.where(a == b, g / 2, drop(a > b, g))


MAXIMUM = {0: lambda g, y, a, b: larger(g, a, b), 1: lambda g, y, a, b: larger(g, b, a)}
MINIMUM = {0: lambda g, y, a, b: smaller(g, a, b), 1: lambda g, y, a, b: smaller(g, b, a)}

# y = a + w (b - a)

LERP = {
    0: lambda g, y, a, b, w: g * (1 - w),
    1: lambda g, y, a, b, w: g * w,
    2: lambda g, y, a, b, w: g * (b - a),
}
LERP_SECOND = {(0, 2): lambda g, *_: -g, (1, 2): lambda g, *_: g}

# y = a - b trunc(a / b)   and   y = a - b floor(a / b)

FMOD = {0: lambda g, *_: g, 1: lambda g, y, a, b: -g * torch.trunc(a / b)}
REMAINDER = {0: lambda g, *_: g, 1: lambda g, y, a, b: -g * torch.floor(a / b)}

# y = v where mask, else x

MASKED_FILL = {0: lambda g, y, x, mask, v: drop(mask, g), 2: lambda g, y, x, mask, v: keep(mask, g)}


class Where(Rule):
    """y = a where c, else b:   y_dot = where(c, a_dot, b_dot)."""

    names = ("c", "a", "b")

    def value(self, ctx: Context, *args: Any) -> Tensor:
        return torch.where(*args)

    def tangent(self, ctx: Context, dots: PerArgument) -> MaybeZero:
        c, (_, a_dot, b_dot) = ctx.args[0], dots
        if a_dot is None:
            return to_result(drop(c, b_dot), ctx.y)
        if b_dot is None:
            return to_result(keep(c, a_dot), ctx.y)
        return to_result(torch.where(c, a_dot, b_dot), ctx.y)

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        c, a, b = ctx.args
        a_bar = to_argument(keep(c, y_bar), a) if needs[1] else None
        b_bar = to_argument(drop(c, y_bar), b) if needs[2] else None
        return [None, a_bar, b_bar]


DIVISION = Choice(
    lambda a, b, mode: QUOTIENT if mode is None else ZeroDerivative(positional(aten.div.Tensor_mode)),
    ("a", "b"),
)
DIVISION_SCALAR = Choice(
    lambda a, b, mode: QUOTIENT_SCALAR if mode is None else ZeroDerivative(positional(aten.div.Scalar_mode))
)


RULES: RuleTable = {
    aten.add.Tensor: Elementwise(positional(aten.add.Tensor), ADD),
    aten.add.Scalar: Elementwise(aten.add.Scalar, {0: ADD[0]}),
    aten.sub.Tensor: Elementwise(positional(aten.sub.Tensor), SUB),
    aten.sub.Scalar: Elementwise(aten.sub.Scalar, {0: SUB[0]}),
    aten.rsub.Tensor: Elementwise(rsub, RSUB),
    aten.rsub.Scalar: Elementwise(aten.rsub.Scalar, {0: RSUB[0]}),
    aten.mul.Tensor: Elementwise(aten.mul.Tensor, MUL, MUL_SECOND),
    aten.mul.Scalar: Elementwise(aten.mul.Scalar, {0: MUL[0]}),
    aten.div.Tensor: Elementwise(aten.div.Tensor, DIV, DIV_SECOND),
    aten.div.Scalar: Elementwise(aten.div.Scalar, {0: DIV[0]}),
    aten.div.Tensor_mode: DIVISION,
    aten.div.Scalar_mode: DIVISION_SCALAR,
    aten.floor_divide.default: ZeroDerivative(aten.floor_divide.default),
    aten.floor_divide.Scalar: ZeroDerivative(aten.floor_divide.Scalar),
    aten.addcmul.default: Elementwise(
        positional(aten.addcmul.default), ADDCMUL, ADDCMUL_SECOND, ("s", "a", "b")
    ),
    aten.addcdiv.default: Elementwise(
        positional(aten.addcdiv.default), ADDCDIV, ADDCDIV_SECOND, ("s", "a", "b")
    ),
    aten.pow.Tensor_Tensor: Elementwise(aten.pow.Tensor_Tensor, POWER, POWER_SECOND),
    aten.pow.Scalar: Elementwise(aten.pow.Scalar, {1: scalar_power_b}, {(1, 1): scalar_power_bb}),
    aten.maximum.default: Elementwise(aten.maximum.default, MAXIMUM),
    aten.minimum.default: Elementwise(aten.minimum.default, MINIMUM),
    aten.where.self: Where(),
    aten.lerp.Scalar: Elementwise(aten.lerp.Scalar, {0: LERP[0], 1: LERP[1]}),
    aten.lerp.Tensor: Elementwise(aten.lerp.Tensor, LERP, LERP_SECOND, ("a", "b", "w")),
    aten.fmod.Scalar: Elementwise(aten.fmod.Scalar, {0: FMOD[0]}),
    aten.fmod.Tensor: Elementwise(aten.fmod.Tensor, FMOD),
    aten.remainder.Scalar: Elementwise(aten.remainder.Scalar, {0: REMAINDER[0]}),
    aten.remainder.Tensor: Elementwise(aten.remainder.Tensor, REMAINDER),
    aten.masked_fill.Scalar: Elementwise(aten.masked_fill.Scalar, {0: MASKED_FILL[0]}, names=("x",)),
    aten.masked_fill.Tensor: Elementwise(aten.masked_fill.Tensor, MASKED_FILL, names=("x", "mask", "v")),
}
