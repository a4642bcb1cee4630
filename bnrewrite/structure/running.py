"""One operation of the graph, run on numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..rules.batch_norm import OVERLOAD

aten = torch.ops.aten

TRAINING = 5
"""Position of `training` among the arguments of `aten.batch_norm`."""


def runnable(op: Any) -> Any:
    """The operation; for a view, which asks how its operand lies in memory, one that makes a copy if need be."""
    return aten.reshape.default if op in (aten.view.default, aten._unsafe_view.default) else op


def evaluate(op: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The operation in float64, whatever precision the graph asks for, without a trace in the model."""
    if op is OVERLOAD and args[TRAINING]:  # it would update the running statistics
        args = (*args[:3], None, None, *args[TRAINING:])
    wide = {torch.float32, torch.float16, torch.bfloat16}
    args, kwargs = pytree.tree_map_only(
        torch.dtype, lambda dtype: torch.float64 if dtype in wide else dtype, (args, kwargs)
    )
    with torch.no_grad():
        return op(*args, **kwargs)
