"""Exponentials, logarithms, roots, trigonometric and hyperbolic functions, in float64 too.

ONNX has neither log1p nor expm1:

    log1p(x) = log(u) x / (u - 1),  u = fl(1 + x);  x itself where u = 1      (Kahan, in Higham 2002, section 1.14.1)
    expm1(x) = 2 t / (1 - t),  t = tanh(x / 2)  for |x| < 1, else exp(x) - 1

onnxruntime's CPU provider has no float64 Tan, Sinh, Cosh and no float64 inverse functions. The former are quotients and
sums of those it has. An inverse angle theta starts from the float32 one, theta_0, and the angle that is missing follows
from the addition theorems (with sin(theta) and cos(theta) known from x), where sin and cos of theta_0 are float64:

    atan(x):   tan(theta - theta_0) = (x cos theta_0 - sin theta_0) / (cos theta_0 + x sin theta_0)
    asin(x):   sin(theta - theta_0) = x cos theta_0 - w sin theta_0,    w = sqrt((1 - x)(1 + x))
    acos(x):   sin(theta - theta_0) = w cos theta_0 - x sin theta_0

The difference is below 4e-4 (float32 rounding of x beside 1, else 1e-7), so d + d^3/6 is its arcsine to 1e-18.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import torch
from torch import fx

from ..builder import Builder
from .pointwise import as_result, pair
from .table import cast, lowering, number, val

aten = torch.ops.aten

Function = Callable[[Builder, str, torch.dtype], str]


def log1p(b: Builder, x: str, dtype: torch.dtype) -> str:
    """log(1 + x) to a few roundings."""
    one = number(b, 1, dtype)
    u = b.op("Add", x, one)
    # Where u = x (huge or infinite) the correction is 1; where u = 1 it would be a division by zero.
    correction = b.op("Where", b.op("Equal", u, x), one, b.op("Div", x, b.op("Sub", u, one)))
    return b.op("Where", b.op("Equal", u, one), x, b.op("Mul", b.op("Log", u), correction))


def expm1(b: Builder, x: str, dtype: torch.dtype) -> str:
    """exp(x) - 1 to a few roundings."""
    one, two = number(b, 1, dtype), number(b, 2, dtype)
    t = b.op("Tanh", b.op("Mul", x, number(b, 0.5, dtype)))
    near = b.op("Div", b.op("Mul", two, t), b.op("Sub", one, t))
    far = b.op("Sub", b.op("Exp", x), one)
    return b.op("Where", b.op("Less", b.op("Abs", x), one), near, far)


def _exponential(base: float) -> Function:
    def function(b: Builder, x: str, dtype: torch.dtype) -> str:
        return b.op("Pow", number(b, base, dtype), x)

    return function


def _logarithm(log_base: float) -> Function:
    def function(b: Builder, x: str, dtype: torch.dtype) -> str:
        return b.op("Mul", b.op("Log", x), number(b, 1 / log_base, dtype))

    return function


def _onnx(op_type: str) -> Function:
    def function(b: Builder, x: str, dtype: torch.dtype) -> str:
        return b.op(op_type, x)

    return function


def _or_float64(op_type: str, float64: Function) -> Function:
    """ONNX's own operator, except in float64."""

    def function(b: Builder, x: str, dtype: torch.dtype) -> str:
        return float64(b, x, dtype) if dtype == torch.float64 else b.op(op_type, x)

    return function


def _rsqrt(b: Builder, x: str, dtype: torch.dtype) -> str:
    return b.op("Reciprocal", b.op("Sqrt", x))


def _tan(b: Builder, x: str, dtype: torch.dtype) -> str:
    return b.op("Div", b.op("Sin", x), b.op("Cos", x))


def _float32(b: Builder, op_type: str, x: str) -> tuple[str, str, str]:
    """theta_0 = the float32 inverse function of x, its sine and cosine, all as float64."""
    theta_0 = cast(b, b.op(op_type, cast(b, x, torch.float64, torch.float32)), torch.float32, torch.float64)
    return theta_0, b.op("Sin", theta_0), b.op("Cos", theta_0)


def _atan(b: Builder, x: str, dtype: torch.dtype) -> str:
    # Beyond 1e18 the arctangent no longer changes, and infinity would make the quotient a NaN.
    x = b.op("Clip", x, number(b, -1e18, dtype), number(b, 1e18, dtype))
    theta_0, sine, cosine = _float32(b, "Atan", x)
    numerator = b.op("Sub", b.op("Mul", x, cosine), sine)
    denominator = b.op("Add", cosine, b.op("Mul", x, sine))
    return b.op("Add", theta_0, b.op("Div", numerator, denominator))


def _other_leg(b: Builder, x: str, dtype: torch.dtype) -> str:
    """w = sqrt((1 - x)(1 + x))."""
    one = number(b, 1, dtype)
    return b.op("Sqrt", b.op("Mul", b.op("Sub", one, x), b.op("Add", one, x)))


def _arcsine_of_small(b: Builder, d: str, dtype: torch.dtype) -> str:
    """d + d^3 / 6."""
    cube = b.op("Mul", b.op("Mul", d, d), d)
    return b.op("Add", d, b.op("Div", cube, number(b, 6, dtype)))


def _asin(b: Builder, x: str, dtype: torch.dtype) -> str:
    theta_0, sine, cosine = _float32(b, "Asin", x)
    d = b.op("Sub", b.op("Mul", x, cosine), b.op("Mul", _other_leg(b, x, dtype), sine))
    return b.op("Add", theta_0, _arcsine_of_small(b, d, dtype))


def _acos(b: Builder, x: str, dtype: torch.dtype) -> str:
    theta_0, sine, cosine = _float32(b, "Acos", x)
    d = b.op("Sub", b.op("Mul", _other_leg(b, x, dtype), cosine), b.op("Mul", x, sine))
    return b.op("Add", theta_0, _arcsine_of_small(b, d, dtype))


def _sinh(b: Builder, x: str, dtype: torch.dtype) -> str:
    """(u + u / (u + 1)) / 2, u = expm1(x), near zero; the difference of exponentials elsewhere (no overflow of u u)."""
    one, half = number(b, 1, dtype), number(b, 0.5, dtype)
    u = expm1(b, x, dtype)
    near = b.op("Add", u, b.op("Div", u, b.op("Add", u, one)))
    far = b.op("Sub", b.op("Exp", x), b.op("Exp", b.op("Neg", x)))
    return b.op("Mul", half, b.op("Where", b.op("Less", b.op("Abs", x), one), near, far))


def _cosh(b: Builder, x: str, dtype: torch.dtype) -> str:
    return b.op("Mul", number(b, 0.5, dtype), b.op("Add", b.op("Exp", x), b.op("Exp", b.op("Neg", x))))


def _asinh(b: Builder, x: str, dtype: torch.dtype) -> str:
    """sign(x) log1p(a + a^2 / (1 + sqrt(1 + a^2))), a = |x|."""
    one, a = number(b, 1, dtype), b.op("Abs", x)
    root = b.op("Sqrt", b.op("Add", one, b.op("Mul", a, a)))
    # a / (1 + root) * a: the square alone would overflow earlier than its quotient.
    argument = b.op("Add", a, b.op("Mul", b.op("Div", a, b.op("Add", one, root)), a))
    return b.op("Mul", b.op("Sign", x), log1p(b, argument, dtype))


def _acosh(b: Builder, x: str, dtype: torch.dtype) -> str:
    """log1p(t + sqrt(2 t + t^2)), t = x - 1."""
    t = b.op("Sub", x, number(b, 1, dtype))
    root = b.op("Sqrt", b.op("Mul", t, b.op("Add", t, number(b, 2, dtype))))
    return log1p(b, b.op("Add", t, root), dtype)


def _atanh(b: Builder, x: str, dtype: torch.dtype) -> str:
    """sign(x) log1p(2 a / (1 - a)) / 2, a = |x|."""
    a = b.op("Abs", x)
    argument = b.op("Div", b.op("Mul", number(b, 2, dtype), a), b.op("Sub", number(b, 1, dtype), a))
    half_sign = b.op("Mul", number(b, 0.5, dtype), b.op("Sign", x))
    return b.op("Mul", half_sign, log1p(b, argument, dtype))


FUNCTIONS: dict[str, Function] = {
    "reciprocal": _onnx("Reciprocal"),
    "sqrt": _onnx("Sqrt"),
    "rsqrt": _rsqrt,
    "exp": _onnx("Exp"),
    "exp2": _exponential(2.0),
    "expm1": expm1,
    "log": _onnx("Log"),
    "log2": _logarithm(0.6931471805599453),
    "log10": _logarithm(2.302585092994046),
    "log1p": log1p,
    "sin": _onnx("Sin"),
    "cos": _onnx("Cos"),
    "tan": _or_float64("Tan", _tan),
    "asin": _or_float64("Asin", _asin),
    "acos": _or_float64("Acos", _acos),
    "atan": _or_float64("Atan", _atan),
    "sinh": _or_float64("Sinh", _sinh),
    "cosh": _or_float64("Cosh", _cosh),
    "tanh": _onnx("Tanh"),
    "asinh": _or_float64("Asinh", _asinh),
    "acosh": _or_float64("Acosh", _acosh),
    "atanh": _or_float64("Atanh", _atanh),
}


@lowering(*(getattr(aten, name).default for name in FUNCTIONS))
def elementary(b: Builder, node: fx.Node, x: str) -> str:
    """f(x), integers taken as floats."""
    name = node.target.__name__.split(".")[0]  # type: ignore[union-attr]
    return FUNCTIONS[name](b, as_result(b, node, x), val(node).dtype)


@lowering(aten.atan2.default)
def atan2(b: Builder, node: fx.Node, y: str, x: str) -> str:
    """The angle of (x, y): atan(y / x), half a turn on towards y where x < 0, a quarter turn where x = 0."""
    y, x, dtype = pair(b, node, y, x)
    zero = number(b, 0, dtype)
    side = b.op("Where", b.op("Less", y, zero), number(b, -1, dtype), number(b, 1, dtype))
    right = FUNCTIONS["atan"](b, b.op("Div", y, x), dtype)
    left = b.op("Add", right, b.op("Mul", side, number(b, pi, dtype)))
    upright = b.op("Mul", b.op("Sign", y), number(b, pi / 2, dtype))
    beside = b.op("Where", b.op("Less", x, zero), left, right)
    return b.op("Where", b.op("Equal", x, zero), upright, beside)


@lowering(aten.hypot.default)
def hypot(b: Builder, node: fx.Node, x: str, y: str) -> str:
    """sqrt(x^2 + y^2) = m sqrt(1 + (l / m)^2), m the larger and l the smaller of |x|, |y|: no overflow of squares."""
    x, y, dtype = pair(b, node, x, y)
    a, c = b.op("Abs", x), b.op("Abs", y)
    m, one = b.op("Max", a, c), number(b, 1, dtype)
    divisor = b.op("Where", b.op("Equal", m, number(b, 0, dtype)), one, m)
    ratio = b.op("Div", b.op("Min", a, c), divisor)
    return b.op("Mul", m, b.op("Sqrt", b.op("Add", one, b.op("Mul", ratio, ratio))))
