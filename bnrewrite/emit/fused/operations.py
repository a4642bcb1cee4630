"""Which operations go into a kernel, and what they are in C."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from ...passes.splice import static_key

aten = torch.ops.aten

EXPRESSIONS: dict[Any, Callable[..., str]] = {
    aten.add.Tensor: lambda a, b: f"{a} + {b}",
    aten.sub.Tensor: lambda a, b: f"{a} - {b}",
    aten.mul.Tensor: lambda a, b: f"{a} * {b}",
    aten.div.Tensor: lambda a, b: f"{a} / {b}",
    aten.add.Scalar: lambda a, b: f"{a} + {b}",
    aten.sub.Scalar: lambda a, b: f"{a} - {b}",
    aten.mul.Scalar: lambda a, b: f"{a} * {b}",
    aten.div.Scalar: lambda a, b: f"{a} / {b}",
    aten.rsub.Scalar: lambda a, b: f"{b} - {a}",
    aten.neg.default: lambda a: f"-{a}",
    aten.sqrt.default: lambda a: f"SQRT({a})",
    aten.rsqrt.default: lambda a: f"1 / SQRT({a})",
    aten.reciprocal.default: lambda a: f"1 / {a}",
    aten.sigmoid.default: lambda a: f"1 / (1 + EXP(-{a}))",
    aten.silu.default: lambda a: f"{a} / (1 + EXP(-{a}))",
    aten.exp.default: lambda a: f"EXP({a})",
    # Written so that NaN goes where PyTorch lets it go.
    aten.relu.default: lambda a: f"{a} <= 0 ? 0 : {a}",
    aten.threshold_backward.default: lambda g, a, t: f"{a} <= {t} ? 0 : {g}",
    aten.hardtanh.default: lambda a, low, high: f"{a} <= {low} ? {low} : {a} >= {high} ? {high} : {a}",
    aten.hardtanh_backward.default: lambda g, a, low, high: f"{a} > {low} && {a} < {high} ? {g} : 0",
}
"""Element-wise operations: an expression of their arguments, which are names or numbers."""

TOTALS = frozenset({aten.sum.dim_IntList, aten.mean.dim})
"""Over all axes but the channels'."""

RESHAPES = frozenset({aten.view.default, aten.reshape.default})
"""(C,) to (1, C, 1, 1) and back, which is nothing in C."""

SPREADS = frozenset({aten.expand.default})
"""(N, C, 1, 1) to (N, C, H, W)."""

FLOATS = (torch.float32, torch.float64)

Frame = tuple[str, ...]
"""Type, rank, and the sizes of an image (N, C, ...) as expressions."""


def frame_of(val: Any) -> Frame | None:
    """The frame of an image: at least two axes, and as many channels whatever the batch."""
    if (
        not isinstance(val, Tensor)
        or val.dtype not in FLOATS
        or val.dim() < 2
        or type(val.shape[1]) is not int
    ):
        return None
    return (str(val.dtype), str(val.dim()), *map(str, map(static_key, val.shape)))


def channels_of(val: Any, rank: int | None = None) -> int | None:
    """C of a tensor (C,) or (1, C, 1, ...), of `rank` axes where that is given; None of any other."""
    if (
        not isinstance(val, Tensor)
        or val.dtype not in FLOATS
        or not all(type(size) is int for size in val.shape)
    ):
        return None
    shape = list(val.shape)
    if rank is not None and len(shape) != rank and not (rank == 2 and len(shape) == 1):
        return None
    if len(shape) == 1:
        return int(shape[0])
    alone = len(shape) > 1 and all(size == 1 for axis, size in enumerate(shape) if axis != 1)
    return int(shape[1]) if alone else None


def is_spread(val: Any, frame: Any) -> bool:
    """Whether `val` has one value for each sample and channel, (N, C, 1, ...), of images like `frame`."""
    if not isinstance(val, Tensor) or val.dim() != frame.dim() or val.dtype != frame.dtype or val.dim() < 3:
        return False
    ones = all(type(size) is int and size == 1 for size in val.shape[2:])
    return ones and list(map(static_key, val.shape[:2])) == list(map(static_key, frame.shape[:2]))


def is_number(arg: Any) -> bool:
    """Whether `arg` is a number, or a node that stands for one."""
    if isinstance(arg, fx.Node):
        return isinstance(arg.meta.get("val"), (int, float, torch.SymInt, torch.SymFloat))
    return isinstance(arg, (int, float)) and not isinstance(arg, bool)
