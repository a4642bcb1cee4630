"""Element-wise arithmetic, comparisons and choices, with PyTorch's type promotion spelled out as casts.

The result type of every node is known (its FakeTensor), so an operand is cast to it only where the types differ;
Python numbers and symbolic sizes become 0-d constants of that type and promote nothing.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import fx

from ..builder import Builder, Real, Size
from .table import arg_vals, factor, is_static, lowering, number, operand, same_dim, shape, val

aten = torch.ops.aten

_FEW_PIXELS = 16
"""Pixels of an image up to which a number for each channel is repeated for all of them before it meets the image:
onnxruntime takes one number at a time with the pixels that it is for, which on 2 x 2 pixels takes six times as long as
a row of numbers with a row of pixels, on 4 x 4 1.3 to 1.9 times."""


def pair(b: Builder, node: fx.Node, x: Any, y: Any) -> tuple[str, str, torch.dtype]:
    """Both operands in the type of the result, and that type."""
    (x_val, y_val), result = arg_vals(node)[:2], val(node)
    x, y = operand(b, x, x_val, result.dtype), operand(b, y, y_val, result.dtype)
    return spread(b, x, x_val, result), spread(b, y, y_val, result), result.dtype


def as_result(b: Builder, node: fx.Node, x: Any) -> str:
    """The first operand in the type of the result (integers become floats in `exp` and kin)."""
    return operand(b, x, arg_vals(node)[0], val(node).dtype)


def factors(
    b: Builder, node: fx.Node, x: Any, y: Any, *, quotient: bool = False
) -> tuple[str, str, torch.dtype]:
    """As `pair`, for a product or a quotient."""
    result, (v_x, v_y) = val(node), arg_vals(node)[:2]
    x, y = factor(b, x, v_x, result), factor(b, y, v_y, result, divides=quotient)
    return spread(b, x, v_x, result), spread(b, y, v_y, result), result.dtype


def spread(b: Builder, x: str, v: Any, like: torch.Tensor) -> str:
    """A number for each channel, `x` (..., C, 1, 1), for each of a few pixels of `like`: (..., C, H, W)."""
    if not isinstance(v, torch.Tensor) or not v.dim():
        return x
    sizes, wanted = shape(v), shape(like)
    sizes = [1] * (len(wanted) - len(sizes)) + sizes
    behind = next((i for i, size in enumerate(reversed(sizes)) if not same_dim(size, 1)), 0)
    pixels, before = wanted[len(wanted) - behind :], range(len(wanted) - behind)
    # Shared by all samples: else it would be repeated for as many pixels as it meets.
    shared = any(same_dim(sizes[i], 1) and not same_dim(wanted[i], 1) for i in before)
    if not shared or not all(map(is_static, pixels)) or not 1 < prod(pixels) <= _FEW_PIXELS:
        return x
    return b.op("Expand", x, b.ints([*[1 for _ in before], *pixels]))


def scaled(b: Builder, x: str, by: Any, like: torch.Tensor) -> str:
    """`by` times x, in the shape and type of `like`; no node for a factor of 1."""
    return x if isinstance(by, (int, float)) and by == 1 else b.op("Mul", x, factor(b, by, by, like))


def truncate(b: Builder, x: str, dtype: torch.dtype) -> str:
    """x rounded towards zero (ONNX has no Trunc)."""
    return b.op("Where", b.op("Less", x, number(b, 0, dtype)), b.op("Ceil", x), b.op("Floor", x))


def python_mod(b: Builder, x: str, y: str, dtype: torch.dtype) -> str:
    """x modulo y with the sign of y. ONNX's Mod does that for integers only; floats correct C's fmod."""
    if not dtype.is_floating_point:
        return b.op("Mod", x, y)
    zero = number(b, 0, dtype)
    rest = b.op("Mod", x, y, fmod=1)
    wrong_sign = b.op("Less", b.op("Mul", b.op("Sign", rest), b.op("Sign", y)), zero)
    return b.op("Where", wrong_sign, b.op("Add", rest, y), rest)


def floor_divide(b: Builder, x: str, y: str, dtype: torch.dtype) -> str:
    """floor(x / y) as Python has it: x - (x mod y) is a multiple of y, so its quotient needs no more than rounding."""
    quotient = b.op("Div", b.op("Sub", x, python_mod(b, x, y, dtype)), y)
    if not dtype.is_floating_point:
        return quotient
    nearest = b.op("Round", quotient)
    # 0 / 0 and x / 0 must keep what division says.
    return b.op("Where", b.op("Equal", y, number(b, 0, dtype)), b.op("Div", x, y), nearest)


# --- arithmetic ------------------------------------------------------------------------------------------------------


@lowering(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar)
def add_sub(b: Builder, node: fx.Node, x: Any, y: Any, scalar_alpha: Any = 1, *, alpha: Any = 1) -> str:
    """x + alpha y, x - alpha y."""
    x, y, dtype = pair(b, node, x, y)
    if dtype == torch.bool:
        return b.op("Or", x, y)
    y = scaled(b, y, alpha if scalar_alpha == 1 else scalar_alpha, val(node))
    return b.op("Add" if "add" in str(node.target) else "Sub", x, y)


@lowering(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(b: Builder, node: fx.Node, x: Any, y: Any, scalar_alpha: Any = 1, *, alpha: Any = 1) -> str:
    """y - alpha x."""
    x, y, _ = pair(b, node, x, y)
    return b.op("Sub", y, scaled(b, x, alpha if scalar_alpha == 1 else scalar_alpha, val(node)))


@lowering(aten.mul.Tensor, aten.mul.Scalar)
def mul(b: Builder, node: fx.Node, x: Any, y: Any) -> str:
    """x y."""
    x, y, dtype = factors(b, node, x, y)
    return b.op("And" if dtype == torch.bool else "Mul", x, y)


@lowering(aten.div.Tensor, aten.div.Scalar, aten.div.Tensor_mode, aten.div.Scalar_mode)
def div(b: Builder, node: fx.Node, x: Any, y: Any, *, rounding_mode: str | None = None) -> str:
    """x / y; with a rounding mode, floor or trunc of it."""
    x, y, dtype = factors(b, node, x, y, quotient=True)
    if rounding_mode == "floor":
        return floor_divide(b, x, y, dtype)
    quotient = b.op("Div", x, y)  # of integers: ONNX truncates
    return truncate(b, quotient, dtype) if rounding_mode == "trunc" and dtype.is_floating_point else quotient


@lowering(aten.floor_divide.default, aten.floor_divide.Scalar)
def floor_divide_(b: Builder, node: fx.Node, x: Any, y: Any) -> str:
    """floor(x / y)."""
    return floor_divide(b, *pair(b, node, x, y))


@lowering(aten.remainder.Tensor, aten.remainder.Scalar, aten.remainder.Scalar_Tensor)
def remainder(b: Builder, node: fx.Node, x: Any, y: Any) -> str:
    """x modulo y, with the sign of y."""
    return python_mod(b, *pair(b, node, x, y))


@lowering(aten.fmod.Tensor, aten.fmod.Scalar)
def fmod(b: Builder, node: fx.Node, x: Any, y: Any) -> str:
    """x modulo y, with the sign of x."""
    x, y, _ = pair(b, node, x, y)
    return b.op("Mod", x, y, fmod=1)


@lowering(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar)
def power(b: Builder, node: fx.Node, x: Any, y: Any) -> str:
    """x^y; the exponents that PyTorch treats apart (2, 3, 1/2, -1/2, -1, -2) are products and roots here too."""
    x, base, dtype = as_result(b, node, x), x, val(node).dtype
    if isinstance(y, (int, float)) and not isinstance(base, (int, float, Size, Real)):
        square = b.op("Mul", x, x) if y in (2, 3, -2) else ""
        special = {
            0: lambda: number_like(b, x, node, 1),
            1: lambda: x,
            2: lambda: square,
            3: lambda: b.op("Mul", square, x),
            0.5: lambda: b.op("Sqrt", x),
            -0.5: lambda: b.op("Reciprocal", b.op("Sqrt", x)),
            -1: lambda: b.op("Reciprocal", x),
            -2: lambda: b.op("Reciprocal", square),
        }
        if y in special and (dtype.is_floating_point or y in (1, 2, 3)):
            return special[y]()
    return b.op("Pow", x, operand(b, y, arg_vals(node)[1], dtype))


def number_like(b: Builder, x: str, node: fx.Node, value: float) -> str:
    """`value` in the shape of `x` and the type of the result."""
    dtype = val(node).dtype
    return b.op("Expand", number(b, value, dtype), b.op("Shape", x))


@lowering(aten.maximum.default, aten.minimum.default)
def maximum_minimum(b: Builder, node: fx.Node, x: Any, y: Any) -> str:
    """The larger (smaller) of x and y."""
    x, y, dtype = pair(b, node, x, y)
    larger = node.target is aten.maximum.default
    if dtype == torch.bool:
        return b.op("Or" if larger else "And", x, y)
    return b.op("Max" if larger else "Min", x, y)


@lowering(aten.square.default)
def square(b: Builder, node: fx.Node, x: str) -> str:
    """x^2."""
    return b.op("Mul", x, x)


@lowering(aten.addcmul.default, aten.addcdiv.default)
def addcmul(b: Builder, node: fx.Node, x: Any, p: Any, q: Any, *, value: Any = 1) -> str:
    """x + value p q, or x + value p / q."""
    dtype = val(node).dtype
    x, p, q = (
        spread(b, operand(b, a, v, dtype), v, val(node))
        for a, v in zip((x, p, q), arg_vals(node), strict=True)
    )
    product = b.op(
        "Mul" if node.target is aten.addcmul.default else "Div",
        scaled(b, p, value, val(node)),
        q,
    )
    return b.op("Add", x, product)


@lowering(aten.lerp.Tensor, aten.lerp.Scalar)
def lerp(b: Builder, node: fx.Node, x: str, y: str, weight: Any) -> str:
    """x + weight (y - x)."""
    dtype = val(node).dtype
    weight = operand(b, weight, arg_vals(node)[2], dtype)
    return b.op("Add", x, b.op("Mul", weight, b.op("Sub", y, x)))


# --- rounding, sign --------------------------------------------------------------------------------------------------


@lowering(aten.neg.default, aten.abs.default, aten.sign.default, aten.sgn.default)
def sign_family(b: Builder, node: fx.Node, x: str) -> str:
    """-x, |x|, sign(x)."""
    name = str(node.target)
    return b.op("Neg" if "neg" in name else "Abs" if "abs" in name else "Sign", x)


@lowering(aten.floor.default, aten.ceil.default, aten.round.default, aten.trunc.default, aten.fix.default)
def rounding(b: Builder, node: fx.Node, x: str) -> str:
    """To an integer: down, up, to nearest (half to even in both), towards zero; integers stay."""
    dtype = val(node).dtype
    if not dtype.is_floating_point:
        return x
    kinds = {aten.floor.default: "Floor", aten.ceil.default: "Ceil", aten.round.default: "Round"}
    return b.op(kinds[node.target], x) if node.target in kinds else truncate(b, x, dtype)


@lowering(aten.round.decimals)
def round_decimals(b: Builder, node: fx.Node, x: str, *, decimals: int) -> str:
    """To the nearest multiple of 10^-decimals."""
    ten = number(b, 10.0 ** abs(decimals), val(node).dtype)
    there, back = ("Mul", "Div") if decimals > 0 else ("Div", "Mul")
    return b.op(back, b.op("Round", b.op(there, x, ten)), ten)
