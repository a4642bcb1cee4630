"""The tables of `start` for the page: curvature of the layers at the start, and losses at the end."""

from __future__ import annotations

from typing import Any

import numpy as np

from .pages import picture, table
from .start_pictures import NAMED, ends

Result = dict[str, Any]


def parts(result: Result) -> dict[str, str]:
    """The picture and both tables."""
    words = "Loss over the steps from seven initial weights, and the loss at the end over the step size."
    return {
        "start": f"{picture('004_start.png', words)}\n\n{losses(result)}",
        "start_curvature": curvature(result),
    }


def losses(result: Result) -> str:
    """After the last step, over the seeds: at the source's step size, and at the best of each."""
    lines = []
    for activation, found in result["activations"].items():
        for name, row in found["rows"].items():
            loss, right = ends(row), np.mean(row["accuracy"], axis=1)
            best = int(np.argmin(loss))
            lines.append(
                [
                    activation, NAMED.get(name, name), spread(row, 0), f"{right[0]:.1%}",
                    f"{result['rates'][best]:g}", spread(row, best), f"{right[best]:.1%}",
                ]
            )  # fmt: skip
    first = result["rates"][0]
    columns = (
        "activation", "initial weights", f">loss, step size {first:g}", ">held-out digits right", ">best step size",
        ">loss", ">held-out digits right",
    )  # fmt: skip
    return table(columns, lines)


def spread(row: Result, rate: int) -> str:
    """Loss after the last step: mean and range over the seeds."""
    found = [run[-1] for run in row["loss"][rate]]
    return f"{np.mean(found):.2g} ({min(found):.2g} to {max(found):.2g})"


def curvature(result: Result) -> str:
    """By layer, median over the seeds."""

    def three(values: Any) -> str:
        return ", ".join(f"{value:.2g}" for value in np.median(np.array(values), axis=0))

    keys = ("deviation", "along_gradient", "mean", "top")
    lines = [
        [activation, NAMED.get(name, name), *(three(row[key]) for key in keys)]
        for activation, found in result["activations"].items()
        for name, row in found["rows"].items()
    ]  # fmt: skip
    columns = (
        "activation", "initial weights", "standard deviation of the weights", "g·Hg / g·g of the layer",
        "trace(G) / n of its block", "largest eigenvalue of its block of G",
    )  # fmt: skip
    return table(columns, lines)
