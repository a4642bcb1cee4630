"""Forward over reverse, operation by operation: one walk forward (value, tangent), one back (adjoint, its tangent).

    forward   for each node        y = f(x)                y_dot = J x_dot
    back      for each node        x_bar += J^T y_bar      x_bar_dot += J^T y_bar_dot + curvature

The tangent of a parameter's adjoint is that parameter's part of H v (B. Pearlmutter, Neural Computation 6, 1994). The
Gauss-Newton product G v pulls the same tangent back from the model's output without any curvature term of the model,
R v pulls back nothing but those: H = G + R, and neither is found as a difference.

Before: a flat functional graph of one scalar loss, every operation with a rule. After: one flat graph of loss,
gradient and products; nothing in it is a tensor of structural zeros; every batch size is read from a shape.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from .graph import CapturedGraph, Input, JointGraph
from .rule import Context, Rule, add_nested, is_zero
from .splice import Splicer

aten = torch.ops.aten

RuleOf = Callable[[fx.Node], Rule]
"""The rule of a node; raises where there is none."""

PRODUCTS = ("hvp", "ggn", "residual")
"""H v, G v and R v."""
DIRECTED = (*PRODUCTS, "pullback")
"""Everything that a graph computes from directions."""
SUMMANDS = ("ggn", "residual")
"""Where both are asked for, H v is their sum."""


def differentiate(
    captured: CapturedGraph, rule_of: RuleOf, wrt: Sequence[str], products: Sequence[str] = ("hvp",)
) -> JointGraph:
    """The joint graph of `captured` with derivatives with respect to the inputs named in `wrt`."""
    placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
    by_name = {entry.name: node for entry, node in zip(captured.inputs, placeholders, strict=True)}
    walk = _Walk(captured.graph, rule_of, products)
    values = {
        node: walk.splicer.placeholder(entry.name, node.meta["val"])
        for entry, node in zip(captured.inputs, placeholders, strict=True)
    }
    dots = {by_name[name]: walk.splicer.placeholder(f"v_{name}", by_name[name].meta["val"]) for name in wrt}
    walk.forward(values, dots, dots)
    walk.back(walk.splice(torch.ones_like, walk.end, origin={}))
    results = [walk.end]
    results += [walk.result(kind, by_name[name]) for kind in ("bar", *products) for name in wrt]
    walk.splicer.graph.output(tuple(results))
    outputs = ["loss", *(f"{kind}.{name}" for kind in ("grad", *products) for name in wrt)]
    vectors = [Input(f"v.{name}", "vector") for name in wrt]
    return JointGraph(walk.splicer.graph, [*captured.inputs, *vectors], outputs, dict(captured.meta))


def pull_back(captured: CapturedGraph, rule_of: RuleOf, wrt: Sequence[str]) -> JointGraph:
    """The joint graph of a model: its output z, and J^T u by the inputs named in `wrt` for a cotangent u of z.

    Before: a captured graph whose output is any one tensor, rather than a loss. After: one graph with the vector
    `v.output` and the outputs `output`, `pullback.<parameter>`.
    """
    placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
    by_name = {entry.name: node for entry, node in zip(captured.inputs, placeholders, strict=True)}
    walk = _Walk(captured.graph, rule_of, ())
    values = {
        node: walk.splicer.placeholder(entry.name, node.meta["val"])
        for entry, node in zip(captured.inputs, placeholders, strict=True)
    }
    cotangent = walk.splicer.placeholder("v_output", walk.end_node.meta["val"])
    walk.forward(values, {}, [by_name[name] for name in wrt])
    walk.back(cotangent)
    results = [walk.end, *(walk.result("bar", by_name[name]) for name in wrt)]
    walk.splicer.graph.output(tuple(results))
    outputs = ["output", *(f"pullback.{name}" for name in wrt)]
    inputs = [*captured.inputs, Input("v.output", "vector")]
    return JointGraph(walk.splicer.graph, inputs, outputs, dict(captured.meta))


SHAPE_ONLY = frozenset(
    getattr(aten, name).default
    for kind in ("zeros", "ones", "full", "empty")
    for name in (f"{kind}_like", f"new_{kind}")
)
"""Operations that read nothing but shape and type of their tensor."""


def active_nodes(graph: fx.Graph, sources: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes whose floating-point value depends on `sources`."""
    active = set(sources)
    for node in graph.nodes:
        if node.target in SHAPE_ONLY:
            continue
        if node.op == "call_function" and any(source in active for source in node.all_input_nodes):
            leaves = pytree.tree_leaves(node.meta.get("val"))
            if any(isinstance(leaf, Tensor) and _has_derivative(leaf) for leaf in leaves):
                active.add(node)
    return active


def _has_derivative(leaf: Tensor) -> bool:
    return leaf.is_floating_point() or leaf.is_complex()


class _Walk:
    """State of the two walks: for every captured node, the nodes of the joint graph that stand for its value, its
    tangent, and what each stream has brought to it (`bar` adjoints; for each product the tangents pulled back)."""

    def __init__(self, graph: fx.Graph, rule_of: RuleOf, products: Sequence[str]) -> None:
        self.graph, self.rule_of = graph, rule_of
        self.splicer = Splicer()
        self.value: dict[fx.Node, Any] = {}
        self.dot: dict[fx.Node, Any] = {}
        self.context: dict[fx.Node, Context] = {}
        walked = [name for name in products if name != "hvp" or not set(SUMMANDS) <= set(products)]
        self.stream: dict[str, dict[fx.Node, Any]] = {name: {} for name in ("bar", *walked)}
        self.end_node: fx.Node = graph.output_node().args[0]  # type: ignore[assignment]

    @property
    def end(self) -> fx.Node:
        """The value that the way back starts from: the loss."""
        return self.value[self.end_node]

    def result(self, kind: str, node: fx.Node) -> fx.Node:
        """The adjoint or a product at an input; an input that the loss does not depend on has derivative zero."""
        streams = (kind,) if kind in self.stream else SUMMANDS
        found = [bar for bar in (self.stream[stream].get(node) for stream in streams) if bar is not None]
        if not found:
            return self.splice(torch.zeros_like, self.value[node], origin={})
        return found[0] if len(found) == 1 else self.splice(add_nested, *found, origin={})

    def splice(self, function: Callable[..., Any], *args: Any, origin: dict[str, str]) -> Any:
        """Nodes of the joint graph that compute `function(*args)`."""
        return self.splicer.call(function, *args, key=function, origin=origin)

    def _phase(self, node: fx.Node, phase: str, role: str, *args: Any) -> Any:
        """Splice one phase of the node's rule; what the rule left in the context is carried along."""
        rule = self.rule_of(node)

        def run(ctx: Context, *arguments: Any) -> tuple[Any, Context]:
            return getattr(rule, phase)(ctx, *arguments), ctx

        result, self.context[node] = self.splicer.call(
            run, self.context[node], *args, key=(rule.key, phase), origin=_origin(node, role)
        )
        return result

    # Forward ---------------------------------------------------------------------------------------------------

    def forward(
        self, values: dict[fx.Node, Any], dots: dict[fx.Node, fx.Node], sources: Iterable[fx.Node]
    ) -> None:
        """Values, and the tangents that come of `dots`; derivatives are by `sources`."""
        self.value, self.dot = values, dict(dots)
        self.active = active_nodes(self.graph, sources)
        for node in self.graph.nodes:
            if node.op == "call_function":
                self._forward_node(node)

    def _forward_node(self, node: fx.Node) -> None:
        if node.target is operator.getitem and isinstance(self.value[node.args[0]], (list, tuple)):  # type: ignore[index]
            source, index = node.args
            self.value[node] = self.value[source][index]  # type: ignore[index]
            self.dot[node] = None if is_zero(self.dot.get(source)) else self.dot[source][index]  # type: ignore[index,arg-type]
            return
        if node not in self.active and "site" not in node.meta:
            self.value[node] = self.splicer.copy(node, self.value.__getitem__)
            self.value[node].meta |= _origin(node, "y")
            return
        args = [fx.map_arg(entry, self.value.__getitem__) for entry in full_arguments(node)]
        self.context[node] = Context(args=tuple(args))
        y = self.value[node] = self._phase(node, "value", "y", *args)
        self.context[node].y = y
        self._name(node, "y", y)
        dots = self._tangents(node)
        if not is_zero(dots):
            self.dot[node] = self._phase(node, "tangent", "y_dot", dots)
            self._name(node, "y_dot", self.dot[node])

    def _tangents(self, node: fx.Node) -> list[Any]:
        return [per_argument(entry, self.dot.get) for entry in full_arguments(node)]

    # Back ------------------------------------------------------------------------------------------------------

    def back(self, seed: fx.Node) -> None:
        """`seed`: the adjoint of the end."""
        self.stream["bar"][self.end_node] = seed
        for node in reversed(self.graph.nodes):
            if node.op == "call_function" and node in self.active:
                self._back_node(node)

    def _back_node(self, node: fx.Node) -> None:
        arrived = {name: stream.pop(node, None) for name, stream in self.stream.items()}
        if all(is_zero(entry) for entry in arrived.values()):
            return
        if node.target is operator.getitem:
            source, index = node.args
            count = len(self.value[source])  # type: ignore[index]
            for name, entry in arrived.items():
                if entry is not None:
                    self._arrive(name, source, [entry if i == index else None for i in range(count)])
            return
        needs = [per_argument(entry, lambda n: n in self.active, False) for entry in full_arguments(node)]
        y_bar = arrived.pop("bar")
        if not is_zero(y_bar):
            self._name(node, "y_bar", y_bar)
            self._deliver("bar", node, self._phase(node, "adjoint", "x_bar", y_bar, needs), "bar")
        for product, y_bar_dot in arrived.items():
            self._pull_back(product, node, y_bar, y_bar_dot, needs)

    def _pull_back(self, product: str, node: fx.Node, y_bar: Any, y_bar_dot: Any, needs: list[Any]) -> None:
        dots = self._tangents(node)
        # G v keeps the loss's curvature and drops the model's (the linearization effect), R v the other way round.
        curved = product == "hvp" or (product == "ggn") == bool(node.meta.get("in_loss"))
        letter = "bar_dot" if product == "hvp" else f"bar_{product}"
        if curved and not (is_zero(y_bar_dot) and (is_zero(dots) or is_zero(y_bar))):
            bars = self._phase(node, "adjoint_tangent", f"x_{letter}", dots, y_bar, y_bar_dot, needs)
        elif not is_zero(y_bar_dot):
            bars = self._phase(node, "adjoint", f"x_{letter}", y_bar_dot, needs)
        else:
            return
        self._deliver(product, node, bars, letter)

    def _deliver(self, stream: str, node: fx.Node, bars: Sequence[Any], letter: str) -> None:
        names = self.rule_of(node).names
        for position, (entry, bar) in enumerate(zip(full_arguments(node), bars, strict=True)):
            if is_zero(bar):
                continue
            if isinstance(entry, (list, tuple)):
                for source, part in zip(entry, bar, strict=True):
                    self._arrive(stream, source, part)
            else:
                self._name(node, f"{names[position] if position < len(names) else 'x'}_{letter}", bar)
                self._arrive(stream, entry, bar)

    def _arrive(self, stream: str, source: Any, bar: Any) -> None:
        if isinstance(source, fx.Node) and source in self.active and bar is not None:
            before = self.stream[stream].get(source)
            both = before is not None and bar is not None
            self.stream[stream][source] = (
                self.splice(add_nested, before, bar, origin=_origin(source, "")) if both else bar
            )

    def _name(self, node: fx.Node, letter: str, value: Any) -> None:
        """Remember what a joint node computes: the first name it gets is its name."""
        if isinstance(value, fx.Node) and value.op == "call_function" and "quantity" not in value.meta:
            value.meta["quantity"] = (node.meta.get("module") or "", node.name, letter)
            if "site" in node.meta and value.meta.get("site") == node.meta["site"]:
                value.meta["role"] = letter


def _origin(node: fx.Node, role: str) -> dict[str, str]:
    """What a spliced node inherits from the captured node it comes from."""
    origin = {"module": node.meta.get("module") or "", "where": node.meta.get("where") or ""}
    if "site" in node.meta and role:
        origin |= {"site": node.meta["site"], "role": role}
    return origin


def full_arguments(node: fx.Node) -> list[Any]:
    """All arguments of a call in schema order, defaults filled in, keyword-only ones too."""
    full = []
    for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if position < len(node.args):
            full.append(node.args[position])
        else:
            full.append(node.kwargs.get(argument.name, argument.default_value))
    return full


def per_argument(entry: Any, lookup: Callable[[fx.Node], Any], otherwise: Any = None) -> Any:
    """`lookup` of a node, of each node of a list, and `otherwise` for anything else."""
    if isinstance(entry, fx.Node):
        return lookup(entry)
    if isinstance(entry, (list, tuple)) and any(isinstance(e, fx.Node) for e in entry):
        return [lookup(e) if isinstance(e, fx.Node) else otherwise for e in entry]
    return otherwise
