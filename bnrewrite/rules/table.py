"""The rule table: every ATen overload that has a hand-written rule."""

from __future__ import annotations

from ..passes.rule import RuleTable
from . import (
    activation,
    arithmetic,
    attention,
    batch_norm,
    convolution,
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

RULES: RuleTable = {
    **batch_norm.RULES,
    **normalization.RULES,
    **convolution.RULES,
    **linear.RULES,
    **linalg.RULES,
    **attention.RULES,
    **arithmetic.RULES,
    **pointwise.RULES,
    **activation.RULES,
    **shape.RULES,
    **indexing.RULES,
    **reduction.RULES,
    **pooling.RULES,
    **loss.RULES,
}
