"""The rows of the ONNX operator tests, one file a family: every operation in the forms that tracing produces."""

from __future__ import annotations

from . import (
    activation,
    arithmetic,
    creation,
    decomposed,
    elementary,
    indexing,
    linear,
    logic,
    padding,
    reduction,
    shape,
)

CASES = [
    *activation.CASES,
    *arithmetic.CASES,
    *creation.CASES,
    *decomposed.CASES,
    *elementary.CASES,
    *indexing.CASES,
    *linear.CASES,
    *logic.CASES,
    *padding.CASES,
    *reduction.CASES,
    *shape.CASES,
]
