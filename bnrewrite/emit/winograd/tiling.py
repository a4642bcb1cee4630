"""Which convolutions of a graph are computed by Winograd's filtering, and the pass that puts it there."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ...passes.graph import val
from ...passes.pipeline import Pass
from ...passes.simplify import same_shape
from ..added import added
from ..addresses import NAMES
from .functions import data, library, value, weight

aten = torch.ops.aten

FEW_CHANNELS = 32
"""With fewer, a tile is transformed for too few products: 64 images of 16 channels take 1 to 1.5 of PyTorch's time."""


def is_tiled(node: fx.Node) -> bool:
    """Whether `node`, a convolution or an adjoint of one, is one of filters of 3 x 3 with stride one."""
    args: Any = node.args
    if node.target is aten.convolution.default:
        w, geometry = args[1], args[3:9]
    elif node.target is aten.convolution_backward.default:
        w, geometry = args[2], args[4:10]
    else:
        return False
    stride, padding, dilation, transposed, _, groups = geometry
    shape = val(w).shape
    return (
        val(w).dtype in NAMES
        and list(shape[2:]) == [3, 3]
        and min(shape[:2]) >= FEW_CHANNELS
        and list(stride) == list(dilation) == [1, 1]
        and list(padding) in ([0, 0], [1, 1], [2, 2])
        and not transposed
        and groups == 1
    )


def are_filters(node: fx.Node, call: fx.Node) -> bool:
    """Whether `call`, before this pass or after it, reads `node` as its filters only, which lie as PyTorch has them."""
    args: Any = call.args
    if call.target in (value, data):
        return node in args[1] and node not in args[0]
    place = 1 if call.target is aten.convolution.default else 2
    return is_tiled(call) and node is args[place] and node not in args[:place]


@dataclass(frozen=True)
class Sum:
    """Terms that one call of `function` adds up, and the bias that comes to a value."""

    function: Callable[..., Any]
    terms: tuple[tuple[fx.Node, fx.Node], ...]
    padding: int
    bias: fx.Node | None = None

    def joined(self, other: Sum) -> Sum | None:
        """Both in one call, if they are the same function of tensors of the same shapes."""
        alike = self.function is other.function and self.padding == other.padding
        pairs = zip(self.terms[0], other.terms[0], strict=True)
        if not alike or (self.bias and other.bias) or not all(same_shape(val(p), val(q)) for p, q in pairs):
            return None
        return Sum(self.function, self.terms + other.terms, self.padding, self.bias or other.bias)


class TileConvolutions(Pass):
    """Before: a functional graph whose images have their channels last. After: the convolutions that `is_tiled` names,
    and their adjoints, are calls of `value`, `data` and `weight`; two that are added and read by nothing else are one.
    """

    def __call__(self, graph: fx.Graph) -> None:
        found = {node: read for node in graph.nodes if (read := _read(node)) is not None}
        for node, a, b in added(graph, found):
            both = found[a].joined(found[b])
            if both is not None:
                found[node] = both
                del found[a], found[b]
        for node, read in found.items():
            _put(graph, node, read)
        graph.eliminate_dead_code()
        for dtype in {val(node).dtype for node in found}:
            library(NAMES[dtype])


def _read(node: fx.Node) -> Sum | None:
    """The convolution, or the adjoint, that is `node`."""
    args: Any = node.args
    if node.target is aten.convolution.default and is_tiled(node):
        return Sum(value, ((args[0], args[1]),), args[4][0], args[2])
    if node.target is not operator.getitem or not is_tiled(args[0]):
        return None
    y_bar, x, w, _, _, padding, *_, mask = args[0].args
    if args[0].target is not aten.convolution_backward.default:
        return None
    if list(mask) == [True, False, False]:
        return Sum(data, ((y_bar, w),), padding[0])
    if list(mask) == [False, True, False]:
        return Sum(weight, ((x, y_bar),), padding[0])
    return None


def _put(graph: fx.Graph, node: fx.Node, read: Sum) -> None:
    """The call in place of `node`."""
    first, second = (list(nodes) for nodes in zip(*read.terms, strict=True))
    with graph.inserting_before(node):
        call = graph.call_function(read.function, (first, second, read.padding))
        call.meta.update(node.meta)
        if read.bias is not None:
            column = graph.call_function(aten.reshape.default, (read.bias, [1, -1, 1, 1]))
            column.meta["val"] = val(read.bias).reshape(1, -1, 1, 1)
            call.meta.pop("quantity", None)
            call = graph.call_function(aten.add.Tensor, (call, column))
            call.meta.update(node.meta)
    node.replace_all_uses_with(call)
