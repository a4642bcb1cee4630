"""Values that all samples share: how a sum over samples stays a sum, up to the loss.

A reduction over samples makes a value that belongs to no sample. It is `"linear"` while it is a sum of one term for
each sample, with factors that depend on targets and constants only, and `"nonlinear"` from the first operation that
makes it anything else: the square root of a mean, the maximum over samples, a product of two means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from . import moves
from .axes import LOSSES
from .layout import pattern
from .spans import Call, Operand

Aggregate = Literal["linear", "nonlinear"]

ADDITIVE = frozenset(
    {"add", "sub", "rsub", "neg", "sum", "mean", "clone", "_to_copy", "to", "where", "nansum"}
)
"""Linear in all operands at once, as moving elements is."""

PRODUCTS = frozenset({"mul", "div", "dot", "mv", "mm", "bmm"})
"""Linear in the first operand, and in any one of a product's."""

SUMS = frozenset({"sum", "mean", "nansum"}) | LOSSES


def stays_linear(call: Call, live: Sequence[Operand]) -> bool:
    """Whether the result is linear in the operands that depend on the model's outputs."""
    if call.name == "where" and any(operand is call["condition"] for operand in live):
        return False
    if call.name in ADDITIVE or call.name in moves.RULES:
        return True
    if call.name == "div" and any(operand is call["other"] for operand in live):
        return False
    return call.name in PRODUCTS and len(live) == 1


def reduces_linearly(call: Call, live: Sequence[Operand]) -> bool:
    """Whether a reduction over samples is a sum of one term for each of them."""
    if call.name in SUMS:
        return True
    if call.name not in PRODUCTS or call.name in ("mul", "div"):
        return False
    return len(live) == 1 or _pairs_samples(live)


def _pairs_samples(live: Sequence[Operand]) -> bool:
    """Whether a product of two sums over the samples themselves: a term for each, made of nothing but this one's."""
    found = [pattern(operand.owner) for operand in live]
    if len(live) != 2 or found[0] is None or found[1] is None:
        return False
    last, first = live[0].owner.dim() - 1, max(live[1].owner.dim() - 2, 0)
    return (found[0][0], found[1][0]) == (last, first) and torch.equal(found[0][1], found[1][1])
