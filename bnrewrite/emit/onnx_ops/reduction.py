"""Sums, means, extrema, moments and softmax.

Reduced axes are always spelled out, so an empty list never has to mean "all". The number of reduced elements M is a
constant where the axes are static and a product of sizes, taken in the graph, where the batch is among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from ..builder import Builder, Size
from .sizes import product, subtract
from .table import (
    arg_vals,
    axes,
    axis,
    cast,
    dims,
    is_static,
    lowering,
    number,
    reshape,
    unsupported,
    val,
)

aten = torch.ops.aten

Axes = int | Sequence[int] | None


def reduced(
    b: Builder,
    node: fx.Node,
    op_type: str,
    x: str,
    dim: Axes,
    keepdim: bool,
    dtype: torch.dtype | None = None,
) -> str:
    """Reduce `x`, cast first to `dtype` (default: the type of the result)."""
    x_val = arg_vals(node)[0]
    x = cast(b, x, x_val, dtype or val(node).dtype)
    return b.reduce(op_type, x, axes(dim, x_val.dim()), keepdim)


@lowering(aten.sum.default)
def sum_all(b: Builder, node: fx.Node, x: str, *, dtype: Any) -> str:
    """Sum over everything; bools and integers add up in int64."""
    return reduced(b, node, "ReduceSum", x, None, False)


@lowering(aten.sum.dim_IntList)
def sum_dims(b: Builder, node: fx.Node, x: str, dim: Axes, keepdim: bool, *, dtype: Any) -> str:
    """Sum over `dim`."""
    return reduced(b, node, "ReduceSum", x, dim, keepdim)


@lowering(aten.mean.default)
def mean_all(b: Builder, node: fx.Node, x: str, *, dtype: Any) -> str:
    """Mean over everything."""
    return reduced(b, node, "ReduceMean", x, None, False)


@lowering(aten.mean.dim)
def mean_dims(b: Builder, node: fx.Node, x: str, dim: Axes, keepdim: bool, *, dtype: Any) -> str:
    """Mean over `dim`."""
    return reduced(b, node, "ReduceMean", x, dim, keepdim)


@lowering(aten.prod.default)
def prod_all(b: Builder, node: fx.Node, x: str, *, dtype: Any) -> str:
    """Product over everything."""
    return reduced(b, node, "ReduceProd", x, None, False)


@lowering(aten.prod.dim_int)
def prod_dim(b: Builder, node: fx.Node, x: str, dim: int, keepdim: bool, *, dtype: Any) -> str:
    """Product over `dim`."""
    return reduced(b, node, "ReduceProd", x, dim, keepdim)


@lowering(aten.any.default, aten.all.default)
def any_all(b: Builder, node: fx.Node, x: str) -> str:
    """Whether any (all) of the elements are not zero."""
    return any_all_dims(b, node, x, None, False)


@lowering(aten.any.dim, aten.all.dim, aten.any.dims, aten.all.dims)
def any_all_dims(b: Builder, node: fx.Node, x: str, dim: Axes, keepdim: bool) -> str:
    """The same over `dim`: the maximum (minimum) of the truth values as 0 and 1."""
    x_val = arg_vals(node)[0]
    kind = "ReduceMax" if "any" in str(node.target) else "ReduceMin"
    bits = cast(b, cast(b, x, x_val, torch.bool), torch.bool, torch.int32)
    return cast(b, b.reduce(kind, bits, axes(dim, x_val.dim()), keepdim), torch.int32, torch.bool)


# --- extrema ---------------------------------------------------------------------------------------------------------


@lowering(aten.amax.default, aten.amin.default)
def amax_amin(b: Builder, node: fx.Node, x: str, dim: Axes, keepdim: bool) -> str:
    """Largest (smallest) element over `dim`."""
    return _extremum(b, "amax" in str(node.target), x, arg_vals(node)[0], dim, keepdim)


@lowering(aten.max.default, aten.min.default)
def max_min_all(b: Builder, node: fx.Node, x: str) -> str:
    """Largest (smallest) of all elements."""
    return _extremum(b, node.target is aten.max.default, x, arg_vals(node)[0], None, False)


def _extremum(b: Builder, largest: bool, x: str, x_val: torch.Tensor, dim: Axes, keepdim: bool) -> str:
    number_type = torch.int32 if x_val.dtype == torch.bool else x_val.dtype
    kind = "ReduceMax" if largest else "ReduceMin"
    value = b.reduce(kind, cast(b, x, x_val, number_type), axes(dim, x_val.dim()), keepdim)
    return cast(b, value, number_type, x_val.dtype)


@lowering(aten.max.dim, aten.min.dim)
def max_min_dim(b: Builder, node: fx.Node, x: str, dim: int, keepdim: bool) -> tuple[str, str]:
    """Largest (smallest) element along `dim`, and the first index where it stands."""
    x_val = arg_vals(node)[0]
    largest = node.target is aten.max.dim
    return _extremum(b, largest, x, x_val, dim, keepdim), _arg(b, largest, x, x_val, dim, keepdim)


@lowering(aten.argmax.default, aten.argmin.default)
def argmax_argmin(b: Builder, node: fx.Node, x: str, dim: int | None, keepdim: bool) -> str:
    """Index of the first largest (smallest) element along `dim`, or in the flattened tensor."""
    x_val = arg_vals(node)[0]
    largest = node.target is aten.argmax.default
    if dim is not None:
        return _arg(b, largest, x, x_val, dim, keepdim)
    flat = b.op("Reshape", x, b.const([-1], np.int64))
    index = b.op("ArgMax" if largest else "ArgMin", flat, axis=0, keepdims=0)
    return reshape(b, index, [1] * x_val.dim()) if keepdim else index


def _arg(b: Builder, largest: bool, x: str, x_val: torch.Tensor, dim: int, keepdim: bool) -> str:
    if x_val.dim() == 0:
        return b.const(0, np.int64)
    if x_val.dtype == torch.bool:
        x = cast(b, x, torch.bool, torch.int32)
    return b.op("ArgMax" if largest else "ArgMin", x, axis=axis(dim, x_val.dim()), keepdims=int(keepdim))


# --- moments ---------------------------------------------------------------------------------------------------------


def variance(
    b: Builder, x: str, x_val: torch.Tensor, dim: Axes, correction: Any, keepdim: bool
) -> tuple[str, str]:
    """sum((x - mean)^2) / max(M - correction, 0), and the mean."""
    over = axes(dim, x_val.dim())
    mean = b.reduce("ReduceMean", x, over, True)
    centred = b.op("Sub", x, mean)
    squares = b.op("Mul", centred, centred)
    correction = 1 if correction is None else correction
    if correction == 0:
        var = b.reduce("ReduceMean", squares, over, keepdim)
    else:
        sizes = dims(b, x, x_val)
        count = subtract(b, product(b, [sizes[i] for i in over]), correction)
        count = b.op("Max", count, b.const([0], np.int64)) if isinstance(count, Size) else max(count, 0)
        divisor = number(b, Size(count) if isinstance(count, str) else count, x_val.dtype)
        var = b.op("Div", b.reduce("ReduceSum", squares, over, keepdim), divisor)
    return var, mean if keepdim else b.reduce("ReduceMean", x, over, False)


@lowering(aten.var.correction, aten.std.correction)
def var_std(b: Builder, node: fx.Node, x: str, dim: Axes, *, correction: Any, keepdim: bool) -> str:
    """Variance (standard deviation) with Bessel's or any other integer correction."""
    var, _ = variance(b, x, arg_vals(node)[0], dim, correction, keepdim)
    return b.op("Sqrt", var) if node.target is aten.std.correction else var


@lowering(aten.var_mean.correction, aten.std_mean.correction)
def var_mean(
    b: Builder, node: fx.Node, x: str, dim: Axes, *, correction: Any, keepdim: bool
) -> tuple[str, str]:
    """Variance (standard deviation) and mean."""
    var, mean = variance(b, x, arg_vals(node)[0], dim, correction, keepdim)
    return (b.op("Sqrt", var) if node.target is aten.std_mean.correction else var), mean


# --- along one axis --------------------------------------------------------------------------------------------------


@lowering(aten.logsumexp.default)
def logsumexp(b: Builder, node: fx.Node, x: str, dim: Axes, keepdim: bool) -> str:
    """log(sum(exp(x - m))) + m, m the maximum (0 where that is infinite, so that the difference is a number)."""
    x_val, dtype = arg_vals(node)[0], val(node).dtype
    over = axes(dim, x_val.dim())
    x = cast(b, x, x_val, dtype)
    largest = b.reduce("ReduceMax", x, over, True)
    m = b.op("Where", b.op("IsInf", largest), number(b, 0, dtype), largest)
    total = b.reduce("ReduceSum", b.op("Exp", b.op("Sub", x, m)), over, keepdim)
    return b.op(
        "Add", b.op("Log", total), m if keepdim or not over else b.op("Squeeze", m, b.const(over, np.int64))
    )


@lowering(aten.cumsum.default)
def cumsum(b: Builder, node: fx.Node, x: str, dim: int, *, dtype: Any) -> str:
    """Running sum along `dim`."""
    x_val = arg_vals(node)[0]
    x = cast(b, x, x_val, val(node).dtype)
    return b.op("CumSum", x, b.const(axis(dim, x_val.dim()), np.int64)) if x_val.dim() else x


@lowering(aten._softmax.default, aten._log_softmax.default)
def softmax(b: Builder, node: fx.Node, x: str, dim: int, half_to_float: bool) -> str:
    """exp(x) / sum(exp(x)) along `dim`, or its logarithm."""
    x_val, dtype = arg_vals(node)[0], val(node).dtype
    kind = "LogSoftmax" if "log" in str(node.target) else "Softmax"
    if x_val.dim() == 0:
        return number(b, 0 if kind == "LogSoftmax" else 1, dtype)
    return b.op(kind, cast(b, x, x_val, dtype), axis=axis(dim, x_val.dim()))


@lowering(aten._softmax_backward_data.default)
def softmax_backward(b: Builder, node: fx.Node, y_bar: str, y: str, dim: int, dtype: Any) -> str:
    """y (y_bar - sum(y y_bar))."""
    weighted = b.op("Mul", y_bar, y)
    total = b.reduce("ReduceSum", weighted, axes(dim, val(node).dim()), True)
    return b.op("Sub", weighted, b.op("Mul", y, total))


@lowering(aten._log_softmax_backward_data.default)
def log_softmax_backward(b: Builder, node: fx.Node, y_bar: str, y: str, dim: int, dtype: Any) -> str:
    """y_bar - exp(y) sum(y_bar)."""
    total = b.reduce("ReduceSum", y_bar, axes(dim, val(node).dim()), True)
    return b.op("Sub", y_bar, b.op("Mul", b.op("Exp", y), total))


@lowering(aten.topk.default)
def topk(
    b: Builder, node: fx.Node, x: str, k: int | Size, dim: int, largest: bool, sorted_: bool
) -> tuple[str, ...]:
    """The k largest (smallest) elements along `dim`, in order, and where they stand."""
    x_val = arg_vals(node)[0]
    if x_val.dim() == 0:
        raise unsupported(node, "topk of a 0-d tensor has no ONNX form.")
    return b.ops(
        "TopK", x, b.ints([k]), outputs=2, axis=axis(dim, x_val.dim()), largest=int(largest), sorted=1
    )


@lowering(aten.kthvalue.default)
def kthvalue(b: Builder, node: fx.Node, x: str, k: int, dim: int, keepdim: bool) -> tuple[str, ...]:
    """The k-th smallest element along `dim`, and where it stands: the last of the k smallest."""
    x_val = arg_vals(node)[0]
    if x_val.dim() == 0:
        return x, b.const(0, np.int64)
    at = axis(dim, x_val.dim())
    smallest = b.ops("TopK", x, b.ints([k]), outputs=2, axis=at, largest=0, sorted=1)
    last = b.const([k - 1] if keepdim else k - 1, np.int64)
    return tuple(b.op("Gather", entry, last, axis=at) for entry in smallest)


@lowering(aten.median.dim)
def median(b: Builder, node: fx.Node, x: str, dim: int, keepdim: bool) -> tuple[str, ...]:
    """The median along `dim`, of an even number the lower of the two, and where it stands."""
    x_val = arg_vals(node)[0]
    size = x_val.shape[axis(dim, x_val.dim())] if x_val.dim() else 1
    if not is_static(size):
        raise unsupported(node, "The median over a symbolic axis has no ONNX form.")
    return kthvalue(b, node, x, (int(size) + 1) // 2, dim, keepdim)


@lowering(aten.sort.default, aten.sort.stable)
def sort(b: Builder, node: fx.Node, x: str, dim: int = -1, descending: bool = False, **options: Any) -> Any:
    """All elements along `dim` in order, and where they stood; equal ones keep their order."""
    x_val = arg_vals(node)[0]
    if x_val.dim() == 0:
        return x, b.const(0, np.int64)
    at = axis(options.get("dim", dim), x_val.dim())
    count = dims(b, x, x_val)[at]
    largest = int(options.get("descending", descending))
    return b.ops("TopK", x, b.ints([count]), outputs=2, axis=at, largest=largest, sorted=1)
