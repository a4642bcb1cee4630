"""What PyTorch runs faster one operation at a time: passes over a joint graph, with the same numbers up to rounding.

Element by element, an operation costs the memory that it reads and writes. So a product that is only summed is never
stored, a product that is only added becomes part of the addition, and a result takes the memory of an operand that
nothing reads again. BatchNorm's closed form is made of just these three (docs/performance.md).
"""

from __future__ import annotations

import operator
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx

from ..passes.graph import JointGraph
from ..passes.pipeline import Pass, Pipeline
from ..passes.rematerialize import rematerialize
from ..passes.simplify import same_shape, size_of
from .convolutions import lower_convolutions

aten = torch.ops.aten

REPEAT = Fraction(1, 64)
"""Bytes of the peak that a byte moved again on the way back is worth. MobileNetV2: a sixth of the peak less than with
nothing done again; where every chain is done again (1/1000) a third less, for 4 % of the time."""


def eager(joint: JointGraph, reordered: bool) -> JointGraph:
    """A copy of `joint` for execution operation by operation; `reordered`: images have their channels last."""
    batch: int = joint.meta["batch"]  # type: ignore[assignment]
    joint = lower_convolutions(joint, reordered)
    if "loss" in joint.outputs:  # else there is no way forward
        joint = rematerialize(joint, batch, REPEAT)
    Pipeline(
        [
            FuseChannelSums(reordered),
            AddBeforeViews(),
            FuseMatrixProducts(batch),
            ShareFactors(batch),
            FuseProducts(),
            ReuseMemory(),
        ]
    ).run(joint.graph, "eager-")
    return joint


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
        x = _val(node.args[0])
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
        channels = _val(b).shape[1]
        with self.graph.inserting_before(first):
            rows_a, rows_b = self._rows(a, channels, node), self._rows(b, channels, node)
            zeros, ones, ones_c = self._constants(rows_b, f"{_val(b).dtype} {_val(b).shape}", first)
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
                    total.args = (part, list(_val(total).shape))
        self.graph.erase_node(product)

    def _rows(self, x: fx.Node, channels: int, source: fx.Node) -> fx.Node:
        if _val(x).dim() == 2:
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
    if not all(isinstance(x, fx.Node) and same_shape(_val(x), _val(product)) for x in (a, b)):
        return None
    return a, b


class FuseProducts(Pass):
    """Before: a functional graph. After: a b + c, for c of the shape of the result, is one operation."""

    def __call__(self, graph: fx.Graph) -> None:
        for node in list(graph.nodes):
            if node.target not in (aten.add.Tensor, aten.sub.Tensor) or node.kwargs or len(node.args) > 2:
                continue
            c, product = node.args
            if node.target is aten.add.Tensor and not _is_term(product, c, node):
                c, product = product, c
            if _is_term(product, c, node):
                node.kwargs = {} if node.target is aten.add.Tensor else {"value": -1}
                node.target, node.args = aten.addcmul.default, (c, *product.args)
                graph.erase_node(product)


def _is_term(product: Any, c: Any, total: fx.Node) -> bool:
    """Whether `product` is a b, read by `total` alone, and all that goes into a b + c is of the type of `total`."""
    if not isinstance(product, fx.Node) or product.target is not aten.mul.Tensor or product is c:
        return False
    if len(product.users) > 1:
        return False
    parts = (c, *product.args)
    return (
        all(isinstance(x, fx.Node) and isinstance(_val(x), Tensor) for x in parts)
        and all(_val(x).dtype == _val(total).dtype for x in parts)
        and same_shape(_val(c), _val(total))
    )


class AddBeforeViews(Pass):
    """Before: a functional graph. After: the sum of two tensors that are the same view, each read by nothing else, is
    that view of their sum: matrix products meet the addition that they are part of."""

    def __call__(self, graph: fx.Graph) -> None:
        for node in list(graph.nodes):
            if node.target is not aten.add.Tensor or node.kwargs or len(node.args) > 2:
                continue
            while _same_view(*node.args):
                a, b = node.args
                with graph.inserting_before(node):
                    total = graph.call_function(aten.add.Tensor, (a.args[0], b.args[0]))
                total.meta = {
                    key: value for key, value in node.meta.items() if key not in ("quantity", "val")
                }
                total.meta["val"] = _val(a.args[0])
                node.target, node.args = a.target, (total, *a.args[1:])
                for view in (a, b):
                    graph.erase_node(view)
                node = total


_VIEWS = frozenset(
    {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.permute.default, aten.t.default}
)


def _same_view(a: Any, b: Any) -> bool:
    """Whether `a` and `b` are one view of two tensors of one shape, and nothing else reads them."""
    return (
        isinstance(a, fx.Node)
        and isinstance(b, fx.Node)
        and a is not b
        and a.target is b.target
        and a.target in _VIEWS
        and a.args[1:] == b.args[1:]
        and len(a.users) == len(b.users) == 1
        and same_shape(_val(a.args[0]), _val(b.args[0]))
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
            elif _is_product(second) and isinstance(first, fx.Node) and same_shape(_val(first), _val(node)):
                node.target, node.args = aten.addmm.default, (first, *second.args)
                graph.erase_node(second)
            elif _is_product(first) and isinstance(second, fx.Node) and same_shape(_val(second), _val(node)):
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
        return size_of(_val(node), self.batch)


def _is_product(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is aten.mm.default and len(node.users) == 1


def _joined(graph: fx.Graph, a: fx.Node, b: fx.Node, axis: int) -> fx.Node:
    """`a` and `b` one after the other; of two transposed matrices the transpose of those joined."""
    if a.target is b.target is aten.t.default:
        source = _joined(graph, a.args[0], b.args[0], 1 - axis)  # type: ignore[arg-type]
        node = graph.call_function(aten.t.default, (source,))
        node.meta["val"] = _val(source).t()
        return node
    node = graph.call_function(aten.cat.default, ([a, b], axis))
    node.meta["val"] = torch.cat([_val(a), _val(b)], axis)
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
            if len(ready) < 2 or size_of(_val(shared), self.batch) < 2 * sum(
                size_of(_val(n.args[0]), self.batch) + size_of(_val(n), self.batch) for n in ready
            ):
                continue
            with graph.inserting_before(first):
                rows = [graph.call_function(aten.sym_size.int, (n.args[0], 0)) for n in ready]
                left = graph.call_function(aten.cat.default, ([n.args[0] for n in ready], 0))
                left.meta["val"] = torch.cat([_val(n.args[0]) for n in ready])
                both = graph.call_function(aten.mm.default, (left, shared))
                both.meta["val"] = left.meta["val"].new_empty(
                    [left.meta["val"].shape[0], _val(shared).shape[1]]
                )
                parts = graph.call_function(aten.split_with_sizes.default, (both, rows, 0))
                for i, n in enumerate(ready):
                    part = graph.call_function(operator.getitem, (parts, i))
                    part.meta, place[part] = dict(n.meta), place[first]
                    n.replace_all_uses_with(part)  # which another product may have as its factor
            for n in ready:
                graph.erase_node(n)


class ReuseMemory(Pass):
    """Before: a functional graph. After: where an operand of an element-wise operation is read by nothing else from
    there on, and is as large as the result, the result takes its memory."""

    def __call__(self, graph: fx.Graph) -> None:
        place = {node: i for i, node in enumerate(graph.nodes)}
        last = _last_uses(graph, place)
        memory = _memory(graph)
        for node in graph.nodes:
            if node.target not in _IN_PLACE or not isinstance(node.args[0], fx.Node):
                continue
            into, swaps = _IN_PLACE[node.target]
            for position in (0, 1) if swaps and not node.kwargs else (0,):  # `alpha` belongs to the second
                x = node.args[position]
                if isinstance(x, fx.Node) and last[x] == place[node] and _may_hold(x, node, memory):
                    node.args = (x, *(arg for i, arg in enumerate(node.args) if i != position))
                    node.target = into
                    break


_IN_PLACE = {
    aten.add.Tensor: (aten.add_.Tensor, True),
    aten.mul.Tensor: (aten.mul_.Tensor, True),
    aten.sub.Tensor: (aten.sub_.Tensor, False),
    aten.div.Tensor: (aten.div_.Tensor, False),
    aten.addcmul.default: (aten.addcmul_.default, False),
    aten.addmm.default: (aten.addmm_.default, False),
}
"""The form that writes into its first operand, and whether the first two operands may change places."""


def _may_hold(x: fx.Node, node: fx.Node, memory: dict[fx.Node, frozenset[fx.Node]]) -> bool:
    """Whether `x` is as large as the result of `node`, and of memory that no other operand looks at."""
    others = [arg for arg in node.args if isinstance(arg, fx.Node) and arg is not x]
    return (
        _is_fresh(x)
        and same_shape(_val(x), _val(node))
        and sum(arg is x for arg in node.args) == 1
        and all(memory[x].isdisjoint(memory[other]) for other in others)
    )


def _memory(graph: fx.Graph) -> dict[fx.Node, frozenset[fx.Node]]:
    """The nodes that made the memory which each node looks at."""
    made: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in graph.nodes:
        made[node] = (
            frozenset({node})
            if node.op == "placeholder" or _is_fresh(node)
            else frozenset().union(*(made[source] for source in node.all_input_nodes))
        )
    return made


def _last_uses(graph: fx.Graph, place: dict[fx.Node, int]) -> dict[fx.Node, int]:
    """Where the memory of each node is read last: by the node's users, or by users of what shares its memory."""
    last: dict[fx.Node, int] = {}
    for node in reversed(graph.nodes):
        reads = [place[user] if _is_fresh(user) else max(place[user], last[user]) for user in node.users]
        last[node] = max(reads, default=place[node])
    return last


def _is_fresh(node: fx.Node) -> bool:
    """Whether the result of `node` shares no memory with its arguments other than one that it has taken over."""
    if node.target is operator.getitem:
        return _is_fresh(node.args[0])  # type: ignore[arg-type]
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or node.target in _MAY_ALIAS:
        return False
    if node.target in _WRITERS:
        return True
    return all(result.alias_info is None for result in schema.returns)


_WRITERS = frozenset(into for into, _ in _IN_PLACE.values())
_MAY_ALIAS = frozenset({aten._unsafe_view.default, aten._to_copy.default, aten.lift_fresh_copy.default})
"""Views whose schema does not say so, and what may become one when a module is converted."""


def _val(node: Any) -> Any:
    return node.meta.get("val")
