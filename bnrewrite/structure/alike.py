"""Whether an operation does the same to each sample: does it give the same when the samples come in another order?"""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import columns
from .seen import Seen

TOLERANCE = 1e-6
"""Relative difference, in float64, above which two samples were not treated alike: rounding, through many layers, stays
well below, and what depends on the place of a sample is of the size of the values themselves."""


def treats_alike(seen: Seen, order: Tensor, size: float = 0.0) -> bool:
    """Whether the value with the samples in the other order is the value, in that order, up to the rounding of values
    of its own size, or of `size`."""
    value, other = (part if part.is_complex() else part.double() for part in (seen.value, seen.reordered))
    size = max(size, size_of(value))
    if value.shape != other.shape:
        return False
    if not seen.owned:
        return _close(value, other, size)
    places = columns(seen.owner, len(order))
    if places is None:
        return False
    free = seen.owner == 0
    if bool(free.any()) and not _close(value[free], other[free], size):
        return False
    return _close(places(value)[order.to(value.device)], places(other), size)


def _close(a: Tensor, b: Tensor, size: float) -> bool:
    return torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * size, equal_nan=True)


def size_of(value: Tensor) -> float:
    """The largest finite entry."""
    sizes = value.abs().double() if value.dtype != torch.bool else value.double()
    return float(torch.nan_to_num(sizes, posinf=0.0).max()) if value.numel() else 0.0
