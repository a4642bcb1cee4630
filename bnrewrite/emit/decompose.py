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
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from ..passes.graph import Input, JointGraph
from ..passes.tracing import trace

_ROUNDS = 8  # decompositions of decompositions; two or three are the rule
_INHERITED = ("site", "role", "module", "where", "stack_trace", "decomposed")


def decompose_unsupported(joint: JointGraph, supported: Container[Any]) -> JointGraph:
    """An equal graph in which every call that has a user is in `supported` or cannot be decomposed.

    `joint` itself is not changed.
    """
    for _ in range(_ROUNDS):
        missing = {
            n for n in joint.graph.nodes if n.op == "call_function" and n.target not in supported and n.users
        }
        # What writes to its argument has a result that other nodes see too: capture removes it, or it is refused.
        table = get_decompositions([node.target for node in missing if not _mutates(node.target)])
        pieces = {node: _trace(node, table[node.target]) for node in missing if node.target in table}
        replaced = {node: piece for node, piece in pieces.items() if piece is not None}
        if not replaced:
            break
        joint = _replace(joint, replaced)
    return joint


def _mutates(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    return schema is None or schema.is_mutable


def _trace(node: fx.Node, decomposition: Callable[..., Any]) -> fx.Graph | None:
    """The graph of `decomposition` at the node's arguments (its placeholders: `_arguments`), or `None` if it fails.

    It also fails if it asks for a concrete size, which would fix the batch axis at the example's.
    """
    leaves, spec = pytree.tree_flatten((list(node.args), dict(node.kwargs)))
    arguments = _arguments(node)
    values = [argument.meta["val"] for argument in arguments]
    sizes = [str(getattr(value, "shape", value)) for value in values]

    def decomposed(*traced: Any) -> Any:
        given = dict(zip(arguments, traced, strict=True))
        flat = [given[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(flat, spec)
        result = decomposition(*args, **kwargs)
        return list(result) if isinstance(result, (list, tuple)) else result

    try:
        piece = trace(torch.func.functionalize(decomposed), values)
    except (
        RuntimeError,
        NotImplementedError,
    ):  # needs values, or has no fake kernel: the node stays and is refused
        return None
    return piece if sizes == [str(getattr(value, "shape", value)) for value in values] else None


def _arguments(node: fx.Node) -> list[fx.Node]:
    leaves = pytree.tree_leaves((list(node.args), dict(node.kwargs)))
    return list(dict.fromkeys(leaf for leaf in leaves if isinstance(leaf, fx.Node)))


def _replace(joint: JointGraph, replaced: dict[fx.Node, fx.Graph]) -> JointGraph:
    graph = fx.Graph(owning_module=joint.graph.owning_module)
    copied: dict[fx.Node, Any] = {}
    constants: list[Input] = []
    for node in joint.graph.nodes:
        if node in replaced:
            copied[node] = _inline(graph, node, replaced[node], copied, constants)
        elif node.target is operator.getitem and isinstance(copied[_source(node)], (list, tuple)):
            copied[node] = copied[_source(node)][node.args[1]]  # of what was one node and is several now
        else:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    return JointGraph(graph, [*joint.inputs, *constants], joint.outputs, joint.meta)


def _source(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _inline(
    graph: fx.Graph, node: fx.Node, piece: fx.Graph, copied: dict[fx.Node, Any], constants: list[Input]
) -> Any:
    """`piece` copied into `graph` in the place of `node`; its result(s) there."""
    origin = {key: node.meta[key] for key in _INHERITED if key in node.meta}
    origin.setdefault("decomposed", node.target)
    given = iter(_arguments(node))
    inner: dict[fx.Node, Any] = {}
    for call in piece.nodes:
        if call.op == "placeholder":
            inner[call] = copied[next(given)]
        elif call.op == "get_attr":
            inner[call] = _constant(graph, call, getattr(piece.owning_module, str(call.target)), constants)
        elif call.op != "output":
            inner[call] = graph.node_copy(call, inner.__getitem__)
            inner[call].meta = {"val": call.meta.get("val"), **origin}
    result = map_arg(piece.output_node().args[0], inner.__getitem__)
    if isinstance(result, fx.Node) and "quantity" in node.meta:
        result.meta["quantity"] = node.meta["quantity"]
    return result


def _constant(graph: fx.Graph, call: fx.Node, tensor: torch.Tensor, constants: list[Input]) -> fx.Node:
    """A tensor that the decomposition made while it was traced, as one more placeholder of `graph`."""
    last = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_after(last[-1]) if last else graph.inserting_before(None):
        placeholder = graph.placeholder("constant")
    placeholder.meta["val"] = call.meta["val"]
    constants.append(Input(f"constant.{placeholder.name}", "constant", tensor))
    return placeholder
