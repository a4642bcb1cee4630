"""A pass changes a graph; a pipeline runs passes in a list that reads as prose.

Between passes the graph is linted. With `BNREWRITE_DUMP=DIR` in the environment every stage is written to
`DIR/<number>-<pass>.txt`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from torch import fx


class Pass(ABC):
    """One rewrite of a flat graph, in place. The docstring of a subclass says what holds before and after."""

    @property
    def name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def __call__(self, graph: fx.Graph) -> None:
        """Rewrite `graph` in place."""


class Pipeline:
    """Passes in order; verifies the graph after each."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        self.passes = list(passes)

    def run(self, graph: fx.Graph, stage: str = "") -> None:
        """Run every pass on `graph`; `stage` names the dump files."""
        dump = os.environ.get("BNREWRITE_DUMP")
        for number, step in enumerate(self.passes):
            step(graph)
            graph.lint()
            if dump:
                write_dump(Path(dump), f"{stage}{number:02d}-{step.name}", graph)


def write_dump(folder: Path, name: str, graph: fx.Graph) -> None:
    """One stage as text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(str(graph) + "\n")
