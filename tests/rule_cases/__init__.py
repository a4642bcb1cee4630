"""The rows of the rule tests, one file a family of operations."""

from __future__ import annotations

from . import (
    activation,
    arithmetic,
    attention,
    indexing,
    linalg,
    linear,
    loss,
    normalization,
    pointwise,
    pooling,
    reduction,
    shape,
)

CASES = [
    *linear.CASES,
    *linalg.CASES,
    *attention.CASES,
    *arithmetic.CASES,
    *pointwise.CASES,
    *activation.CASES,
    *shape.CASES,
    *indexing.CASES,
    *reduction.CASES,
    *pooling.CASES,
    *loss.CASES,
    *normalization.CASES,
]
