"""The long tail: operations without a lowering are replaced by PyTorch's own decompositions where those exist.

A decomposition is a Python function of other ATen operations. It is traced on the fake values of the node's arguments
and takes the node's place; what it is made of may be decomposed again. `meta["decomposed"]` keeps the first operation,
so that a piece without a lowering is reported by the name that the user knows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import fx
from torch._decomp import get_decompositions
from torch.utils import _pytree as pytree

from ..passes.graph import Input, JointGraph
from ..passes.tracing import trace

_ROUNDS = 8  # decompositions of decompositions; two or three are the rule
_INHERITED = ("site", "role", "module", "where", "stack_trace", "decomposed")


def decompose_unsupported(joint: JointGraph, supported: Container[Any]) -> JointGraph:
    """An equal graph in which every call is in `supported` or has no decomposition; `joint` itself is not changed."""
    for _ in range(_ROUNDS):
        missing = {n for n in joint.graph.nodes if n.op == "call_function" and n.target not in supported}
        # What writes to its argument has a result that other nodes see too: capture removes it, or it is refused.
        table = get_decompositions([node.target for node in missing if not _mutates(node.target)])
        if not table:
            break
        joint = _replace(joint, {node for node in missing if node.target in table}, table)
    return joint


def _mutates(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    return schema is None or schema.is_mutable


def _replace(joint: JointGraph, replaced: set[fx.Node], table: Any) -> JointGraph:
    graph = fx.Graph(owning_module=joint.graph.owning_module)
    copied: dict[fx.Node, Any] = {}
    constants: list[Input] = []
    for node in joint.graph.nodes:
        if node in replaced:
            copied[node] = _inline(graph, node, table[node.target], copied, constants)
        elif node.target is operator.getitem and isinstance(copied[_source(node)], (list, tuple)):
            copied[node] = copied[_source(node)][node.args[1]]  # of what was one node and is several now
        else:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    return JointGraph(graph, [*joint.inputs, *constants], joint.outputs, joint.meta)


def _source(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _inline(
    graph: fx.Graph,
    node: fx.Node,
    decomposition: Callable[..., Any],
    copied: dict[fx.Node, Any],
    constants: list[Input],
) -> Any:
    """The traced decomposition of `node`, copied into `graph`; its result(s) there."""
    leaves, spec = pytree.tree_flatten((list(node.args), dict(node.kwargs)))
    arguments = list(dict.fromkeys(leaf for leaf in leaves if isinstance(leaf, fx.Node)))

    def decomposed(*values: Any) -> Any:
        given = dict(zip(arguments, values, strict=True))
        args, kwargs = pytree.tree_unflatten(
            [given[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in leaves], spec
        )
        result = decomposition(*args, **kwargs)
        return list(result) if isinstance(result, (list, tuple)) else result

    piece = trace(torch.func.functionalize(decomposed), [argument.meta["val"] for argument in arguments])
    origin = {key: node.meta[key] for key in _INHERITED if key in node.meta}
    origin.setdefault("decomposed", node.target)
    given = iter(arguments)
    inner: dict[fx.Node, Any] = {}
    for call in piece.nodes:
        if call.op == "placeholder":
            inner[call] = copied[next(given)]
        elif call.op == "get_attr":
            inner[call] = _constant(graph, call, getattr(piece.owning_module, str(call.target)), constants)
        elif call.op == "output":
            return fx.map_arg(call.args[0], inner.__getitem__)
        else:
            inner[call] = graph.node_copy(call, inner.__getitem__)
            inner[call].meta = {"val": call.meta.get("val"), **origin}
    return None


def _constant(graph: fx.Graph, call: fx.Node, tensor: torch.Tensor, constants: list[Input]) -> fx.Node:
    """A tensor that the decomposition made while it was traced, as one more placeholder of `graph`."""
    last = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_after(last[-1]) if last else graph.inserting_before(None):
        placeholder = graph.placeholder(f"constant_{len(constants)}")
    placeholder.meta["val"] = call.meta["val"]
    constants.append(Input(placeholder.name, "constant", tensor))
    return placeholder
