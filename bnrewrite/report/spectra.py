"""Spectra: the density of the eigenvalues with its band of errors, and single eigenvalues below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .canvas import COLOURS, LINES, MARKERS, NORMAL, SMALL, Panel, finish, plain
from .results import (
    Array,
    Result,
    expect,
    is_partial,
    number,
    numbers,
    part,
    residuals_of,
    series,
    shown,
    symbol,
    which_eigenvalues,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

Run = tuple[str, Result]

_NAMED = 25
"""Up to so many eigenvalues get their value written beside them."""


def spectrum_panel(curvature: Result) -> Panel | None:
    """The spectrum of one result; None where it has neither a density nor eigenvalues."""
    return _panel([("", curvature)], f"Spectrum of {symbol(curvature)}")


def comparison_panels(runs: Sequence[Run]) -> list[Panel]:
    """Several spectra in one picture; below each other where one would be too narrow to be seen beside another."""
    runs = [(label, c) for label, c in runs if _panel([(label, c)], "") is not None]
    widths = [high - low for low, high in (_range([run]) for run in runs)]
    symbols = {symbol(c) for _, c in runs}
    if runs and max(widths) > 8 * min(widths):
        panels = [
            _panel([run], f"Spectrum of {symbol(run[1])}: {run[0]}", index) for index, run in enumerate(runs)
        ]
        return [panel for panel in panels if panel is not None]
    panel = _panel(runs, f"Spectra of {' and '.join(sorted(symbols))}")
    return [panel] if panel else []


def _panel(runs: Sequence[Run], title: str, index: int = 0) -> Panel | None:
    for _, curvature in runs:
        expect(curvature, "curvature")
    dense = [run for run in runs if _density(run[1])]
    sparse = [run for run in runs if _eigenvalues(run[1]) is not None]
    partial = any(is_partial(c, "density", "eigs") for _, c in runs)
    if dense:
        strip = 0.36 * len(sparse) + 0.1 if sparse else 0.0
        return Panel(
            title, lambda sheet: _draw_density(sheet, runs, strip, index), 3.3 + strip, partial=partial
        )
    if sparse:
        most = max(len(values) for _, c in sparse if (values := _eigenvalues(c)) is not None)
        height = 1.3 + min(most, 40) * max(0.2, 0.11 * len(sparse))
        return Panel(
            title, lambda sheet: _draw_ranks(sheet, sparse, index), max(height, 1.9), partial=partial
        )
    return None


def _density(curvature: Result) -> Result | None:
    density = part(curvature, "density", "grid", "density")
    return density if density and len(density["grid"]) else None


def _eigenvalues(curvature: Result) -> Array | None:
    eigs = part(curvature, "eigs", "values")
    values = numbers(eigs["values"], "values") if eigs else np.zeros(0)
    return values if len(values) else None


def _range(runs: Sequence[Run]) -> tuple[float, float]:
    """All that the axis of eigenvalues has to show, with a margin."""
    shown_values = [0.0]
    for _, curvature in runs:
        density = _density(curvature)
        if density:
            grid = numbers(density["grid"], "grid")
            shown_values += [float(grid.min()), float(grid.max())]
        values = _eigenvalues(curvature)
        if values is not None:
            shown_values += [float(values.min()), float(values.max())]
    low, high = min(shown_values), max(shown_values)
    margin = 0.03 * (high - low) or 1.0
    return low - margin, high + margin


# Density -----------------------------------------------------------------------------------------------------


def _draw_density(sheet: SubFigure, runs: Sequence[Run], strip: float, index: int) -> None:
    if strip:
        main, below = sheet.subplots(2, 1, sharex=True, height_ratios=[2.6, strip])
        _draw_strip(below, runs, index)
        main.tick_params(labelbottom=False, bottom=False)
        bottom = below
    else:
        main = bottom = sheet.subplots()
    main.set_yscale("log")
    floors, tops = [], []
    for number_of_run, (label, curvature) in enumerate(runs, index):
        density = _density(curvature)
        if density is None:
            continue
        floor, top = _draw_curve(main, density, curvature, label, number_of_run)
        floors.append(floor)
        tops.append(top)
    if len(runs) == 1:
        _draw_support(main, runs[0][1])
    main.set_ylim(min(floors), 3 * max(tops))
    main.set_xlim(*_range(runs))
    finish(main, "", "density (log scale)")
    names = sorted({symbol(curvature) for _, curvature in runs})
    finish(
        bottom, f"eigenvalue of {' and '.join(names)}", bottom.get_ylabel(), "both" if bottom is main else "x"
    )
    main.legend(loc="best", fontsize=SMALL)


def _draw_curve(
    axes: Axes, density: Result, curvature: Result, label: str, index: int
) -> tuple[float, float]:
    """One density with its band; returns where the axis should end."""
    grid, height = series(density, "grid", "density")
    top = float(np.nanmax(height))
    floor = _floor(top, number(density.get("sigma")), number(curvature.get("parameters")))
    seen = np.where(height > floor, height, np.nan)
    colour, line = COLOURS[index % len(COLOURS)], LINES[index % len(LINES)]
    probes = density.get("probes")
    name = f"density, mean of {probes} probes" if probes else "density"
    axes.plot(grid, seen, color=colour, linestyle=line, linewidth=1.5, label=plain(label) or name)
    if density.get("standard_error") is not None:
        error = series(density, "grid", "standard_error")[1]
        known = np.isfinite(error)
        if known.any():
            low, high = np.maximum(height - error, floor), np.maximum(height + error, floor)
            band = "" if label else "± standard error"
            axes.fill_between(
                grid,
                low,
                high,
                where=known & (high > floor),
                color=colour,
                alpha=0.25,
                linewidth=0,
                label=band,
            )
    return floor, top


def _floor(top: float, sigma: float, parameters: float) -> float:
    """Where the axis of the density begins: a tenth of what one single eigenvalue of the n would show at its peak."""
    if not (sigma > 0 and parameters > 0):
        return top * 1e-7
    single = 1 / (parameters * sigma * math.sqrt(2 * math.pi))
    return min(max(single / 10, top * 1e-12), top * 1e-2)


def _draw_support(axes: Axes, curvature: Result) -> None:
    density = _density(curvature)
    if density is None or density.get("support") is None:
        return
    low, high = numbers(density["support"], "support")
    label = f"support [{shown(low)}, {shown(high)}]"
    for x, name in ((low, label), (high, "")):
        axes.axvline(x, color="0.35", linewidth=1, linestyle=(0, (2, 2)), label=name)


# Eigenvalues -------------------------------------------------------------------------------------------------


def _draw_strip(axes: Axes, runs: Sequence[Run], index: int) -> None:
    """Eigenvalues as markers below the density, one row for each run, the outermost with their values."""
    low, high = _range(runs)
    rows = [(label, c, values) for label, c in runs if (values := _eigenvalues(c)) is not None]
    for row, (_, curvature, values) in enumerate(rows):
        offset = index + [c for _, c in runs].index(curvature)
        axes.plot(
            values, np.full(len(values), -row), linestyle="none", marker=MARKERS[offset % len(MARKERS)], markersize=5,
            markerfacecolor="white", markeredgecolor=COLOURS[offset % len(COLOURS)], markeredgewidth=1.2, clip_on=False,
        )  # fmt: skip
        taken: list[float] = []
        for value in values[np.argsort(-np.abs(values), kind="stable")]:
            place = (value - low) / (high - low)
            if all(abs(place - other) > 0.11 for other in taken):
                taken.append(place)
                side = "right" if place > 0.95 else "left" if place < 0.05 else "center"
                axes.annotate(
                    shown(value),
                    (value, -row),
                    (0, 5),
                    textcoords="offset points",
                    ha=side,
                    va="bottom",
                    fontsize=SMALL,
                )
    axes.set_ylim(-len(rows) + 0.6, 0.9)
    names = [plain(label) or f"{len(values)} from\nLanczos" for label, _, values in rows]
    axes.set_yticks([-row for row in range(len(rows))], names)
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)


def _draw_ranks(sheet: SubFigure, runs: Sequence[Run], index: int) -> None:
    """Eigenvalues one below the other, where there is no density."""
    axes = sheet.subplots()
    most = 0
    for offset, (label, curvature) in enumerate(runs):
        eigs = part(curvature, "eigs", "values")
        values = _eigenvalues(curvature)
        if eigs is None or values is None:
            continue
        most = max(most, len(values))
        residuals = np.nan_to_num(residuals_of(eigs), posinf=0.0)
        ranks = np.arange(1, len(values) + 1) + (offset - (len(runs) - 1) / 2) * 0.36
        colour, marker = COLOURS[(index + offset) % len(COLOURS)], MARKERS[(index + offset) % len(MARKERS)]
        name = plain(label) or f"{which_eigenvalues(eigs, len(values))}, bar: residual"
        axes.hlines(ranks, 0, values, color="0.75", linewidth=1)
        axes.errorbar(
            values, ranks, xerr=residuals, fmt=marker, color=colour, markerfacecolor="white", markeredgewidth=1.2,
            markersize=5, capsize=3, linewidth=1.2, label=name,
        )  # fmt: skip
        if len(runs) == 1 and len(values) <= _NAMED:
            for value, residual, rank in zip(values, residuals, ranks, strict=True):
                side = 1 if value >= 0 else -1
                axes.annotate(
                    shown(value), (value + side * residual, rank), (side * 6, 0), textcoords="offset points",
                    ha="left" if side > 0 else "right", va="center", fontsize=SMALL,
                )  # fmt: skip
    low, high = _range(runs)
    room = 0.12 * (high - low)
    axes.set_xlim(
        low - room if low < -0.04 * (high - low) else low, high + room if high > 0.04 * (high - low) else high
    )
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_ylim(most + 0.7, 0.3)
    step = max(1, most // 12)
    axes.set_yticks(range(1, most + 1, step))
    names = sorted({symbol(curvature) for _, curvature in runs})
    finish(axes, f"eigenvalue of {' and '.join(names)}", "rank", "x")
    sheet.legend(loc="outside lower left", fontsize=SMALL, frameon=False, ncols=2, prop={"size": NORMAL - 1})
