"""Results in the memory of operands that nothing reads again."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import fx

from ...passes.graph import val
from ...passes.pipeline import Pass
from ...passes.simplify import same_shape
from .. import products, winograd
from ..fused import Kernel, Region, overwritable

aten = torch.ops.aten


class ReuseMemory(Pass):
    """Before: a functional graph, and the `kernels` that it calls. After: where an operand of an element-wise
    operation, or of a kernel, is read by nothing else from there on, and is as large as the result, the result takes
    its memory."""

    def __init__(self, kernels: Mapping[str, Kernel] = MappingProxyType({})) -> None:
        self.kernels = kernels

    def __call__(self, graph: fx.Graph) -> None:
        place = {node: i for i, node in enumerate(graph.nodes)}
        last = _last_uses(graph, place)
        memory = _memory(graph)
        for node in graph.nodes:
            if node.op == "call_module":
                free = {x for x in node.all_input_nodes if last[x] == place[node]}
                taken = _taken(node, self.kernels[node.target].region, free, memory)
                node.kwargs = {"taken": taken} if taken else {}
            if node.target not in _IN_PLACE or not isinstance(node.args[0], fx.Node):
                continue
            into, swaps = _IN_PLACE[node.target]
            for position in (0, 1) if swaps and not node.kwargs else (0,):  # `alpha` belongs to the second
                x = node.args[position]
                if isinstance(x, fx.Node) and last[x] == place[node] and _may_hold(x, node, node, memory):
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


def _taken(
    call: fx.Node, region: Region, free: set[fx.Node], memory: dict[fx.Node, frozenset[fx.Node]]
) -> tuple[tuple[int, int], ...]:
    """Results of a kernel, each with the image whose memory it takes, which is one of those that are `free`."""
    results = {user.args[1]: user for user in call.users}
    left, found = set(free), dict[int, int]()
    for place, image in sorted(overwritable(region)):
        x: Any = call.args[image]
        if (
            x in left
            and place in results
            and place not in found
            and _may_hold(x, results[place], call, memory)
        ):
            left.remove(x)
            found[place] = image
    return tuple(found.items())


def _may_hold(x: fx.Node, result: fx.Node, call: fx.Node, memory: dict[fx.Node, frozenset[fx.Node]]) -> bool:
    """Whether `x` is as large as `result`, of its type, and of memory that no other operand of `call` looks at."""
    others = [arg for arg in call.args if isinstance(arg, fx.Node) and arg is not x]
    return (
        (_is_fresh(x) or (call.op == "call_module" and _is_of_kernel(x)))
        and val(x).dtype == val(result).dtype
        and same_shape(val(x), val(result))
        and sum(arg is x for arg in call.args) == 1
        and all(memory[x].isdisjoint(memory[other]) for other in others)
    )


def _memory(graph: fx.Graph) -> dict[fx.Node, frozenset[fx.Node]]:
    """The nodes that made the memory which each node looks at."""
    made: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in graph.nodes:
        made[node] = (
            frozenset({node})
            if node.op == "placeholder" or _is_apart(node)
            else frozenset().union(*(made[source] for source in node.all_input_nodes))
        )
    return made


def _last_uses(graph: fx.Graph, place: dict[fx.Node, int]) -> dict[fx.Node, int]:
    """Where the memory of each node is read last: by the node's users, or by users of what shares its memory."""
    last: dict[fx.Node, int] = {}
    for node in reversed(graph.nodes):
        reads = [place[user] if _is_apart(user) else max(place[user], last[user]) for user in node.users]
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


def _is_apart(node: fx.Node) -> bool:
    """Whether nothing that `node` returns looks at memory of its arguments that these, too, are read from."""
    return node.op == "call_module" or _is_fresh(node) or _is_of_kernel(node)


def _is_of_kernel(node: fx.Node) -> bool:
    """Whether `node` is a result of a kernel. Only kernels write over one: they know when autograd may want it."""
    return node.target is operator.getitem and node.args[0].op == "call_module"  # type: ignore[union-attr]


_WRITERS = frozenset(into for into, _ in _IN_PLACE.values())
_MAY_ALIAS = frozenset({aten._unsafe_view.default, aten._to_copy.default, aten.lift_fresh_copy.default})
"""Views whose schema does not say so, and what may become one when a module is converted."""
