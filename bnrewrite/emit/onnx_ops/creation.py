"""Tensors made from sizes and numbers. Small static ones are constants, large or symbolic ones are made at run time."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from onnx import helper
from torch import fx

from ..builder import Builder, Real, Size
from .table import arg_vals, dims, is_static, lowering, np_dtype, number, onnx_dtype, unsupported, val

aten = torch.ops.aten

_SMALL = 64  # elements that a constant may cost in the file where a node can make them


def filled(b: Builder, sizes: Sequence[int | Size], value: Any, dtype: torch.dtype) -> str:
    """A tensor of shape `sizes` with one value (a number or a symbolic one) everywhere."""
    if not sizes:
        return number(b, value, dtype)
    if isinstance(value, str):
        return b.op("Expand", number(b, value, dtype), b.ints(sizes))
    if all(is_static(s) for s in sizes) and prod(int(s) for s in sizes) <= _SMALL:
        return b.const(np.full([int(s) for s in sizes], value), np_dtype(dtype))
    return b.op(
        "ConstantOfShape", b.ints(sizes), value=helper.make_tensor("value", onnx_dtype(dtype), [1], [value])
    )


def _like(value: Any) -> Any:
    def create(b: Builder, node: fx.Node, x: str, *args: Any, **options: Any) -> str:
        return filled(b, dims(b, x, arg_vals(node)[0]), value, val(node).dtype)

    return create


lowering(aten.zeros_like.default, aten.empty_like.default)(_like(0))
lowering(aten.ones_like.default)(_like(1))


@lowering(aten.full_like.default)
def full_like(b: Builder, node: fx.Node, x: str, value: Any, **options: Any) -> str:
    """One value in the shape of `x`."""
    return filled(b, dims(b, x, arg_vals(node)[0]), value, val(node).dtype)


@lowering(aten.fill.Scalar)
def fill(b: Builder, node: fx.Node, x: str, value: Any) -> str:
    """One value in the shape of `x`."""
    return full_like(b, node, x, value)


@lowering(aten.new_zeros.default, aten.new_empty.default)
def new_zeros(b: Builder, node: fx.Node, x: str, size: Sequence[int | Size], **options: Any) -> str:
    """Zeros (what an empty tensor holds is nobody's business)."""
    return filled(b, size, 0, val(node).dtype)


@lowering(aten.new_ones.default)
def new_ones(b: Builder, node: fx.Node, x: str, size: Sequence[int | Size], **options: Any) -> str:
    """Ones."""
    return filled(b, size, 1, val(node).dtype)


@lowering(aten.new_full.default)
def new_full(
    b: Builder, node: fx.Node, x: str, size: Sequence[int | Size], value: Any, **options: Any
) -> str:
    """One value."""
    return filled(b, size, value, val(node).dtype)


@lowering(aten.zeros.default, aten.empty.memory_format)
def zeros(b: Builder, node: fx.Node, size: Sequence[int | Size], **options: Any) -> str:
    """Zeros."""
    return filled(b, size, 0, val(node).dtype)


@lowering(aten.ones.default)
def ones(b: Builder, node: fx.Node, size: Sequence[int | Size], **options: Any) -> str:
    """Ones."""
    return filled(b, size, 1, val(node).dtype)


@lowering(aten.full.default)
def full(b: Builder, node: fx.Node, size: Sequence[int | Size], value: Any, **options: Any) -> str:
    """One value."""
    return filled(b, size, value, val(node).dtype)


@lowering(aten.empty_strided.default, aten.empty_permuted.default)
def empty_strided(b: Builder, node: fx.Node, size: Sequence[int | Size], order: Any, **options: Any) -> str:
    """Zeros; ONNX values have no strides."""
    return filled(b, size, 0, val(node).dtype)


@lowering(aten.scalar_tensor.default)
def scalar_tensor(b: Builder, node: fx.Node, value: Any, **options: Any) -> str:
    """A number as a 0-d tensor."""
    return number(b, value, val(node).dtype)


@lowering(aten.arange.default, aten.arange.start, aten.arange.start_step)
def arange(b: Builder, node: fx.Node, *bounds: Any, **options: Any) -> str:
    """start, start + step, ... below end."""
    start, end = (bounds[0], bounds[1]) if len(bounds) > 1 else (0, bounds[0])
    step = bounds[2] if len(bounds) > 2 else 1
    dtype = val(node).dtype
    if not any(isinstance(n, (Size, Real)) for n in (start, end, step)):
        return b.const(torch.arange(start, end, step, dtype=dtype).numpy(), np_dtype(dtype))
    return b.op("Range", *(number(b, n, dtype) for n in (start, end, step)))


@lowering(aten.linspace.default)
def linspace(b: Builder, node: fx.Node, start: Any, end: Any, steps: Any, **options: Any) -> str:
    """`steps` evenly spaced numbers from start to end."""
    if any(isinstance(n, str) for n in (start, end, steps)):
        raise unsupported(node, "linspace with a symbolic bound has no ONNX lowering.")
    dtype = val(node).dtype
    return b.const(torch.linspace(start, end, steps, dtype=dtype).numpy(), np_dtype(dtype))


@lowering(aten.eye.default, aten.eye.m)
def eye(b: Builder, node: fx.Node, n: int | Size, m: int | Size | None = None, **options: Any) -> str:
    """Ones on the diagonal."""
    m, dtype = n if m is None else m, val(node).dtype
    if is_static(n) and is_static(m):
        return b.const(np.eye(int(n), int(m)), np_dtype(dtype))
    rows = b.op("Unsqueeze", _count(b, n), b.const([1], np.int64))
    diagonal = b.op("Equal", rows, _count(b, m))
    return b.op("Cast", diagonal, to=onnx_dtype(dtype))


def _count(b: Builder, n: int | Size) -> str:
    """0, 1, ..., n - 1."""
    if is_static(n):
        return b.const(np.arange(int(n)), np.int64)
    return b.op("Range", *(number(b, k, torch.int64) for k in (0, n, 1)))


@lowering(aten.one_hot.default)
def one_hot(b: Builder, node: fx.Node, x: str, classes: int) -> str:
    """1 where the last axis counts to x, else 0 (OneHot itself has no kernel for every type)."""
    if classes == -1:
        raise unsupported(node, "Say the number of classes: without it the shape depends on the data.")
    last = arg_vals(node)[0].dim()
    hits = b.op("Equal", b.op("Unsqueeze", x, b.const([last], np.int64)), _count(b, classes))
    return b.op("Cast", hits, to=onnx_dtype(torch.int64))


@lowering(aten.tril.default, aten.triu.default)
def triangle(b: Builder, node: fx.Node, x: str, diagonal: int) -> str:
    """The lower (upper) triangle of the last two axes, zero elsewhere."""
    return b.op("Trilu", x, b.const(diagonal, np.int64), upper=int(node.target is aten.triu.default))


@lowering(aten.tril_indices.default, aten.triu_indices.default)
def triangle_indices(b: Builder, node: fx.Node, row: int, col: int, offset: int, **options: Any) -> str:
    """Coordinates of a triangle."""
    make = torch.tril_indices if node.target is aten.tril_indices.default else torch.triu_indices
    dtype = val(node).dtype
    return b.const(make(row, col, offset, dtype=dtype).numpy(), np_dtype(dtype))
