"""The table of `surface` for the page: how far the quadratic models hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from .pages import picture, table
from .surface import misfit

Result = dict[str, Any]

RADII = (0.2, 0.5, 1.0)
"""Parts of the extent of the plane."""


def parts(result: Result) -> dict[str, str]:
    """The picture and the table."""
    planes = result["planes"]
    radii = [part * planes[0]["x"][-1] for part in RADII]
    lines = []
    for plane in planes:
        bn = {"none": "no BatchNorm", "batch": "batch statistics"}[plane["norm"]]
        when = f"after {plane['epochs']} epochs" if plane["epochs"] else "random weights"
        bend = [f"{np.trace(plane[symbol]) / 2:.2g}" for symbol in ("H", "G")]
        errors = [f"{misfit(plane, symbol, radius):.2g}" for radius in radii for symbol in ("H", "G")]
        lines.append([f"{bn}, {when}", f"{plane['loss']:.3g}", *bend, *errors])
    columns = ["network", ">loss", ">mean v·Hv", ">mean v·Gv"]
    columns += [f">{symbol}, to {radius:g}" for radius in radii for symbol in ("H", "G")]
    words = (
        "Contours of the loss and of its quadratic models from H and G, and a cut, for four states of LeNet5."
    )
    return {"surface": f"{picture('004_surface.png', words)}\n\n{table(columns, lines)}"}
