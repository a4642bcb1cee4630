"""Where the batch lies in a tensor, read off its owners."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NOWHERE = 2**62
"""Place of the first element of a sample that has none."""


def pattern(owner: Tensor) -> tuple[int, Tensor] | None:
    """The one axis along which owners vary, and the owners along it; None if there is no such axis. Elements that no
    sample enters may stand anywhere."""
    free = owner == 0
    for axis in range(owner.dim()):
        others = [a for a in range(owner.dim()) if a != axis]
        along = owner.amax(others, keepdim=True) if others else owner
        if bool(((owner == along) | free).all()):
            return axis, along.flatten()
    return None


def first_places(owner: Tensor, samples: int) -> Tensor:
    """For each sample 1 .. N the place of its first element, in row-major order, or along the only axis where owners
    vary; `NOWHERE` if it has none."""
    found = pattern(owner)
    flat = (owner.reshape(-1) if found is None else found[1]).long()
    places = torch.arange(flat.numel(), device=owner.device)
    first = torch.full((samples + 1,), NOWHERE, device=owner.device)
    return first.scatter_reduce(0, flat, places, "amin")[1:]


def in_order(owner: Tensor, samples: int) -> bool:
    """Whether the samples that are there begin one after the other, as they do in the model's inputs.

    Holds for every way to fold the batch: (N, C), (C, N), (K N,), (N K,). Broken by what moves samples to other places
    along the batch axis: roll, flip, a permutation.
    """
    first = first_places(owner, samples)
    there = first[first < NOWHERE]
    return bool((there.diff() > 0).all())


def by_place(owner: Tensor, samples: int) -> Tensor:
    """Owners numbered anew in the order in which they begin: the components of a model's output, by their place."""
    rank = first_places(owner, samples).argsort().argsort() + 1
    table = torch.cat([rank.new_zeros(1), rank]).to(owner.dtype)
    return table[owner.long()]


def columns(owner: Tensor, samples: int) -> Callable[[Tensor], Tensor] | None:
    """How to view a tensor as one row for each sample, elements in their order; None where some sample has more
    elements than another."""
    found = pattern(owner)
    if found is not None and bool(found[1].all()):
        axis, along = found
        if not _equally_often(along, samples):
            return None
        places = along.argsort(stable=True)
        return lambda value: value.movedim(axis, 0)[places].reshape(samples, -1)
    flat = owner.reshape(-1)
    if not _equally_often(flat[flat != 0], samples):
        return None
    entries = flat.argsort(stable=True)[int((flat == 0).sum()) :].view(samples, -1)
    return lambda value: value.reshape(-1)[entries]


def _equally_often(owners: Tensor, samples: int) -> bool:
    counts = torch.bincount(owners.long(), minlength=samples + 1)[1:]
    return int(counts.min()) == int(counts.max())


def describe(owner: Tensor, samples: int) -> str:
    """The layout in words: `""` (no sample enters), `"axis 0"`, `"axis 0 as N x 12"`, `"axis 1 as 3 x N"`, or
    `"spread"` over several axes or in another order."""
    if not bool(owner.any()):
        return ""
    found = pattern(owner)
    if found is None or not bool(found[1].all()):
        return "spread"
    axis, along = found
    order = torch.arange(1, samples + 1, device=owner.device).to(owner.dtype)
    folds, rest = divmod(len(along), samples)
    if rest == 0 and torch.equal(along, order.repeat_interleave(folds)):
        return f"axis {axis}" if folds == 1 else f"axis {axis} as N x {folds}"
    if rest == 0 and torch.equal(along, order.repeat(folds)):
        return f"axis {axis} as {folds} x N"
    return "spread"
