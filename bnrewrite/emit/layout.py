"""Which order of axes in memory a GraphModule computes images in.

With the channels last, a pointwise convolution is a matrix product of what lies in memory, sums over a channel are one
kernel, and depthwise convolutions are faster, as are those of 3 x 3 with `fuse=True`; other convolutions are slower
with the images and batches of ResNets (docs/performance.md has the figures). So a network in which most convolutions
are of the first kinds is computed with the channels last, whatever comes in. So is every network that is compiled where
its weights are on a GPU of NVIDIA's, whose matrix units take images in this order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..passes.graph import JointGraph
from .winograd import are_filters, is_tiled

aten = torch.ops.aten


def is_compiled(joint: JointGraph) -> bool:
    """Whether `fuse=True` asks for C."""
    return bool(joint.meta.get("fuse"))


def channels_last(joint: JointGraph) -> bool:
    """Whether most convolutions are depthwise or pointwise, or tiled, or on a GPU, on images with two axes."""
    tiled = is_compiled(joint)
    filters = [node for node in joint.graph.nodes if node.target is aten.convolution.default]
    faster = [
        n
        for n in filters
        if _is_depthwise(n) or _is_pointwise(n) or _is_on_cuda(n) or (tiled and is_tiled(n))
    ]
    return 2 * len(faster) > len(filters) > 0


def _is_depthwise(node: fx.Node) -> bool:
    args: Any = node.args
    shape = args[1].meta["val"].shape
    return len(shape) == 4 and args[8] > 1 and bool(shape[1] == 1)


def _is_pointwise(node: fx.Node) -> bool:
    args: Any = node.args
    shape = args[1].meta["val"].shape
    return len(shape) == 4 and args[8] == 1 and list(shape[2:]) == [1, 1]


def _is_on_cuda(node: fx.Node) -> bool:
    return is_image(node) and node.meta["val"].device.type == "cuda"


def is_image(node: fx.Node) -> bool:
    """Whether `node` is a tensor of four axes: images, or the weights of a convolution of them."""
    val = node.meta.get("val")
    return isinstance(val, torch.Tensor) and val.dim() == 4 and val.is_floating_point()


def is_read_in_order(node: fx.Node, tiled: bool) -> bool:
    """Whether the order of axes of `node`, a tensor that is not of the graph's own making, matters: an image of more
    than one pixel that anything reads but a matrix product, or, where these are `tiled`, a convolution that has it for
    its filters."""
    if not is_image(node) or list(node.meta["val"].shape[2:]) == [1, 1]:
        return False
    readers = [user for user in node.users if user.op != "output"]
    return not all(user.target in _ANY_ORDER or (tiled and are_filters(node, user)) for user in readers)


_ANY_ORDER = (aten.reshape.default, aten.view.default)


def ordered(graph: fx.Graph, node: fx.Node, order: torch.memory_format) -> fx.Node:
    """`node` in this order of axes; itself where it is so already."""
    found = graph.call_function(aten.contiguous.default, (node,), {"memory_format": order})
    found.meta.update(node.meta)
    return found
