"""Linearize: a joint graph cut in two, what is done once for a point and what is done for every direction.

`primal` computes loss, gradient and *residuals* from input and target; `apply` computes the products from residuals and
directions. What depends on a direction belongs to `apply`. What else it reads is either saved by `primal` or computed
again from what is saved; a minimum cut decides which, so that

    bytes saved + weight * bytes moved to compute again

is least. Element-wise operations, copies and fills may be computed again, views cost nothing; convolutions, matrix
products, reductions, pooling and sorting are never done twice.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import networkx
import torch
from torch import Tensor, fx

from ..errors import InputError
from .differentiate import DIRECTED
from .graph import Input, JointGraph

aten = torch.ops.aten

Memory = Literal["least", "most"] | int | None

WEIGHT = Fraction(1, 16)
"""Bytes of memory that a byte moved in every call is worth, where the user gives no budget: a chain of a few operations
is done again, a small tensor (see `LAUNCH`) or the end of a long chain is saved."""
LAUNCH = 1 << 14
"""What an operation costs however small its tensors are, in bytes moved."""
_EXPONENTS = (-16.0, 4.0)
"""Of two: beyond these weights a cut is as good as the least, or the most, that can be saved."""
_HALVINGS = 10
_USED = 0.98
"""The part of a budget at which the search for a cut that makes more of it ends."""


@dataclass(frozen=True)
class Linearized:
    """The two parts, and how many bytes the residuals take at the example's batch size.

    `primal`: outputs `loss`, `grad.*`, `residual.<i>`; inputs those of the joint graph without the directions.
    `apply`: inputs `residual.<i>` (of kind `"input"`, path `(i,)`), what the model owns, the directions; outputs the
    products.
    """

    primal: JointGraph
    apply: JointGraph
    residual_bytes: int


def linearize(joint: JointGraph, batch: int, memory: Memory = None) -> Linearized:
    """Before: a joint graph; it is left as it is. After: two that together compute the same.

    `batch` stands for every symbolic size where bytes are counted. `memory`: `"least"` saves as few bytes as can be;
    `"most"` computes nothing again that costs; `None` weighs one against the other; a number of bytes computes again
    as little as staying within it takes. Raises `InputError` where the least is more than that number.
    """
    plan = _plan_of_directions(joint, batch)
    saved = plan.within(memory) if isinstance(memory, int) else plan.saved(plan.weights[memory])
    primal, apply = _parts(joint, plan, saved)
    return Linearized(primal, apply, plan.bytes(saved))


# What is saved ---------------------------------------------------------------------------------------------------


def _plan_of_directions(joint: JointGraph, batch: int) -> Plan:
    """What is saved between what does not depend on a direction and what does."""
    placeholders = dict(zip(_placeholders(joint.graph), joint.inputs, strict=True))
    directed = _dependent(joint.graph, (n for n, e in placeholders.items() if e.kind == "vector"))
    owned = {node for node, entry in placeholders.items() if entry.owned}
    results = dict(zip(joint.outputs, _returned(joint.graph), strict=True))
    products = [node for name, node in results.items() if name.split(".")[0] in DIRECTED]
    return Plan(joint.graph, batch, directed, owned, products)


class Plan:
    """Decides what is saved between a first part of `graph` and a second.

    `directed`: the second part; `owned`: what it has without anything being saved; `products`: its results.
    """

    def __init__(
        self,
        graph: fx.Graph,
        batch: int,
        directed: set[fx.Node],
        owned: set[fx.Node],
        products: Sequence[fx.Node],
    ) -> None:
        self.batch = batch
        self._bytes: dict[str, int] = {}
        self.directed, self.owned, self.products = directed, owned, products
        self._order = {node: i for i, node in enumerate(graph.nodes)}
        self._needed = self._read_by_apply()
        candidates = self._candidates()
        total = sum(self.bytes([n]) + _traffic(n, self.bytes) for n in candidates if _is_tensor(n))
        self._regions = self._networks(candidates)
        self.weights: dict[str | None, Fraction] = {
            "least": Fraction(1, total + 1),  # whatever the work: it only decides between equal bytes
            "most": Fraction(total + 1),
            None: WEIGHT,
        }

    def bytes(self, nodes: Iterable[fx.Node]) -> int:
        """What the tensors of `nodes` take at the example's batch size."""
        return sum(self._size_of(node.meta["val"]) for node in nodes)

    def _size_of(self, val: Tensor) -> int:
        return val.element_size() * math.prod(self._hint(size) for size in val.shape)

    def _hint(self, size: int | torch.SymInt) -> int:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        key = str(expression)
        if key not in self._bytes:
            self._bytes[key] = int(expression.subs(dict.fromkeys(expression.free_symbols, self.batch)))
        return self._bytes[key]

    def _at_hand(self, node: fx.Node) -> bool:
        """Whether `apply` has the value without anything being saved."""
        return node in self.directed or node in self.owned or not _is_tensor(node)

    def _read_by_apply(self) -> set[fx.Node]:
        """Tensors that do not depend on a direction, and that what does (or a result) reads."""
        live = _live(self.products, ())
        read = {source for node in live & self.directed for source in node.all_input_nodes}
        return {node for node in (*read, *self.products) if not self._at_hand(node)}

    def _candidates(self) -> list[fx.Node]:
        """What may be worth saving: what is needed, and what that can be computed again from."""
        found: set[fx.Node] = set()
        todo = list(self._needed)
        while todo:
            node = todo.pop()
            if node in found:
                continue
            found.add(node)
            if can_be_repeated(node):
                todo += [s for s in node.all_input_nodes if not _is_size(s) and s not in self.owned]
        return sorted(found, key=self._order.__getitem__)

    def _networks(self, candidates: Sequence[fx.Node]) -> list[tuple[list[fx.Node], networkx.Graph]]:
        """The candidates, in groups between which nothing is computed again, and what reads what in each."""
        reads = networkx.DiGraph()
        reads.add_nodes_from(candidates)
        for node in candidates:
            if can_be_repeated(node):
                reads.add_edges_from((s, node) for s in node.all_input_nodes if s in reads)
        groups = networkx.weakly_connected_components(reads)
        return [(sorted(group, key=self._order.__getitem__), reads) for group in groups]

    def saved(self, weight: Fraction) -> list[fx.Node]:
        """The nodes to save, in order, at `weight` bytes for a byte moved in every call."""
        found = {n for group, reads in self._regions for n in self._cut(group, reads, weight)}
        return sorted(found | self._carriers(found), key=self._order.__getitem__)

    def _cut(self, group: list[fx.Node], reads: networkx.DiGraph, weight: Fraction) -> list[fx.Node]:
        """Minimum cut. Every node is an edge from "computed" to "at hand" whose capacity is the price of saving it.

        On the sink's side lies what `apply` computes or has; the source pays for what is computed there.
        """
        if len(group) == 1 and not can_be_repeated(group[0]):
            return group
        network = networkx.DiGraph()
        for node in group:
            computed, at_hand = (node, 0), (node, 1)
            if _is_tensor(node):
                price = self.bytes([node]) * weight.denominator
                network.add_edge(computed, at_hand, capacity=price)
            else:  # several tensors at once: each is saved for itself
                network.add_edge(computed, at_hand)
            if can_be_repeated(node):
                network.add_edge("source", computed, capacity=_traffic(node, self.bytes) * weight.numerator)
                network.add_edges_from(((source, 1), computed) for source in reads.predecessors(node))
            else:
                network.add_edge("source", computed)
            if node in self._needed:
                network.add_edge(at_hand, "sink")
        _, (before, _) = networkx.minimum_cut(network, "source", "sink")
        return [node for node in group if (node, 0) in before and (node, 1) not in before]

    def _carriers(self, saved: set[fx.Node]) -> set[fx.Node]:
        """Tensors to save because `apply` needs one of their sizes and has no other that tells it."""
        found: set[fx.Node] = set()
        vectors = {node for node in self.directed if node.op == "placeholder"}
        while True:
            boundary = {*saved, *found, *vectors, *self.owned}
            axes = _axes(boundary)
            sizes = [n for n in _live(self.products, boundary) if _is_size(n)]
            missing = [n for n in sizes if _expression(n) not in axes and self._is_hidden(n, boundary)]
            if not missing:
                return found
            found.add(self._carrier(min(missing, key=self._order.__getitem__)))

    def _is_hidden(self, size: fx.Node, boundary: Collection[fx.Node]) -> bool:
        """Whether a size is read off a tensor that `apply` need not have."""
        if _number(size) is not None:
            return False
        return any(
            _is_tensor(s) and s not in self.directed and s not in boundary for s in size.all_input_nodes
        )

    def _carrier(self, size: fx.Node) -> fx.Node:
        tensors = [n for n in self._order if _is_tensor(n) and n not in self.directed and n not in self.owned]
        fitting = [n for n in tensors if _expression(size) in _axes([n])] or size.all_input_nodes
        return min(fitting, key=lambda node: self.bytes([node]))

    def within(self, budget: int) -> list[fx.Node]:
        """What to save in at most `budget` bytes: the cut of the largest weight that fits."""
        most = self.saved(self.weights["most"])
        if self.bytes(most) <= budget:
            return most
        found = self.saved(self.weights["least"])
        if self.bytes(found) > budget:
            raise InputError(
                f"memory={budget} is too little: at batch size {self.batch} the residuals take at least "
                f"{self.bytes(found)} bytes."
            )
        low, high = _EXPONENTS
        for _ in range(_HALVINGS):
            if self.bytes(found) >= _USED * budget:
                break
            middle = (low + high) / 2
            saved = self.saved(Fraction(2.0**middle).limit_denominator(1 << 20))
            if self.bytes(saved) <= budget:
                found, low = saved, middle
            else:
                high = middle
        return found


def _dependent(graph: fx.Graph, sources: Iterable[fx.Node]) -> set[fx.Node]:
    """`sources` and all that is computed from them. A size is a number of its own, whatever tensor it is read off."""
    found = set(sources)
    for node in graph.nodes:
        if node.op == "call_function" and not _is_size(node) and not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


# What may be computed again ----------------------------------------------------------------------------------------

_POINTWISE = frozenset(
    {
        aten.hardtanh_backward.default,
        aten.hardswish_backward.default,
        aten.elu_backward.default,
        aten.softplus_backward.default,
        aten.leaky_relu_backward.default,
        aten._prelu_kernel.default,
        aten._to_copy.default,
    }
)
"""Element-wise, though PyTorch does not tag them so."""

_MOVES = frozenset(
    {
        aten._unsafe_view.default,
        aten.cat.default,
        aten.stack.default,
        aten.constant_pad_nd.default,
        aten.slice_scatter.default,
        aten.select_scatter.default,
        aten.slice_backward.default,
        aten.select_backward.default,
        aten.repeat.default,
        aten.flip.default,
        aten.roll.default,
        aten.tril.default,
        aten.triu.default,
    }
)
"""Copies of their arguments, in another order or with constants around."""

_FILLS = frozenset(
    {
        aten.new_zeros.default,
        aten.new_ones.default,
        aten.new_full.default,
        aten.zeros_like.default,
        aten.ones_like.default,
        aten.full_like.default,
        aten.zeros.default,
        aten.ones.default,
        aten.full.default,
        aten.arange.default,
        aten.arange.start,
        aten.arange.start_step,
        aten.scalar_tensor.default,
    }
)
"""Tensors made of nothing but numbers."""


def can_be_repeated(node: fx.Node) -> bool:
    """Whether `apply` may compute `node` again: little work for each byte of its result."""
    op = node.target
    if op is operator.getitem:
        return can_be_repeated(node.all_input_nodes[0])
    if not isinstance(op, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in op.tags:
        return False
    return op.is_view or torch.Tag.pointwise in op.tags or op in _POINTWISE | _MOVES | _FILLS


def _traffic(node: fx.Node, size: Any) -> int:
    """Bytes that computing `node` moves; 0 for a view."""
    op = node.target
    if (
        op is operator.getitem
        or not _is_tensor(node)
        or (isinstance(op, torch._ops.OpOverload) and op.is_view)
    ):
        return 0
    if op is aten._unsafe_view.default:
        return 0
    read = [] if op in _FILLS else [source for source in node.all_input_nodes if _is_tensor(source)]
    return LAUNCH + int(size([node, *read]))


# The parts ---------------------------------------------------------------------------------------------------------


def _parts(joint: JointGraph, plan: Plan, saved: Sequence[fx.Node]) -> tuple[JointGraph, JointGraph]:
    entries = list(zip(joint.inputs, _placeholders(joint.graph), strict=True))
    results = list(zip(joint.outputs, _returned(joint.graph), strict=True))
    names = [f"residual.{i}" for i in range(len(saved))]
    products = [entry for entry in results if entry[0].split(".")[0] in DIRECTED]
    primal = _extract(
        joint,
        [entry for entry in entries if entry[0].kind != "vector"],
        [*(entry for entry in results if entry not in products), *zip(names, saved, strict=True)],
    )
    residuals = [Input(name, "input", path=(i,)) for i, name in enumerate(names)]
    apply = _extract(
        joint,
        [
            *zip(residuals, saved, strict=True),
            *(entry for entry in entries if entry[0].owned),
            *(entry for entry in entries if entry[0].kind == "vector"),
        ],
        products,
    )
    return primal, apply


def _extract(
    joint: JointGraph, inputs: Sequence[tuple[Input, fx.Node]], outputs: Sequence[tuple[str, fx.Node]]
) -> JointGraph:
    """The part of the joint graph that computes `outputs` from `inputs`."""
    graph = fx.Graph()
    boundary = [node for _, node in inputs]
    live = _live([node for _, node in outputs], boundary)
    axes = _axes(boundary)
    copied: dict[fx.Node, Any] = {}
    for entry, node in inputs:
        copied[node] = graph.placeholder(entry.name if node.op != "placeholder" else node.name)
        copied[node].meta = dict(node.meta) if node.op == "placeholder" else {"val": node.meta["val"]}
    sizes: dict[Any, fx.Node] = {}

    def size(node: fx.Node) -> Any:
        """A number, the size of an input, or arithmetic on such."""
        number, expression = _number(node), _expression(node)
        if number is not None:
            return number
        if expression not in axes:
            return graph.node_copy(node, value)
        if expression not in sizes:
            source, axis = axes[expression]
            sizes[expression] = graph.call_function(aten.sym_size.int, (copied[source], axis))
            sizes[expression].meta = dict(node.meta)
        return sizes[expression]

    def value(node: fx.Node) -> Any:
        if node not in copied:
            copied[node] = size(node) if _is_size(node) else graph.node_copy(node, value)
        return copied[node]

    for node in joint.graph.nodes:
        if node in live and not _is_size(node):  # sizes where they are first read
            value(node)
    graph.output(tuple(copied[node] for _, node in outputs))
    graph.lint()
    return JointGraph(graph, [entry for entry, _ in inputs], [name for name, _ in outputs], dict(joint.meta))


def _live(results: Iterable[fx.Node], boundary: Collection[fx.Node]) -> set[fx.Node]:
    """What `results` are computed by from `boundary`, which is left out; a size that `boundary` tells needs no more."""
    live: set[fx.Node] = set()
    known = set(boundary)
    axes = _axes(boundary)
    todo = list(results)
    while todo:
        node = todo.pop()
        if node in live or node in known:
            continue
        live.add(node)
        if not (_is_size(node) and (_number(node) is not None or _expression(node) in axes)):
            todo += node.all_input_nodes
    return live


# Nodes -------------------------------------------------------------------------------------------------------------


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def _returned(graph: fx.Graph) -> list[fx.Node]:
    return list(graph.output_node().args[0])  # type: ignore[arg-type]


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _is_size(node: fx.Node) -> bool:
    """Whether `node` is a size, or arithmetic on sizes, rather than a tensor or several."""
    return node.op == "call_function" and not isinstance(node.meta.get("val"), (Tensor, list, tuple))


def _number(size: fx.Node) -> int | float | bool | None:
    """The value of a size that is the same for every batch."""
    val = size.meta["val"]
    if isinstance(val, (int, float, bool)):
        return val
    return int(val.node.expr) if isinstance(val, torch.SymInt) and val.node.expr.is_number else None


def _expression(size: fx.Node) -> Any:
    """What the value of a symbolic size is, as an expression to compare; `None` for one that is no integer."""
    val = size.meta["val"]
    return val.node.expr if isinstance(val, torch.SymInt) else None


def _axes(tensors: Iterable[fx.Node]) -> dict[Any, tuple[fx.Node, int]]:
    """{symbolic size: the tensor and axis that tell it}."""
    found: dict[Any, tuple[fx.Node, int]] = {}
    for node in tensors:
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt):
                found.setdefault(size.node.expr, (node, axis))
    return found
