"""Seed 001, figures 1 and 2: the computation graph by sample, without and with batch statistics, from `analyze`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import bnrewrite
from bnrewrite.models import MODELS
from bnrewrite.report import structures

from .settings import Structures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[str, int, int, str], None]
Result = dict[str, Any]

FIGURES: dict[str, Literal["running", "batch"]] = {
    "structure_simd": "running",
    "structure_batch_norm": "batch",
}


def run(settings: Structures, progress: Progress) -> Result:
    """The structure reports of one network with both kinds of statistics."""
    entry = MODELS[settings.network]
    found = {}
    for number, (name, bn) in enumerate(FIGURES.items()):
        progress("structures", number, len(FIGURES), name)
        report = bnrewrite.analyze(entry.build_small(), entry.example(), bn=bn)
        found[name] = without_folders(report.to_dict())
    progress("structures", len(FIGURES), len(FIGURES), "done")
    return found


def without_folders(report: Result) -> Result:
    """Source lines by the last two parts of their paths, which are the same on every machine."""
    for entry in (*report["mixing"], *report["unlike"], *report["nodes"]):
        entry["where"] = "/".join(Path(entry["where"]).parts[-2:])
    return report


def pictures(result: Result) -> dict[str, Figure]:
    """What `report.draw` writes, from the stored reports."""
    return {name: structures.figure(report) for name, report in result.items()}
