"""Scales for values that span decades and may be zero or negative."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .results import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 30.0
"""Values whose sizes differ by more than this go on a logarithmic scale."""

MOST = 1e7


def scale_x(axes: Axes, values: Array, most: float = MOST) -> str:
    """Choose the x scale that shows all of `values` and set its limits; returns its name for the axis label.

    Where sizes differ by more than `most`, the smallest are noise beside the largest: they end up in the linear
    middle of a symlog scale.
    """
    finite = values[np.isfinite(values)]
    sizes = np.abs(finite[finite != 0])
    if not len(sizes):
        axes.set_xlim(0, 1)
        return ""
    low, high = float(finite.min()), float(finite.max())
    if sizes.max() / sizes.min() <= WIDE:
        span = max(high, 0.0) - min(low, 0.0)
        axes.set_xlim(
            min(low, 0.0) - (0.05 * span if low < 0 else 0), max(high, 0.0) + (0.05 * span if high > 0 else 0)
        )
        return ""
    if low > 0 and high / low < most:
        axes.set_xscale("log")
        axes.set_xlim(10 ** np.floor(np.log10(low) - 0.15), high * 2)
        return "log scale"
    linear = 10 ** np.floor(np.log10(max(sizes.min(), sizes.max() / (most / 10))))
    axes.set_xscale("symlog", linthresh=linear, linscale=0.6)
    axes.set_xlim(3 * low if low < 0 else 0.0, 3 * high if high > 0 else 0.0)
    axes.set_xticks(_ticks(linear, low, high))
    axes.set_xticks([], minor=True)
    return f"log scale, linear within ±{linear:g}" if low < 0 else f"log scale, linear up to {linear:g}"


def _ticks(linear: float, low: float, high: float) -> list[float]:
    """Zero and powers of ten on both sides, at most four a side, so that their labels keep apart."""
    ticks = [0.0]
    first = round(np.log10(linear))
    for sign, end in ((-1.0, -low), (1.0, high)):
        if end < linear:
            continue
        last = int(np.floor(np.log10(end)))
        step = (last - first) // 4 + 1
        ticks += [sign * 10.0**power for power in range(last, first - 1, -step)]
    return sorted(ticks)
