"""Seed 000, appendix F: `benchmarks.appendix_f`, with its figure and table for the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bnrewrite.report.canvas import compose

from .. import appendix_f
from .pages import picture, table
from .settings import Appendix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[str, int, int, str], None]
Result = dict[str, Any]

SHOWN = ("1", "2", "5", "10", "20", "50", "100")


def run(settings: Appendix, progress: Progress) -> Result:
    """Median seconds and largest errors by method and D; a method is given up where a call passes the limit."""
    progress("appendix_f", 0, 1, f"D up to {settings.dimensions[-1]}")
    found = appendix_f.measure(list(settings.dimensions), settings.samples, settings.repeats, settings.limit)
    progress("appendix_f", 1, 1, "done")
    methods = {name: {str(width): entry for width, entry in at.items()} for name, at in found.items()}
    return {"samples": settings.samples, "eps": appendix_f.EPS, "bar": appendix_f.BAR, "methods": methods}


def pictures(result: Result) -> dict[str, Figure]:
    """Seconds over D."""
    methods = {
        name: {int(width): entry for width, entry in at.items()} for name, at in result["methods"].items()
    }
    return {"appendix_f": compose([appendix_f.picture(methods, result["samples"])])}


def parts(result: Result) -> dict[str, str]:
    """The figure and the table for the page."""
    methods = result["methods"]
    widths = [width for width in SHOWN if any(width in at for at in methods.values())]
    rows = [
        [width, *(milliseconds(at[width]["seconds"]) if width in at else "" for at in methods.values())]
        for width in widths
    ]
    words = "Seconds for the dense Hessian of BatchNorm over the dimension D: closed form and three ways of automatic"
    shown = table([">D", *(f">{name}" for name in methods)], rows)
    return {
        "appendix_f": f"{picture('appendix_f.png', words + ' differentiation.')}\n\nMilliseconds:\n\n{shown}"
    }


def milliseconds(seconds: float) -> str:
    """Three digits."""
    return f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:.0f}"
