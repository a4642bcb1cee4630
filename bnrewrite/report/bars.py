"""One row a layer: average traces, scores, chosen bits, what was pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .canvas import DARK, HATCHES, MARKERS, MIDDLE, PALE, SMALL, Panel, finish, plain
from .results import (
    Array,
    Result,
    counted,
    expect,
    is_partial,
    number,
    part,
    rows,
    shortened,
    shown,
    symbol,
)
from .scales import scale_x

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

MOST = 60
"""More rows than this do not fit a page: the largest are shown."""

_LONGEST = 52


def layer_panel(result: Result) -> Panel | None:
    """Average trace of every layer's block; None where the result has no layers."""
    expect(result, "curvature", "sensitivity")
    if result["kind"] == "sensitivity":
        name, layers = "sensitivity", rows(result, "sensitivity")
        layers = layers if all("mean" in layer for layer in layers) else []
    else:
        name = "layers" if part(result, "layers", "layers") else "diagonal"
        layers = rows(result, name, "mean")
    if not layers:
        return None
    means = np.array([number(layer["mean"]) for layer in layers])
    errors = np.array([mean_error(layer, name) for layer in layers])
    h = symbol(result)
    label = f"average trace of the layer's block, tr({h}$_l$)/n$_l$"
    kept = _largest(means)

    def draw(sheet: SubFigure) -> None:
        axes = _rows(sheet, [layers[i]["name"] for i in kept])
        _draw_values(axes, means[kept], errors[kept], label)
        _legend(sheet, axes)

    title = f"Average curvature of each parameter{_of_all(kept, means)}"
    return _panel(title, [layers[i]["name"] for i in kept], draw, is_partial(result, name), room=0.25)


def mean_error(layer: Result, name: str) -> float:
    """The standard error of a layer's mean: of a diagonal as it stands, else that of the trace, by the layer's size."""
    error = number(layer.get("standard_error"))
    return error if name == "diagonal" else error / (number(layer.get("size")) or np.nan)


def score_panel(sensitivity: Result) -> Panel | None:
    """The score of every layer at every bit width; None where the result has none."""
    expect(sensitivity, "sensitivity")
    layers = [layer for layer in rows(sensitivity, "sensitivity") if layer.get("scores")]
    if not layers:
        return None
    widths = bit_widths(sensitivity)
    table = np.array([[number(layer["scores"].get(str(bits))) for bits in widths] for layer in layers])
    kept = _largest(np.nanmax(np.abs(np.where(np.isfinite(table), table, 0.0)), axis=1))

    def draw(sheet: SubFigure) -> None:
        axes = _rows(sheet, [layers[i]["name"] for i in kept])
        _draw_scores(axes, table[kept], widths)
        _legend(sheet, axes)

    title = f"Score of each layer by bit width{_of_all(kept, table)}"
    return _panel(title, [layers[i]["name"] for i in kept], draw, is_partial(sensitivity), room=0.25)


def bit_widths(sensitivity: Result) -> list[int]:
    """The bit widths of the result, ascending."""
    found = {int(bits) for layer in rows(sensitivity, "sensitivity") for bits in layer.get("scores") or {}}
    return sorted(found | {int(bits) for bits in sensitivity.get("bits") or []})


def assignment_panel(sensitivity: Result) -> Panel | None:
    """The bit width chosen for every layer; None where the result has no assignment."""
    expect(sensitivity, "sensitivity")
    assignment = part(sensitivity, "assignment", "bits")
    if not assignment or not assignment["bits"]:
        return None
    chosen: Mapping[str, Any] = assignment["bits"]
    bits = np.array([number(value) for value in chosen.values()])
    kept = np.arange(min(len(bits), MOST))
    names = list(chosen)[: len(kept)]

    def draw(sheet: SubFigure) -> None:
        axes = _rows(sheet, names)
        _draw_bits(axes, bits[kept])
        _legend(sheet, axes)

    average = assignment.get("average_bits")
    title = "Chosen bit widths" + (f": {shown(average)} bits on average" if average is not None else "")
    return _panel(title + _of_all(kept, bits, "first"), names, draw, is_partial(sensitivity), room=0.25)


def pruning_panel(sensitivity: Result) -> Panel | None:
    """The share of every layer that is pruned; None where the result has no pruning."""
    expect(sensitivity, "sensitivity")
    pruning = part(sensitivity, "pruning", "layers")
    layers = rows(sensitivity, "pruning", "pruned")
    if not pruning or not layers:
        return None
    shares = 100 * np.array([pruned_share(layer) for layer in layers])
    kept = _largest(shares)
    names = [layers[i]["name"] for i in kept]

    def draw(sheet: SubFigure) -> None:
        axes = _rows(sheet, names)
        axes.barh(
            np.arange(len(kept)), shares[kept], height=0.66, color=MIDDLE, edgecolor=DARK, linewidth=0.8
        )
        axes.set_xlim(0, 100)
        finish(axes, "share of the layer's entries that is pruned (%)", grid="x")

    fraction = number(pruning.get("fraction"))
    title = "Pruned share of each layer" + (
        f" ({shown(100 * fraction)} % in all)" if np.isfinite(fraction) else ""
    )
    return _panel(title + _of_all(kept, shares), names, draw, is_partial(sensitivity))


# Rows --------------------------------------------------------------------------------------------------------


def pruned_share(layer: Result) -> float:
    """The share that goes: "share" where "pruned" is a count, else "pruned" itself."""
    return number(layer.get("share", layer["pruned"]))


def _panel(title: str, names: Sequence[str], draw: Any, partial: bool, room: float = 0.0) -> Panel:
    longest = min(max(len(str(name)) for name in names), _LONGEST)
    width = min(max(7.5, 5.2 + 0.075 * longest), 9.0)
    return Panel(title, draw, max(1.7, 1.15 + 0.19 * len(names)) + room, width, partial)


def _largest(values: Array) -> NDArray[np.intp]:
    """Indices of the rows that are shown, in the file's order."""
    if len(values) <= MOST:
        return np.arange(len(values))
    return np.sort(np.argsort(-np.abs(np.nan_to_num(values)), kind="stable")[:MOST])


def _of_all(kept: NDArray[np.intp], values: Array, which: str = "largest") -> str:
    return "" if len(kept) == len(values) else f" (the {which} {len(kept)} of {counted(len(values), 'row')})"


def _rows(sheet: SubFigure, names: Sequence[str]) -> Axes:
    """Axes with one row for each name, the first on top."""
    axes = sheet.subplots()
    axes.set_yticks(np.arange(len(names)), [plain(shortened(str(name), _LONGEST)) for name in names])
    spare = max(0.0, (3 - len(names)) / 2)  # one bar alone is not as high as three
    axes.set_ylim(len(names) - 0.4 + spare, -0.6 - spare)
    return axes


def _legend(sheet: SubFigure, axes: Axes) -> None:
    """A legend below the axes: rows leave no free place inside."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        sheet.legend(handles, labels, loc="outside lower left", ncols=5, fontsize=SMALL, frameon=False)


def _draw_values(axes: Axes, values: Array, errors: Array, label: str) -> None:
    """Bars with error bars; negative ones are hatched."""
    places = np.arange(len(values))
    reach = values + np.where(np.isfinite(errors), np.copysign(errors, values), 0.0)
    scale = scale_x(axes, np.concatenate([values, reach]))
    left = axes.get_xlim()[0] if scale == "log scale" else 0.0
    for negative in (False, True):
        chosen = (values < 0) == negative
        if not chosen.any():
            continue
        axes.barh(
            places[chosen], values[chosen] - left, left=left, height=0.66, linewidth=0.8, edgecolor=DARK,
            color="white" if negative else MIDDLE, hatch="//////" if negative else "",
            label="negative" if negative else None,
        )  # fmt: skip
    known = np.isfinite(errors) & (errors > 0) & np.isfinite(values)
    low = values[known] - errors[known]
    if scale == "log scale":
        low = np.maximum(low, left)
    if known.any():
        axes.errorbar(
            values[known], places[known], xerr=[values[known] - low, errors[known]], fmt="none", ecolor="black",
            elinewidth=1, capsize=2, label="± standard error",
        )  # fmt: skip
    if axes.get_xlim()[0] < 0:
        axes.axvline(0, color="0.3", linewidth=0.8)
    finish(axes, f"{label} ({scale})" if scale else label, grid="x")


def _draw_scores(axes: Axes, table: Array, widths: Sequence[int]) -> None:
    """One marker for each bit width, joined by a line for each layer."""
    places = np.arange(len(table))
    scale = scale_x(axes, table.ravel(), most=1e15)
    low, high = axes.get_xlim()
    held = np.clip(table, low, high)
    some = np.isfinite(held).any(axis=1)
    axes.hlines(
        places[some], np.nanmin(held[some], axis=1), np.nanmax(held[some], axis=1), color="0.75", linewidth=1
    )
    shades = np.linspace(0.0, 1.0, len(widths))
    for column, bits in enumerate(widths):
        axes.plot(
            table[:, column], places, linestyle="none", marker=MARKERS[column % len(MARKERS)], markersize=5.5,
            markerfacecolor=_between(DARK, "#ffffff", shades[column]), markeredgecolor=DARK, markeredgewidth=1,
            label=counted(bits, "bit"),
        )  # fmt: skip
    finish(axes, f"score ({scale})" if scale else "score", grid="x")


def _between(first: str, second: str, share: float) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    return tuple((1 - share) * a + share * b for a, b in zip(to_rgb(first), to_rgb(second), strict=True))


def _draw_bits(axes: Axes, bits: Array) -> None:
    """Bars as long as the chosen bits; every bit width has its hatch."""
    places = np.arange(len(bits))
    widths = sorted({float(b) for b in bits if np.isfinite(b)})
    for index, width in enumerate(widths):
        chosen = bits == width
        name = f"{counted(int(width), 'bit')}: {counted(int(chosen.sum()), 'layer')}"
        axes.barh(
            places[chosen], bits[chosen], height=0.66, color=(PALE, MIDDLE, "white")[index % 3], edgecolor=DARK,
            linewidth=0.8, hatch=HATCHES[index % len(HATCHES)], label=name,
        )  # fmt: skip
    axes.set_xlim(0, 1.05 * max(widths, default=1.0))
    axes.set_xticks([0.0, *widths], ["0", *(f"{width:g}" for width in widths)])
    finish(axes, "bits for each entry", grid="x")
