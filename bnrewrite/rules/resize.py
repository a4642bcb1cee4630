"""Interpolation and unfolding of images: linear maps.

Interpolation treats the axes one after another, so it is a matrix along each:

    y = A_1 ... A_k x        x_bar = A_1^T ... A_k^T y_bar        (row o of A: the weights of output pixel o)

Nearest-neighbour enlargement by a whole factor repeats pixels; its adjoint sums blocks. Elsewhere the adjoint
multiplies by the matrices, which are the operation's own values at unit images: PyTorch's adjoint kernels do not accept
a symbolic batch, and other runtimes have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Linear, RuleTable
from ..passes.tracing import undecomposed
from .elementwise import indicator

aten = torch.ops.aten


def unit_vectors(n: int, like: Tensor) -> Tensor:
    """The identity matrix, in the type and on the device of `like`."""
    i = like.new_ones([n], dtype=torch.int64).cumsum(0)
    return indicator(i.unsqueeze(0) == i.unsqueeze(1), like)


class Interpolation:
    """One kind of interpolation over `axes` image axes. `align` holds the flag of its schema, if it has one."""

    def __init__(self, op: Any, repeats: bool) -> None:
        self.op, self.repeats = op, repeats
        names = [argument.name for argument in op._schema.arguments]
        self.axes = len(names) - 2 - ("align_corners" in names)

    def resize(self, x: Tensor, size: Sequence[Any], *static: Any) -> Tensor:
        with undecomposed():
            return self.op(x, size, *static)

    def transpose(self, y_bar: Tensor, x: Tensor, size: Sequence[Any], *static: Any) -> Tensor:
        align, scales = static[: -self.axes], static[-self.axes :]
        shape = x.shape[2:]
        if self.repeats and all(_is_whole(n, o, s) for n, o, s in zip(shape, size, scales, strict=True)):
            return _sum_blocks(y_bar, shape)
        for k in range(self.axes):
            axis = 2 + k
            A_T = self._matrix(k, shape[k], size[k], align, scales[k], y_bar)
            y_bar = (y_bar.transpose(axis, -1) @ A_T.t()).transpose(axis, -1)
        return y_bar

    def _matrix(self, k: int, n: int, size: Any, align: Sequence[Any], scale: Any, like: Tensor) -> Tensor:
        """A^T (n, size) along image axis k: unit vector i, one a channel, resized along that axis alone."""
        # The other axes keep two equal pixels: PyTorch's antialiasing kernels misread images that are one pixel wide.
        others = [2] * self.axes
        units = (
            unit_vectors(n, like)
            .reshape([1, n, *_put([1] * self.axes, k, n)])
            .expand([1, n, *_put(others, k, n)])
        )
        scales = _put([None] * self.axes, k, scale)
        A_T = self.resize(units, _put(others, k, size), *align, *scales).select(0, 0)
        for axis in reversed([i for i in range(self.axes) if i != k]):
            A_T = A_T.select(1 + axis, 0)
        return A_T


def _put(entries: Sequence[Any], k: int, entry: Any) -> list[Any]:
    return [*entries[:k], entry, *entries[k + 1 :]]


def _is_whole(n: Any, size: Any, scale: float | None) -> bool:
    """Whether an axis of n pixels becomes `size` pixels by repeating each one equally often."""
    return size % n == 0 and (scale is None or scale == size // n)


def _sum_blocks(y_bar: Tensor, shape: Sequence[Any]) -> Tensor:
    blocks: list[Any] = []
    for n, size in zip(shape, y_bar.shape[2:], strict=True):
        blocks += [n, size // n]
    return y_bar.reshape([*y_bar.shape[:2], *blocks]).sum([3 + 2 * k for k in range(len(shape))])


def interpolation_rules(op: Any, repeats: bool) -> RuleTable:
    """Rules for `op.default` (x, size, [align,] *scales) and `op.vec` (x, size or None, [align,] scales or None)."""
    interpolation = Interpolation(op.default, repeats)

    def explicit(x: Tensor, size: Any, *static: Any) -> tuple[Any, ...]:
        """The arguments of `op.default` after x, from those of `op.vec`."""
        *align, scales = static
        if size is None:
            # PyTorch rounds down.
            size = [int(n * s) for n, s in zip(x.shape[2:], scales, strict=True)]
        return (size, *align, *(scales or [None] * interpolation.axes))

    return {
        op.default: Linear(interpolation.resize, interpolation.transpose),
        op.vec: Linear(
            lambda x, *static: interpolation.resize(x, *explicit(x, *static)),
            lambda y_bar, x, *static: interpolation.transpose(y_bar, x, *explicit(x, *static)),
        ),
    }


NEAREST = (
    aten.upsample_nearest1d,
    aten.upsample_nearest2d,
    aten.upsample_nearest3d,
    aten._upsample_nearest_exact1d,
    aten._upsample_nearest_exact2d,
    aten._upsample_nearest_exact3d,
)
SMOOTH = (
    aten.upsample_linear1d,
    aten.upsample_bilinear2d,
    aten.upsample_trilinear3d,
    aten.upsample_bicubic2d,
    aten._upsample_bilinear2d_aa,
    aten._upsample_bicubic2d_aa,
)


def unfold_transpose(
    y_bar: Tensor, x: Tensor, kernel: Any, dilation: Any, padding: Any, stride: Any
) -> Tensor:
    return aten.col2im.default(y_bar, x.shape[-2:], kernel, dilation, padding, stride)


def fold_transpose(
    y_bar: Tensor, x: Tensor, size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any
) -> Tensor:
    return aten.im2col.default(y_bar, kernel, dilation, padding, stride)


RULES: RuleTable = {
    aten.im2col.default: Linear(aten.im2col.default, unfold_transpose),
    aten.col2im.default: Linear(aten.col2im.default, fold_transpose),
}
for _op in NEAREST:
    RULES |= interpolation_rules(_op, repeats=True)
for _op in SMOOTH:
    RULES |= interpolation_rules(_op, repeats=False)
