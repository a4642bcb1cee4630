"""Which values of a graph under construction never change, so that a runtime computes them once, when it loads."""

from __future__ import annotations

from ..builder import Builder


def is_constant(b: Builder, x: str) -> bool:
    """Whether `x` depends on initializers only (parameters as inputs are not constant)."""
    node = b.producer(x)
    if node is not None:
        return all(is_constant(b, name) for name in node.input if name)
    return any(tensor.name == x for tensor in b.initializers)
