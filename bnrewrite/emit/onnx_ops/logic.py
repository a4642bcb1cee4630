"""Comparisons, logic, choice and limits, in the type to which the operands promote."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..builder import Builder, Real
from .pointwise import as_result, pair
from .table import arg_vals, cast, lowering, number, operand, unsupported, val

aten = torch.ops.aten

_COMPARISONS = {
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
}


@lowering(
    *(getattr(getattr(aten, name), kind) for name in [*_COMPARISONS, "ne"] for kind in ("Tensor", "Scalar"))
)
def compare(b: Builder, node: fx.Node, x: Any, y: Any) -> str:
    """x == y and kin, in the type to which the operands promote."""
    x_val, y_val = arg_vals(node)
    name = node.target.__name__.split(".")[0]  # type: ignore[union-attr]
    dtype = torch.result_type(
        x_val, y_val if isinstance(y_val, (torch.Tensor, bool, int, float)) else plain(y)
    )
    if dtype == torch.bool and name not in ("eq", "ne"):
        dtype = torch.int32
    x, y = operand(b, x, x_val, dtype), operand(b, y, y_val, dtype)
    if name == "ne":
        return b.op("Not", b.op("Equal", x, y))
    return b.op(_COMPARISONS[name], x, y)


def plain(symbolic: Any) -> float | int:
    """A Python number of the kind that a symbolic one stands for (only its type counts)."""
    return 0.5 if isinstance(symbolic, Real) else 1


def truth(b: Builder, x: Any, v: Any) -> str:
    """x != 0."""
    return operand(b, x, v, torch.bool)


@lowering(aten.logical_and.default, aten.logical_or.default, aten.logical_xor.default)
def logical(b: Builder, node: fx.Node, x: str, y: str) -> str:
    """Logic on truth values (not zero is true)."""
    x_val, y_val = arg_vals(node)
    kinds: dict[Any, str] = {aten.logical_and.default: "And", aten.logical_or.default: "Or"}
    kind = kinds.get(node.target, "Xor")
    return b.op(kind, truth(b, x, x_val), truth(b, y, y_val))


@lowering(aten.logical_not.default)
def logical_not(b: Builder, node: fx.Node, x: str) -> str:
    """x == 0."""
    return b.op("Not", truth(b, x, arg_vals(node)[0]))


@lowering(
    *(getattr(getattr(aten, f"bitwise_{n}"), k) for n in ("and", "or", "xor") for k in ("Tensor", "Scalar"))
)
def bitwise(b: Builder, node: fx.Node, x: Any, y: Any) -> str:
    """Bitwise logic; on bools it is plain logic."""
    x, y, dtype = pair(b, node, x, y)
    name = str(node.target)
    kind = "And" if "and" in name else "Xor" if "xor" in name else "Or"
    return _bits(b, node, kind, dtype, x, y)


@lowering(aten.bitwise_not.default)
def bitwise_not(b: Builder, node: fx.Node, x: str) -> str:
    """Bitwise complement; on bools it is plain negation."""
    return _bits(b, node, "Not", val(node).dtype, x)


def _bits(b: Builder, node: fx.Node, kind: str, dtype: torch.dtype, *operands: str) -> str:
    if dtype == torch.bool:
        return b.op(kind, *operands)
    if b.opset < 18:
        raise unsupported(node, "ONNX has bitwise operations on integers from opset 18 on.")
    return b.op(f"Bitwise{kind}", *operands)


@lowering(aten.where.self, aten.where.Scalar, aten.where.ScalarSelf, aten.where.ScalarOther)
def where(b: Builder, node: fx.Node, condition: str, x: Any, y: Any) -> str:
    """x where the condition holds, else y."""
    condition_val, x_val, y_val = arg_vals(node)
    dtype = val(node).dtype
    return choose(
        b, truth(b, condition, condition_val), operand(b, x, x_val, dtype), operand(b, y, y_val, dtype), dtype
    )


@lowering(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(b: Builder, node: fx.Node, x: str, mask: str, value: Any) -> str:
    """`value` where the mask holds, else x."""
    dtype = val(node).dtype
    return choose(b, mask, operand(b, value, arg_vals(node)[2], dtype), x, dtype)


def choose(b: Builder, condition: str, x: str, y: str, dtype: torch.dtype) -> str:
    """Where; on bools, for which onnxruntime has no kernel, the same in logic."""
    if dtype != torch.bool:
        return b.op("Where", condition, x, y)
    return b.op("Or", b.op("And", condition, x), b.op("And", b.op("Not", condition), y))


@lowering(aten.isnan.default, aten.isinf.default)
def is_nan_inf(b: Builder, node: fx.Node, x: str) -> str:
    """Whether x is not a number (infinite); integers never are."""
    x_val = arg_vals(node)[0]
    if not x_val.dtype.is_floating_point:
        return b.op("Not", b.op("Equal", x, x))
    return b.op("IsNaN" if node.target is aten.isnan.default else "IsInf", x)


@lowering(aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default)
def clamp(b: Builder, node: fx.Node, x: Any, *bounds: Any) -> str:
    """x limited to [low, high]; a bound of None is open."""
    if node.target is aten.clamp.default:
        low, high = bounds
    else:
        low, high = (bounds[0], None) if node.target is aten.clamp_min.default else (None, bounds[0])
    dtype = val(node).dtype
    x = as_result(b, node, x)
    if (
        low is not None
        and high is not None
        and isinstance(low, (int, float))
        and isinstance(high, (int, float))
    ):
        low = min(low, high)  # PyTorch: the upper bound wins
    limits = ["" if bound is None else number(b, bound, dtype) for bound in (low, high)]
    return b.op("Clip", x, *(limits if limits[1] else limits[:1]))


@lowering(aten.clamp.Tensor, aten.clamp_min.Tensor, aten.clamp_max.Tensor)
def clamp_tensor(b: Builder, node: fx.Node, x: Any, *bounds: Any) -> str:
    """x limited by tensors that broadcast against it; the upper bound wins."""
    dtype = val(node).dtype
    bound_vals = arg_vals(node)[1:]
    x = as_result(b, node, x)
    kinds = ["Min"] if node.target is aten.clamp_max.Tensor else ["Max", "Min"]
    for kind, bound, bound_val in zip(kinds, bounds, bound_vals, strict=False):
        if bound is not None:
            x = b.op(kind, x, cast(b, bound, bound_val, dtype))
    return x
