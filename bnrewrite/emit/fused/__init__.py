"""Element-wise operations and sums over channels between two convolutions as one C function (`fuse=True`).

Run one by one, these operations cost the memory that each reads and writes. Their closed forms are few and small: a
graph of a hundred BatchNorms has some dozen distinct ones whatever its sizes, which a C compiler takes seconds for.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ...passes.graph import JointGraph
from ..addresses import NAMES
from .c_source import overwritable
from .clusters import Grouping
from .kernel import Kernel
from .library import load
from .operations import channels_of
from .region import Placed, Region, is_image_step, region_of
from .schedule import scheduled

__all__ = ["Kernel", "Region", "fuse", "overwritable"]

KERNEL = "bnrewrite_kernel_"
"""Attribute names of the kernels' modules, with a number behind."""


def fuse(joint: JointGraph, reordered: bool) -> tuple[JointGraph, dict[str, Kernel]]:
    """A copy of `joint` that calls kernels, and these by name; `reordered`: images have their channels last."""
    groups = Grouping(joint.graph).found
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    kernels: dict[str, Kernel] = {}
    made: dict[Any, str] = {}
    for unit in scheduled(joint.graph, groups):
        if isinstance(unit, fx.Node):
            if unit.op == "output":
                graph.output(fx.map_arg(unit.args[0], copied.__getitem__))
                graph.output_node().meta = dict(unit.meta)
            else:
                copied[unit] = graph.node_copy(unit, copied.__getitem__)
            continue
        placed = region_of(unit)
        key, kernel = _kernel(unit, placed, reordered)
        if key not in made:
            made[key] = f"{KERNEL}{len(made)}"
            kernels[made[key]] = kernel
        call = graph.call_module(made[key], tuple(copied[node] for node in placed.inputs))
        for place, node in enumerate(placed.results):
            copied[node] = graph.call_function(operator.getitem, (call, place))
            copied[node].meta = dict(node.meta)
    load([(kernel.region, kernel.form, NAMES[_dtype(joint)]) for kernel in kernels.values()])
    return JointGraph(graph, joint.inputs, joint.outputs, joint.meta), kernels


def _dtype(joint: JointGraph) -> torch.dtype:
    vals = (node.meta.get("val") for node in joint.graph.nodes)
    return next((v.dtype for v in vals if isinstance(v, torch.Tensor) and v.dtype in NAMES), torch.float32)


def _kernel(nodes: list[fx.Node], placed: Placed, reordered: bool) -> tuple[Any, Kernel]:
    """The kernel of a region, and what tells it from others."""
    vals = [node.meta["val"] for node in placed.results]
    shapes = [None if is_image_step(n) else tuple(v.shape) for n, v in zip(placed.results, vals, strict=True)]
    images = [node.meta["val"] for node in placed.inputs[: placed.region.images]]
    rows = bool(images) and (images[0].dim() == 2 or (reordered and images[0].dim() == 4))
    channels = images[0].shape[1] if images else channels_of(nodes[0].meta["val"])
    assert channels is not None
    form: Any = "rows" if rows else "planes"
    plain = fx.GraphModule({}, _plain(nodes, placed))
    kernel = Kernel(placed.region, form, channels, shapes, plain)
    return (placed.region, form, channels, tuple(shapes), plain.code), kernel


def _plain(nodes: list[fx.Node], placed: Placed) -> fx.Graph:
    graph = fx.Graph()
    copied = {node: graph.placeholder(f"x{i}") for i, node in enumerate(placed.inputs)}
    for node in nodes:
        copied[node] = graph.node_copy(node, copied.__getitem__)
        copied[node].meta = {}
    graph.output(tuple(copied[node] for node in placed.results))
    return graph
