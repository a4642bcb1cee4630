"""Whether tracing has taken the example's batch size for the only one.

Operations that PyTorch itself writes out may read a symbolic size as the number it was traced with. It shows in two
ways: the symbol has become a number, or a tensor of symbolic size is viewed as one of known size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

_VIEWS = frozenset({aten.view.default, aten._unsafe_view.default, aten.reshape.default})


def fixing_node(graph: fx.Graph) -> fx.Node | None:
    """The first node of `graph` that serves one batch size only; `None` where all sizes are as symbolic as before."""
    for node in graph.nodes:
        val = node.meta.get("val")
        if node.op == "placeholder" and isinstance(val, Tensor) and any(map(_has_become_a_number, val.shape)):
            return node
        if node.target in _VIEWS and not _symbolic(val) and _symbolic(node.args[0].meta.get("val")):
            return node
    return None


def _has_become_a_number(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and bool(size.node.expr.is_number)


def _symbolic(val: Any) -> bool:
    return isinstance(val, Tensor) and any(isinstance(size, torch.SymInt) for size in val.shape)
