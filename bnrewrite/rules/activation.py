"""Activation functions: y = f(x) element by element, with f' and f''.

    y_dot = f' x_dot      x_bar = f' y_bar      x_bar_dot = f' y_bar_dot + f'' x_dot y_bar

At kinks f' is PyTorch's choice (relu'(0) = 0, hardtanh' = 0 at both ends); f'' of a piecewise-linear function is zero,
also where PyTorch has no second derivative (hardsigmoid).
"""

from __future__ import annotations

import math
import struct

import torch
from torch import Tensor

from ..errors import CaptureError
from ..passes.rule import Context, Masked, Needs, PerArgument, Pointwise, Rule, RuleTable
from .elementwise import IDENTITY, Choice, Elementwise, FirstOutput, drop, keep

aten = torch.ops.aten


def choose(mask: Tensor, a: Tensor | float, b: Tensor | float, like: Tensor) -> Tensor:
    """a where `mask`, else b; a number takes the type and the device of `like`."""
    a = a if isinstance(a, Tensor) else like.new_full((), a)
    b = b if isinstance(b, Tensor) else like.new_full((), b)
    return torch.where(mask, a, b)


# sigmoid and its kin, with s = sigmoid(x)


def sigmoid_first(x: Tensor, y: Tensor) -> Tensor:
    return y * (1 - y)


def sigmoid_second(x: Tensor, y: Tensor) -> Tensor:
    return y * (1 - y) * (1 - 2 * y)


def tanh_first(x: Tensor, y: Tensor) -> Tensor:
    return 1 - y * y


def tanh_second(x: Tensor, y: Tensor) -> Tensor:
    return -2 * y * (1 - y * y)


def silu_first(x: Tensor, y: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def silu_second(x: Tensor, y: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def log_sigmoid(x: Tensor) -> Tensor:
    """log s from operations that every runtime has, accurate at both ends."""
    return x.clamp(max=0) - torch.log1p(torch.exp(-x.abs()))


def log_sigmoid_first(x: Tensor, y: Tensor) -> Tensor:
    return torch.sigmoid(-x)


def log_sigmoid_second(x: Tensor, y: Tensor) -> Tensor:
    s = torch.sigmoid(-x)
    return -s * (1 - s)


def softplus_first(x: Tensor, y: Tensor, beta: float, threshold: float) -> Tensor:
    return choose(x * beta > threshold, 1.0, torch.sigmoid(x * beta), x)


def softplus_second(x: Tensor, y: Tensor, beta: float, threshold: float) -> Tensor:
    s = torch.sigmoid(x * beta)
    return drop(x * beta > threshold, beta * s * (1 - s))


# mish: y = x t,  t = tanh(softplus(x)),  d = dt/dx = s (1 - t^2)


def mish_parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.tanh(aten.softplus.default(x))
    s = torch.sigmoid(x)
    return t, s, s * (1 - t * t)


def mish_first(x: Tensor, y: Tensor) -> Tensor:
    t, _, d = mish_parts(x)
    return t + x * d


def mish_second(x: Tensor, y: Tensor) -> Tensor:
    t, s, d = mish_parts(x)
    return d * (2 + x * (1 - s - 2 * s * t))


# gelu: y = x Phi(x),  or with  u = k (x + c x^3),  t = tanh(u):  y = x (1 + t) / 2

K, C = math.sqrt(2 / math.pi), 0.044715


def gelu_first(x: Tensor, y: Tensor, approximate: str) -> Tensor:
    if approximate == "tanh":
        t = torch.tanh(K * (x + C * x**3))
        u_x = K * (1 + 3 * C * x * x)
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * u_x
    phi = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * phi


def gelu_second(x: Tensor, y: Tensor, approximate: str) -> Tensor:
    if approximate == "tanh":
        t = torch.tanh(K * (x + C * x**3))
        u_x, u_xx = K * (1 + 3 * C * x * x), 6 * K * C * x
        return (1 - t * t) * (u_x + 0.5 * x * (u_xx - 2 * t * u_x * u_x))
    phi = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return phi * (2 - x * x)


# elu: y = scale x (x > 0),  scale alpha (exp(r x) - 1) (x <= 0), with r the input's scale

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def elu_first(x: Tensor, y: Tensor, alpha: float = 1.0, scale: float = 1.0, r: float = 1.0) -> Tensor:
    return choose(x > 0, float(scale), r * alpha * scale * torch.exp(r * x), x)


def elu_second(x: Tensor, y: Tensor, alpha: float = 1.0, scale: float = 1.0, r: float = 1.0) -> Tensor:
    return drop(x >= 0, r * r * alpha * scale * torch.exp(r * x))


def selu_first(x: Tensor, y: Tensor) -> Tensor:
    return elu_first(x, y, SELU_ALPHA, SELU_SCALE)


def selu_second(x: Tensor, y: Tensor) -> Tensor:
    return elu_second(x, y, SELU_ALPHA, SELU_SCALE)


def rounded(alpha: float) -> float:
    """`alpha` in single precision: what PyTorch's celu' uses, whatever the type of x."""
    return struct.unpack("f", struct.pack("f", alpha))[0]


def celu_first(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    return elu_first(x, y, alpha, 1.0, 1 / rounded(alpha))


def celu_second(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    return elu_second(x, y, alpha, 1.0, 1 / rounded(alpha))


# hardswish: y = x relu6(x + 3) / 6


def hardswish_first(x: Tensor, y: Tensor) -> Tensor:
    return choose(x <= -3, 0.0, choose(x < 3, x / 3 + 0.5, 1.0, x), x)


def hardswish_second(x: Tensor, y: Tensor) -> Tensor:
    return choose((x > -3) & (x < 3), 1 / 3, 0.0, x)


# Piecewise-linear functions: the slope is applied by PyTorch's own kernel where there is one.


def relu_slope(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return aten.threshold_backward.default(g, y, 0)


# prelu: y = x (x > 0),  w x (x <= 0)


PRELU = {
    0: lambda g, y, x, w: torch.where(x > 0, g, g * w),
    1: lambda g, y, x, w: drop(x > 0, g * x),
}
PRELU_SECOND = {(0, 1): lambda g, y, x, w: drop(x > 0, g)}


# Dropout in evaluation mode is the identity.


def without_noise(x: Tensor, p: float, train: bool | None) -> Rule:
    """The rule of a dropout, refused where it drops."""
    if train is not False and p > 0:
        raise CaptureError(
            f"dropout with p={p} in training mode draws random numbers, so the loss has no definite curvature: "
            "put the dropout modules into evaluation mode."
        )
    return IDENTITY


class Glu(Rule):
    """y = a s with x = (a, b) along an axis and s = sigmoid(b)."""

    def _halves(self, ctx: Context, t: Tensor) -> tuple[Tensor, Tensor]:
        dim = ctx.args[1]
        half = t.shape[dim] // 2
        return t.narrow(dim, 0, half), t.narrow(dim, half, half)

    def value(self, ctx: Context, x: Tensor, dim: int) -> Tensor:
        ctx.args = (x, dim)
        ctx.a, b = self._halves(ctx, x)
        ctx.s = torch.sigmoid(b)
        return ctx.a * ctx.s

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        a_dot, b_dot = self._halves(ctx, dots[0])
        return a_dot * ctx.s + ctx.y * (1 - ctx.s) * b_dot

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        return [torch.cat([y_bar * ctx.s, y_bar * ctx.y * (1 - ctx.s)], ctx.args[1]), None]

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Tensor, needs: Needs) -> PerArgument:
        a_dot, b_dot = self._halves(ctx, dots[0])
        slope = ctx.s * (1 - ctx.s)
        b_bar = y_bar * slope * (a_dot + ctx.a * (1 - 2 * ctx.s) * b_dot)
        return [torch.cat([y_bar * slope * b_dot, b_bar], ctx.args[1]), None]


RULES: RuleTable = {
    aten.relu.default: Masked(aten.relu.default, relu_slope),
    aten.relu6.default: Masked(
        lambda x: aten.hardtanh.default(x, 0, 6), lambda g, x, y: aten.hardtanh_backward.default(g, x, 0, 6)
    ),
    aten.hardtanh.default: Masked(
        aten.hardtanh.default, lambda g, x, y, low, high: aten.hardtanh_backward.default(g, x, low, high)
    ),
    aten.leaky_relu.default: Masked(
        aten.leaky_relu.default, lambda g, x, y, slope: aten.leaky_relu_backward.default(g, x, slope, False)
    ),
    aten.threshold.default: Masked(
        aten.threshold.default, lambda g, x, y, t, value: aten.threshold_backward.default(g, x, t)
    ),
    aten.hardsigmoid.default: Masked(
        # PyTorch's own kernel for the slope multiplies by 1/6 in single precision, also in float64.
        aten.hardsigmoid.default,
        lambda g, x, y: keep((x > -3) & (x < 3), g / 6),
    ),
    aten.hardswish.default: Pointwise(aten.hardswish.default, hardswish_first, hardswish_second),
    aten.sigmoid.default: Pointwise(aten.sigmoid.default, sigmoid_first, sigmoid_second),
    aten.tanh.default: Pointwise(aten.tanh.default, tanh_first, tanh_second),
    aten.silu.default: Pointwise(aten.silu.default, silu_first, silu_second),
    aten.mish.default: Pointwise(aten.mish.default, mish_first, mish_second),
    aten.gelu.default: Pointwise(
        lambda x, approximate: aten.gelu.default(x, approximate=approximate), gelu_first, gelu_second
    ),
    aten.log_sigmoid.default: Pointwise(log_sigmoid, log_sigmoid_first, log_sigmoid_second),
    aten.softplus.default: Pointwise(aten.softplus.default, softplus_first, softplus_second),
    aten.elu.default: Pointwise(aten.elu.default, elu_first, elu_second),
    aten.selu.default: Pointwise(aten.selu.default, selu_first, selu_second),
    aten.celu.default: Pointwise(aten.celu.default, celu_first, celu_second),
    aten._prelu_kernel.default: Elementwise(aten._prelu_kernel.default, PRELU, PRELU_SECOND, ("x", "w")),
    aten.glu.default: Glu(),
    aten.native_dropout.default: FirstOutput(
        Choice(without_noise), lambda ctx, x, *_: (torch.ones_like(x, dtype=torch.bool),)
    ),
}
