"""The numbers that say how large R is beside H, from the results of `effect`: ratios of sizes, None where H is zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import Any

Result = dict[str, Any]
Ratio = float | None


def ratio(found: Result) -> Ratio:
    """|R| / |H| of two numbers."""
    return abs(found["R"] / found["H"]) if found["H"] else None


def layer_forms(point: Result) -> Ratio:
    """One layer along its own gradient, |g.Rg| / |g.Hg|: median over the layers that have any curvature."""
    found = [value for one in point["layers"]["gradient"] if (value := ratio(one)) is not None]
    return median(found) if found else None


def layer_blocks(point: Result) -> Ratio:
    """The diagonal blocks, one for each layer, all together: Frobenius norms."""
    diagonal = point["layers"]["diagonal"]
    return ratio({symbol: math.hypot(*sizes) for symbol, sizes in diagonal.items()})


MEASURES: dict[str, tuple[str, Callable[[Result], Ratio]]] = {
    "layer_forms": ("one layer,\nits gradient\n|g·Rg| / |g·Hg|", layer_forms),
    "layer_blocks": ("one layer,\nits block\n‖R‖ / ‖H‖", layer_blocks),
    "forms": ("all layers,\nthe gradient\n|g·Rg| / |g·Hg|", lambda point: ratio(point["gradient"])),
    "gradient": ("all layers,\nthe gradient\n‖Rg‖ / ‖Hg‖", lambda point: ratio(point["gradient"]["norms"])),
    "whole": ("all layers,\nwhole matrix\n‖R‖ / ‖H‖", lambda point: ratio(point["random"])),
}
"""Title, and the ratio at a point. ‖A‖ is the Frobenius norm, estimated by random directions."""


def values(points: list[Result], measure: str) -> list[float]:
    """The ratios of several points, without those that are undefined."""
    found = [MEASURES[measure][1](point) for point in points]
    return sorted(value for value in found if value is not None)


def in_words(found: list[float], digits: int = 2) -> str:
    """Median and range: 0.98 (0.95 to 1.1)."""
    if not found:
        return "-"
    low, middle, high = (f"{value:.{digits}g}" for value in (found[0], median(found), found[-1]))
    return middle if low == high else f"{middle} ({low} to {high})"
