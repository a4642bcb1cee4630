"""Matrix products that are part of a sum, or share a factor."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ...passes.graph import val
from ...passes.pipeline import Pass
from ...passes.simplify import same_shape, size_of

aten = torch.ops.aten


class AddBeforeViews(Pass):
    """Before: a functional graph. After: the sum of two tensors that are the same view, each read by nothing else, is
    that view of their sum: matrix products meet the addition that they are part of.

    `by_shape`: also where two reshapes have their sizes from different nodes, as those of images have. PyTorch's
    products, which add up no two, gain nothing by it (docs/performance.md).
    """

    def __init__(self, by_shape: bool = False) -> None:
        self.by_shape = by_shape

    def __call__(self, graph: fx.Graph) -> None:
        for node in list(graph.nodes):
            if node.target is not aten.add.Tensor or node.kwargs or len(node.args) > 2:
                continue
            while _same_view(*node.args, by_shape=self.by_shape):
                a, b = node.args
                with graph.inserting_before(node):
                    total = graph.call_function(aten.add.Tensor, (a.args[0], b.args[0]))
                total.meta = {
                    key: value for key, value in node.meta.items() if key not in ("quantity", "val")
                }
                total.meta["val"] = val(a.args[0])
                node.target, node.args = a.target, (total, *a.args[1:])
                for view in (a, b):
                    graph.erase_node(view)
                node = total


_RESHAPES = frozenset({aten.view.default, aten._unsafe_view.default, aten.reshape.default})
_VIEWS = _RESHAPES | {aten.permute.default, aten.t.default}


def _same_view(a: Any, b: Any, *, by_shape: bool) -> bool:
    """Whether `a` and `b` are one view of two tensors of one shape, and nothing else reads them."""
    return (
        isinstance(a, fx.Node)
        and isinstance(b, fx.Node)
        and a is not b
        and a.target is b.target
        and a.target in _VIEWS
        and (a.args[1:] == b.args[1:] or (by_shape and a.target in _RESHAPES and same_shape(val(a), val(b))))
        and len(a.users) == len(b.users) == 1
        and same_shape(val(a.args[0]), val(b.args[0]))
    )


class FuseMatrixProducts(Pass):
    """Before: a functional graph. After: A B + C is one operation; so is A B + C D, over a longer inner axis, where the
    result is larger than its factors."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def __call__(self, graph: fx.Graph) -> None:
        for node in list(graph.nodes):
            if node.target is not aten.add.Tensor or node.kwargs or len(node.args) > 2:
                continue
            first, second = node.args
            if first is second:
                continue
            if _is_product(first) and _is_product(second) and self._is_wide(first, second):
                self._join(graph, node, first, second)
            elif _is_product(second) and isinstance(first, fx.Node) and same_shape(val(first), val(node)):
                node.target, node.args = aten.addmm.default, (first, *second.args)
                graph.erase_node(second)
            elif _is_product(first) and isinstance(second, fx.Node) and same_shape(val(second), val(node)):
                node.target, node.args = aten.addmm.default, (second, *first.args)
                graph.erase_node(first)

    def _is_wide(self, first: fx.Node, second: fx.Node) -> bool:
        factors: list[Any] = [*first.args, *second.args]
        return self._size(first) > sum(self._size(factor) for factor in factors)

    def _join(self, graph: fx.Graph, node: fx.Node, first: fx.Node, second: fx.Node) -> None:
        factors: list[Any] = [*first.args, *second.args]
        a, b, c, d = factors
        with graph.inserting_before(node):
            left, right = _joined(graph, a, c, 1), _joined(graph, b, d, 0)
        node.target, node.args = aten.mm.default, (left, right)
        for product in (first, second):
            graph.erase_node(product)

    def _size(self, node: fx.Node) -> int:
        return size_of(val(node), self.batch)


def _is_product(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is aten.mm.default and len(node.users) == 1


def _joined(graph: fx.Graph, a: fx.Node, b: fx.Node, axis: int) -> fx.Node:
    """`a` and `b` one after the other; of two transposed matrices the transpose of those joined."""
    if a.target is b.target is aten.t.default:
        source = _joined(graph, a.args[0], b.args[0], 1 - axis)  # type: ignore[arg-type]
        node = graph.call_function(aten.t.default, (source,))
        node.meta["val"] = val(source).t()
        return node
    node = graph.call_function(aten.cat.default, ([a, b], axis))
    node.meta["val"] = torch.cat([val(a), val(b)], axis)
    return node


class ShareFactors(Pass):
    """Before: a functional graph. After: A B and C B are one product [A; C] B where B is larger than both: it is read
    once."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def __call__(self, graph: fx.Graph) -> None:
        place = {node: i for i, node in enumerate(graph.nodes)}
        products: dict[fx.Node, list[fx.Node]] = {}
        for node in graph.nodes:
            if node.target is aten.mm.default:
                products.setdefault(node.args[1], []).append(node)
        for shared, group in products.items():
            first = group[0]
            ready = [n for n in group if place[n.args[0]] < place[first]]
            if len(ready) < 2 or size_of(val(shared), self.batch) < 2 * sum(
                size_of(val(n.args[0]), self.batch) + size_of(val(n), self.batch) for n in ready
            ):
                continue
            with graph.inserting_before(first):
                rows = [graph.call_function(aten.sym_size.int, (n.args[0], 0)) for n in ready]
                left = graph.call_function(aten.cat.default, ([n.args[0] for n in ready], 0))
                left.meta["val"] = torch.cat([val(n.args[0]) for n in ready])
                both = graph.call_function(aten.mm.default, (left, shared))
                both.meta["val"] = left.meta["val"].new_empty(
                    [left.meta["val"].shape[0], val(shared).shape[1]]
                )
                parts = graph.call_function(aten.split_with_sizes.default, (both, rows, 0))
                for i, n in enumerate(ready):
                    part = graph.call_function(operator.getitem, (parts, i))
                    part.meta, place[part] = dict(n.meta), place[first]
                    n.replace_all_uses_with(part)  # which another product may have as its factor
            for n in ready:
                graph.erase_node(n)
