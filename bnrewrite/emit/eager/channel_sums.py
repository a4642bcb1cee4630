"""Sums of products over all axes but the channels', in one kernel."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ...passes.graph import val
from ...passes.pipeline import Pass
from ...passes.simplify import same_shape

aten = torch.ops.aten


class FuseChannelSums(Pass):
    """Before: a functional graph. After: sum(a b) over all axes but the channels' is one kernel, which stores no
    product; where sum(a) or sum(b) is wanted too, the same kernel gives it.

    Of (rows, channels), PyTorch has such a kernel, in LayerNorm's backward: sum((a - 0) 1 b) and sum(b) over the rows.
    Images are rows without a copy where they are `reordered`, channels last; else this leaves them alone.
    """

    def __init__(self, reordered: bool) -> None:
        self.ranks = (2, 4) if reordered else (2,)

    def __call__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.place = {node: i for i, node in enumerate(graph.nodes)}
        self.constants: dict[str, tuple[int, tuple[fx.Node, ...]]] = {}
        sums = [node for node in graph.nodes if self._is_channel_sum(node)]
        self.alone = {node.args[0]: node for node in sums}
        for node in sums:
            factors = _factors(node.args[0]) if node.target is aten.sum.dim_IntList else None
            if factors is not None:
                self._fuse(node, *factors)

    def _is_channel_sum(self, node: fx.Node) -> bool:
        """Whether `node` sums a float tensor (N, C, ...) over all its axes but C."""
        if node.target is not aten.sum.dim_IntList or node.kwargs.get("dtype") is not None:
            return False
        x = val(node.args[0])
        axes = sorted(axis % x.dim() for axis in node.args[1])  # type: ignore[union-attr]
        known = x.dim() in self.ranks and x.dtype in _TYPES and type(x.shape[1]) is int
        return known and axes == [0, *range(2, x.dim())]

    def _fuse(self, node: fx.Node, a: fx.Node, b: fx.Node) -> None:
        ready = max(self.place[a], self.place[b])
        beside = [x for x in (b, a) if x in self.alone and self.place[self.alone[x]] > ready]
        if beside and beside[0] is a:
            a, b = b, a
        other = self.alone.pop(b) if beside else None
        first = min((n for n in (node, other) if n is not None), key=self.place.__getitem__)
        product: Any = node.args[0]
        self.alone.pop(product, None)
        channels = val(b).shape[1]
        with self.graph.inserting_before(first):
            rows_a, rows_b = self._rows(a, channels, node), self._rows(b, channels, node)
            zeros, ones, ones_c = self._constants(rows_b, f"{val(b).dtype} {val(b).shape}", first)
            mask = [False, True, other is not None]
            kernel = self._node(
                aten.native_layer_norm_backward.default,
                (rows_b, rows_a, [channels], zeros, ones, ones_c, ones_c, mask),
                node,
            )
            for position, total in ((1, node), (2, other)):
                if total is not None:
                    part = self._node(operator.getitem, (kernel, position), total)
                    total.target, total.kwargs = aten.reshape.default, {}
                    total.args = (part, list(val(total).shape))
        self.graph.erase_node(product)

    def _rows(self, x: fx.Node, channels: int, source: fx.Node) -> fx.Node:
        if val(x).dim() == 2:
            return x
        turned = self._node(aten.permute.default, (x, [0, 2, 3, 1]), source)
        return self._node(aten.reshape.default, (turned, [-1, channels]), source)

    def _node(self, target: Any, args: tuple[Any, ...], source: fx.Node) -> fx.Node:
        """A new node that belongs where `source` does."""
        node = self.graph.call_function(target, args)
        node.meta = {key: value for key, value in source.meta.items() if key not in ("quantity", "val")}
        return node

    def _constants(self, rows: fx.Node, key: str, first: fx.Node) -> tuple[fx.Node, ...]:
        """Zeros and ones for every row, and ones for every channel, made once where that can be."""
        since, made = self.constants.get(key, (-1, ()))
        if not made or since > self.place[first]:
            column = self._node(aten.slice.Tensor, (rows, 1, 0, 1), first)
            row = self._node(aten.select.int, (rows, 0, 0), first)
            zeros = self._node(aten.zeros_like.default, (column,), first)
            ones = self._node(aten.ones_like.default, (column,), first)
            made = (zeros, ones, self._node(aten.ones_like.default, (row,), first))
            self.constants[key] = (self.place[first], made)
        return made


_TYPES = (torch.float32, torch.float64)


def _factors(product: Any) -> tuple[fx.Node, fx.Node] | None:
    """a and b of a product a b of two tensors of its own shape that one node alone reads."""
    if product.target is not aten.mul.Tensor or len(product.users) > 1:
        return None
    a, b = product.args
    if not all(isinstance(x, fx.Node) and same_shape(val(x), val(product)) for x in (a, b)):
        return None
    return a, b
