"""The pictures of `effect`: all ratios at random weights, ratios along training, and where in the matrix R lies."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from bnrewrite.report.canvas import COLOURS, LINES, MARKERS, NORMAL, SMALL, Panel, compose, finish

from .effect_measures import MEASURES, values
from .networks import NETWORKS, NORMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Result = dict[str, Any]

ZERO, LEAST, MOST = 2.5e-4, 1e-3, 30.0
"""Where zeros are drawn on the logarithmic axis, and its ends: what lies beyond is drawn at an end."""

ROUNDING = 1e-9
"""Less than this is drawn as zero."""

STYLE = {norm: (COLOURS[i], MARKERS[i]) for i, norm in enumerate(("none", "fixed", "batch"))}


def pictures(result: Result) -> dict[str, Figure]:
    """All of them, by the name of the file."""
    found = {"004_effect": compose([_dots(result["start"])])}
    if result["training"]:
        found["004_training"] = compose([_curves(result["training"])])
    if chosen := _chosen(result["start"]):
        found["004_blocks"] = compose([_blocks(chosen)])
    return found


# At random weights --------------------------------------------------------------------------------------------


def _dots(rows: list[Result]) -> Panel:
    names = list(dict.fromkeys((row["network"], row["activation"]) for row in rows))

    def draw(sheet: SubFigure) -> None:
        every = sheet.subplots(1, len(MEASURES), sharey=True)
        for axes, (measure, (title, _)) in zip(every, MEASURES.items(), strict=True):
            for row in rows:
                place = names.index((row["network"], row["activation"]))
                _dot(axes, place, row["norm"], values(row["points"], measure))
            axes.set_xscale("log")
            axes.set_xlim(ZERO / 1.8, MOST * 1.8)
            axes.set_xticks([ZERO, 0.01, 0.1, 1, 10], ["0", ".01", ".1", "1", "10"])
            axes.set_xticks([], minor=True)
            axes.axvline(1, color="0.5", linewidth=0.8)
            axes.axvline((ZERO * LEAST) ** 0.5, color="0.75", linewidth=0.8, linestyle=":")
            axes.set_title(title, fontsize=SMALL, loc="left")
            finish(axes, "", grid="both")
        for axes in every:
            for place in _ends(names):
                axes.axhline(place + 0.5, color="0.6", linewidth=0.8)
        every[0].set_yticks(range(len(names)), [f"{NETWORKS[n].title}, {a}" for n, a in names])
        every[0].set_ylim(len(names) - 0.5, -0.5)
        handles, labels = every[-1].get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        used = [label for label in NORMS.values() if label in unique]
        sheet.legend(
            [unique[label] for label in used], used, loc="outside lower center", ncols=3, fontsize=SMALL,
            frameon=False, title="size of R beside H; median and range over the seeds", title_fontsize=SMALL,
        )  # fmt: skip

    return Panel(
        "How large the curvature effect R is beside H = G + R, random weights",
        draw,
        1.7 + 0.42 * len(names),
        9.4,
    )


def _ends(names: Sequence[tuple[str, str]]) -> list[int]:
    """The places after which another network begins."""
    return [i for i in range(len(names) - 1) if names[i][0] != names[i + 1][0]]


def _dot(axes: Axes, place: int, norm: str, found: list[float]) -> None:
    if not found:
        return
    colour, marker = STYLE[norm]
    y = place + 0.22 * (list(STYLE).index(norm) - 1)
    shown = [ZERO if value < ROUNDING else min(max(value, LEAST), MOST) for value in found]
    axes.plot([shown[0], shown[-1]], [y, y], color=colour, linewidth=1.2)
    axes.plot(
        [median(shown)], [y], linestyle="none", marker=marker, markersize=5, color=colour, label=NORMS[norm]
    )


# Along training -----------------------------------------------------------------------------------------------


def _curves(rows: list[Result]) -> Panel:
    networks = list(dict.fromkeys(row["network"] for row in rows))
    norms = list(dict.fromkeys(row["norm"] for row in rows))
    activations = list(dict.fromkeys(row["activation"] for row in rows))
    shown = ("gradient", "whole", "layer_blocks")
    labels = {"gradient": "‖Rg‖ / ‖Hg‖", "whole": "‖R‖ / ‖H‖", "layer_blocks": "one-layer blocks, ‖R‖ / ‖H‖"}

    def draw(sheet: SubFigure) -> None:
        every = np.atleast_2d(
            sheet.subplots(
                len(networks) * len(norms), len(shown) + 1, sharex=True, squeeze=False
            )
        )  # fmt: skip
        places = [(network, norm) for network in networks for norm in norms]
        for line, (network, norm) in zip(every, places, strict=True):
            for row in rows:
                if (row["network"], row["norm"]) == (network, norm):
                    index = activations.index(row["activation"])
                    _along(line, row, shown, COLOURS[index], LINES[index], MARKERS[index])
            short = {"none": "no BatchNorm", "batch": "batch statistics"}[norm]
            line[0].set_ylabel(f"{NETWORKS[network].title}\n{short}", fontsize=NORMAL)
            line[0].set_yscale("log")
            for axes in line[1:]:
                axes.set_ylim(-0.05, 1.65)
                axes.axhline(1, color="0.5", linewidth=0.8)
        for axes, title in zip(every[0], ("loss of the batch", *(labels[m] for m in shown)), strict=True):
            axes.set_title(title, fontsize=NORMAL, loc="left")
        for number, line in enumerate(every):
            for axes in line:
                axes.set_xscale("symlog", linthresh=1, linscale=0.6)
                axes.set_xticks(rows[0]["epochs"], [str(epoch) for epoch in rows[0]["epochs"]])
                axes.set_xticks([], minor=True)
                last = number == len(every) - 1
                finish(axes, "epochs" if last else "", axes.get_ylabel())
        handles, names = every[0, 0].get_legend_handles_labels()
        unique = dict(zip(names, handles, strict=True))
        sheet.legend(
            list(unique.values()), list(unique), loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False
        )  # fmt: skip

    return Panel(
        "The same along training by SGD (mean over runs, each run a dot)",
        draw,
        0.9 + 1.55 * len(networks) * len(norms),
        9.4,
    )


def _along(line: Any, row: Result, shown: Sequence[str], colour: str, style: Any, marker: str) -> None:
    epochs = row["epochs"]
    series = [[[point["loss"] for point in run] for run in row["runs"]]]
    series += [[[MEASURES[m][1](point) for point in run] for run in row["runs"]] for m in shown]
    for axes, runs in zip(line, series, strict=True):
        table = np.array(runs, dtype=float)  # None becomes NaN
        axes.plot(
            epochs, table.mean(0), color=colour, linestyle=style, linewidth=1.4, label=row["activation"]
        )
        for one in table:
            axes.plot(epochs, one, color=colour, linestyle="none", marker=marker, markersize=3)


# Where R lies ---------------------------------------------------------------------------------------------------


def _chosen(rows: list[Result]) -> list[Result]:
    """The first network with ReLU and tanh, without and with BatchNorm."""
    wanted = [("relu", "none"), ("relu", "batch"), ("tanh", "none"), ("tanh", "batch")]
    of = {(row["activation"], row["norm"]): row for row in rows if row["network"] == rows[0]["network"]}
    return [of[pair] for pair in wanted if pair in of]  # fmt: skip


def _blocks(rows: list[Result]) -> Panel:
    from matplotlib import colormaps

    def draw(sheet: SubFigure) -> None:
        every = sheet.subplots(1, len(rows), sharey=True, squeeze=False)[0]
        for axes, row in zip(every, rows, strict=True):
            table = block_ratios(row["points"])
            axes.imshow(np.clip(table, 0, 2), vmin=0, vmax=2, cmap=colormaps["cividis"])
            for (j, k), value in np.ndenumerate(table):
                text = "0" if value == 0 else f"{value:.2g}"
                axes.text(
                    k, j, text, ha="center", va="center", fontsize=SMALL, color="black" if value > 0.7 else "white"
                )  # fmt: skip
            names = row["layers"]
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
            axes.set_title(f"{row['activation']},\n{NORMS[row['norm']]}", fontsize=SMALL, loc="left")
            axes.tick_params(labelsize=SMALL)
        every[0].set_ylabel("rows: layer", fontsize=NORMAL)
        sheet.supxlabel("columns: layer", fontsize=NORMAL)

    title = f"‖R‖ / ‖H‖ block by block, {NETWORKS[rows[0]['network']].title}, random weights, median over the seeds"
    return Panel(title, draw, 3.3, 9.4)


def block_ratios(points: list[Result]) -> Any:
    """Median over the points of |R_jk| / |H_jk|: (layers, layers)."""
    tables = [
        np.array(point["layers"]["blocks"]["R"]) / np.array(point["layers"]["blocks"]["H"])
        for point in points
    ]
    return np.median(tables, axis=0)
