"""Elementary functions of one tensor, element by element: y = f(x) with f' and f''.

    y_dot = f' x_dot      x_bar = f' y_bar      x_bar_dot = f' y_bar_dot + f'' x_dot y_bar

Derivatives are written in y where that is cheaper. At kinks f' is PyTorch's choice: |x|' = 0 at 0, clamp' = 1 at
both ends.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Linear, Masked, Pointwise, Rule, RuleTable
from .elementwise import Choice, Elementwise, ZeroDerivative, keep

aten = torch.ops.aten


# y = x^p:  p x^(p-1),  p (p-1) x^(p-2)


def power(x: Tensor, p: float) -> Tensor | float:
    return 1.0 if p == 0 else x if p == 1 else aten.pow.Tensor_Scalar(x, p)


def power_rule(x: Tensor, p: float) -> Rule:
    if p == 0:
        return ZeroDerivative(aten.pow.Tensor_Scalar)
    return Pointwise(
        aten.pow.Tensor_Scalar,
        lambda x, y, p: p * power(x, p - 1),
        None if p == 1 else lambda x, y, p: p * (p - 1) * power(x, p - 2),
    )


# Clamping: both ends belong to the inside.


def clamp_slope(g: Tensor, x: Tensor, y: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """g where low <= x <= high: both ends belong to the inside."""
    inside = None if low is None else x >= low
    if high is not None:
        inside = x <= high if inside is None else inside & (x <= high)
    return g if inside is None else keep(inside, g)


def clamp_low(g: Tensor, y: Tensor, x: Tensor, low: Tensor | None, high: Tensor | None = None) -> Tensor:
    assert low is not None
    below = x < low
    return keep(below if high is None else below & (low < high), g)


def clamp_high(g: Tensor, y: Tensor, x: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    assert high is not None
    above = x > high
    return keep(above if low is None else above | (high < low), g)


CLAMP_TENSOR = {0: lambda g, y, x, *ends: clamp_slope(g, x, y, *ends), 1: clamp_low, 2: clamp_high}
CLAMP_MAX_TENSOR = {
    0: lambda g, y, x, high: clamp_slope(g, x, y, None, high),
    1: lambda g, y, x, high: clamp_high(g, y, x, None, high),
}


def trigonometric_and_hyperbolic() -> RuleTable:
    def root(x: Tensor) -> Tensor:
        return torch.rsqrt(1 - x * x)

    return {
        aten.sin.default: Pointwise(aten.sin.default, lambda x, y: x.cos(), lambda x, y: -y),
        aten.cos.default: Pointwise(aten.cos.default, lambda x, y: -x.sin(), lambda x, y: -y),
        aten.tan.default: Pointwise(
            aten.tan.default, lambda x, y: 1 + y * y, lambda x, y: 2 * y * (1 + y * y)
        ),
        aten.asin.default: Pointwise(aten.asin.default, lambda x, y: root(x), lambda x, y: x * root(x) ** 3),
        aten.acos.default: Pointwise(
            aten.acos.default, lambda x, y: -root(x), lambda x, y: -x * root(x) ** 3
        ),
        aten.atan.default: Pointwise(
            aten.atan.default, lambda x, y: 1 / (1 + x * x), lambda x, y: -2 * x / (1 + x * x) ** 2
        ),
        aten.sinh.default: Pointwise(aten.sinh.default, lambda x, y: x.cosh(), lambda x, y: y),
        aten.cosh.default: Pointwise(aten.cosh.default, lambda x, y: x.sinh(), lambda x, y: y),
        aten.asinh.default: Pointwise(
            aten.asinh.default,
            lambda x, y: torch.rsqrt(1 + x * x),
            lambda x, y: -x * torch.rsqrt(1 + x * x) ** 3,
        ),
        aten.acosh.default: Pointwise(
            aten.acosh.default,
            lambda x, y: torch.rsqrt(x * x - 1),
            lambda x, y: -x * torch.rsqrt(x * x - 1) ** 3,
        ),
        aten.atanh.default: Pointwise(
            aten.atanh.default, lambda x, y: 1 / (1 - x * x), lambda x, y: 2 * x / (1 - x * x) ** 2
        ),
    }


TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)


def exponential_and_powers() -> RuleTable:
    ln2, ln10 = math.log(2), math.log(10)

    def bell(x: Tensor) -> Tensor:
        return TWO_OVER_ROOT_PI * torch.exp(-x * x)

    return {
        aten.exp.default: Pointwise(aten.exp.default, lambda x, y: y, lambda x, y: y),
        aten.exp2.default: Pointwise(aten.exp2.default, lambda x, y: ln2 * y, lambda x, y: ln2 * ln2 * y),
        aten.expm1.default: Pointwise(aten.expm1.default, lambda x, y: y + 1, lambda x, y: y + 1),
        aten.log.default: Pointwise(aten.log.default, lambda x, y: 1 / x, lambda x, y: -1 / (x * x)),
        aten.log1p.default: Pointwise(
            aten.log1p.default, lambda x, y: 1 / (1 + x), lambda x, y: -1 / ((1 + x) * (1 + x))
        ),
        aten.log2.default: Pointwise(
            aten.log2.default, lambda x, y: 1 / (ln2 * x), lambda x, y: -1 / (ln2 * x * x)
        ),
        aten.log10.default: Pointwise(
            aten.log10.default, lambda x, y: 1 / (ln10 * x), lambda x, y: -1 / (ln10 * x * x)
        ),
        aten.sqrt.default: Pointwise(aten.sqrt.default, lambda x, y: 0.5 / y, lambda x, y: -0.25 / (x * y)),
        aten.rsqrt.default: Pointwise(
            aten.rsqrt.default, lambda x, y: -0.5 * y / x, lambda x, y: 0.75 * y / (x * x)
        ),
        aten.reciprocal.default: Pointwise(
            aten.reciprocal.default, lambda x, y: -y * y, lambda x, y: 2 * y * y * y
        ),
        aten.square.default: Pointwise(
            aten.square.default, lambda x, y: 2 * x, lambda x, y: x.new_full((), 2.0)
        ),
        aten.pow.Tensor_Scalar: Choice(power_rule),
        aten.erf.default: Pointwise(aten.erf.default, lambda x, y: bell(x), lambda x, y: -2 * x * bell(x)),
        aten.erfc.default: Pointwise(aten.erfc.default, lambda x, y: -bell(x), lambda x, y: 2 * x * bell(x)),
    }


def piecewise() -> RuleTable:
    constant = (aten.sign, aten.sgn, aten.floor, aten.ceil, aten.trunc, aten.round)
    return {
        **{op.default: ZeroDerivative(op.default) for op in constant},
        aten.round.decimals: ZeroDerivative(lambda x, d: aten.round.decimals(x, decimals=d)),
        aten.frac.default: Masked(aten.frac.default, lambda g, x, y: g),
        aten.abs.default: Pointwise(aten.abs.default, lambda x, y: x.sign()),
        aten.neg.default: Linear(aten.neg.default, lambda y_bar, x: -y_bar),
        aten.clamp.default: Masked(aten.clamp.default, clamp_slope),
        aten.clamp_min.default: Masked(aten.clamp_min.default, clamp_slope),
        aten.clamp_max.default: Masked(
            aten.clamp_max.default, lambda g, x, y, high: clamp_slope(g, x, y, None, high)
        ),
        aten.clamp.Tensor: Elementwise(aten.clamp.Tensor, CLAMP_TENSOR, names=("x", "low", "high")),
        aten.clamp_min.Tensor: Elementwise(
            aten.clamp_min.Tensor, {0: CLAMP_TENSOR[0], 1: clamp_low}, names=("x", "low")
        ),
        aten.clamp_max.Tensor: Elementwise(aten.clamp_max.Tensor, CLAMP_MAX_TENSOR, names=("x", "high")),
    }


RULES: RuleTable = {**exponential_and_powers(), **trigonometric_and_hyperbolic(), **piecewise()}
