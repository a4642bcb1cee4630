"""Interpolation of images, and its adjoints: along each axis the matrix that PyTorch's one-dimensional operation is.

    y = A_1 x A_2' ...        x_bar = A_1' y_bar A_2 ...

Nearest neighbours copy: by a repetition where every pixel is copied equally often, else by index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx

from ..builder import Builder
from .separable import Matrix, apply_along_axes, matrix_of
from .table import arg_vals, is_static, lowering, reshape, shape, unsupported, val

aten = torch.ops.aten

OneAxis = Callable[[torch.Tensor, int, bool, float | None], torch.Tensor]
"""An interpolation of [rows, n] to [rows, m]: (x, m, align_corners, scale)."""


def _linear(x: torch.Tensor, m: int, align: bool, scale: float | None) -> torch.Tensor:
    return aten.upsample_linear1d.default(x[None], [m], align, scale)[0]


def _nearest(x: torch.Tensor, m: int, align: bool, scale: float | None) -> torch.Tensor:
    return aten.upsample_nearest1d.default(x[None], [m], scale)[0]


def _nearest_exact(x: torch.Tensor, m: int, align: bool, scale: float | None) -> torch.Tensor:
    return aten._upsample_nearest_exact1d.default(x[None], [m], scale)[0]


def _on_columns(op: Any) -> OneAxis:
    """A two-dimensional interpolation, on the columns of one image.

    They are doubled: on an image one pixel wide PyTorch's antialiased kernels (2.13) are wrong.
    """

    def one_axis(x: torch.Tensor, m: int, align: bool, scale: float | None) -> torch.Tensor:
        columns = torch.cat([x, x]).T[None, None]
        return op(columns, [m, columns.shape[-1]], align, scale, None)[0, 0, :, : len(x)].T

    return one_axis


_NEAREST: dict[str, OneAxis] = {
    **{f"upsample_nearest{i}d": _nearest for i in (1, 2, 3)},
    **{f"_upsample_nearest_exact{i}d": _nearest_exact for i in (1, 2, 3)},
}
_SMOOTH: dict[str, OneAxis] = {
    "upsample_linear1d": _linear,
    "upsample_bilinear2d": _linear,
    "upsample_trilinear3d": _linear,
    "upsample_bicubic2d": _on_columns(aten.upsample_bicubic2d.default),
    "_upsample_bilinear2d_aa": _on_columns(aten._upsample_bilinear2d_aa.default),
    "_upsample_bicubic2d_aa": _on_columns(aten._upsample_bicubic2d_aa.default),
}


def _matrices(
    node: fx.Node, large: Sequence[Any], small: Sequence[Any], align: bool, scales: Any
) -> list[Matrix]:
    """One matrix [m, n] for each axis, for the map of n = `large` (the forward input) to m = `small` pixels."""
    if not all(is_static(d) for d in (*large, *small)):
        raise unsupported(
            node, "Images are resized between static sizes only; only the batch may be symbolic."
        )
    name = str(node.target).split(".")[1].removesuffix("_backward")
    one_axis = _NEAREST.get(name) or _SMOOTH[name]
    scales = [None] * len(large) if scales is None or not len(scales) else scales

    def matrix(n: int, m: int, scale: float | None) -> Matrix:
        return matrix_of(lambda x: one_axis(x, m, align, scale), n)

    return [matrix(n, m, scale) for n, m, scale in zip(large, small, scales, strict=True)]


def repeat(b: Builder, x: str, v: torch.Tensor, source: Sequence[Any], factors: Sequence[int]) -> str:
    """Every element of the last axes of x (shape `source`) repeated `factors` times in place; `v` gives the type."""
    if set(factors) == {1}:
        return x
    lead = len(source) - len(factors)
    if v.dtype != torch.float64:
        scales = b.const([1] * lead + list(factors), np.float32)
        options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return b.op("Resize", x, "", scales, mode="nearest", **options)
    sizes = list(source)
    for i, factor in enumerate(factors, start=lead):
        if factor > 1:
            x = b.op("Reshape", x, b.ints([-1, 1, prod(sizes[i + 1 :])]))
            x = b.op("Concat", *[x] * factor, axis=1)
            sizes[i] *= factor
    return reshape(b, x, sizes)


def _copies(matrices: Sequence[Matrix]) -> list[int]:
    """How often matrices of nearest neighbours repeat each pixel in place, axis by axis; 0 if not equally often."""
    factors = []
    for a in matrices:
        m, n = a.shape
        in_place = m % n == 0 and np.array_equal(a, np.repeat(np.eye(n), m // n, axis=0))
        factors.append(m // n if in_place else 0)
    return factors


@lowering(
    *(getattr(aten, name).default for name in (*_NEAREST, *_SMOOTH)),
    *(getattr(aten, name).vec for name in (*_NEAREST, *_SMOOTH)),
)
def upsample(b: Builder, node: fx.Node, x: str, size: Any, *options: Any) -> str:
    """y [N, C, *size]."""
    source, target = shape(arg_vals(node)[0]), shape(val(node))
    options_ = list(options)
    align = options_.pop(0) if isinstance(options_[0], bool) else False
    scales = options_[0] if str(node.target).endswith(".vec") else options_
    matrices = _matrices(node, source[2:], target[2:], align, scales)
    v = val(node)
    if str(node.target).split(".")[1] in _SMOOTH:
        return apply_along_axes(b, x, v, source, matrices)
    copies = _copies(matrices)
    if all(copies):
        return repeat(b, x, v, source, copies)
    for i, a in enumerate(matrices):
        if copies[i] != 1:
            x = b.op("Gather", x, b.const(a.argmax(axis=1), np.int64), axis=2 + i)
    return x


@lowering(*(getattr(aten, f"{name}_backward").default for name in (*_NEAREST, *_SMOOTH)))
def upsample_backward(
    b: Builder, node: fx.Node, y_bar: str, size: Any, input_size: Any, *options: Any
) -> str:
    """x_bar [N, C, *input_size], the adjoint of `upsample`."""
    source, target = shape(arg_vals(node)[0]), shape(val(node))
    options_ = list(options)
    align = options_.pop(0) if isinstance(options_[0], bool) else False
    matrices = _matrices(node, target[2:], source[2:], align, options_)
    copies = _copies(matrices)
    if str(node.target).split(".")[1].removesuffix("_backward") in _NEAREST and all(copies):
        pairs = [d for n, f in zip(target[2:], copies, strict=True) for d in (n, f)]
        y_bar = b.op("Reshape", y_bar, b.ints([-1, target[1], *pairs]))
        return b.reduce("ReduceSum", y_bar, [3 + 2 * i for i in range(len(copies))], keepdims=False)
    return apply_along_axes(b, y_bar, val(node), source, [a.T for a in matrices])
