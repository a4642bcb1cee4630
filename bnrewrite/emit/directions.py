"""Graphs for K directions as GraphModules: what does not depend on a direction once, and the rest a few at a time.

One operation over all K directions costs less than K operations where tensors are small, and more where they are large:
what it writes has left the cache before the next operation reads it, and the kernels for convolutions are slower on
batches of thousands. So a module for F directions is called K / F times, with F as large as the cache allows. Where F
is one, it writes large products into the tensor of all K.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..passes.block import block
from ..passes.graph import Input, JointGraph
from ..passes.linearize import Linearized
from ..passes.simplify import SIMPLIFY, size_of
from .graph_module import CHECK, CheckCall, assemble, grouped
from .into import computed_into, copied_into, room_for
from .layout import channels_last, is_compiled, is_read_in_order, ordered
from .linearized import CheckApply, residual_shapes

aten = torch.ops.aten

CACHE = 1 << 20
"""Bytes that the largest tensor of one operation over several directions may have: a core's share of the cache."""

LARGE = 1 << 16
"""Bytes from which a product is written where it is wanted, and not copied there."""

DIRECTION = "bnrewrite_directions"
"""Attribute name of the module that computes the products for all directions."""


class Directions(nn.Module):
    """`directions(residuals, v)` -> tuple of products for all `count` directions: `module(residuals, v, first, outs)`
    computes those for `size` of them, from `first` on.

    `names`: of the parameters that the products belong to; `large`: which of these the module writes into `outs`.
    """

    def __init__(
        self, module: fx.GraphModule, count: int, size: int, names: Sequence[str], large: Sequence[int]
    ) -> None:
        super().__init__()
        self.module, self.count, self.size = module, count, size
        self.names, self.large = list(names), list(large)

    def forward(self, residuals: Sequence[Tensor], v: dict[str, Tensor]) -> tuple[Tensor, ...]:
        wholes: dict[int, Tensor] = {}
        if self.large and _is_plain([*residuals, *v.values()]):
            wholes = {i: room_for(v[self.names[i]]) for i in self.large}
        found = []
        for first in range(0, self.count, self.size):
            outs = [wholes[i][first] if i in wholes else None for i in self.large]
            parts = self.module(residuals, v, first, outs)
            found.append([None if i in wholes else part for i, part in enumerate(parts)])
        join: Any = torch.stack if self.size == 1 else torch.cat
        return tuple(
            wholes[i] if i in wholes else join([parts[i] for parts in found]) for i in range(len(self.names))
        )


def _is_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether these are numbers in memory: neither recorded by autograd nor seen by a compiler or a transformation of
    functions, none of which knows of results in given memory."""
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        return False
    try:
        return all(t.numel() == 0 or t.data_ptr() for t in tensors)
    except RuntimeError:
        return False


class ChooseDirections(nn.Module):
    """The door of that module: the part of `v` from direction `first` on."""

    def __init__(self, size: int | None) -> None:
        super().__init__()
        self.size = size

    def forward(self, v: dict[str, Tensor], first: int) -> dict[str, Tensor]:
        if self.size is None:
            return {name: part.select(0, first) for name, part in v.items()}
        return {name: aten.slice.Tensor(part, 0, first, first + self.size) for name, part in v.items()}


def build_directions(parts: Linearized, check: CheckCall) -> fx.GraphModule:
    """`gm(input, target, v) -> (loss, grad, *products)` for the K directions that `v` holds."""
    graph = fx.Graph()
    roots = {"input": graph.placeholder("input"), "target": graph.placeholder("target")}
    v = graph.placeholder("v")
    directions = _Call(parts.apply, graph)
    checked = graph.call_module(CHECK, (roots["input"], roots["target"], v))

    def results(names: Sequence[str], nodes: Sequence[fx.Node]) -> tuple[Any, ...]:
        groups = grouped(names[1:], nodes[1:])
        residuals = list(groups.pop("residual", {}).values())
        return (nodes[0], *groups.values(), *directions.products(residuals, checked))

    primal = _handing_on(parts.primal, directions.owned)
    module = assemble(primal, graph, roots, check, results, {DIRECTION: directions.module})
    module.meta["bnrewrite"] = {k: v for k, v in parts.primal.meta.items() if k not in _OF_PARTS}
    return module


_OF_PARTS = ("part", "residuals", "residual_bytes")


def build_apply_directions(apply: JointGraph, check: CheckCall) -> fx.GraphModule:
    """`apply(residuals, v)` for the K directions that `v` holds."""
    graph = fx.Graph()
    residuals, v = graph.placeholder("residuals"), graph.placeholder("v")
    directions = _Call(apply, graph)
    checked = graph.call_module(CHECK, (residuals, v))

    def results(names: Sequence[str], nodes: Sequence[fx.Node]) -> Any:
        products = directions.products(list(nodes), checked)
        return products[0] if len(products) == 1 else products

    doors = fx.Graph()
    entries = [(node, entry) for node, entry in _entries(apply) if _is_handed(node, entry)]
    handed = [_copied(doors, node) for node, _ in entries]
    doors.output(tuple(handed))
    inputs = [entry for _, entry in entries]
    identity = JointGraph(doors, inputs, [f"residual.{i}" for i in range(len(handed))], apply.meta)
    return assemble(
        identity,
        graph,
        {"input": residuals},
        CheckApply(check, residual_shapes(apply)),
        results,
        {DIRECTION: directions.module},
    )


class _Call:
    """The module for all directions, and its call in `graph`."""

    def __init__(self, apply: JointGraph, graph: fx.Graph) -> None:
        self.graph, self.count = graph, int(apply.meta["vectors"])  # type: ignore[call-overload]
        self.owned = [node for node, entry in _entries(apply) if entry.owned and node.users]
        self.reordered = channels_last(apply)
        tiled = is_compiled(apply)
        self.images = [self.reordered and is_read_in_order(node, tiled) for node in self.owned]
        size = _at_once(apply, self.count)
        large = _large(apply) if size == 1 else []
        parameters = [name.split(".", 1)[1] for name in apply.outputs]
        self.module = Directions(_module(apply, size, large), self.count, size, parameters, large)
        self.names = apply.outputs

    def products(self, residuals: list[fx.Node], v: fx.Node) -> tuple[dict[str, fx.Node], ...]:
        """{parameter: product} for every kind of product; `residuals` end with what the model owns."""
        start = len(residuals) - len(self.owned)
        for i, image in enumerate(self.images, start):
            if image:  # once rather than in every call
                residuals[i] = ordered(self.graph, residuals[i], torch.channels_last)
        products = self.graph.call_module(DIRECTION, (tuple(residuals), v))
        parts = [self.graph.call_function(operator.getitem, (products, i)) for i in range(len(self.names))]
        return tuple(grouped(self.names, parts).values())


def _at_once(apply: JointGraph, count: int) -> int:
    """How many of `count` directions one call of the module computes: a divisor of `count`."""
    batch: int = apply.meta["batch"]  # type: ignore[assignment]
    owned = {node for node, entry in _entries(apply) if entry.owned or entry.kind == "input"}
    vals = [
        node.meta["val"] for node in apply.graph.nodes if node.op == "call_function" and node not in owned
    ]
    sizes = [size_of(val, batch) * val.element_size() for val in vals if isinstance(val, Tensor)]
    largest = max(sizes, default=1)
    return max(n for n in range(1, count + 1) if count % n == 0 and (n == 1 or n * largest <= CACHE))


def _large(apply: JointGraph) -> list[int]:
    """Which outputs are at least `LARGE`."""
    batch: int = apply.meta["batch"]  # type: ignore[assignment]
    returned: Any = apply.graph.output_node().args[0]
    vals = [node.meta["val"] for node in returned]
    return [i for i, val in enumerate(vals) if size_of(val, batch) * val.element_size() >= LARGE]


def _module(apply: JointGraph, size: int, large: Sequence[int]) -> fx.GraphModule:
    """`module(residuals, v, first, outs)` -> tuple of products in the order of `apply.outputs`; `residuals` end with
    what the model owns, `outs` are memory for the `large` ones, or None."""
    joint = apply if size == 1 else block(apply, size)
    if size > 1:
        SIMPLIFY.run(joint.graph, "block-")
    path = iter(range(len(joint.inputs)))
    inputs = [
        Input(entry.name, "input", path=(next(path),)) if _is_handed(node, entry) else entry
        for node, entry in _entries(apply)
    ]
    graph = fx.Graph()
    residuals, v, first, outs = (graph.placeholder(name) for name in ("residuals", "v", "first", "outs"))
    memory = {i: graph.call_function(operator.getitem, (outs, place)) for place, i in enumerate(large)}
    roots = {"input": residuals, "vector": graph.call_module(CHECK, (v, first))}

    def results(names: Sequence[str], nodes: Sequence[fx.Node]) -> tuple[fx.Node, ...]:
        often = Counter(nodes)
        returned = list(nodes)
        for i, out in memory.items():
            if often[nodes[i]] == 1:
                returned[i] = computed_into(graph, nodes[i], out)
            else:  # one product of several parameters
                returned[i] = graph.call_function(copied_into, (out, nodes[i]))
        return tuple(returned)

    door = ChooseDirections(None if size == 1 else size)
    return assemble(replace(joint, inputs=inputs), graph, roots, door, results)


def _handing_on(primal: JointGraph, owned: Sequence[fx.Node]) -> JointGraph:
    """`primal` with the tensors that the model owns, and apply reads, as residuals more."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    returned = list(graph.graph_copy(primal.graph, copied))  # type: ignore[arg-type]
    by_name = {node.name: copied[node] for node, _ in _entries(primal)}
    count = sum(name.startswith("residual") for name in primal.outputs)
    graph.output((*returned, *(by_name[node.name] for node in owned)))
    outputs = [*primal.outputs, *(f"residual.{count + i}" for i in range(len(owned)))]
    return JointGraph(graph, primal.inputs, outputs, primal.meta)


def _is_handed(node: fx.Node, entry: Input) -> bool:
    """Whether the module for some of the directions is given this input of `apply` with the residuals."""
    return bool(entry.kind == "input" or (entry.owned and node.users))


def _copied(graph: fx.Graph, node: fx.Node) -> fx.Node:
    placeholder = graph.placeholder(node.name)
    placeholder.meta = dict(node.meta)
    return placeholder


def _entries(joint: JointGraph) -> list[tuple[fx.Node, Input]]:
    placeholders = (node for node in joint.graph.nodes if node.op == "placeholder")
    return list(zip(placeholders, joint.inputs, strict=True))
