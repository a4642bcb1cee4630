"""Which weights the curvature says can go: Optimal Brain Damage.

LeCun, Denker and Solla 1990 expand the loss around a minimum to second order and keep the diagonal of the Hessian
alone: setting w_i to zero raises the loss by its saliency, w_i^2 H_ii / 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .plain import plain
from .vectors import VectorSpace, as_array, listed

Array = NDArray[np.float64]


def saliency(weights: Mapping[str, Any], diagonal: Mapping[str, Any]) -> dict[str, Array]:
    """w_i^2 H_ii / 2 for every weight, as float64 arrays in the shapes of `weights`.

    `diagonal` holds H_ii by the same names. Raises InputError for names, shapes or numbers that do not fit.
    """
    if different := sorted(set(weights) ^ set(diagonal)):
        raise InputError(f"weights and diagonal must have the same names: only one has {listed(different)}.")
    found = {}
    for name, value in weights.items():
        w, h = (as_array(entry).astype(np.float64) for entry in (value, diagonal[name]))
        if w.shape != h.shape:
            raise InputError(
                f"'{name}': weights have shape {list(w.shape)}, the diagonal has {list(h.shape)}."
            )
        if not (np.isfinite(w).all() and np.isfinite(h).all()):
            raise InputError(f"'{name}': weights or diagonal hold NaN or infinity.")
        found[name] = w**2 * h / 2
    return found


@dataclass(frozen=True)
class Pruning:
    """What remains when a share of all weights is set to zero.

    `masks`: true where a weight stays, so that `w * mask` is the pruned one. `threshold`: no saliency of a weight that
    went is larger in size, none of one that stays is smaller (0 where none went). `predicted_increase`: the sum of the
    saliencies of those that went, with their signs.
    """

    fraction: float
    threshold: float
    masks: dict[str, NDArray[np.bool_]]
    predicted_increase: float

    @property
    def pruned(self) -> dict[str, int]:
        """How many weights went, by name."""
        return {name: int(mask.size - np.count_nonzero(mask)) for name, mask in self.masks.items()}

    @property
    def shares(self) -> dict[str, float]:
        """Which share of each layer went, from 0 to 1."""
        return {name: count / max(self.masks[name].size, 1) for name, count in self.pruned.items()}

    def as_dict(self) -> dict[str, Any]:
        """For JSON: counts and shares, without the masks."""
        shares = self.shares
        rows = [
            {"name": name, "size": self.masks[name].size, "pruned": count, "share": shares[name]}
            for name, count in self.pruned.items()
        ]
        numbers = {key: getattr(self, key) for key in ("fraction", "threshold", "predicted_increase")}
        return plain({**numbers, "layers": rows})


def prune(saliencies: Mapping[str, Any], fraction: float) -> Pruning:
    """Set the weights of least saliency to zero, over all layers together.

    Exactly the whole number nearest to `fraction` of all weights goes; of equal saliencies, those that come first. A
    negative saliency (an estimate with an error, or a point that is no minimum) promises a gain that a diagonal model
    cannot keep: weights are ranked by the size of their saliency, whatever its sign. Raises InputError unless
    `fraction` is from 0 to 1.
    """
    number = isinstance(fraction, (int, float, np.number)) and not isinstance(fraction, bool)
    if not number or not 0 <= fraction <= 1:
        raise InputError(f"the fraction of weights to prune must be from 0 to 1, not {fraction!r}.")
    if not saliencies:
        raise InputError("there are no weights to prune.")
    space = VectorSpace({name: as_array(values).shape for name, values in saliencies.items()})
    signed = space.flatten(saliencies)
    count = round(Fraction(str(fraction)) * space.size)  # 0.15 of 100 is 15, not 14.999...
    stays, threshold = _all_but_least(np.abs(signed), count)
    masks = {name: stays[part].reshape(space.shapes[name]) for name, part in space.slices.items()}
    return Pruning(float(fraction), threshold, masks, float(signed[~stays].sum()))


def _all_but_least(sizes: Array, count: int) -> tuple[NDArray[np.bool_], float]:
    """A mask (n,) that is false for the `count` smallest entries, the first ones among equals; the largest of these."""
    if count == 0:
        return np.ones(sizes.shape, np.bool_), 0.0
    threshold = np.partition(sizes, count - 1)[count - 1]
    goes = sizes < threshold
    goes[np.flatnonzero(sizes == threshold)[: count - np.count_nonzero(goes)]] = True
    return ~goes, float(threshold)
