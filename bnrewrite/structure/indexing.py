"""Reading and writing at indices. Free indices only move elements; an index that samples own also enters the result."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .marks import by_marks
from .moves import moved
from .spans import Call, Operand, Span, join, owned


def gathered(call: Call) -> list[Span]:
    """`gather`: with an owned index, any element along the axis may be meant."""
    x, index, dim = call["self"], call["index"], call["dim"]
    if not index.owned:
        return moved(call)
    whole = x.span.over([dim])
    sizes = [
        size if axis != dim % max(index.value.dim(), 1) else 1 for axis, size in enumerate(index.value.shape)
    ]
    cut = whole.map(lambda owner: owner[tuple(slice(size) for size in sizes)])
    return [join(cut, index.span).expand(call.shape)]


def picked(call: Call) -> list[Span]:
    """`index_select`."""
    x, index, dim = call["self"], call["index"], call["dim"]
    if not index.owned:
        return moved(call)
    axis = dim % x.value.dim()
    placed = index.span.view([-1 if a == axis else 1 for a in range(x.value.dim())])
    return [join(x.span.over([axis]), placed).expand(call.shape)]


def embedded(call: Call) -> list[Span]:
    """`embedding`: rows of a table."""
    rows = call["indices"].span.map(lambda owner: owner.unsqueeze(-1))
    table = call["weight"].span.over([0]).view((*[1] * call["indices"].value.dim(), -1))
    return [join(rows, table).expand(call.shape)]


def indexed(call: Call) -> list[Span] | None:
    """`x[i, :, j]`: over an axis with an owned index, any element may be meant; the others only move."""
    x, indices = call["self"], list(call["indices"])
    if not owned(indices):
        return moved(call)
    if any(
        isinstance(index, Operand) and index.value.dtype in (torch.bool, torch.uint8) for index in indices
    ):
        return None  # the shape itself depends on the values
    axes = [axis for axis, index in enumerate(indices) if isinstance(index, Operand) and index.owned]
    spread = x.span.over(axes).expand(x.value.shape)

    def values(owner: Tensor) -> Tensor:
        return call.run(lambda operand: owner if operand is x else operand.value)[0]

    return [join(spread.map(values), *_of_indices(call, indices))]


def _of_indices(call: Call, indices: Sequence[Operand | None]) -> list[Span]:
    """The owners of the indices themselves, in their places of the result: where the operation puts the numbers
    0, 1, 2, ... of the broadcast indices, when these replace the axes that are indexed."""
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    given = [index for index in indices if index is not None]
    shape = torch.broadcast_shapes(*(index.value.shape for index in given))
    places = torch.arange(shape.numel(), device=given[0].value.device).view(shape)
    stand_ins = [None if index is None else torch.zeros_like(places) for index in indices]
    stand_ins[axes[0]] = places
    table_shape = [1 if axis in axes else size for axis, size in enumerate(call["self"].value.shape)]
    table_shape[axes[0]] = -1

    def put(owner: Tensor) -> Tensor:
        column = [1] * len(table_shape)
        column[axes[0]] = -1
        sizes = [shape.numel() if size == -1 else size for size in table_shape]
        return call.op(owner.expand(shape).reshape(column).expand(sizes), stand_ins)

    return [index.span.map(put) for index in given if index.owned]


def scattered(call: Call) -> list[Span]:
    """`scatter`, `scatter_add`, ...: with an owned index, any element along the axis may be hit."""
    x, index, dim = call["self"], call["index"], call["dim"]
    source = call["src"] if "src" in call else call["value"]
    adds = "add" in call.name or "reduce" in call.name or call.named.get("reduce") is not None
    if not index.owned:
        return by_marks(call) if adds else moved(call)
    parts = [index.span.over([dim])]
    if isinstance(source, Operand):
        size = index.value.shape
        parts.append(source.span.map(lambda owner: owner[tuple(map(slice, size))]).over([dim]))
    shape = [1 if axis == dim % x.value.dim() else size for axis, size in enumerate(x.value.shape)]
    return [join(x.span, *(_padded(part, shape) for part in parts)).expand(call.shape)]


def _padded(span: Span, shape: Sequence[int]) -> Span:
    """`span` in a larger shape, free where it does not reach."""
    larger = Span.free(span.low.new_empty(tuple(shape)))
    corner = tuple(map(slice, span.low.shape))
    larger.low[corner], larger.high[corner] = span.low, span.high
    return larger


def put(call: Call) -> list[Span] | None:
    """`x[i] = values` and `x[i] += values`."""
    if owned(call["indices"]):
        return None
    return by_marks(call) if call["accumulate"] else moved(call)


def added(call: Call) -> list[Span] | None:
    """`index_add`: sums at the indices of one axis."""
    return None if call["index"].owned else by_marks(call)


def selected(call: Call) -> list[Span] | None:
    """`masked_select`: with an owned mask the number of results depends on the values."""
    return None if call["mask"].owned else moved(call)


RULES = {
    "gather": gathered,
    "index_select": picked,
    "embedding": embedded,
    "index": indexed,
    "scatter": scattered,
    "scatter_add": scattered,
    "scatter_reduce": scattered,
    "index_put": put,
    "index_add": added,
    "masked_select": selected,
}
