"""Reading and writing at indices. Reading is linear in the table, writing in the table and in what is written.

    read     y = x[i]                  y_dot = x_dot[i]                      x_bar = zeros with y_bar added at i
    write    y = x with s put at i     y_dot = x_dot with s_dot put at i     x_bar = y_bar with 0 at i, s_bar = y_bar[i]
    add      y = x with s added at i   y_dot = x_dot with s_dot added at i   x_bar = y_bar, s_bar = y_bar[i]

Writing assumes distinct indices, as PyTorch's own derivative does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedOp
from ..passes.rule import Context, Linear, Needs, PerArgument, Rule, RuleTable, unbroadcast
from .elementwise import drop
from .shape import Refused

aten = torch.ops.aten


def zeros_of(y_bar: Tensor, x: Tensor) -> Tensor:
    return y_bar.new_zeros(x.shape)


# Reading


def gather_transpose(y_bar: Tensor, x: Tensor, dim: int, index: Tensor, *_: Any) -> Tensor:
    return zeros_of(y_bar, x).scatter_add(dim, index, y_bar)


def index_transpose(y_bar: Tensor, x: Tensor, indices: Any) -> Tensor:
    return aten.index_put.default(zeros_of(y_bar, x), indices, y_bar, True)


def index_select_transpose(y_bar: Tensor, x: Tensor, dim: int, index: Tensor) -> Tensor:
    if x.dim() == 0:
        return y_bar.sum()
    return zeros_of(y_bar, x).index_add(dim, index, y_bar)


class Embedding(Rule):
    """aten.embedding(w, indices, padding_idx, scale_grad_by_freq, sparse): rows of w. The padding row is a constant."""

    names = ("w",)

    def value(
        self, ctx: Context, w: Tensor, indices: Tensor, padding: int, scale_by_frequency: bool, sparse: bool
    ) -> Tensor:
        if scale_by_frequency:
            raise UnsupportedOp(
                aten.embedding.default,
                "an embedding with scale_grad_by_freq=True",
                "What it calls a gradient is not the derivative of its value: set scale_grad_by_freq=False.",
            )
        return aten.embedding.default(w, indices)

    @staticmethod
    def _without_padding(ctx: Context, rows: Tensor) -> Tensor:
        _, indices, padding, *_ = ctx.args
        return rows if padding < 0 else drop((indices == padding).unsqueeze(-1), rows)

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        return self._without_padding(ctx, aten.embedding.default(dots[0], ctx.args[1]))

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        w, indices, *_ = ctx.args
        rows = self._without_padding(ctx, y_bar).reshape([-1, w.shape[1]])
        return [zeros_of(y_bar, w).index_add(0, indices.reshape([-1]), rows), None, None, None, None]


# Writing


class Write(Rule):
    """y = `put(x, s, *args)`: x with s put, or added, at a place that the other arguments say.

    `read(g, *args)` is g at that place. `source` is the position of s. `adds(*args)`: whether s is added.
    """

    def __init__(
        self,
        put: Callable[..., Tensor],
        read: Callable[..., Tensor],
        source: int,
        adds: Callable[..., bool] = lambda *args: False,
    ) -> None:
        self.put, self.read, self.source, self.adds = put, read, source, adds
        self.names = tuple("s" if i == source else "x" for i in range(source + 1))

    def value(self, ctx: Context, *args: Any) -> Tensor:
        return self.put(args[0], args[self.source], *args)

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        x, s = ctx.args[0], ctx.args[self.source]
        x_dot, s_dot = dots[0], dots[self.source]
        x_dot = torch.zeros_like(x) if x_dot is None else x_dot
        if s_dot is None:
            if self.adds(*ctx.args):
                return x_dot
            s_dot = torch.zeros_like(s)
        return self.put(x_dot, s_dot, *ctx.args)

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        bars: list[Any] = [None] * len(ctx.args)
        s = ctx.args[self.source]
        if needs[0]:
            bars[0] = y_bar if self.adds(*ctx.args) else self.put(y_bar, torch.zeros_like(s), *ctx.args)
        if needs[self.source]:
            bars[self.source] = unbroadcast(self.read(y_bar, *ctx.args), s.shape)
        return bars


class Fill(Rule):
    """aten.scatter.value(x, dim, index, value): x with a number at some places."""

    def value(self, ctx: Context, x: Tensor, dim: int, index: Tensor, number: Any) -> Tensor:
        return aten.scatter.value(x, dim, index, number)

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        return aten.scatter.value(dots[0], *ctx.args[1:3], 0)

    def adjoint(self, ctx: Context, y_bar: Tensor, needs: Needs) -> PerArgument:
        return [aten.scatter.value(y_bar, *ctx.args[1:3], 0), None, None, None]


def scatter_read(g: Tensor, x: Tensor, dim: int, index: Tensor, s: Tensor) -> Tensor:
    """g at the written places, zero at those elements of s that the index leaves out."""
    found = g.gather(dim, index)
    if index.shape == s.shape:
        return found
    pads: list[Any] = []
    for axis in reversed(range(s.dim())):
        pads += [0, s.shape[axis] - index.shape[axis]]
    return aten.constant_pad_nd.default(found, pads)


SCATTER = Write(lambda x, s, _, dim, index, *rest: x.scatter(dim, index, s), scatter_read, 3)
SCATTER_ADD = Write(
    lambda x, s, _, dim, index, *rest: x.scatter_add(dim, index, s), scatter_read, 3, lambda *args: True
)
INDEX_PUT = Write(
    lambda x, s, _, indices, __, accumulate: aten.index_put.default(x, indices, s, accumulate),
    lambda g, x, indices, *_: aten.index.Tensor(g, indices),
    2,
    lambda x, indices, s, accumulate: accumulate,
)
INDEX_ADD = Write(
    lambda x, s, _, dim, index, __, alpha: aten.index_add.default(x, dim, index, s, alpha=alpha),
    lambda g, x, dim, index, s, alpha: g.index_select(dim, index) * alpha,
    3,
    lambda *args: True,
)
SELECT_SCATTER = Write(
    lambda x, s, _, __, dim, index: aten.select_scatter.default(x, s, dim, index),
    lambda g, x, s, dim, index: g.select(dim, index),
    1,
)
SLICE_SCATTER = Write(
    lambda x, s, _, __, *where: aten.slice_scatter.default(x, s, *where),
    lambda g, x, s, *where: aten.slice.Tensor(g, *where),
    1,
)

DATA_DEPENDENT = (
    "The size of its result depends on the data: write it with torch.where or a multiplication by the mask."
)

RULES: RuleTable = {
    aten.gather.default: Linear(lambda x, dim, index, *_: x.gather(dim, index), gather_transpose),
    aten.index.Tensor: Linear(aten.index.Tensor, index_transpose),
    aten.index_select.default: Linear(aten.index_select.default, index_select_transpose),
    aten.embedding.default: Embedding(),
    aten.scatter.src: SCATTER,
    aten.scatter.value: Fill(),
    aten.scatter_add.default: SCATTER_ADD,
    aten.index_put.default: INDEX_PUT,
    aten.index_add.default: INDEX_ADD,
    aten.select_scatter.default: SELECT_SCATTER,
    aten.slice_scatter.default: SLICE_SCATTER,
    aten.masked_select.default: Refused(aten.masked_select.default, DATA_DEPENDENT),
}
