"""Results computed in memory that the caller gives, where it gives some, rather than copied there afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from ..passes.graph import whole
from ..passes.simplify import same_shape
from . import products, winograd

aten = torch.ops.aten


def room_for(x: Tensor) -> Tensor:
    """Memory for a tensor like `x`, contiguous. On the CPU it is NumPy's, which asks the system for large pages: to
    fill 188 MB for the first time takes a quarter of what it takes in PyTorch's."""
    if x.device.type != "cpu":
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    return torch.from_numpy(np.empty(x.nbytes, np.uint8)).view(x.dtype).view(x.shape)


@whole
def product_into(out: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """The matrix product, in the memory of `out`, which is contiguous."""
    return torch.mm(a, b) if out is None else torch.mm(a, b, out=out.view(a.shape[0], b.shape[1]))


@whole
def sum_into(out: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """The sum of two tensors of one shape, in the memory of `out`, which is contiguous."""
    return torch.add(a, b) if out is None else torch.add(a, b, out=out.view(a.shape))


@whole
def copied_into(out: Tensor | None, x: Tensor) -> Tensor:
    """`x`, copied to `out`."""
    return x if out is None else out.copy_(x)


def computed_into(graph: fx.Graph, node: fx.Node, out: fx.Node) -> fx.Node:
    """Before: `out`, a tensor like `node` or None, stands in `graph` above all that `node` depends on, and nothing
    reads `node`. After: what returns its value, written into `out`."""
    made = node
    while made.target in _SAME_MEMORY and len(made.users) == (made is not node):
        made = made.args[0]  # type: ignore[assignment]
    into = _writer(made)
    if into is None or len(made.users) != (made is not node):
        return graph.call_function(copied_into, (out, node))
    with graph.inserting_before(made):
        written = graph.call_function(into, (out, *made.args))
    written.meta.update(made.meta)
    made.replace_all_uses_with(written)
    return written if made is node else node


def _writer(node: fx.Node) -> Any:
    if node.target is aten.mm.default:
        return product_into
    if node.target is products.product:
        return products.product_into
    if node.target is winograd.weight:
        return winograd.weight_into
    if node.target in (aten.add.Tensor, aten.add_.Tensor) and not node.kwargs and len(node.args) == 2:
        vals = [arg.meta.get("val") if isinstance(arg, fx.Node) else None for arg in node.args]
        if all(isinstance(val, Tensor) for val in vals) and same_shape(*vals):
            return sum_into
    return None


_SAME_MEMORY = frozenset(
    {aten.reshape.default, aten.view.default, aten.contiguous.default, aten.addmm_.default}
)
"""What hands on the memory of its first argument, where that is contiguous, and the elements in their order."""
