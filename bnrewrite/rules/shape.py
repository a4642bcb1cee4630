"""Operations that move, copy, repeat or drop elements: linear maps of 0s and 1s.

    y = P x      y_dot = P x_dot      x_bar = P^T y_bar

A tangent may lie in memory otherwise than its primal, so views are taken as `reshape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedOp
from ..passes.rule import Context, Linear, Needs, PerArgument, Rule, RuleTable, unbroadcast
from .elementwise import IDENTITY, Choice, ZeroDerivative
from .padding import RULES as PADDING
from .padding import pad_axis

aten = torch.ops.aten


def as_shape_of(y_bar: Tensor, x: Tensor, *_: Any) -> Tensor:
    return y_bar.reshape(x.shape)


# permute


def inverse_permutation(dims: Sequence[int]) -> list[int]:
    positive = [d % len(dims) for d in dims]
    return [positive.index(i) for i in range(len(dims))]


# repeat: axis i holds r_i copies of x's axis, one after another.


def repeat_transpose(y_bar: Tensor, x: Tensor, repeats: Sequence[Any]) -> Tensor:
    lead = len(repeats) - x.dim()
    split: list[Any] = []
    axes: list[int] = []
    for i, r in enumerate(repeats):
        if not (isinstance(r, int) and r == 1):
            axes.append(len(split))
            split.append(r)
        if i >= lead:
            split.append(x.shape[i - lead])
        elif isinstance(r, int) and r == 1:
            axes.append(len(split))
            split.append(1)
    return y_bar.reshape(split).sum(axes) if axes else y_bar


# slice and select: the adjoint pads with zeros where the place is a number, else it writes into zeros.


def first_index(start: int | None, size: Any) -> Any:
    """The non-negative index that `start` means on an axis of `size` elements."""
    if start is None:
        return 0
    if start < 0:
        return torch.sym_max(start + size, 0)
    # A slice that is not empty starts inside its axis, also where the size is symbolic.
    return min(start, size) if isinstance(size, int) else start


def slice_transpose(y_bar: Tensor, x: Tensor, dim: int, start: Any, end: Any, step: Any) -> Tensor:
    if step == 1 and (start is None or isinstance(start, int)):
        left = first_index(start, x.shape[dim])
        return pad_axis(y_bar, dim, left, x.shape[dim] - left - y_bar.shape[dim])
    return aten.slice_scatter.default(y_bar.new_zeros(x.shape), y_bar, dim, start, end, step)


def select_transpose(y_bar: Tensor, x: Tensor, dim: int, index: Any) -> Tensor:
    if not isinstance(index, int):
        return aten.select_scatter.default(y_bar.new_zeros(x.shape), y_bar, dim, index)
    dim = dim % x.dim()
    left = first_index(index, x.shape[dim])
    return pad_axis(y_bar.unsqueeze(dim), dim, left, x.shape[dim] - left - 1)


def roll_transpose(y_bar: Tensor, x: Tensor, shifts: Sequence[Any], dims: Sequence[int]) -> Tensor:
    return aten.roll.default(y_bar, [-s for s in shifts], dims)


def diagonal_transpose(y_bar: Tensor, x: Tensor, offset: int, dim1: int, dim2: int) -> Tensor:
    return aten.diagonal_scatter.default(y_bar.new_zeros(x.shape), y_bar, offset, dim1, dim2)


# Conversions: the adjoint converts back. A target that cannot carry a derivative stops it.


def to_copy(x: Tensor, dtype: Any, layout: Any, device: Any, *_: Any) -> Tensor:
    return aten._to_copy.default(x, dtype=dtype, device=device)


def to_copy_transpose(y_bar: Tensor, x: Tensor, dtype: Any, layout: Any, device: Any, *_: Any) -> Tensor:
    if device is None:
        return y_bar if y_bar.dtype == x.dtype else y_bar.to(x.dtype)
    return y_bar.to(dtype=x.dtype, device=x.device)


CONVERT = Linear(to_copy, to_copy_transpose)


class Overwrite(Rule):
    """aten.copy(x, source, non_blocking): source in the shape and type of x (what an in-place write leaves)."""

    names = ("x", "source")

    def value(self, ctx: Context, x: Tensor, source: Tensor, non_blocking: bool) -> Tensor:
        return self._written(x, source)

    def _written(self, x: Tensor, source: Tensor) -> Tensor:
        written = source.expand(x.shape)
        return written if source.dtype == x.dtype else written.to(x.dtype)

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor | None:
        return None if dots[1] is None else self._written(ctx.args[0], dots[1])

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        source = ctx.args[1]
        source_bar = unbroadcast(y_bar, source.shape) if needs[1] else None
        if source_bar is not None and source_bar.dtype != source.dtype:
            source_bar = source_bar.to(source.dtype)
        return [None, source_bar, None]


STOP = ZeroDerivative(to_copy)


class Join(Rule):
    """y = cat or stack of a list: `part(y_bar, i, tensors, dim)` is the piece of the adjoint that is tensor i's."""

    names = ("xs",)

    def __init__(self, op: Any, part: Any) -> None:
        self.op, self.part = op, part

    def value(self, ctx: Context, xs: Sequence[Tensor], dim: int) -> Tensor:
        return self.op(list(xs), dim)

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        xs, dim = ctx.args
        filled = [torch.zeros_like(x) if d is None else d for x, d in zip(xs, dots[0], strict=True)]
        y_dot = self.op(filled, dim)
        return y_dot if y_dot.dtype == ctx.y.dtype else y_dot.to(ctx.y.dtype)

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        xs, dim = ctx.args
        bars = [self.part(y_bar, i, xs, dim) if needs[0][i] else None for i in range(len(xs))]
        return [
            [b if b is None or b.dtype == x.dtype else b.to(x.dtype) for b, x in zip(bars, xs, strict=True)],
            None,
        ]


def cat_part(y_bar: Tensor, i: int, xs: Sequence[Tensor], dim: int) -> Tensor:
    start: Any = 0
    for x in xs[:i]:
        start = start + _length(x, y_bar, dim)
    return y_bar.narrow(dim, start, _length(xs[i], y_bar, dim)).reshape(xs[i].shape)


def _length(x: Tensor, y_bar: Tensor, dim: int) -> Any:
    # PyTorch lets empty one-dimensional tensors take part in any concatenation.
    return x.shape[dim] if x.dim() == y_bar.dim() else 0


def stack_part(y_bar: Tensor, i: int, xs: Sequence[Tensor], dim: int) -> Tensor:
    return y_bar.select(dim, i)


class Pieces(Rule):
    """y = list of pieces of x along an axis; `join(pieces, dim)` puts them together again."""

    def __init__(self, op: Any, join: Any, dim_position: int) -> None:
        self.op, self.join, self.dim_position = op, join, dim_position

    def value(self, ctx: Context, *args: Any) -> list[Tensor]:
        return list(self.op(*args))

    def tangent(self, ctx: Context, dots: PerArgument) -> list[Tensor]:
        return list(self.op(dots[0], *ctx.args[1:]))

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        filled = [torch.zeros_like(y) if b is None else b for y, b in zip(ctx.y, y_bar, strict=True)]
        return [self.join(filled, ctx.args[self.dim_position])] + [None] * (len(ctx.args) - 1)


class Refused(Rule):
    """An operation that has no rule on purpose, with the reason."""

    def __init__(self, op: Any, advice: str) -> None:
        self.op, self.advice = op, advice

    def value(self, ctx: Context, *args: Any) -> Any:
        raise UnsupportedOp(self.op, "this place of the model", self.advice)


SQUEEZE = Linear(aten.squeeze.default, as_shape_of)

RULES: RuleTable = {
    aten.view.default: Linear(torch.reshape, as_shape_of),
    aten._unsafe_view.default: Linear(torch.reshape, as_shape_of),
    aten.permute.default: Linear(
        aten.permute.default, lambda y_bar, x, dims: y_bar.permute(inverse_permutation(dims))
    ),
    aten.transpose.int: Linear(aten.transpose.int, lambda y_bar, x, i, j: y_bar.transpose(i, j)),
    aten.t.default: Linear(aten.t.default, lambda y_bar, x: y_bar.t()),
    aten.expand.default: Linear(
        lambda x, size, *_: x.expand(size), lambda y_bar, x, *_: unbroadcast(y_bar, x.shape), ("x",)
    ),
    aten.squeeze.default: SQUEEZE,
    aten.squeeze.dim: Linear(aten.squeeze.dim, as_shape_of),
    aten.squeeze.dims: Linear(aten.squeeze.dims, as_shape_of),
    aten.unsqueeze.default: Linear(aten.unsqueeze.default, lambda y_bar, x, dim: y_bar.squeeze(dim)),
    aten.slice.Tensor: Linear(aten.slice.Tensor, slice_transpose),
    aten.select.int: Linear(aten.select.int, select_transpose),
    aten.diagonal.default: Linear(aten.diagonal.default, diagonal_transpose),
    aten.tril.default: Linear(aten.tril.default, lambda y_bar, x, d: y_bar.tril(d)),
    aten.triu.default: Linear(aten.triu.default, lambda y_bar, x, d: y_bar.triu(d)),
    aten.flip.default: Linear(aten.flip.default, lambda y_bar, x, dims: y_bar.flip(dims)),
    aten.roll.default: Linear(aten.roll.default, roll_transpose),
    aten.repeat.default: Linear(aten.repeat.default, repeat_transpose),
    aten.unfold.default: Linear(
        aten.unfold.default,
        lambda y_bar, x, dim, size, step: aten.unfold_backward.default(y_bar, x.shape, dim, size, step),
    ),
    aten.pixel_shuffle.default: Linear(
        aten.pixel_shuffle.default, lambda y_bar, x, r: aten.pixel_unshuffle.default(y_bar, r)
    ),
    aten.pixel_unshuffle.default: Linear(
        aten.pixel_unshuffle.default, lambda y_bar, x, r: aten.pixel_shuffle.default(y_bar, r)
    ),
    aten.channel_shuffle.default: Linear(
        aten.channel_shuffle.default,
        lambda y_bar, x, g: aten.channel_shuffle.default(y_bar, x.shape[1] // g),
    ),
    aten.cat.default: Join(aten.cat.default, cat_part),
    aten.stack.default: Join(aten.stack.default, stack_part),
    aten.split.Tensor: Pieces(aten.split.Tensor, torch.cat, 2),
    aten.split_with_sizes.default: Pieces(aten.split_with_sizes.default, torch.cat, 2),
    aten.unbind.int: Pieces(aten.unbind.int, torch.stack, 1),
    aten.clone.default: Linear(lambda x, *_: x.clone(), lambda y_bar, *_: y_bar),
    aten.alias.default: IDENTITY,
    aten.detach.default: ZeroDerivative(lambda x: x),
    aten._to_copy.default: Choice(
        lambda x, dtype, *_: STOP if dtype is not None and not dtype.is_floating_point else CONVERT
    ),
    aten.copy.default: Overwrite(),
    aten.as_strided.default: Refused(
        aten.as_strided.default, "It reads memory, not elements: write it with slices, unfold or reshape."
    ),
    **PADDING,
}
