"""Blocks of vectors: the joint graph for K directions at once.

What does not depend on a direction (loss, gradient, masks, statistics) stays as it is, once. What does depend on one is
linear in it, and becomes one operation over a leading axis K (`widen`): one convolution, one product, one reduction.

Before: a joint graph. After: a joint graph whose vectors and products have a leading axis of K.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from .differentiate import DIRECTED, full_arguments, per_argument
from .graph import JointGraph
from .rule import call
from .splice import Splicer
from .widen import widening

aten = torch.ops.aten


def block(joint: JointGraph, count: int) -> JointGraph:
    """`joint` for `count` directions: every `v.*` and every product gets a leading axis of that size."""
    splicer = Splicer()
    values: dict[fx.Node, Any] = {}
    batched: set[fx.Node] = set()
    placeholders = [node for node in joint.graph.nodes if node.op == "placeholder"]
    for node, entry in zip(placeholders, joint.inputs, strict=True):
        val = node.meta["val"]
        if entry.kind == "vector":
            batched.add(node)
            val = val.new_empty([count, *val.shape])
        values[node] = splicer.placeholder(node.name, val)
        values[node].meta |= {key: node.meta[key] for key in _KEPT if key in node.meta}
    for node in joint.graph.nodes:
        if node.op == "call_function":
            if not any(source in batched for source in node.all_input_nodes):
                values[node] = splicer.copy(node, values.__getitem__)
            else:
                values[node] = _widen(splicer, node, values, batched, count)
            if isinstance(values[node], fx.Node):
                values[node].meta |= {key: node.meta[key] for key in _KEPT if key in node.meta}
    results: list[Any] = []
    for name, node in zip(joint.outputs, joint.graph.output_node().args[0], strict=True):  # type: ignore[arg-type]
        result = values[node]
        if name.split(".")[0] in DIRECTED and node not in batched:
            # Zero whatever the direction.
            result = splicer.call(
                lambda x: x.new_zeros([count, *x.shape]), result, key=("zeros", count), origin={}
            )
        results.append(result)
    splicer.graph.output(tuple(results))
    return JointGraph(splicer.graph, joint.inputs, joint.outputs, joint.meta)


_KEPT = ("module", "where", "site", "role", "quantity")


def _widen(
    splicer: Splicer, node: fx.Node, values: dict[fx.Node, Any], batched: set[fx.Node], count: int
) -> Any:
    """The operation of `node` over the leading axis of those arguments that have one."""
    origin = {key: node.meta[key] for key in _KEPT if key in node.meta and key != "quantity"}
    if node.target is operator.getitem:
        batched.add(node)
        source, index = node.args
        return values[source][index]  # type: ignore[index]
    args = [fx.map_arg(entry, values.__getitem__) for entry in full_arguments(node)]
    if node.target is aten.sym_size.int or node.target in CARRIED:
        # A size, or a tensor that only looks like another.
        if node.target is aten.sym_size.int and args[1] >= 0:
            args[1] += 1
        return splicer.call(call, node.target, args, key=("carried", node.target), origin=origin)
    batched.add(node)
    wide = [per_argument(entry, batched.__contains__, False) for entry in full_arguments(node)]

    def widened(*args: Any) -> Any:
        return widening(node.target, args, wide)(node.target, args, wide, count)

    return splicer.call(widened, *args, key=("wide", node.target, str(wide), count), origin=origin)


CARRIED = frozenset(
    {aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default}
)
"""Operations that read type and device of their first argument alone."""
