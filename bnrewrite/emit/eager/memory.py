"""Results in the memory of operands that nothing reads again."""

from __future__ import annotations

import operator

import torch
from torch import fx

from ...passes.graph import val
from ...passes.pipeline import Pass
from ...passes.simplify import same_shape
from .. import products, winograd

aten = torch.ops.aten


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
        and same_shape(val(x), val(node))
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
    if node.target in products.FUNCTIONS | winograd.FUNCTIONS:
        return True
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or node.target in _MAY_ALIAS:
        return False
    if node.target in _WRITERS:
        return True
    return all(result.alias_info is None for result in schema.returns)


_WRITERS = frozenset(into for into, _ in _IN_PLACE.values())
_MAY_ALIAS = frozenset({aten._unsafe_view.default, aten._to_copy.default, aten.lift_fresh_copy.default})
"""Views whose schema does not say so, and what may become one when a module is converted."""
