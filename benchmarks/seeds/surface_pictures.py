"""The picture of `surface`: contours of the loss and of its quadratic models, and a cut through all three."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bnrewrite.report.canvas import COLOURS, LINES, NORMAL, SMALL, Panel, compose, finish
from bnrewrite.report.landscapes import contour_levels

from .networks import NETWORKS
from .surface import quadratic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Result = dict[str, Any]


def pictures(result: Result) -> dict[str, Figure]:
    """One figure, a row for each plane."""
    title = (
        f"Loss of {NETWORKS[result['network']].title} ({result['activation']}) along two random orthogonal "
        "directions, and its quadratic models"
    )
    panels = [_row(plane, title if number == 0 else "") for number, plane in enumerate(result["planes"])]
    return {"004_surface": compose(panels)}


def _row(plane: Result, title: str) -> Panel:
    bn = {"none": "no BatchNorm", "batch": "batch statistics"}[plane["norm"]]
    when = f"after {plane['epochs']} epochs" if plane["epochs"] else "random weights"
    tables = {
        "the loss": np.asarray(plane["losses"], dtype=float),
        "model from H": quadratic(plane, "H"),
        "model from G": quadratic(plane, "G"),
    }

    def draw(sheet: SubFigure) -> None:
        *planes, cut = sheet.subplots(1, 4, width_ratios=(1, 1, 1, 1.25))
        levels = _levels(tables)
        for axes, (name, table) in zip(planes, tables.items(), strict=True):
            _contours(axes, plane, table, levels)
            axes.set_title(name, fontsize=NORMAL, loc="left")
            finish(axes, "direction 1 (length)")
            axes.grid(visible=False)
        planes[0].set_ylabel(f"{bn},\n{when}\ndirection 2 (length)", fontsize=NORMAL)
        middle = len(plane["y"]) // 2
        for index, (name, table) in enumerate(tables.items()):
            cut.plot(
                plane["x"], table[middle], color=COLOURS[index], linestyle=LINES[index], linewidth=1.5, label=name
            )  # fmt: skip
        cut.set_title("cut along direction 1: loss", fontsize=NORMAL, loc="left")
        cut.legend(fontsize=SMALL)
        finish(cut, "direction 1 (length)")

    return Panel(title, draw, 2.35 + (0.25 if title else 0), 9.4)


def _levels(tables: Result) -> Any:
    """Levels of the loss, evenly spaced, and as many again on either side where the models reach there."""
    levels, _ = contour_levels(tables["the loss"])
    step = levels[1] - levels[0] if len(levels) > 1 else np.ptp(tables["the loss"]) or 1.0
    low, high = (f([f(table) for table in tables.values()]) for f in (np.min, np.max))
    below = [level for i in range(len(levels)) if (level := levels[0] - (i + 1) * step) > low]
    above = [level for i in range(len(levels)) if (level := levels[-1] + (i + 1) * step) < high]
    return np.array([*reversed(below), *levels, *above])


def _contours(axes: Axes, plane: Result, table: Any, levels: Any) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    shades = ListedColormap(colormaps["cividis"](np.linspace(0.38, 1.0, 256)))  # light enough for black lines
    losses = np.asarray(plane["losses"])
    axes.contourf(
        plane["x"], plane["y"], table, levels=levels, cmap=shades, extend="both", vmin=losses.min(), vmax=losses.max()
    )  # fmt: skip
    lines = axes.contour(plane["x"], plane["y"], table, levels=levels, colors="black", linewidths=0.6)
    axes.clabel(
        lines, levels[::2], fontsize=SMALL, fmt=lambda level: f"{level:.3g}", inline=True, inline_spacing=1
    )
    axes.plot([0], [0], marker="+", color="black", markersize=7, linestyle="none")
    axes.set_aspect("equal")
