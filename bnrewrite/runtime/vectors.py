"""One vector, two forms: a dict of arrays by parameter name, and all of them flat, one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Vector = NDArray[np.float64]
Parts = dict[str, NDArray[Any]]


class VectorSpace:
    """Names and shapes of the parameters, in the file's order; `size` is the dimension n of the Hessian (n, n)."""

    def __init__(self, shapes: Mapping[str, Iterable[int]]) -> None:
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.slices: dict[str, slice] = {}
        start = 0
        for name, shape in self.shapes.items():
            self.slices[name] = slice(start, start + math.prod(shape))
            start += math.prod(shape)
        self.size = start

    def flatten(self, parts: Mapping[str, Any]) -> Vector:
        """A dict of arrays as one float64 vector (n,)."""
        checked = self.checked(parts)
        return np.concatenate([checked[name].reshape(-1) for name in self.shapes]).astype(
            np.float64, copy=False
        )

    def unflatten(self, flat: Any) -> Parts:
        """A vector (n,) as a dict of arrays that share its memory."""
        vector = as_array(flat)
        if vector.shape != (self.size,):
            raise InputError(
                f"v has shape {list(vector.shape)}, but the {len(self.shapes)} parameters of the file have {self.size} "
                f"entries: give a flat vector of shape [{self.size}] or a dict by parameter name."
            )
        _check_real("v", vector)
        return {name: vector[part].reshape(self.shapes[name]) for name, part in self.slices.items()}

    def checked(self, parts: Mapping[str, Any]) -> Parts:
        """`parts` as arrays, after a look at names, shapes, types and values."""
        missing = [name for name in self.shapes if name not in parts]
        surplus = [name for name in parts if name not in self.shapes]
        if missing:
            raise InputError(f"v has no entry for {listed(missing)}: give one array for each parameter.")
        if surplus:
            raise InputError(f"v has entries that the file does not know: {listed(surplus)}.")
        arrays = {name: as_array(parts[name]) for name in self.shapes}
        for name, array in arrays.items():
            if array.shape != self.shapes[name]:
                raise InputError(
                    f"v['{name}'] has shape {list(array.shape)}, the file has {list(self.shapes[name])}."
                )
            _check_real(f"v['{name}']", array)
        return arrays


def as_array(value: Any) -> NDArray[Any]:
    """Anything array-like as a NumPy array; tensors of torch, also those that require grad, without importing it."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def _check_real(name: str, array: NDArray[Any]) -> None:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} must hold real numbers, not {array.dtype}.")
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinity.")


def listed(names: list[str]) -> str:
    """The first three names in quotes, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
