"""Inverse and determinant: one matrix, a batch of them, a stack of batches."""

from __future__ import annotations

from typing import Any

import torch
from rule_harness import Case, Draw
from torch import Tensor

aten = torch.ops.aten


def far_from_singular(d: Draw, *shape: int) -> Tensor:
    """A strong diagonal, made of operations, so that it can be traced."""
    x = d.normal(*shape, 3, 3)
    return x + 4 * d.values([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]])


def of(*shape: int) -> Any:
    return lambda d: [far_from_singular(d, *shape)]


CASES = [
    Case(op, args, note)
    for op in (aten.linalg_inv.default, aten.linalg_det.default)
    for note, args in (
        ("batch", lambda d: [far_from_singular(d, d.N)]),
        ("one", of()),
        ("stack", lambda d: [far_from_singular(d, 2, d.N)]),
    )
]
