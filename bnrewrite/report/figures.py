"""Pictures of results: each function takes what `--json` wrote and returns a matplotlib Figure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InputError
from . import bars, landscapes, spectra
from .canvas import Panel, check_path, compose, save
from .results import Result, data, kind_of, shortened, source, statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def spectrum(curvature: Result) -> Figure:
    """The spectral density on a logarithmic axis, with its band of standard errors, its support and the eigenvalues
    below it; eigenvalues alone where there is no density.

    Raises InputError where the result has neither, as all functions here do where there is nothing to draw.
    """
    return _one(spectra.spectrum_panel(curvature), curvature, "'density' or 'eigs'")


def layer_bars(result: Result) -> Figure:
    """Average trace of each parameter's block, with standard errors, from curvature or sensitivity; the 60 largest."""
    return _one(bars.layer_panel(result), result, "layers with a 'mean'")


def sensitivity_bars(sensitivity: Result) -> Figure:
    """The score of each layer at each bit width."""
    return _one(bars.score_panel(sensitivity), sensitivity, "layers with 'scores'")


def assignment(sensitivity: Result) -> Figure:
    """The bit width chosen for each layer."""
    return _one(bars.assignment_panel(sensitivity), sensitivity, "an 'assignment'")


def pruning(sensitivity: Result) -> Figure:
    """The share of each layer that is pruned."""
    return _one(bars.pruning_panel(sensitivity), sensitivity, "a 'pruning'")


def landscape(result: Result) -> Figure:
    """Contours of the loss over a plane, with the centre marked."""
    return _one(landscapes.landscape_panel(result), result, "'loss'")


def comparison(runs: Sequence[tuple[str, Result]]) -> Figure:
    """The spectra of several curvature results, each with its title: in one picture by line style and marker, or, where
    their widths differ by more than a factor 8, below each other with an axis each."""
    panels = spectra.comparison_panels(runs)
    if not panels:
        raise InputError("none of the results to compare has 'density' or 'eigs': there is nothing to draw.")
    return compose(panels)


def panels(result: Result) -> list[Panel]:
    """All pictures that a result has something for, by its kind."""
    kind = kind_of(result)
    if kind == "curvature":
        found = [spectra.spectrum_panel(result), bars.layer_panel(result)]
    elif kind == "sensitivity":
        draw = (bars.score_panel, bars.layer_panel, bars.assignment_panel, bars.pruning_panel)
        found = [panel(result) for panel in draw]
    else:
        found = [landscapes.landscape_panel(result)]
    return [panel for panel in found if panel is not None]


def plot(result: Result, path: str | os.PathLike[str]) -> None:
    """Draw all that a result has something for, one panel below the other, into a PNG or SVG file.

    Raises InputError for another suffix and where there is nothing to draw, FileError where the file cannot be written.
    """
    check_path(path)
    found = panels(result)
    if not found:
        raise InputError(
            f"there is nothing to draw in the result of {source(result)}: it holds no eigenvalues, density, layers "
            "or losses."
        )
    save(compose(found, heading(result)), path)


def heading(result: Result) -> str:
    """File, data and statistics in one line."""
    file = shortened(str(result.get("file") or ""), 40)
    return "  ·  ".join(text for text in (file, shortened(data(result), 45), statistics(result)) if text)


def _one(panel: Panel | None, result: Result, needed: str) -> Figure:
    if panel is None:
        raise InputError(f"there is nothing to draw: the result of {source(result)} has no {needed}.")
    return compose([panel])
