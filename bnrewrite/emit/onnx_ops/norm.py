"""Vector norms along axes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from ..builder import Builder
from .table import arg_vals, axes, cast, lowering, number, val

aten = torch.ops.aten


@lowering(aten.linalg_vector_norm.default)
def vector_norm(b: Builder, node: fx.Node, x: str, p: float, dim: Any, keepdim: bool, *, dtype: Any) -> str:
    """(sum |x|^p)^(1/p) over `dim`; the largest |x| for p = inf, the smallest for -inf, for 0 how many are not 0."""
    x_val, type_ = arg_vals(node)[0], val(node).dtype
    over = axes(dim, x_val.dim())
    x = cast(b, x, x_val, type_)
    if p == 2:
        return b.op("Sqrt", b.reduce("ReduceSum", b.op("Mul", x, x), over, keepdim))
    size = b.op("Abs", x)
    if math.isinf(p):
        return b.reduce("ReduceMax" if p > 0 else "ReduceMin", size, over, keepdim)
    if p == 0:
        return b.reduce("ReduceSum", b.op("Sign", size), over, keepdim)
    if p == 1:
        return b.reduce("ReduceSum", size, over, keepdim)
    total = b.reduce("ReduceSum", b.op("Pow", size, number(b, p, type_)), over, keepdim)
    return b.op("Pow", total, number(b, 1 / p, type_))
