"""The sheet that pictures are drawn on: one figure of stacked panels, and how it becomes a file.

matplotlib is imported where it is used, and only its object-oriented half: no pyplot, no setting outlives a call.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import check_writable, written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

SMALL, NORMAL, LARGE = 8.0, 9.0, 10.5
"""Font sizes in points; none is smaller."""

DARK, MIDDLE, PALE = "#12355b", "#7f9fc1", "#d5deea"
COLOURS = ("#12355b", "#c06a10", "#3f8f63", "#9a6bab")
LINES = ("solid", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "////", "....", "xxxx", "----", "\\\\\\\\", "oooo", "++++")

PARTIAL = "partial result"
FORMATS = (".png", ".svg")

_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so a picture is the same everywhere
    "font.size": NORMAL,
    "text.usetex": False,
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": "0.3",
    "axes.grid": False,
    "grid.color": "0.88",
    "hatch.linewidth": 0.6,
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.fontsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.labelsize": NORMAL,
    "svg.fonttype": "path",
    "svg.hashsalt": "bnrewrite",
}


@dataclass(frozen=True)
class Panel:
    """One picture of a figure: size in inches, and the function that draws it."""

    title: str
    draw: Callable[[SubFigure], None]
    height: float
    width: float = 7.5
    partial: bool = False


@contextmanager
def style() -> Iterator[None]:
    """Our settings of matplotlib for the length of a block."""
    try:
        import matplotlib
    except ImportError as error:
        raise InputError("plots need matplotlib: pip install 'bnrewrite[plots]'") from error
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font lacks
        yield


def compose(panels: Sequence[Panel], heading: str = "") -> Figure:
    """A figure of panels, one below the other, each with its title; partial results say so."""
    with style():
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        top = 0.3 if heading else 0.0
        heights = [panel.height for panel in panels]
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)
        figure = Figure((max(p.width for p in panels), sum(heights) + top), layout=layout)
        figure.set_facecolor("white")
        if heading:
            figure.suptitle(plain(heading), x=0.012, ha="left", fontsize=SMALL, color="0.25")
        sheets = figure.subfigures(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
        for panel, sheet in zip(panels, sheets, strict=True):
            sheet.suptitle(plain(panel.title), x=0.012, ha="left", fontsize=LARGE, fontweight="bold")
            if panel.partial:
                box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "black"}
                sheet.text(
                    0.985, 1 - 0.075 / panel.height, PARTIAL, ha="right", va="top", fontsize=SMALL, bbox=box
                )
            panel.draw(sheet)
        return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG or SVG, by the suffix of `path`; the same figure gives the same bytes.

    Raises InputError for another suffix, FileError where the file cannot be written.
    """
    check_path(path)
    content = rendered(figure, Path(path).suffix.lower().removeprefix("."))
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def check_path(path: str | os.PathLike[str]) -> None:
    """Raise InputError or FileError where no picture could be written to `path`, before it is drawn."""
    if Path(path).suffix.lower() not in FORMATS:
        raise InputError(f"'{path}': pictures are written as .png or .svg, by the suffix of the file name.")
    check_writable(path)


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as `kind`, "png" or "svg", without dates."""
    unwanted = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    content = io.BytesIO()
    with style():
        figure.savefig(content, format=kind, dpi=160, metadata=unwanted[kind])
    return content.getvalue()


# What several panels share -----------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Text from a file, as it is: a dollar sign would start a formula."""
    return text.replace("\n", " ").replace("$", r"\$")


def finish(axes: Axes, x: str, y: str = "", grid: str = "both") -> None:
    """Names and sizes of both axes; ticks are made late, outside our settings, so their size is said here."""
    axes.set_xlabel(x, fontsize=NORMAL)
    axes.set_ylabel(y, fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    axes.grid(visible=True, axis=grid, color="0.88", linewidth=0.6)  # type: ignore[arg-type]
