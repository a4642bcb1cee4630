"""Which operations of a graph go into one kernel.

Nodes are taken in their order. One joins the group of an operand, or one that reads an image that it reads, if both are
about images of one frame; so do two groups that meet in a node. What no group may do is wait for itself: no path may
lead out of it and back in. Paths over operations since its first one are looked for before it grows; the rare group
that waits for itself over earlier ones, through other groups, is taken apart in the end. And a group stays near: an
operation far down the graph, on the way back, is not computed on the way there, where its result would have to be kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from .. import products, winograd
from .operations import Frame, channels_of, frame_of
from .region import is_channel_step, is_image_step, is_total
from .schedule import acyclic

aten = torch.ops.aten

FAR = 6
"""So many convolutions and products between two operations keep them apart."""

MOST_IMAGES = 16
"""Images that one kernel reads."""


@dataclass(eq=False)
class Group:
    """Operations of one kernel; `frame`: of its images, if it has any yet."""

    channels: int
    frame: Frame | None
    nodes: dict[fx.Node, None] = field(default_factory=dict)
    images: set[fx.Node] = field(default_factory=set)
    first: int = 0
    heavy: int = 0
    """Convolutions and products before its last operation."""


class Grouping:
    """The groups of a graph, `found`, each of at least two operations."""

    def __init__(self, graph: fx.Graph) -> None:
        self.place = {node: i for i, node in enumerate(graph.nodes)}
        self.group: dict[fx.Node, Group] = {}
        self.readers: dict[fx.Node, Group] = {}
        heavy = 0
        for node in graph.nodes:
            if node.op != "call_function":
                continue
            frame, channels = _about(node)
            if channels is None:
                heavy += node.target in _HEAVY
                continue
            self._place(node, frame, channels, heavy)
        # A kernel that makes images asks those that it reads for their size.
        unique = (g for g in dict.fromkeys(self.group.values()) if g.frame is None or self._outside(g, ()))
        groups = [sorted(g.nodes, key=self.place.__getitem__) for g in unique if len(g.nodes) > 1]
        self.found = acyclic(graph, groups)

    def _place(self, node: fx.Node, frame: Frame | None, channels: int, heavy: int) -> None:
        images = set(_images(node))
        home: Group | None = None
        candidates = [self.group.get(source) for source in node.all_input_nodes]
        candidates += [self.readers.get(image) for image in images]
        for group in dict.fromkeys(candidates):
            if group is None or heavy - group.heavy > FAR or group.channels != channels:
                continue
            if None not in (frame, group.frame) and frame != group.frame:
                continue
            if len(self._outside(group, images)) > MOST_IMAGES:
                continue
            if self._waits(node.all_input_nodes, group, group.first):
                continue
            if home is None:
                home = group
            elif group is not home and self._may_merge(home, group, images):
                self._merge(home, group)
        if home is None:
            home = Group(channels, frame, first=self.place[node])
        home.nodes[node] = None
        home.frame = home.frame or frame
        home.images |= images
        home.heavy = heavy
        self.group[node] = home
        for image in images:
            self.readers[image] = home

    def _outside(self, group: Group, images: Iterable[fx.Node]) -> set[fx.Node]:
        return {image for image in {*group.images, *images} if image not in group.nodes}

    def _may_merge(self, home: Group, other: Group, images: set[fx.Node]) -> bool:
        if None not in (home.frame, other.frame) and home.frame != other.frame:
            return False
        if len(self._outside(home, {*other.images, *images}) - other.nodes.keys()) > MOST_IMAGES:
            return False
        first = min(home.first, other.first)
        both = (home, other), (other, home)
        return not any(
            self._waits((s for node in a.nodes for s in node.all_input_nodes if s not in b.nodes), b, first)
            for a, b in both
        )

    def _merge(self, home: Group, other: Group) -> None:
        home.nodes |= other.nodes
        home.images |= other.images
        home.frame = home.frame or other.frame
        home.first = min(home.first, other.first)
        for node in other.nodes:
            self.group[node] = home
        for image in other.images:
            if self.readers.get(image) is other:
                self.readers[image] = home

    def _waits(self, sources: Iterable[fx.Node], group: Group, first: int) -> bool:
        """Whether any of `sources` outside `group` depends on it, as groups are computed: whole."""
        todo = [source for source in sources if source not in group.nodes]
        seen: set[fx.Node] = set()
        while todo:
            node = todo.pop()
            if node in group.nodes:
                return True
            if node in seen:
                continue
            own = self.group.get(node)
            members = [node] if own is None else list(own.nodes)
            if max(self.place[member] for member in members) < first:
                continue
            seen.update(members)
            todo += [source for member in members for source in member.all_input_nodes if source not in seen]
        return False


_HEAVY = {
    aten.convolution.default,
    aten.convolution_backward.default,
    aten.mm.default,
    aten.addmm.default,
    *products.FUNCTIONS,
    *winograd.FUNCTIONS,
}


def _about(node: fx.Node) -> tuple[Frame | None, int | None]:
    """The frame and the channels of an operation that a kernel can have; (None, None) of any other."""
    val: Any = node.meta.get("val")
    if is_total(node):
        x: Any = node.args[0]
        return frame_of(x.meta["val"]), channels_of(val)
    if is_channel_step(node):
        return None, channels_of(val)
    if is_image_step(node):
        return frame_of(val), int(val.shape[1])
    return None, None


def _images(node: fx.Node) -> Iterator[fx.Node]:
    if is_channel_step(node):
        return
    args: Any = node.args
    frame = frame_of(args[0].meta["val"] if is_total(node) else node.meta["val"])
    for source in node.all_input_nodes:
        if frame_of(source.meta.get("val")) == frame:
            yield source
