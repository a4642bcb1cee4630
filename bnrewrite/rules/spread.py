"""From a reduced tensor back to the shape of what was reduced. A missing or empty `dim` means all axes."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def axes_of(x: Tensor, dim: Any) -> list[int]:
    """The axes, counted from the front, that a reduction along `dim` takes away."""
    if dim is None or (isinstance(dim, (list, tuple)) and len(dim) == 0):
        return list(range(x.dim()))
    dims = dim if isinstance(dim, (list, tuple)) else [dim]
    return [d % x.dim() if x.dim() else 0 for d in dims] if x.dim() else []


def count(x: Tensor, dim: Any) -> Any:
    """How many elements one result gathers; symbolic where an axis is."""
    n: Any = 1
    for axis in axes_of(x, dim):
        n = n * x.shape[axis]
    return n


def restore(y_bar: Tensor, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
    """`y_bar` with the axes that were taken away as axes of one element: it broadcasts against x."""
    if keepdim:
        return y_bar
    for axis in sorted(axes_of(x, dim)):
        y_bar = y_bar.unsqueeze(axis)
    return y_bar


def spread(y_bar: Tensor, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
    """Adjoint of a sum."""
    x_bar = restore(y_bar, x, dim, keepdim).expand(x.shape)
    return x_bar if x_bar.dtype == x.dtype else x_bar.to(x.dtype)
