"""What a node of a traced graph stands for."""

from __future__ import annotations

from typing import Any


def val(node: Any) -> Any:
    """The traced value of `node`: a tensor with symbolic sizes, or a size."""
    return node.meta.get("val")
