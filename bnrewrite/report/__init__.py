"""Pictures and pages from results: plain dicts, as `--json` wrote them, so that either can be redrawn from the file.

    plot(result, "curvature.svg")                       # all pictures of one result
    report_of([curvature, sensitivity], "report.html")  # one self-contained page

Needs matplotlib, and the page jinja2: `pip install 'bnrewrite[plots]'`.
"""

from __future__ import annotations

from .canvas import save
from .figures import (
    assignment,
    comparison,
    landscape,
    layer_bars,
    plot,
    pruning,
    sensitivity_bars,
    spectrum,
)
from .page import report_of, write_page
from .sections import Block, Picture, Section, Table

__all__ = [
    "Block",
    "Picture",
    "Section",
    "Table",
    "assignment",
    "comparison",
    "landscape",
    "layer_bars",
    "plot",
    "pruning",
    "report_of",
    "save",
    "sensitivity_bars",
    "spectrum",
    "write_page",
]
