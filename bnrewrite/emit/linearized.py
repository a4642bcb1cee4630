"""The two parts of a linearized graph as GraphModules: `primal(input, target)` and `apply(residuals, v)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import InputError
from ..passes.graph import JointGraph
from .graph_module import CHECK, CheckCall, assemble, grouped


class CheckPoint(nn.Module):
    """The door of primal: says what is wrong with `input` or `target`; returns `input`."""

    def __init__(self, check: CheckCall) -> None:
        super().__init__()
        self.check = check

    def forward(self, input: Any, target: Any) -> Any:
        if not torch.compiler.is_compiling():
            self.check.check_batch({"input": input, "target": target})
            self.check.check_target(target)
        return input


class CheckApply(nn.Module):
    """The door of apply: says what is wrong with `residuals` or `v`; returns `v`.

    `shapes`: of each residual, with `None` for a size that differs from batch to batch.
    """

    def __init__(self, check: CheckCall, shapes: Sequence[Sequence[int | None]]) -> None:
        super().__init__()
        self.check, self.shapes = check, [list(shape) for shape in shapes]

    def forward(self, residuals: Any, v: Any) -> dict[str, Tensor]:
        if not torch.compiler.is_compiling():
            self._check_residuals(residuals)
            self.check.check_vector(v)
        return v

    def _check_residuals(self, residuals: Any) -> None:
        if not isinstance(residuals, (tuple, list)) or not all(isinstance(r, Tensor) for r in residuals):
            raise InputError("residuals must be the third result of primal, as it is.")
        if len(residuals) != len(self.shapes):
            raise InputError(
                f"residuals has {len(residuals)} tensors, but this graph takes {len(self.shapes)}: pass the third "
                "result of the primal that was made together with it."
            )
        for i, (residual, shape) in enumerate(zip(residuals, self.shapes, strict=True)):
            given = list(residual.shape)
            if len(given) != len(shape) or any(s not in (None, g) for s, g in zip(shape, given, strict=True)):
                raise InputError(
                    f"residual {i} has shape {given}, but this graph takes "
                    f"[{', '.join('any' if size is None else str(size) for size in shape)}]: pass the third result "
                    "of the primal that was made together with it."
                )


def build_primal(primal: JointGraph, check: CheckCall) -> fx.GraphModule:
    """`primal(input, target) -> (loss, grad, residuals)`; residuals is a tuple of tensors."""
    graph = fx.Graph()
    roots = {"input": graph.placeholder("input"), "target": graph.placeholder("target")}
    graph.call_module(CHECK, (roots["input"], roots["target"]))
    return assemble(primal, graph, roots, CheckPoint(check), _of_point)


def _of_point(names: Sequence[str], nodes: Sequence[fx.Node]) -> tuple[Any, ...]:
    groups = grouped(names[1:], nodes[1:])
    return nodes[0], groups["grad"], tuple(groups.get("residual", {}).values())


def build_output(primal: JointGraph, check: CheckCall) -> fx.GraphModule:
    """`primal(input, target) -> (output, residuals)` of a model without its loss; `target` is only checked."""
    graph = fx.Graph()
    roots = {"input": graph.placeholder("input"), "target": graph.placeholder("target")}
    graph.call_module(CHECK, (roots["input"], roots["target"]))
    return assemble(
        primal, graph, roots, CheckPoint(check), lambda names, nodes: (nodes[0], tuple(nodes[1:]))
    )


def build_apply(apply: JointGraph, check: CheckCall) -> fx.GraphModule:
    """`apply(residuals, v)` -> {parameter: product}, or a tuple of those where the graph has several products."""
    graph = fx.Graph()
    residuals, v = graph.placeholder("residuals"), graph.placeholder("v")
    roots = {"input": residuals, "vector": graph.call_module(CHECK, (residuals, v))}
    return assemble(apply, graph, roots, CheckApply(check, residual_shapes(apply)), _products)


def _products(names: Sequence[str], nodes: Sequence[fx.Node]) -> Any:
    products = tuple(grouped(names, nodes).values())
    return products[0] if len(products) == 1 else products


def residual_shapes(apply: JointGraph) -> list[list[int | None]]:
    """Of each residual, with `None` for a size that differs from batch to batch."""
    placeholders = (node for node in apply.graph.nodes if node.op == "placeholder")
    return [
        [size if isinstance(size, int) else None for size in node.meta["val"].shape]
        for node, entry in zip(placeholders, apply.inputs, strict=True)
        if entry.kind == "input"
    ]
