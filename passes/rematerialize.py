"""Rematerialize: what the backward walk reads of the forward walk is saved, or computed again from what is saved.

The peak of memory is where the forward walk ends and all that it leaves for the way back is alive. Element-wise chains
(the output of a BatchNorm, of a ReLU, and their tangents) cost little to compute again; a minimum cut, the one that
`linearize` makes, decides what is saved.

Before: a joint graph; it is left as it is. After: one of the same results, in which no tensor that is cheap to compute
again lives across the turn.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from torch import Tensor, fx

from .graph import JointGraph
from .linearize import Plan, can_be_repeated


def rematerialize(joint: JointGraph, batch: int, weight: Fraction) -> JointGraph:
    """`batch` stands for every symbolic size where bytes are counted; a byte moved again is worth `weight` bytes."""
    nodes = list(joint.graph.nodes)
    results: list[fx.Node] = list(joint.graph.output_node().args[0])  # type: ignore[arg-type]
    loss = results[joint.outputs.index("loss")]
    late = {node for node in nodes[nodes.index(loss) + 1 :] if node.op == "call_function"}
    held = {node for node in nodes if node.op == "placeholder"}
    saved = set(Plan(joint.graph, batch, late, held, [n for n in results if n in late]).saved(weight))
    graph = fx.Graph()
    copied: dict[fx.Node, Any] = {}
    repeated: dict[fx.Node, Any] = {}

    def early(node: fx.Node) -> Any:
        """A value of the forward walk where the backward walk reads it."""
        kept = node in saved or node in held or not isinstance(node.meta.get("val"), Tensor)
        if kept or not can_be_repeated(node):
            return copied[node]
        if node not in repeated:
            repeated[node] = graph.node_copy(node, value)
            repeated[node].meta.pop("quantity", None)
        return repeated[node]

    def value(node: fx.Node) -> Any:
        return copied[node] if node in late else early(node)

    for node in nodes:
        if node.op == "output":
            graph.output(fx.map_arg(node.args[0], copied.__getitem__))
        else:
            copied[node] = graph.node_copy(node, value if node in late else copied.__getitem__)
    return JointGraph(graph, joint.inputs, joint.outputs, joint.meta)
