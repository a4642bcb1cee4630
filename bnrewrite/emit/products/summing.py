"""The pass that puts matrix products, and sums of them, into a graph."""

from __future__ import annotations

import math

import torch
from torch import fx

from ...passes.graph import val
from ...passes.pipeline import Pass
from ...passes.simplify import same_shape, size_of
from ..added import added
from ..addresses import NAMES
from .functions import library, product

aten = torch.ops.aten

LARGE = 1 << 22
"""Multiplications from which a product is worth the call."""

MANY_COLUMNS = 256
"""With fewer, columns that do not fill their last panel of 32 cost more than MKL does without panels."""

Term = tuple[fx.Node, fx.Node]


class SumProducts(Pass):
    """Before: a functional graph. After: its large matrix products are calls of `product`; two that are added and read
    by nothing else are one."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def __call__(self, graph: fx.Graph) -> None:
        found: dict[fx.Node, list[Term]] = {node: [node.args] for node in graph.nodes if self._is_large(node)}
        for node, a, b in added(graph, found):
            if all(same_shape(val(p), val(q)) for p, q in zip(found[a][0], found[b][0], strict=True)):
                found[node] = found.pop(a) + found.pop(b)
                node.args = ()
                graph.erase_node(a)
                graph.erase_node(b)
        for node, terms in found.items():
            left, right = (list(factors) for factors in zip(*terms, strict=True))
            node.target, node.args = product, (left, right)
        for dtype in {val(node).dtype for node in found}:
            library(NAMES[dtype])

    def _is_large(self, node: fx.Node) -> bool:
        if node.target is not aten.mm.default or val(node).dtype not in NAMES:
            return False
        a, b = node.args
        sizes = [size_of(val(matrix), self.batch) for matrix in (a, b, node)]  # M D, D N, M N
        columns = math.isqrt(sizes[1] * sizes[2] // sizes[0]) if sizes[0] else 0
        return math.prod(sizes) >= LARGE**2 and (columns % 32 == 0 or columns >= MANY_COLUMNS)
