"""What one kernel computes, without names and sizes: two regions of the same steps are one kernel.

A region works on images (N, C, P), P being the places of an image, on what is spread over these places (N, C), and on
channels (C,). Its steps are element-wise on images, element-wise on channels, or totals of an image over N and P, which
are channels. A total stands between two *passes* over the images: what depends on it comes after the pass that sums it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from .operations import (
    EXPRESSIONS,
    FLOATS,
    RESHAPES,
    SPREADS,
    TOTALS,
    channels_of,
    frame_of,
    is_number,
    is_spread,
)

aten = torch.ops.aten

Kind = Literal["image", "spread", "channel", "number", "step", "literal"]


@dataclass(frozen=True)
class Ref:
    """An argument of a step: the input or step of this place, or a literal as written, which tells 0.0 from -0.0."""

    kind: Kind
    place: int = 0
    literal: str = ""


@dataclass(frozen=True)
class Step:
    """One operation. `total`: "sum" or "mean" over N and P of its only argument."""

    op: str
    args: tuple[Ref, ...]
    image: bool
    total: Literal["", "sum", "mean"] = ""


@dataclass(frozen=True)
class Region:
    """Counts of the inputs of each kind, the steps in order, and the steps that are results."""

    images: int
    spreads: int
    channels: int
    numbers: int
    steps: tuple[Step, ...]
    results: tuple[int, ...]

    def passes(self) -> list[int]:
        """For each step the pass in which an image is computed, or before which a channel is known."""
        found: list[int] = []
        for step in self.steps:
            before = max((found[ref.place] for ref in step.args if ref.kind == "step"), default=0)
            found.append(before + bool(step.total))
        return found


@dataclass(frozen=True)
class Placed:
    """A region with the nodes of a graph that are its inputs, kind by kind, and its results."""

    region: Region
    inputs: list[fx.Node]
    results: list[fx.Node]


def is_image_step(node: fx.Node) -> bool:
    """An element-wise operation of images of one frame with channels and numbers."""
    val: Any = node.meta.get("val")
    frame = frame_of(val)
    if frame is None or channels_of(val) is not None:
        return False
    if node.target in SPREADS:
        x: Any = node.args[0]
        return is_spread(x.meta.get("val"), val)
    if node.target not in EXPRESSIONS or not _plain(node):
        return False
    tensors: list[Any] = [arg for arg in node.args if not is_number(arg)]
    if not all(isinstance(arg, fx.Node) for arg in tensors):
        return False
    vals = [arg.meta.get("val") for arg in tensors]
    if any(not isinstance(v, Tensor) or v.dtype != val.dtype for v in vals):
        return False
    same = [frame_of(v) == frame for v in vals]
    return any(same) and all(
        ok or channels_of(v, val.dim()) == val.shape[1] or is_spread(v, val)
        for v, ok in zip(vals, same, strict=True)
    )


def is_total(node: fx.Node) -> bool:
    """A sum or mean of an image over all axes but the channels'."""
    if node.target not in TOTALS or node.kwargs.get("dtype") is not None:
        return False
    x: Any = node.args[0]
    val = x.meta.get("val")
    if frame_of(val) is None or channels_of(val) is not None or channels_of(node.meta["val"]) is None:
        return False
    axes: Any = node.args[1]
    return sorted(axis % val.dim() for axis in axes) == [0, *range(2, val.dim())]


def is_channel_step(node: fx.Node) -> bool:
    """An element-wise operation of channels and numbers, or channels in another shape."""
    val: Any = node.meta.get("val")
    count = channels_of(val)
    if count is None or val.dtype not in FLOATS:
        return False
    if node.target in RESHAPES:
        x: Any = node.args[0]
        return channels_of(x.meta.get("val")) == count
    if node.target not in EXPRESSIONS or not _plain(node):
        return False
    tensors: list[Any] = [arg for arg in node.args if not is_number(arg)]
    return bool(tensors) and all(
        isinstance(arg, fx.Node)
        and channels_of(arg.meta.get("val")) == count
        and arg.meta["val"].dtype == val.dtype
        for arg in tensors
    )


def _plain(node: fx.Node) -> bool:
    return not node.kwargs and len(node.args) == EXPRESSIONS[node.target].__code__.co_argcount


def region_of(nodes: Sequence[fx.Node]) -> Placed:
    """The region of `nodes`, which are in order."""
    inside = {node: i for i, node in enumerate(nodes)}
    inputs: dict[str, dict[fx.Node, int]] = {"image": {}, "spread": {}, "channel": {}, "number": {}}

    def ref(arg: Any, frame: Any) -> Ref:
        """An argument of a step on images like `frame`, or on channels if that is None."""
        if not isinstance(arg, fx.Node):
            return Ref("literal", literal=repr(float(arg)))
        if arg in inside:
            return Ref("step", inside[arg])
        val = arg.meta.get("val")
        kind: Kind = "channel"
        if is_number(arg):
            kind = "number"
        elif frame is not None and frame_of(val) == frame_of(frame):
            kind = "image"
        elif frame is not None and is_spread(val, frame):
            kind = "spread"
        return Ref(kind, inputs[kind].setdefault(arg, len(inputs[kind])))

    steps = []
    for node in nodes:
        image, total = is_image_step(node), is_total(node)
        only = total or node.target in RESHAPES or node.target in SPREADS
        args: Any = node.args[:1] if only else node.args
        if node.target in SPREADS:  # its sizes, for the region as a graph
            sizes: Any = node.args[1]
            for size in sizes:
                ref(size, None)
        frame = node.meta["val"] if image else args[0].meta["val"] if total else None
        kind: Any = "" if not total else "sum" if node.target is aten.sum.dim_IntList else "mean"
        steps.append(Step(str(node.target), tuple(ref(arg, frame) for arg in args), image, kind))
    results = [node for node in nodes if any(user not in inside for user in node.users)]
    images, spreads, channels, numbers = map(len, inputs.values())
    region = Region(images, spreads, channels, numbers, tuple(steps), tuple(inside[node] for node in results))
    return Placed(region, [node for kind in inputs.values() for node in kind], results)
