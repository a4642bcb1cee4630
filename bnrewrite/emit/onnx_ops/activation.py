"""Activation functions and the gradients of activations that PyTorch has operators for.

Softplus is max(x, 0) + log1p(exp(-|x|)): stable on both sides, and accurate where ONNX's Softplus loses the tail.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import torch
from torch import fx

from ..builder import Builder
from .elementary import expm1, log1p
from .pointwise import as_result, scaled
from .special import erf
from .table import arg_vals, axis, lowering, number, val

aten = torch.ops.aten


def stable_softplus(b: Builder, x: str, dtype: torch.dtype) -> str:
    """log(1 + exp(x))."""
    tail = log1p(b, b.op("Exp", b.op("Neg", b.op("Abs", x))), dtype)
    return b.op("Add", b.op("Relu", x), tail)


@lowering(aten.relu.default, aten.sigmoid.default)
def same_name(b: Builder, node: fx.Node, x: str) -> str:
    """max(x, 0), or 1 / (1 + exp(-x))."""
    return b.op("Relu" if node.target is aten.relu.default else "Sigmoid", as_result(b, node, x))


@lowering(aten.leaky_relu.default)
def leaky_relu(b: Builder, node: fx.Node, x: str, slope: float) -> str:
    """x, or slope x where x < 0. Not LeakyRelu: its slope is a float32 attribute."""
    dtype = val(node).dtype
    zero = number(b, 0, dtype)
    return b.op("Where", b.op("Greater", x, zero), x, b.op("Mul", x, number(b, slope, dtype)))


@lowering(aten._prelu_kernel.default)
def prelu(b: Builder, node: fx.Node, x: str, slope: str) -> str:
    """x, or slope x where x < 0, with a slope for each channel that broadcasts already."""
    zero = number(b, 0, val(node).dtype)
    return b.op("Where", b.op("Greater", x, zero), x, b.op("Mul", slope, x))


@lowering(aten.glu.default)
def glu(b: Builder, node: fx.Node, x: str, dim: int) -> str:
    """The first half along `dim`, gated by the sigmoid of the second."""
    x_val = arg_vals(node)[0]
    at = axis(dim, x_val.dim())
    half = int(x_val.shape[at]) // 2
    value, gate = b.ops("Split", x, b.ints([half, half]), outputs=2, axis=at)
    return b.op("Mul", value, b.op("Sigmoid", gate))


@lowering(aten.elu.default)
def elu(b: Builder, node: fx.Node, x: str, alpha: float, scale: float, input_scale: float) -> str:
    """scale x for x > 0, scale alpha (exp(input_scale x) - 1) elsewhere."""
    dtype = val(node).dtype
    # The exponential of a large positive x would overflow on the side that is not taken.
    below = expm1(b, scaled(b, b.op("Min", x, number(b, 0, dtype)), input_scale, val(node)), dtype)
    below = scaled(b, below, alpha * scale, val(node))
    return b.op("Where", b.op("Greater", x, number(b, 0, dtype)), scaled(b, x, scale, val(node)), below)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


@lowering(aten.selu.default)
def selu(b: Builder, node: fx.Node, x: str) -> str:
    """ELU with the self-normalising constants (Klambauer et al. 2017)."""
    return elu(b, node, x, _SELU_ALPHA, _SELU_SCALE, 1)


@lowering(aten.celu.default)
def celu(b: Builder, node: fx.Node, x: str, alpha: float) -> str:
    """ELU whose input is scaled by 1 / alpha."""
    return elu(b, node, x, alpha, 1, 1 / alpha)


@lowering(aten.gelu.default)
def gelu(b: Builder, node: fx.Node, x: str, *, approximate: str) -> str:
    """x (1 + erf(x / sqrt 2)) / 2, or x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    dtype = val(node).dtype
    if approximate == "tanh":
        cube = b.op("Mul", b.op("Mul", x, x), x)
        inner = b.op("Add", x, b.op("Mul", number(b, 0.044715, dtype), cube))
        gate = b.op("Tanh", scaled(b, inner, sqrt(2 / pi), val(node)))
    else:
        gate = erf(b, scaled(b, x, sqrt(0.5), val(node)), dtype)
    half_x = b.op("Mul", number(b, 0.5, dtype), x)
    return b.op("Mul", half_x, b.op("Add", number(b, 1, dtype), gate))


@lowering(aten.silu.default)
def silu(b: Builder, node: fx.Node, x: str) -> str:
    """x sigmoid(x)."""
    return b.op("Mul", x, b.op("Sigmoid", x))


@lowering(aten.mish.default)
def mish(b: Builder, node: fx.Node, x: str) -> str:
    """x tanh(softplus(x))."""
    return b.op("Mul", x, b.op("Tanh", stable_softplus(b, x, val(node).dtype)))


@lowering(aten.softplus.default)
def softplus(b: Builder, node: fx.Node, x: str, beta: Any, threshold: Any) -> str:
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold, as PyTorch defines it."""
    dtype = val(node).dtype
    beta_x = scaled(b, x, beta, val(node))
    curve = stable_softplus(b, beta_x, dtype)
    if beta != 1:
        curve = b.op("Div", curve, number(b, beta, dtype))
    return b.op("Where", b.op("Greater", beta_x, number(b, threshold, dtype)), x, curve)


@lowering(aten.log_sigmoid_forward.default)
def log_sigmoid_forward(b: Builder, node: fx.Node, x: str) -> tuple[str, str]:
    """log(1 / (1 + exp(-x))) and the buffer exp(-|x|) that its gradient reads."""
    log_sigmoid = b.op("Neg", stable_softplus(b, b.op("Neg", x), val(node)[0].dtype))
    return log_sigmoid, b.op("Exp", b.op("Neg", b.op("Abs", x)))


@lowering(aten.hardtanh.default)
def hardtanh(b: Builder, node: fx.Node, x: str, low: Any, high: Any) -> str:
    """x limited to [low, high]."""
    dtype = val(node).dtype
    return b.op("Clip", x, number(b, low, dtype), number(b, high, dtype))


@lowering(aten.relu6.default)
def relu6(b: Builder, node: fx.Node, x: str) -> str:
    """x limited to [0, 6]."""
    return hardtanh(b, node, x, 0, 6)


@lowering(aten.hardsigmoid.default)
def hardsigmoid(b: Builder, node: fx.Node, x: str) -> str:
    """min(max(x + 3, 0), 6) / 6. Not HardSigmoid: its 1/6 is a float32 attribute."""
    dtype = val(node).dtype
    shifted = b.op("Add", x, number(b, 3, dtype))
    six = number(b, 6, dtype)
    return b.op("Div", b.op("Clip", shifted, number(b, 0, dtype), six), six)


@lowering(aten.hardswish.default)
def hardswish(b: Builder, node: fx.Node, x: str) -> str:
    """x hardsigmoid(x)."""
    return b.op("Mul", x, hardsigmoid(b, node, x))


@lowering(aten.threshold.default)
def threshold(b: Builder, node: fx.Node, x: str, limit: Any, value: Any) -> str:
    """x where x > limit, else `value`."""
    dtype = val(node).dtype
    return b.op("Where", b.op("Greater", x, number(b, limit, dtype)), x, number(b, value, dtype))


@lowering(aten.threshold_backward.default)
def threshold_backward(b: Builder, node: fx.Node, y_bar: str, x: str, limit: Any) -> str:
    """y_bar where x > limit, else 0."""
    dtype = val(node).dtype
    return b.op("Where", b.op("Greater", x, number(b, limit, dtype)), y_bar, number(b, 0, dtype))


@lowering(aten.sigmoid_backward.default)
def sigmoid_backward(b: Builder, node: fx.Node, y_bar: str, y: str) -> str:
    """y_bar y (1 - y)."""
    one = number(b, 1, val(node).dtype)
    return b.op("Mul", y_bar, b.op("Mul", y, b.op("Sub", one, y)))


@lowering(aten.tanh_backward.default)
def tanh_backward(b: Builder, node: fx.Node, y_bar: str, y: str) -> str:
    """y_bar (1 - y^2)."""
    one = number(b, 1, val(node).dtype)
    return b.op("Mul", y_bar, b.op("Sub", one, b.op("Mul", y, y)))


@lowering(aten.hardtanh_backward.default)
def hardtanh_backward(b: Builder, node: fx.Node, y_bar: str, x: str, low: Any, high: Any) -> str:
    """y_bar strictly inside (low, high), else 0."""
    dtype = val(node).dtype
    above, below = b.op("Greater", x, number(b, low, dtype)), b.op("Less", x, number(b, high, dtype))
    return b.op("Where", b.op("And", above, below), y_bar, number(b, 0, dtype))


@lowering(aten.leaky_relu_backward.default)
def leaky_relu_backward(
    b: Builder, node: fx.Node, y_bar: str, x: str, slope: float, from_result: bool
) -> str:
    """y_bar, or slope y_bar where x <= 0 (a result has the sign of its x)."""
    dtype = val(node).dtype
    positive = b.op("Greater", x, number(b, 0, dtype))
    return b.op("Where", positive, y_bar, b.op("Mul", y_bar, number(b, slope, dtype)))
