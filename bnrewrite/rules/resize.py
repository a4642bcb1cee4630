"""Interpolation and unfolding of images: linear maps, each with PyTorch's kernel for its adjoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Linear, RuleTable

aten = torch.ops.aten


def upsampling(op: Any) -> tuple[Linear, Linear]:
    """Rules for `op.default` (x, output_size, [align_corners,] *scales) and `op.vec` (x, size?, [align,] factors?)."""
    forward = op.default
    backward = getattr(aten, forward.__name__.split(".")[0] + "_backward").default

    def transpose(y_bar: Tensor, x: Tensor, size: Sequence[Any], *static: Any) -> Tensor:
        return backward(y_bar, size, x.shape, *static)

    def explicit(x: Tensor, size: Any, *static: Any) -> tuple[Any, ...]:
        """The arguments of `op.default` after x, from those of `op.vec`."""
        *align, factors = static
        axes = x.dim() - 2
        if size is None:
            size = [_scaled(x.shape[2 + i], factors[i]) for i in range(axes)]
        return (size, *align, *(factors if factors is not None else [None] * axes))

    return (
        Linear(forward, transpose),
        Linear(
            lambda x, *static: forward(x, *explicit(x, *static)),
            lambda y_bar, x, *static: transpose(y_bar, x, *explicit(x, *static)),
        ),
    )


def _scaled(length: Any, factor: float) -> Any:
    # PyTorch rounds down; a symbolic length stays symbolic.
    return int(length * factor) if isinstance(length, int) else torch.sym_int(length * factor)


UPSAMPLINGS = (
    aten.upsample_nearest1d,
    aten.upsample_nearest2d,
    aten.upsample_nearest3d,
    aten._upsample_nearest_exact1d,
    aten._upsample_nearest_exact2d,
    aten._upsample_nearest_exact3d,
    aten.upsample_linear1d,
    aten.upsample_bilinear2d,
    aten.upsample_trilinear3d,
    aten.upsample_bicubic2d,
    aten._upsample_bilinear2d_aa,
    aten._upsample_bicubic2d_aa,
)


def unfold_transpose(y_bar: Tensor, x: Tensor, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Tensor:
    return aten.col2im.default(y_bar, x.shape[-2:], kernel, dilation, padding, stride)


def fold_transpose(
    y_bar: Tensor, x: Tensor, size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any
) -> Tensor:
    return aten.im2col.default(y_bar, kernel, dilation, padding, stride)


RULES: RuleTable = {
    aten.im2col.default: Linear(aten.im2col.default, unfold_transpose),
    aten.col2im.default: Linear(aten.col2im.default, fold_transpose),
}
for _op in UPSAMPLINGS:
    RULES[_op.default], RULES[_op.vec] = upsampling(_op)
