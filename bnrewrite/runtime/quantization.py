"""Quantized weights, and how much the curvature says that quantizing them costs (HAWQ-V2).

Uniform and symmetric: with b bits an entry is one of the 2^b - 1 multiples -L, ..., L of a scale, L = 2^(b-1) - 1, and
the scale of a channel is its largest absolute value divided by L.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .vectors import as_array, listed

Array = NDArray[Any]

MOST_BITS = 16
"""Beyond this the rounding of float32 itself is no longer small beside the step."""


def quantized(w: Any, bits: int, axis: int = 0) -> Array:
    """`w` with every entry moved to the nearest of 2^bits - 1 levels, in the shape and type of `w`.

    Every index of `axis` is a channel with a scale of its own (0: the outputs of a Linear or Conv layer). Vectors (a
    bias, the scale of a BatchNorm) and scalars have one scale in all: one for every entry would be the entry itself. A
    channel of zeros stays zero. Raises InputError unless `w` is real and finite and `bits` is from 2 to 16.
    """
    array = as_array(w)
    _check_bits(bits)
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise InputError("weights to be quantized must be finite floating point numbers.")
    if not -array.ndim <= axis < max(array.ndim, 1):
        raise InputError(f"there is no axis {axis} in weights of shape {list(array.shape)}.")
    levels = 2 ** (bits - 1) - 1
    values = array.astype(np.float64)
    if array.ndim > 1:
        others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
        largest = np.abs(values).max(axis=others, keepdims=True, initial=0.0)
    else:
        largest = np.abs(values).max(initial=0.0, keepdims=True)
    # As shares of the largest entry: its quotient by L may underflow, and no share exceeds 1, so nothing needs a clip.
    share = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
    return (np.rint(share * levels) / levels * largest).astype(array.dtype)


def squared_error(w: Any, bits: int, axis: int = 0) -> float:
    """||Q(w) - w||^2 for Q = `quantized`, in float64."""
    values = as_array(w)
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
    return float(np.sum((quantized(values, bits, axis) - values) ** 2))


def scores(
    mean_traces: Mapping[str, float], weights: Mapping[str, Any], bits: Iterable[int] = (2, 4, 8)
) -> dict[str, dict[int, float]]:
    """For every layer of `weights` and every width: its average Hessian trace times ||Q(w) - w||^2.

    This is Omega_i of Dong, Yao, Arfeen, Gholami, Mahoney and Keutzer 2020, "HAWQ-V2: Hessian Aware trace-Weighted
    Quantization of Neural Networks": in a quadratic model of the loss at a minimum, errors that are spread evenly over
    the eigenvectors raise it by half as much.

    `mean_traces` are traces per entry (`LayerTraces.means`). Away from a minimum they may be negative, and so are the
    scores then: the table shows what was measured. Such a score promises no gain, for the model does not hold as far
    as that; `assign` goes by its size. Raises InputError for layers without a trace.
    """
    widths = list(bits)
    if missing := [name for name in weights if name not in mean_traces]:
        raise InputError(f"there is no average trace for {listed(missing)}.")
    for name in weights:
        if not np.isfinite(mean_traces[name]):
            raise InputError(f"the average trace of '{name}' is {mean_traces[name]}.")
    return {
        name: {width: float(mean_traces[name]) * squared_error(w, width) for width in widths}
        for name, w in weights.items()
    }


def _check_bits(bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 2 <= bits <= MOST_BITS:
        raise InputError(f"bits must be a whole number from 2 to {MOST_BITS}, not {bits!r}.")
