"""NumPy arrays and torch tensors through one set of functions: which library, and whether arguments fit together.

torch is never imported here: where an argument is a tensor, it has been imported already.
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError

Array = TypeVar("Array")
"""A NumPy array or a torch tensor, float32 or float64: what goes in comes out."""

TYPES = ("float32", "float64")


def library(x: Any) -> Any:
    """The module `numpy` or `torch`, whichever `x` is an array of; `None` if it is neither."""
    if type(x) in (np.ndarray, np.memmap):  # not np.matrix, whose * is another product
        return np
    other = sys.modules.get("torch")
    return other if other is not None and isinstance(x, other.Tensor) else None


def _described(x: Any) -> str:
    found = library(x)
    if found is None:
        return f"of type {type(x).__name__}"
    kind = "NumPy array" if found is np else "torch tensor"
    place = "" if str(x.device) == "cpu" else f" on {x.device}"
    return f"a {kind} of {str(x.dtype).removeprefix('torch.')}{place}"


def check_matrix(name: str, x: Any, shape: str) -> None:
    """`x` is a floating matrix with at least one row; `shape` says of what, for the message."""
    if library(x) is None or str(x.dtype).removeprefix("torch.") not in TYPES:
        raise InputError(
            f"{name} is {_described(x)}: give a NumPy array or a torch tensor of {' or '.join(TYPES)}."
        )
    if x.ndim != 2 or x.shape[0] == 0:
        raise InputError(f"{name} has the shape {tuple(x.shape)}: it must be {shape}, with at least one row.")


def check_alike(name: str, value: Any, shape: tuple[int, ...], like_name: str, like: Any) -> None:
    """`value` is an array of that shape, of the library, type and device of `like`."""
    if library(value) is not library(like) or (value.dtype, value.device) != (like.dtype, like.device):
        raise InputError(
            f"{name} is {_described(value)}: {like_name} is {_described(like)}, give both alike."
        )
    if tuple(value.shape) != shape:
        raise InputError(
            f"{name} has the shape {tuple(value.shape)}: it must be {shape}, as {like_name} is {tuple(like.shape)}."
        )


def check_eps(name: str, x: Any, eps: Any) -> float:
    """eps as a plain number, which leaves float32 alone; with eps = 0 every column of `x` must vary.

    The values of tensors are not looked at, which would wait for their device: a constant column gives NaN there.
    """
    if (
        not isinstance(eps, (int, float, np.integer, np.floating))
        or isinstance(eps, bool)
        or not 0 <= eps < np.inf
    ):
        raise InputError(f"eps is {eps!r}: give a finite number that is not negative.")
    if eps == 0 and x.shape[0] == 1:
        raise InputError(
            f"{name} has one row, so its variance is zero, and eps is 0: give more rows or eps > 0."
        )
    if eps == 0 and library(x) is np:
        constant = (x == x[0]).all(axis=0)
        if constant.any():
            raise InputError(f"column {constant.argmax()} of {name} is constant and eps is 0: give eps > 0.")
    return float(eps)
