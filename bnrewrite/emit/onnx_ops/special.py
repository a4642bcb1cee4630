"""The error function and its complement.

ONNX's Erf has no float64 kernel in onnxruntime's CPU provider, and 1 - Erf loses the tail of erfc. Both come from the
rational Chebyshev approximations of W. J. Cody, "Rational Chebyshev approximations for the error function",
Mathematics of Computation 23 (1969), 631-637, in three ranges of y = |x|:

    y <= 0.46875     erf(x)  = x A(y^2) / B(y^2)
    y <= 4           erfc(y) = exp(-y^2) C(y) / D(y)
    y >  4           erfc(y) = exp(-y^2) / y (1/sqrt(pi) - r P(r) / Q(r)),  r = 1 / y^2

All three are evaluated and Where picks, so every argument is first limited to its range. exp(-y^2) is taken as
exp(-z^2) exp(-(y - z)(y + z)) with z = y cut to 1/16, whose square is exact: the tail keeps its relative precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt

import torch
from torch import fx

from ..builder import Builder
from .pointwise import as_result
from .table import lowering, number, val

aten = torch.ops.aten

# Coefficients from the highest power down.
_A = (
    1.85777706184603153e-1,
    3.16112374387056560,
    1.13864154151050156e2,
    3.77485237685302021e2,
    3.20937758913846947e3,
)
_B = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_C = (
    *(
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594,
        6.61191906371416295e1,
        2.98635138197400131e2,
    ),
    *(8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3),
)
_D = (
    *(1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3),
    *(3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
)
_P = (
    *(1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1),
    *(1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4),
)
_Q = (
    *(1.0, 2.56852019228982242, 1.87295284992346725),
    *(5.27905102951428412e-1, 6.05183413124413191e-2, 2.33520497626869185e-3),
)
_FIRST, _SECOND = 0.46875, 4.0
_LAST = 27.0  # erfc underflows here in float64


def _polynomial(b: Builder, coefficients: Sequence[float], x: str, dtype: torch.dtype) -> str:
    """Horner's rule, highest power first."""
    value = number(b, coefficients[0], dtype)
    for coefficient in coefficients[1:]:
        value = b.op("Add", b.op("Mul", value, x), number(b, coefficient, dtype))
    return value


def _ratio(b: Builder, top: Sequence[float], bottom: Sequence[float], x: str, dtype: torch.dtype) -> str:
    return b.op("Div", _polynomial(b, top, x, dtype), _polynomial(b, bottom, x, dtype))


def _near(b: Builder, x: str, dtype: torch.dtype) -> str:
    """erf(x) for |x| <= 0.46875 (any value elsewhere)."""
    x = b.op("Clip", x, number(b, -_FIRST, dtype), number(b, _FIRST, dtype))
    return b.op("Mul", x, _ratio(b, _A, _B, b.op("Mul", x, x), dtype))


def _tail(b: Builder, y: str, dtype: torch.dtype) -> str:
    """erfc(y) for y >= 0.46875 (any value below)."""
    y = b.op("Clip", y, number(b, _FIRST, dtype), number(b, _LAST, dtype))
    sixteen = number(b, 16, dtype)
    z = b.op("Div", b.op("Floor", b.op("Mul", y, sixteen)), sixteen)
    rest = b.op("Mul", b.op("Sub", y, z), b.op("Add", y, z))
    gauss = b.op("Mul", b.op("Exp", b.op("Neg", b.op("Mul", z, z))), b.op("Exp", b.op("Neg", rest)))

    middle = _ratio(b, _C, _D, b.op("Min", y, number(b, _SECOND, dtype)), dtype)
    far_y = b.op("Max", y, number(b, _SECOND, dtype))
    r = b.op("Reciprocal", b.op("Mul", far_y, far_y))
    bracket = b.op("Sub", number(b, 1 / sqrt(pi), dtype), b.op("Mul", r, _ratio(b, _P, _Q, r, dtype)))
    far = b.op("Div", bracket, far_y)
    beyond = b.op("Greater", y, number(b, _SECOND, dtype))
    return b.op("Mul", gauss, b.op("Where", beyond, far, middle))


def erf(b: Builder, x: str, dtype: torch.dtype) -> str:
    """erf(x): ONNX's own in float32, Cody's in float64."""
    if dtype != torch.float64:
        return b.op("Erf", x)
    y = b.op("Abs", x)
    outside = b.op("Mul", b.op("Sign", x), b.op("Sub", number(b, 1, dtype), _tail(b, y, dtype)))
    return b.op("Where", b.op("LessOrEqual", y, number(b, _FIRST, dtype)), _near(b, x, dtype), outside)


def erfc(b: Builder, x: str, dtype: torch.dtype) -> str:
    """1 - erf(x), with the relative precision of the type on the positive tail."""
    zero, one, two = (number(b, n, dtype) for n in (0, 1, 2))
    y = b.op("Abs", x)
    tail = _tail(b, y, dtype)
    outside = b.op("Where", b.op("Less", x, zero), b.op("Sub", two, tail), tail)
    inside = b.op("Sub", one, _near(b, x, dtype))
    return b.op("Where", b.op("LessOrEqual", y, number(b, _FIRST, dtype)), inside, outside)


@lowering(aten.erf.default)
def erf_(b: Builder, node: fx.Node, x: str) -> str:
    """erf(x), integers taken as floats."""
    return erf(b, as_result(b, node, x), val(node).dtype)


@lowering(aten.erfc.default, aten.special_erfc.default)
def erfc_(b: Builder, node: fx.Node, x: str) -> str:
    """erfc(x), integers taken as floats."""
    return erfc(b, as_result(b, node, x), val(node).dtype)
