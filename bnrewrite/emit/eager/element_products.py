"""a b + c as one operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ...passes.graph import val
from ...passes.pipeline import Pass
from ...passes.simplify import same_shape

aten = torch.ops.aten


class FuseProducts(Pass):
    """Before: a functional graph. After: a b + c, for c of the shape of the result, is one operation."""

    def __call__(self, graph: fx.Graph) -> None:
        for node in list(graph.nodes):
            if node.target not in (aten.add.Tensor, aten.sub.Tensor) or node.kwargs or len(node.args) > 2:
                continue
            c, product = node.args
            if node.target is aten.add.Tensor and not _is_term(product, c, node):
                c, product = product, c
            if _is_term(product, c, node):
                node.kwargs = {} if node.target is aten.add.Tensor else {"value": -1}
                node.target, node.args = aten.addcmul.default, (c, *product.args)
                graph.erase_node(product)


def _is_term(product: Any, c: Any, total: fx.Node) -> bool:
    """Whether `product` is a b, read by `total` alone, and all that goes into a b + c is of the type of `total`."""
    if not isinstance(product, fx.Node) or product.target is not aten.mul.Tensor or product is c:
        return False
    if len(product.users) > 1:
        return False
    parts = (c, *product.args)
    return (
        all(isinstance(x, fx.Node) and isinstance(val(x), Tensor) for x in parts)
        and all(val(x).dtype == val(total).dtype for x in parts)
        and same_shape(val(c), val(total))
    )
