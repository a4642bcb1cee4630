"""A joint graph as a `torch.fx.GraphModule`: `gm(input, target, v) -> (loss, grad, *products)`.

Parameters, buffers and constants are attributes under the model's own names and are shared with it; every node is
named after the module it comes from and the quantity it computes (`layer1_0_bn1_x_bar_dot`).
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import PythonCode
from torch.fx.graph_module import reduce_graph_module

from ..errors import InputError
from ..passes.graph import Input, JointGraph, is_saved
from .eager import eager
from .layout import channels_last, is_compiled, is_image, is_read_in_order, ordered

CHECK = "bnrewrite_check"
"""Attribute name of the module that checks the arguments of a call."""


class CheckCall(nn.Module):
    """The door of the graph: says in one sentence what is wrong with `input`, `target` or `v`; returns `v`.

    Steps aside while a compiler traces the call, and does not synchronise with a GPU to look at targets.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        min_batch: dict[str, int],
        classes: tuple[int, int | None] | None,
        batch: tuple[int | str, ...] | None,
    ) -> None:
        super().__init__()
        self.shapes, self.min_batch, self.classes = shapes, min_batch, classes
        self.batch = batch
        """Where the batch size is read: `input` or `target`, and the keys to a tensor inside it."""

    def forward(self, input: Any, target: Any, v: dict[str, Tensor]) -> dict[str, Tensor]:
        if not torch.compiler.is_compiling():
            self.check_vector(v)
            self.check_batch({"input": input, "target": target})
            self.check_target(target)
        return v

    def check_vector(self, v: Any) -> None:
        """Raise where `v` is not a dict with one tensor of the right shape for every parameter."""
        if not isinstance(v, dict):
            raise InputError(f"v must be a dict of tensors by parameter name, not {type(v).__name__}.")
        missing, surplus = sorted(self.shapes.keys() - v.keys()), sorted(v.keys() - self.shapes.keys())
        if missing:
            raise InputError(f"v has no entry for {_listed(missing)}: give one tensor for each parameter.")
        if surplus:
            raise InputError(f"v has entries that this graph does not know: {_listed(surplus)}.")
        for name, shape in self.shapes.items():
            if not isinstance(v[name], Tensor):
                raise InputError(f"v['{name}'] must be a tensor, not {type(v[name]).__name__}.")
            given = list(v[name].shape)
            if len(given) != len(shape) or any(s not in ("N", g) for s, g in zip(shape, given, strict=True)):
                raise InputError(f"v['{name}'] has shape {given}, but this graph takes {shape}.")

    def check_batch(self, given: Any) -> None:
        """Raise where the batch of `given` (`{"input": ..., "target": ...}`) is too small for a BatchNorm."""
        if self.batch is None:
            return
        for key in self.batch:
            given = given[key]
        for module, least in self.min_batch.items():
            if given.shape[0] < least:
                raise InputError(
                    f"the BatchNorm in module '{module}' needs a batch of at least {least}: with {given.shape[0]} "
                    "its statistics are over a single element."
                )

    def check_target(self, target: Any) -> None:
        """Raise where a target on the CPU holds a class that the model does not have."""
        if (
            self.classes is None
            or type(target) is not Tensor
            or target.is_floating_point()
            or not target.is_cpu
        ):
            return
        count, ignored = self.classes
        wrong = (target < 0) | (target >= count)
        if ignored is not None:
            wrong = wrong & (target != ignored)
        if bool(wrong.any()):
            raise InputError(
                f"target holds class {int(target[wrong][0])}, but the model has classes 0 to {count - 1}."
            )


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


class CurvatureModule(fx.GraphModule):
    """A GraphModule whose metadata and node names survive pickling (FX keeps the code only)."""

    def recompile(self) -> PythonCode:
        """`forward` from the graph, as FX writes it, but for the calls in `DIRECT`; `code` shows FX's."""
        found = super().recompile()
        namespace = dict(found.globals)
        exec(_SLOW_CALL.sub(lambda call: DIRECT.get(call[1], call[0]), found.src), namespace)
        forward = namespace["forward"]
        type(self).forward = _unrecorded(forward) if _has_kernels(self.graph) else forward
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        names = [
            (node.name, {key: node.meta[key] for key in _KEPT if key in node.meta})
            for node in self.graph.nodes
        ]
        _, arguments = super().__reduce__()
        return _restore, (*arguments, names, self.meta["bnrewrite"])


DIRECT = {
    **{
        f"{name}.{overload}": f"torch.{name}"
        for overload, names in {
            "default": "addcmul addmm cat convolution detach mm permute relu reshape rsqrt t",
            "Tensor": "add div mul sub",
            "dim": "mean",
            "dim_IntList": "sum",
        }.items()
        for name in names.split()
    },
    **{f"{name}_.Tensor": f"torch.Tensor.{name}_" for name in ("add", "div", "mul", "sub")},
    **{f"{name}_.default": f"torch.Tensor.{name}_" for name in ("addcmul", "addmm")},
}
"""Operations of `torch.ops.aten` that PyTorch also offers directly, with the same arguments: a call takes half as long
(1.5 against 2.8 microseconds), and a graph has ten thousand."""

_SLOW_CALL = re.compile(r"\btorch\.ops\.aten\.(\w+\.\w+)(?=\()")

_KEPT = ("module", "where", "site", "role", "quantity")


def _has_kernels(graph: fx.Graph) -> bool:
    return any(node.op == "call_module" and node.kwargs for node in graph.nodes)


def _unrecorded(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` with autograd switched off where it would record nothing: then it wants no operand again, and kernels
    put results into the memory of operands."""

    @wraps(forward)
    def unrecorded(self: nn.Module, *args: Any, **keywords: Any) -> Any:
        given = (*args, *keywords.values())
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or _is_recorded(given):
            return forward(self, *args, **keywords)
        with torch.no_grad():
            return forward(self, *args, **keywords)

    return unrecorded


def _is_recorded(given: Any) -> bool:
    """Whether autograd watches a tensor in there."""
    if isinstance(given, Tensor):
        return given.requires_grad
    parts = (
        given.values() if isinstance(given, Mapping) else given if isinstance(given, (list, tuple)) else ()
    )
    return any(map(_is_recorded, parts))


def _restore(
    body: dict[str, Any], imports: str, names: list[tuple[str, dict[str, Any]]], meta: Any
) -> CurvatureModule:
    plain = reduce_graph_module(body, imports)
    assert isinstance(plain, fx.GraphModule)
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node, (name, kept) in zip(plain.graph.nodes, names, strict=True):
        args, kwargs = fx.map_arg((node.args, node.kwargs), copied.__getitem__)
        if node.op == "output":
            graph.output(args[0])
            continue
        copied[node] = graph.create_node(node.op, node.target, args, kwargs, name=name)
        copied[node].meta.update(kept)
    module = CurvatureModule(plain, graph)
    module.meta["bnrewrite"] = meta
    return module


_ANY_STRIDES = {
    torch.ops.aten.view.default: torch.ops.aten.reshape.default,
    torch.ops.aten._unsafe_view.default: torch.ops.aten.reshape.default,
}
"""Views were traced at the strides of the example; a call may come in another memory format."""


def build(joint: JointGraph, check: CheckCall) -> fx.GraphModule:
    """The GraphModule of `joint`, which is left as it is."""
    graph = fx.Graph()
    roots = {"input": graph.placeholder("input"), "target": graph.placeholder("target")}
    v = graph.placeholder("v")
    roots["vector"] = graph.call_module(CHECK, (roots["input"], roots["target"], v))
    return assemble(joint, graph, roots, check, _results)


def assemble(
    joint: JointGraph,
    graph: fx.Graph,
    roots: dict[str, fx.Node],
    check: nn.Module,
    results: Callable[[Sequence[str], Sequence[fx.Node]], Any],
    modules: Mapping[str, nn.Module] = MappingProxyType({}),
) -> fx.GraphModule:
    """`joint` as a GraphModule, in `graph`, whose arguments stand there already.

    `roots`: where inputs of each kind are found; `check`: the module that `graph` calls as `CHECK`; `results`: what is
    returned, from the names and nodes of the flat outputs; `modules`: others that it calls, by name.
    """
    reorder, tiled = channels_last(joint), is_compiled(joint)
    joint, kernels = eager(joint, reorder)
    copied: dict[fx.Node, fx.Node] = {}
    attributes: dict[str, Any] = {CHECK: check, **modules, **kernels}
    namer = _Namer(joint.graph)
    placeholders = (node for node in joint.graph.nodes if node.op == "placeholder")
    for node, entry in zip(placeholders, joint.inputs, strict=True):
        copied[node] = _door(graph, entry, roots)
        copied[node].meta.update(node.meta)
        if reorder and is_read_in_order(node, tiled):
            copied[node] = ordered(graph, copied[node], torch.channels_last)
        if entry.owned:
            attributes[entry.name] = entry.tensor
    for node in joint.graph.nodes:
        if node.op in ("call_function", "call_module"):
            copied[node] = graph.create_node(
                node.op,
                _ANY_STRIDES.get(node.target, node.target),
                fx.map_arg(node.args, copied.__getitem__),
                fx.map_arg(node.kwargs, copied.__getitem__),
                name=namer.name(node) if node.op == "call_function" else None,
            )
            copied[node].meta.update(node.meta)
    returned = [copied[node] for node in joint.graph.output_node().args[0]]  # type: ignore[union-attr,index]
    if reorder:  # as a user expects gradients: `view(-1)` works
        returned = [
            ordered(graph, n, torch.contiguous_format) if is_image(n) and not is_saved(name) else n
            for name, n in zip(joint.outputs, returned, strict=True)
        ]
    graph.output(results(joint.outputs, returned))
    for node in reversed(graph.nodes):  # parameters that nothing reads
        if node.op in ("get_attr", "call_function") and not node.users:
            graph.erase_node(node)
    attributes = {name: tensor for name, tensor in attributes.items() if _used(graph, name)}
    _follow_parameters(graph, next((copied[n] for n in _parameters(joint)), None))
    module = CurvatureModule(attributes, graph)
    module.meta["bnrewrite"] = joint.meta
    return module


def _parameters(joint: JointGraph) -> list[fx.Node]:
    """Floating-point parameters and directions, as nodes of the joint graph."""
    nodes = (node for node in joint.graph.nodes if node.op == "placeholder")
    return [
        node
        for node, entry in zip(nodes, joint.inputs, strict=True)
        if entry.kind in ("parameter", "vector") and node.meta["val"].is_floating_point() and node.users
    ]


def _follow_parameters(graph: fx.Graph, anchor: fx.Node | None) -> None:
    """After: tensors that the graph creates, and casts to the parameters' type, take device and type from `anchor`, so
    that the module can be moved and converted like any other."""
    if anchor is None:
        return
    dtype = anchor.meta["val"].dtype
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        follows = {key for key in ("device", "dtype") if node.kwargs.get(key) is not None}
        if "dtype" in follows and node.kwargs["dtype"] != dtype:
            follows.remove("dtype")
        for key in sorted(follows):
            with graph.inserting_before(node):
                node.update_kwarg(key, graph.call_function(getattr, (anchor, key)))


def _used(graph: fx.Graph, name: str) -> bool:
    return any(node.op in ("get_attr", "call_module") and node.target == name for node in graph.nodes)


def _door(graph: fx.Graph, entry: Input, roots: dict[str, fx.Node]) -> fx.Node:
    """The node that stands for one input of the joint graph."""
    if entry.owned:
        shared = graph.create_node("get_attr", entry.name, name=entry.name)
        # The graph is its own derivative: autograd need not record it. (FX reads a buffer anew for every node that uses
        # it when it restores a pickled graph: here one node does.)
        return graph.create_node(
            "call_function", torch.ops.aten.detach.default, (shared,), name=f"{entry.name}_detached"
        )
    if entry.kind == "vector":
        return graph.create_node(
            "call_function",
            operator.getitem,
            (roots["vector"], entry.name.removeprefix("v.")),
            name=entry.name,
        )
    node = roots[entry.kind]
    for key in entry.path:
        node = graph.call_function(operator.getitem, (node, key))
    return node


def _results(names: Sequence[str], nodes: Sequence[fx.Node]) -> tuple[Any, ...]:
    """(loss, {name: gradient}, {name: product}, ...) from the flat outputs."""
    return (nodes[0], *grouped(names[1:], nodes[1:]).values())


def grouped(names: Sequence[str], nodes: Sequence[fx.Node]) -> dict[str, dict[str, fx.Node]]:
    """{"grad": {parameter: node}, "hvp": {parameter: node}, ...} from flat outputs."""
    groups: dict[str, dict[str, fx.Node]] = {}
    for name, node in zip(names, nodes, strict=True):
        kind, parameter = name.split(".", 1)
        groups.setdefault(kind, {})[parameter] = node
    return groups


class _Namer:
    """Names for FX nodes, from module paths and quantities."""

    def __init__(self, graph: fx.Graph) -> None:
        sources = {node.meta["quantity"][:2] for node in graph.nodes if "quantity" in node.meta}
        self._operations = Counter(module for module, _ in sources)

    def name(self, node: fx.Node) -> str:
        if "quantity" in node.meta:
            module, source, letter = node.meta["quantity"]
            if self._operations[module] == 1 or "site" in node.meta:
                parts = [node.meta.get("site") or module, letter]
            else:
                parts = [module, source, letter]
        else:
            target = node.target
            op = (
                target._opname
                if isinstance(target, torch._ops.OpOverload)
                else getattr(target, "__name__", "op")
            )
            parts = [node.meta.get("site") or node.meta.get("module") or "", node.meta.get("role") or "", op]
        return "_".join(part for part in parts if part).replace(".", "_")
