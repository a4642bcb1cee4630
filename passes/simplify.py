"""Passes that make a traced graph lean without changing a number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from .pipeline import Pass, Pipeline
from .splice import static_key

aten = torch.ops.aten


class DropAssertions(Pass):
    """Before: any graph. After: no run-time assertion on sizes or values (they are checked at the graph's door)."""

    targets = frozenset(
        {
            aten._assert_async.default,
            aten._assert_async.msg,
            aten._assert_scalar.default,
            aten._assert_tensor_metadata.default,
            aten.sym_constrain_range.default,
            aten.sym_constrain_range_for_size.default,
        }
    )

    def __call__(self, graph: fx.Graph) -> None:
        for node in reversed(graph.nodes):
            if node.op == "call_function" and node.target in self.targets and not node.users:
                graph.erase_node(node)


def same_shape(a: Any, b: Any) -> bool:
    """Whether two fake values have provably the same shape and type; symbolic sizes are compared as expressions."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.dtype != b.dtype or a.dim() != b.dim():
        return False
    return all(static_key(p) == static_key(q) for p, q in zip(a.shape, b.shape, strict=True))


def size_of(val: Tensor, batch: int) -> int:
    """The number of elements; `batch` stands for every symbol."""
    total = 1
    for size in val.shape:
        if not isinstance(size, int):
            expression = size.node.expr
            size = int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))
        total *= size
    return total


class DropIdentities(Pass):
    """Before: a functional graph. After: no operation that returns its input as it is (detach, alias, clone, a view or
    expansion to the same shape, a cast to the same type)."""

    always = frozenset(
        {
            aten.detach.default,
            aten.alias.default,
            aten.clone.default,
            aten.lift_fresh_copy.default,
            aten.positive.default,
        }
    )
    where_same = frozenset(
        {
            aten.view.default,
            aten._unsafe_view.default,
            aten.reshape.default,
            aten.expand.default,
            aten._to_copy.default,
        }
    )

    def __call__(self, graph: fx.Graph) -> None:
        for node in list(graph.nodes):
            if node.op != "call_function":
                continue
            if node.target in self.always or (
                node.target in self.where_same
                and same_shape(node.args[0].meta.get("val"), node.meta.get("val"))
            ):
                _replace(graph, node, node.args[0])


class MergeCommonSubexpressions(Pass):
    """Before: a functional graph. After: no two nodes with the same operation and arguments.

    The first node stays, with its meta; a quantity's name moves to it if it has none.
    """

    def __call__(self, graph: fx.Graph) -> None:
        seen: dict[Any, fx.Node] = {}
        for node in list(graph.nodes):
            if node.op != "call_function" or _random(node):
                continue
            key = (node.target, static_key(node.args), static_key(node.kwargs))
            if key not in seen:
                seen[key] = node
                continue
            _replace(graph, node, seen[key])


def _replace(graph: fx.Graph, node: fx.Node, kept: fx.Node) -> None:
    """`kept` stands for `node` from now on, and takes over its quantity's name if it has none."""
    if "quantity" in node.meta and "quantity" not in kept.meta and kept.op == "call_function":
        kept.meta |= {entry: node.meta[entry] for entry in ("quantity", "role") if entry in node.meta}
    node.replace_all_uses_with(kept)
    graph.erase_node(node)


def _random(node: fx.Node) -> bool:
    return (
        isinstance(node.target, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded in node.target.tags
    )


class DropDeadCode(Pass):
    """Before: a functional graph. After: every call is needed by the output; placeholders stay."""

    def __call__(self, graph: fx.Graph) -> None:
        for node in reversed(graph.nodes):
            if node.op == "call_function" and not node.users:
                graph.erase_node(node)


class FoldOnes(Pass):
    """Before: a functional graph. After: no multiplication by a tensor of ones of the size of one element (the seed of
    the backward walk)."""

    def __call__(self, graph: fx.Graph) -> None:
        for node in list(graph.nodes):
            if node.op != "call_function" or node.target not in (aten.mul.Tensor, aten.div.Tensor):
                continue
            factors = [1, 0] if node.target is not aten.div.Tensor else [1]
            for position in factors:
                one, other = node.args[position], node.args[1 - position]
                if (
                    _is_scalar_one(one)
                    and isinstance(other, fx.Node)
                    and same_shape(other.meta.get("val"), node.meta.get("val"))
                ):
                    node.replace_all_uses_with(other)
                    graph.erase_node(node)
                    break


def _is_scalar_one(entry: Any) -> bool:
    if isinstance(entry, fx.Node):
        val = entry.meta.get("val")
        return entry.target is aten.ones_like.default and isinstance(val, Tensor) and val.dim() == 0
    return isinstance(entry, (int, float)) and entry == 1


SIMPLIFY = Pipeline(
    [
        DropAssertions(),
        DropIdentities(),  # detach, alias and views that tracing leaves
        FoldOnes(),  # d loss / d loss = 1
        MergeCommonSubexpressions(),  # every phase of a rule computes what it needs; here they meet
        DropDeadCode(),
    ]
)
"""What every traced graph goes through."""
