"""What depends on numbers alone (grids of positions, masks, tables of sines) is computed once, when a file is written.

The file gets leaner, and a sine that an execution provider rounds in another way is the same everywhere. A graph that
stays in PyTorch is left as it is: it may be converted to another type, and its numbers with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from .graph import Input, JointGraph
from .simplify import DropDeadCode

LARGEST = 1 << 18
"""Elements that a constant may have; what is larger is made when the graph runs."""


def fold_constants(joint: JointGraph) -> None:
    """Before: a joint graph. After: a computation on nothing but numbers is a constant among the inputs.

    A tensor that one call makes (`full`, `arange`) stays that call: it takes less room so.
    """
    graph = joint.graph
    values: dict[fx.Node, Tensor] = {}
    for node in graph.nodes:
        if _is_constant(node, values):
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
    for node in [n for n in values if any(user not in values for user in n.users)]:
        if node.all_input_nodes:
            joint.inputs.append(_replace(graph, node, values[node]))
    DropDeadCode()(graph)


def _is_constant(node: fx.Node, values: dict[fx.Node, Tensor]) -> bool:
    op, val = node.target, node.meta.get("val")
    return (
        isinstance(op, torch._ops.OpOverload)
        and isinstance(val, Tensor)
        and all(isinstance(size, int) for size in val.shape)
        and val.numel() <= LARGEST
        and torch.Tag.nondeterministic_seeded not in op.tags
        and not op._schema.is_mutable
        and all(source in values for source in node.all_input_nodes)
    )


def _replace(graph: fx.Graph, node: fx.Node, value: Any) -> Input:
    last = next(n for n in reversed(graph.nodes) if n.op == "placeholder")
    with graph.inserting_after(last):
        placeholder = graph.placeholder("constant")
    placeholder.meta = dict(node.meta)
    node.replace_all_uses_with(placeholder)
    return Input(f"constant.{placeholder.name}", "constant", value.contiguous())
