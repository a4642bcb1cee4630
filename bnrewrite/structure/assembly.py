"""The report of a walk: which operations are to blame, and what follows from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx, nn

from ..losses import Loss
from ..passes.graph import CapturedGraph
from ..sources.part import Part
from .quantities import LossStructure, quantities
from .report import Mixing, NodeStructure, StructureReport
from .seen import Judged, Seen
from .spans import name_of
from .walk import Walk


def assemble(
    model: nn.Module,
    captured: CapturedGraph,
    walk: Walk,
    loss: Seen,
    chosen: list[str],
    name: str,
    split: bool,
) -> StructureReport:
    blamed = _blamed(walk, loss)
    mixing = [_mixing(model, judged, why, walk) for judged, why in blamed]
    unlike = [_mixing(model, judged, "position", walk) for judged in walk.judged if judged.unlike]
    linear = not loss.owned and loss.aggregate == "linear"
    in_loss = [entry for entry in mixing if entry.in_loss or not split]
    structure: LossStructure = "none"
    if linear:
        structure = "reduction" if in_loss else "simd+reduction"
    in_model = [entry for entry in mixing if not entry.in_loss]
    reached = _reached(captured, chosen)
    cheap = not any(judged.node in reached for judged, _ in blamed)
    return StructureReport(
        model=str(getattr(model, "original_name", type(model).__name__)),
        loss=name,
        samples=walk.samples,
        model_simd=not in_model and walk.in_place and not any(not entry.in_loss for entry in unlike),
        loss_structure=structure,
        mixing=mixing,
        unlike=unlike,
        nodes=[_node(judged, walk) for judged in walk.judged],
        quantities=quantities(
            model_mixes=[entry.name for entry in in_model],
            structure=structure,
            loss_mixes=[entry.name for entry in mixing if entry.in_loss],
            split=split,
            cheap=cheap,
            target_factor=loss.target_factor,
        ),
        target_factor=loss.target_factor,
    )


def _blamed(walk: Walk, loss: Seen) -> list[tuple[Judged, str]]:
    """The operations that mix, each with how."""
    found: list[tuple[Judged, str]] = []
    for judged in walk.judged:
        if judged.kind == "mixes":
            site = judged.node.meta.get("site") is not None
            found.append((judged, "batch statistics" if site else "samples"))
        elif judged.node in loss.breaks or judged.node in walk.fed_back:
            found.append((judged, "reduction" if judged.kind == "reduces" else "nonlinear"))
        elif judged.node in walk.displaced:
            found.append((judged, "order"))
    return found


def _mixing(model: nn.Module, judged: Judged, how: str, walk: Walk) -> Mixing:
    node = judged.node
    module = node.meta.get("module") or ""
    inside = node in walk.in_loss
    kind = "" if inside else _class_of(model, node, module)
    return Mixing(
        module=module,
        operation=name_of(node.target),
        kind=kind,
        where=node.meta.get("where") or "",
        in_loss=inside,
        how=how if judged.decided != "assumed" else "not proved otherwise",
        node=node.name,
    )


def _class_of(model: nn.Module, node: fx.Node, path: str) -> str:
    """The class of the module at `path`, as far as the source of the model still knows it."""
    try:
        module = model.get_submodule(path)
    except AttributeError:  # a graph that keeps the paths of its modules, but not the modules
        module = Part()
    if isinstance(module, Part):
        return "BatchNorm" if "site" in node.meta else ""
    return str(getattr(module, "original_name", type(module).__name__))


def located(report: StructureReport, loss: Loss) -> StructureReport:
    """With the place where a plain function is defined for what ran in it: the tracer keeps lines of modules only."""
    code = getattr(loss, "__code__", None)
    if code is None:
        return report
    line = f"{code.co_filename}:{code.co_firstlineno}"

    def placed(entries: list[Any]) -> list[Any]:
        return [replace(e, where=line) if e.in_loss and not e.where else e for e in entries]

    return replace(
        report, mixing=placed(report.mixing), unlike=placed(report.unlike), nodes=placed(report.nodes)
    )


def _node(judged: Judged, walk: Walk) -> NodeStructure:
    node = judged.node
    return NodeStructure(
        name=node.name,
        module=node.meta.get("module") or "",
        operation=name_of(node.target),
        where=node.meta.get("where") or "",
        in_loss=node in walk.in_loss,
        kind=judged.kind,
        batch=judged.layout,
        decided=judged.decided,
    )


def _reached(captured: CapturedGraph, chosen: list[str]) -> set[fx.Node]:
    """The nodes that depend on what is differentiated by."""
    placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
    start = {n for n, entry in zip(placeholders, captured.inputs, strict=True) if entry.name in chosen}
    for node in captured.graph.nodes:
        if any(source in start for source in node.all_input_nodes):
            start.add(node)
    return start
