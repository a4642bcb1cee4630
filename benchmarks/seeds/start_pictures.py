"""The picture of `start`: training curves at the source's step size, and the loss at the end over the step size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bnrewrite.report.canvas import LINES, NORMAL, SMALL, Panel, compose, finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

Result = dict[str, Any]

# Okabe and Ito's palette, which colour-blind readers tell apart; markers and lines say the same again.
STYLE = {
    "Glorot": ("#56b4e9", LINES[0], "o"),
    "He": ("#0072b2", LINES[1], "s"),
    "LeCun": ("#009e73", LINES[2], "^"),
    "orthogonal": ("#999999", LINES[3], "v"),
    "the source's": ("#d55e00", LINES[0], "D"),
    "equal": ("#000000", LINES[1], "P"),
    "unit": ("#cc79a7", LINES[2], "X"),
}
NAMED = {"equal": "scaled: equal curvature", "unit": "scaled: largest eigenvalue 1"}
MOST = 3.0
"""Losses above are drawn there: ln 10 is chance, and some runs diverge."""


def pictures(result: Result) -> dict[str, Figure]:
    """One figure, a row for each activation."""
    return {"004_start": compose([_panel(result)])}


def ends(row: Result) -> Any:
    """Loss at the end by step size: mean over the seeds; infinity where a run diverged."""
    found = np.array(row["loss"], dtype=float)[:, :, -1]
    return np.where(np.isfinite(found), found, np.inf).mean(1)


def _panel(result: Result) -> Panel:
    activations = result["activations"]

    def draw(sheet: SubFigure) -> None:
        every = sheet.subplots(len(activations), 3, squeeze=False, sharey="row", sharex="col")
        for number, (activation, found) in enumerate(activations.items()):
            line = every[number]
            best = {name: int(np.argmin(ends(row))) for name, row in found["rows"].items()}
            for name, row in found["rows"].items():
                colour, style, marker = STYLE[name]
                looks = {
                    "color": colour,
                    "linestyle": style,
                    "label": NAMED.get(name, name),
                    "linewidth": 1.4,
                }
                for axes, rate in ((line[0], 0), (line[1], best[name])):
                    runs = np.array(row["loss"][rate], dtype=float)
                    axes.plot(
                        found["steps"], np.minimum(np.nan_to_num(runs, nan=MOST), MOST).mean(0), **looks
                    )
                line[2].plot(
                    result["rates"], np.minimum(ends(row), MOST), marker=marker, markersize=4.5, **looks
                )
            last = number == len(activations) - 1
            for axes in line:
                axes.set_yscale("log")
            line[2].set_xscale("log")
            line[2].set_xticks(result["rates"], [f"{rate:g}" for rate in result["rates"]])
            line[2].set_xticks([], minor=True)
            finish(line[0], "steps" if last else "", f"{activation}\nloss on the training set")
            finish(line[1], "steps" if last else "")
            finish(line[2], "step size (log scale)" if last else "")
        titles = (
            f"step size {result['rates'][0]:g}, as in the source",
            "each at its best step size",
            "after the last step",
        )
        for axes, title in zip(every[0], titles, strict=True):
            axes.set_title(title, fontsize=NORMAL, loc="left")
        handles, labels = every[0, 0].get_legend_handles_labels()
        handles = every[0, 2].get_legend_handles_labels()[0]
        sheet.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=SMALL, frameon=False)

    title = "Training a network of 128, 84 and 10 units from different initial weights (mean over the seeds)"
    return Panel(title, draw, 1.2 + 2.1 * len(activations), 9.4)
