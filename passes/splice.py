"""Splicing: a graph grows by pieces, each traced from a plain torch function; each distinct piece is traced once.

The pieces are the phases of rules. A network has hundreds of them but few that differ: the same operation on the same
shapes gives the same subgraph, which is then copied in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from .tracing import record


@dataclass(frozen=True)
class Piece:
    """A traced function: placeholders for its distinct node arguments, one output node that lists its leaves."""

    graph: fx.Graph
    results: list[Any]
    spec: pytree.TreeSpec


class Splicer:
    """Grows `graph`. Arguments and results are pytrees whose tensors (and symbolic sizes) are nodes of `graph`."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self._pieces: dict[Any, Piece] = {}
        self._signatures: dict[fx.Node, Any] = {}

    def placeholder(self, name: str, val: Any) -> fx.Node:
        """A new input with fake value `val`."""
        node = self.graph.placeholder(name)
        node.meta["val"] = val.detach() if isinstance(val, Tensor) else val
        return node

    def copy(self, node: fx.Node, lookup: Callable[[fx.Node], Any]) -> fx.Node:
        """A node of another graph, as it is."""
        copied = self.graph.node_copy(node, lookup)
        copied.meta = {"val": node.meta.get("val")}
        return copied

    def call(self, function: Callable[..., Any], *args: Any, key: Any, origin: dict[str, str]) -> Any:
        """Splice in the graph of `function(*args)`.

        `key` stands for the function: pieces with equal keys and equal signatures of arguments are the same. `origin`
        goes into the meta of every node.
        """
        leaves, spec = pytree.tree_flatten(args)
        nodes = list(dict.fromkeys(leaf for leaf in leaves if isinstance(leaf, fx.Node)))
        position = {node: i for i, node in enumerate(nodes)}
        layout = tuple(
            ("node", position[leaf]) if isinstance(leaf, fx.Node) else static_key(leaf) for leaf in leaves
        )
        signature = (key, layout, str(spec), tuple(self._signature(node) for node in nodes))
        if signature not in self._pieces:
            self._pieces[signature] = self._trace(function, leaves, spec, nodes, position)
        return self._inline(self._pieces[signature], nodes, origin)

    def _signature(self, node: fx.Node) -> Any:
        if node not in self._signatures:
            self._signatures[node] = value_key(node.meta["val"])
        return self._signatures[node]

    def _trace(
        self,
        function: Callable[..., Any],
        leaves: list[Any],
        spec: pytree.TreeSpec,
        nodes: list[fx.Node],
        position: dict[fx.Node, int],
    ) -> Piece:
        kept: list[Any] = []

        def flat(*values: Any) -> list[Any]:
            given = [values[position[leaf]] if isinstance(leaf, fx.Node) else leaf for leaf in leaves]
            results, out_spec = pytree.tree_flatten(function(*pytree.tree_unflatten(given, spec)))
            kept[:] = results, out_spec
            return [result for result in results if is_traced(result)]

        graph = record(flat, _told_apart([node.meta["val"] for node in nodes]))
        if any(node.op == "get_attr" for node in graph.nodes):
            raise TypeError(
                f"{function} keeps a tensor where it cannot be found: keep it in a passes.rule.State."
            )
        found = iter(graph.output_node().args[0])  # type: ignore[arg-type]
        results, out_spec = kept
        return Piece(graph, [next(found) if is_traced(result) else result for result in results], out_spec)

    def _inline(self, piece: Piece, nodes: list[fx.Node], origin: dict[str, str]) -> Any:
        copied: dict[fx.Node, fx.Node] = {}
        arguments = iter(nodes)
        for node in piece.graph.nodes:
            if node.op == "placeholder":
                copied[node] = next(arguments)
            elif node.op != "output":
                copied[node] = self.graph.node_copy(node, copied.__getitem__)
                copied[node].meta = {"val": node.meta.get("val"), **origin}
        results = [copied[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in piece.results]
        return pytree.tree_unflatten(results, piece.spec)


def _told_apart(vals: list[Any]) -> list[Any]:
    """Copies of one piece share their fake values: here each argument is a tensor of its own."""
    seen: set[int] = set()
    apart = []
    for val in vals:
        apart.append(val.detach() if isinstance(val, Tensor) and id(val) in seen else val)
        seen.add(id(val))
    return apart


def is_traced(leaf: Any) -> bool:
    """Whether a result is a value of the graph rather than a constant of Python."""
    return isinstance(leaf, (Tensor, torch.SymInt, torch.SymFloat, torch.SymBool))


def value_key(val: Any) -> Any:
    """What a piece may depend on in an argument: type, device, sizes and strides; sizes as expressions."""
    if isinstance(val, Tensor):
        sizes = tuple(str(size) for size in val.shape)
        return (val.dtype, val.device, sizes, tuple(str(stride) for stride in val.stride()))
    if isinstance(val, (list, tuple)):
        return tuple(value_key(entry) for entry in val)
    return str(val)


def static_key(value: Any) -> Any:
    """A hashable stand-in for a Python constant; 1, 1.0 and True stay apart, symbolic sizes count as expressions."""
    if isinstance(value, (list, tuple)):
        return tuple(static_key(entry) for entry in value)
    if isinstance(value, dict):
        return tuple((name, static_key(entry)) for name, entry in sorted(value.items()))
    if isinstance(value, (torch.SymInt, torch.SymFloat)):
        return ("symbol", str(value.node.expr))
    if isinstance(value, float):
        return (float, repr(value))
    return (type(value), value)
