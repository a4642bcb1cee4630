"""Gathering and scattering.

Advanced indexing, x[i_0, :, i_1, ...] with index tensors at axes p_0 < p_1 < ... of common shape B:

    one index       Gather along its axis
    several         indexed axes to the front; GatherND (ScatterND to write), indices side by side in a last axis
    the result      B stands where the indexed axes stood if they are adjacent, in front of everything otherwise (NumPy)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from ..builder import Builder
from .creation import filled
from .logic import choose
from .pointwise import scaled
from .table import (
    arg_vals,
    axis,
    cast,
    dims,
    expand,
    lowering,
    number,
    numel_is_one,
    reshape,
    same_shape,
    shape,
    transpose,
    unsqueeze,
    unsupported,
    val,
)

aten = torch.ops.aten


@lowering(aten.index_select.default)
def index_select(b: Builder, node: fx.Node, x: str, dim: int, index: str) -> str:
    """x[index] along `dim`."""
    x_val, index_val = arg_vals(node)[0], arg_vals(node)[2]
    index = reshape(b, index, [1]) if index_val.dim() == 0 else index
    return b.op("Gather", x, index, axis=axis(dim, x_val.dim()))


@lowering(aten.embedding.default)
def embedding(b: Builder, node: fx.Node, weight: str, index: str, *options: Any) -> str:
    """Rows of `weight`."""
    return b.op("Gather", weight, index, axis=0)


@lowering(aten.embedding_dense_backward.default)
def embedding_dense_backward(
    b: Builder, node: fx.Node, y_bar: str, index: str, rows: int, padding: int, scale_by_freq: bool
) -> str:
    """Rows of y_bar added up where their index says; the padding row stays zero."""
    if scale_by_freq:
        raise unsupported(node, "scale_grad_by_freq has no ONNX lowering.")
    y_val, index_val = arg_vals(node)[:2]
    dtype = val(node).dtype
    at = unsqueeze(b, cast(b, index, index_val, torch.int64), [index_val.dim()])
    if padding >= 0:
        y_bar = b.op("Where", b.op("Equal", at, number(b, padding, torch.int64)), number(b, 0, dtype), y_bar)
    zeros = filled(b, [rows, shape(y_val)[-1]], 0, dtype)
    return b.op("ScatterND", zeros, at, y_bar, reduction="add")


@lowering(aten.gather.default)
def gather(b: Builder, node: fx.Node, x: str, dim: int, index: str, *, sparse_grad: bool) -> str:
    """x[..., index[..., i, ...], ...] along `dim`, elsewhere place by place."""
    rank = arg_vals(node)[0].dim()
    return b.op("GatherElements", x, index, axis=axis(dim, rank)) if rank else x


# --- scattering along one axis ---------------------------------------------------------------------------------------


def _cut(b: Builder, source: str, source_val: torch.Tensor, index: str, index_val: torch.Tensor) -> str:
    """The corner of `source` that `index` covers (PyTorch allows a larger source, ONNX does not)."""
    if same_shape(shape(source_val), shape(index_val)):
        return source
    ends = dims(b, index, index_val)
    return b.op("Slice", source, b.ints([0] * len(ends)), b.ints(ends))


def _scatter(
    b: Builder, node: fx.Node, x: str, dim: int, index: str, source: str, reduction: str = "none"
) -> str:
    rank = val(node).dim()
    attributes = {} if reduction == "none" else {"reduction": reduction}
    if rank:
        return b.op("ScatterElements", x, index, source, axis=axis(dim, rank), **attributes)
    x, index, source = (unsqueeze(b, a, [0]) for a in (x, index, source))
    return reshape(b, b.op("ScatterElements", x, index, source, axis=0, **attributes), [])


@lowering(aten.scatter.src, aten.scatter_add.default)
def scatter(b: Builder, node: fx.Node, x: str, dim: int, index: str, source: str) -> str:
    """x with `source` written (added) at `index` along `dim`."""
    _, _, index_val, source_val = arg_vals(node)
    source = _cut(b, source, source_val, index, index_val)
    return _scatter(b, node, x, dim, index, source, "add" if "scatter_add" in str(node.target) else "none")


@lowering(aten.scatter.value)
def scatter_value(b: Builder, node: fx.Node, x: str, dim: int, index: str, value: Any) -> str:
    """x with one value written at `index` along `dim`."""
    source = filled(b, dims(b, index, arg_vals(node)[2]), value, val(node).dtype)
    return _scatter(b, node, x, dim, index, source)


_REDUCTIONS = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}


@lowering(aten.scatter_reduce.two, aten.scatter.reduce)
def scatter_reduce(
    b: Builder,
    node: fx.Node,
    x: str,
    dim: int,
    index: str,
    source: str,
    reduce: str,
    *,
    include_self: bool = True,
) -> str:
    """x combined with `source` at `index` along `dim`."""
    if reduce not in _REDUCTIONS or not include_self:
        raise unsupported(node, "Only sum, prod, amax and amin that include the tensor itself are supported.")
    if _REDUCTIONS[reduce] in ("max", "min") and b.opset < 18:
        raise unsupported(node, "ONNX scatters maxima and minima from opset 18 on.")
    return _scatter(
        b,
        node,
        x,
        dim,
        index,
        _cut(b, source, arg_vals(node)[3], index, arg_vals(node)[2]),
        _REDUCTIONS[reduce],
    )


@lowering(aten.index_add.default)
def index_add(b: Builder, node: fx.Node, x: str, dim: int, index: str, source: str, *, alpha: Any) -> str:
    """x with alpha source[i] added to x[index[i]] along `dim`."""
    source = scaled(b, source, alpha, arg_vals(node)[3])
    return _write_rows(b, node, x, dim, index, source, "add")


@lowering(aten.index_copy.default)
def index_copy(b: Builder, node: fx.Node, x: str, dim: int, index: str, source: str) -> str:
    """x with source[i] written to x[index[i]] along `dim`."""
    return _write_rows(b, node, x, dim, index, source, "none")


def _write_rows(b: Builder, node: fx.Node, x: str, dim: int, index: str, source: str, reduction: str) -> str:
    x_val, _, index_val = arg_vals(node)[:3]
    if x_val.dim() == 0:
        raise unsupported(node, "Writing rows of a 0-d tensor is not supported.")
    at = axis(dim, x_val.dim())
    index = cast(b, index, index_val, torch.int64)
    if index_val.dim() == 0:
        index = unsqueeze(b, index, [0])
    order = [at, *(i for i in range(x_val.dim()) if i != at)]
    attributes = {} if reduction == "none" else {"reduction": reduction}
    written = b.op(
        "ScatterND",
        transpose(b, x, order),
        unsqueeze(b, index, [1]),
        transpose(b, source, order),
        **attributes,
    )
    return transpose(b, written, _inverse(order))


def _inverse(order: Sequence[int]) -> list[int]:
    return [list(order).index(i) for i in range(len(order))]


# --- advanced indexing -----------------------------------------------------------------------------------------------


class _Indices:
    """The index tensors of one x[...]: which axes they index, the shape B, and where B stands in the result."""

    def __init__(self, node: fx.Node, names: Sequence[str | None], rank: int) -> None:
        values = arg_vals(node)[1]
        self.at = [i for i, v in enumerate(values) if v is not None]
        self.names = [str(names[i]) for i in self.at]
        self.values = [values[i] for i in self.at]
        self.shape = shape(_broadcast(self.values))
        self.rest = [i for i in range(rank) if i not in self.at]
        self.order = [*self.at, *self.rest]
        adjacent = self.at == list(range(self.at[0], self.at[0] + len(self.at)))
        self.front = self.at[0] if adjacent else 0

    @property
    def masked(self) -> bool:
        return any(v.dtype in (torch.bool, torch.uint8) for v in self.values)

    def to_result(self) -> list[int]:
        """Axis order that takes (B, rest) to the layout of the result."""
        k, n = len(self.shape), len(self.rest)
        return [*range(k, k + self.front), *range(k), *range(k + self.front, k + n)]

    def stacked(self, b: Builder) -> str:
        """All indices, each expanded to B, side by side in a new last axis."""
        k = len(self.shape)
        columns = [
            unsqueeze(b, expand(b, cast(b, x, v, torch.int64), self.shape, shape(v)), [k])
            for x, v in zip(self.names, self.values, strict=True)
        ]
        return columns[0] if len(columns) == 1 else b.op("Concat", *columns, axis=k)


def _broadcast(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return values[0] if len(values) == 1 else torch.broadcast_tensors(*values)[0]


@lowering(aten.index.Tensor, aten._unsafe_index.Tensor)
def index(b: Builder, node: fx.Node, x: str, names: Sequence[str | None]) -> str:
    """x[i_0, i_1, ...] with index tensors; None keeps an axis."""
    indices = _Indices(node, names, arg_vals(node)[0].dim())
    if indices.masked:
        raise unsupported(node, "A mask as an index gives a shape that depends on the data; use torch.where.")
    if len(indices.at) == 1:
        return b.op("Gather", x, indices.names[0], axis=indices.at[0])
    picked = b.op("GatherND", transpose(b, x, indices.order), indices.stacked(b))
    return transpose(b, picked, indices.to_result())


@lowering(aten.index_put.default, aten._unsafe_index_put.default)
def index_put(
    b: Builder, node: fx.Node, x: str, names: Sequence[str | None], values: str, accumulate: bool
) -> str:
    """x with x[i_0, i_1, ...] replaced by `values` (or `values` added, every repeated index counting)."""
    x_val, _, values_val = arg_vals(node)[:3]
    values = cast(b, values, values_val, x_val.dtype)
    indices = _Indices(node, names, x_val.dim())
    if indices.masked:
        return _masked_put(b, node, x, indices, values, accumulate)
    sizes = shape(x_val)
    rest = [sizes[i] for i in indices.rest]
    picked = [*rest[: indices.front], *indices.shape, *rest[indices.front :]]
    values = expand(b, values, picked, shape(values_val))
    values = transpose(b, values, _inverse(indices.to_result()))
    attributes = {"reduction": "add"} if accumulate else {}
    written = b.op("ScatterND", transpose(b, x, indices.order), indices.stacked(b), values, **attributes)
    return transpose(b, written, _inverse(indices.order))


def _masked_put(b: Builder, node: fx.Node, x: str, indices: _Indices, value: str, accumulate: bool) -> str:
    """One mask and one value: a choice, whose shape does not depend on the data."""
    x_val, _, value_val = arg_vals(node)[:3]
    if len(indices.at) != 1 or not numel_is_one(value_val):
        raise unsupported(node, "A mask as an index takes a single value only; use torch.where.")
    mask_val, dtype = indices.values[0], x_val.dtype
    behind = x_val.dim() - indices.at[0] - mask_val.dim()
    mask = unsqueeze(b, indices.names[0], [mask_val.dim() + i for i in range(behind)])
    value = reshape(b, value, [], shape(value_val))
    return choose(b, mask, b.op("Add", x, value) if accumulate else value, x, dtype)


@lowering(aten.take.default)
def take(b: Builder, node: fx.Node, x: str, index: str) -> str:
    """Elements of the flattened tensor."""
    return b.op("Gather", b.op("Reshape", x, b.const([-1], np.int64)), index, axis=0)
