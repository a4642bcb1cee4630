"""The loss over a plane through the parameters, as contours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .canvas import COLOURS, SMALL, Panel, finish
from .results import Array, Result, expect, is_partial, number, numbers, series, shown, source
from .scales import WIDE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure


def landscape_panel(landscape: Result) -> Panel | None:
    """Contours of the loss, or its curve where the plane is a line; None where the result has no losses."""
    expect(landscape, "landscape")
    if landscape.get("loss") is None:
        return None
    x, y, loss = grid(landscape)
    line = min(len(x), len(y)) == 1

    def draw(sheet: SubFigure) -> None:
        if line:
            _draw_line(sheet.subplots(), landscape, x, y, loss)
        else:
            _draw_plane(sheet, landscape, x, y, loss)

    kind = "along" if line else "over the plane of"
    names = "eigenvector" if landscape.get("directions") == "eigs" else "random direction"
    title = f"Loss {kind} {'one' if line else 'two'} {names}{'' if line else 's'}"
    return Panel(title, draw, 3.2 if line else 5.4, 6.6, is_partial(landscape))


def grid(landscape: Result) -> tuple[Array, Array, Array]:
    """x (columns), y (rows) and the loss (rows, columns); losses that are no number are NaN."""
    missing = [key for key in ("x", "y") if landscape.get(key) is None]
    if missing:
        raise InputError(f"the landscape of {source(landscape)} lacks {', '.join(map(repr, missing))}.")
    (x,), (y,) = series(landscape, "x"), series(landscape, "y")
    loss = numbers(landscape["loss"], "loss")
    if loss.shape != (len(y), len(x)) or not loss.size:
        raise InputError(
            f"the landscape of {source(landscape)} has losses of shape {list(loss.shape)}, but {len(y)} rows (y) "
            f"and {len(x)} columns (x)."
        )
    return x, y, np.where(np.isfinite(loss), loss, np.nan)


def direction(landscape: Result, index: int) -> str:
    """The name of an axis: direction 0 or 1."""
    if landscape.get("directions") != "eigs":
        return f"step along random direction {index + 1}"
    values = landscape.get("eigenvalues") or []
    name = f"step along eigenvector {index + 1}"
    return f"{name} (eigenvalue {shown(values[index])})" if index < len(values) else name


def _draw_plane(sheet: SubFigure, landscape: Result, x: Array, y: Array, loss: Array) -> None:
    from matplotlib.patches import Rectangle

    axes = sheet.subplots()
    finite = loss[np.isfinite(loss)]
    # Numbers that differ by rounding alone have no contours.
    if not len(finite) or np.ptp(finite) <= 1e-12 * np.abs(finite).max():
        _draw_flat(axes, x, y, finite)
    else:
        _draw_contours(sheet, axes, x, y, loss)
    _draw_centre(axes, landscape)
    if len(finite) < loss.size:
        axes.patch.set(facecolor="white", edgecolor="0.55", hatch="////")
        unknown = Rectangle((0, 0), 0, 0, facecolor="white", edgecolor="0.55", hatch="////", linewidth=0)
        unknown.set_label("no finite loss")
        axes.add_patch(unknown)
    axes.set_xlim(x.min(), x.max())
    axes.set_ylim(y.min(), y.max())
    if np.isclose(np.ptp(x), np.ptp(y)):
        axes.set_aspect("equal")
    finish(axes, direction(landscape, 0), direction(landscape, 1))
    axes.grid(visible=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", fontsize=SMALL)


def _draw_flat(axes: Axes, x: Array, y: Array, finite: Array) -> None:
    text = f"the loss is {shown(finite[0])} everywhere" if len(finite) else "no loss is finite"
    if len(finite):
        axes.set_facecolor("#f3e9b8")
    axes.text(
        0.5,
        0.62,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        bbox={"facecolor": "white", "edgecolor": "0.3"},
    )


def _draw_contours(sheet: SubFigure, axes: Axes, x: Array, y: Array, loss: Array) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm, ListedColormap

    levels, scale = contour_levels(loss)
    colours = ListedColormap(
        colormaps["cividis"](np.linspace(0.38, 1.0, 256))
    )  # light enough for black lines
    edges = np.concatenate([[min(np.nanmin(loss), levels[0])], levels, [max(np.nanmax(loss), levels[-1])]])
    edges = np.unique(edges)
    masked: Any = np.ma.masked_invalid(loss)
    filled = axes.contourf(x, y, masked, levels=edges, cmap=colours, norm=BoundaryNorm(edges, 256))
    lines = axes.contour(x, y, masked, levels=levels, colors="black", linewidths=0.8)
    axes.clabel(lines, fontsize=SMALL, fmt=lambda level: f"{level:.3g}", inline=True, inline_spacing=2)
    bar = sheet.colorbar(
        filled, ax=axes, shrink=0.85, spacing="uniform", ticks=edges, format=lambda v, _: f"{v:.3g}"
    )
    bar.set_label(f"loss ({scale})" if scale else "loss")
    bar.ax.tick_params(labelsize=SMALL)


def contour_levels(loss: Array) -> tuple[Array, str]:
    """Round levels inside the range of the loss: 1, 2, 5, 10, ... where it is wide, else evenly spaced."""
    from matplotlib.ticker import MaxNLocator

    low, high = float(np.nanmin(loss)), float(np.nanmax(loss))
    if low > 0 and high / low > WIDE:
        decades = np.log10(high / low)
        digits = [1.0, 2.0, 5.0] if decades < 5 else [1.0]
        powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)))
        found = np.sort(np.outer(digits, 10.0**powers).ravel())
        found = found[(found > low) & (found < high)]
        stride = int(np.ceil(len(found) / 14))
        return found[::stride], "levels evenly spaced in its logarithm" if digits == [
            1.0
        ] else "levels 1, 2, 5, 10, ..."
    levels = np.asarray(MaxNLocator(10).tick_values(low, high))
    levels = levels[(levels > low) & (levels < high)]
    return (levels if len(levels) else np.array([(low + high) / 2])), ""


def _draw_centre(axes: Axes, landscape: Result) -> None:
    centre = number(landscape.get("centre"))
    name = f"centre: loss {shown(centre)}" if np.isfinite(centre) else "centre"
    axes.plot(
        [0],
        [0],
        marker="P",
        markersize=9,
        markerfacecolor="white",
        markeredgecolor="black",
        linestyle="none",
        label=name,
    )


def _draw_line(axes: Axes, landscape: Result, x: Array, y: Array, loss: Array) -> None:
    along, index = (x, 0) if len(x) >= len(y) else (y, 1)
    values = loss.ravel()
    axes.plot(along, values, color=COLOURS[0], linewidth=1.5, marker="o", markersize=3)
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > WIDE:
        axes.set_yscale("log")
    centre = number(landscape.get("centre"))
    if np.isfinite(centre):
        axes.plot(
            [0], [centre], marker="P", markersize=9, markerfacecolor="white", markeredgecolor="black", linestyle="none",
            label=f"centre: loss {shown(centre)}",
        )  # fmt: skip
        axes.legend(loc="best", fontsize=SMALL)
    finish(axes, direction(landscape, index), "loss (log scale)" if axes.get_yscale() == "log" else "loss")
