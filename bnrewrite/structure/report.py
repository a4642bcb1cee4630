"""What an analysis found: what mixes samples, and what exists therefore; as text, as JSON, as a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .quantities import LossStructure, Quantity
from .seen import Kind
from .table import Decided

SHOWN = 20
"""Lines of what mixes that are shown; the rest is counted."""


@dataclass(frozen=True)
class Mixing:
    """One operation that mixes samples.

    `module`: path of the module it ran in, `kind` its class (`BatchNorm2d`); `operation`: the ATen operation; `where`:
    the user's source line; `node`: its name among the report's `nodes`.

    `how`: `"batch statistics"` of a BatchNorm; `"samples"`: elements of the result depend on several samples;
    `"order"`: samples change places along the batch axis; `"reduction"`: a value of all samples goes back into single
    ones, or out of the model; `"nonlinear"`: after it the loss is no sum over samples; `"position"` (in `unlike`):
    samples stay apart, but what is done depends on the place; `"not proved otherwise"`.
    """

    module: str
    operation: str
    kind: str
    where: str
    in_loss: bool
    how: str
    node: str

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return (
            f"'{self.module}'" if self.module else f"{self.operation}{' in the loss' if self.in_loss else ''}"
        )


@dataclass(frozen=True)
class NodeStructure:
    """One operation of the captured graph.

    `kind`: `"free"`: no sample enters; `"target"`: targets alone enter; `"apart"`: sample n of the result depends on
    sample n of the operands only; `"permutes"`: the same, but samples change places; `"mixes"`; `"reduces"`: mixes, and
    the result belongs to no sample; `"aggregate"`: of such results only. `batch`: where the batch lies in the (first)
    result: `"axis 0"`, `"axis 0 as N x 12"`, `"axis 1 as 3 x N"`, `"spread"`; empty where it has none. `decided`:
    `"rule"`, `"perturbation"` (the operation was asked numerically) or `"assumed"` (it could not be asked).
    """

    name: str
    module: str
    operation: str
    where: str
    in_loss: bool
    kind: Kind
    batch: str
    decided: Decided


@dataclass(frozen=True)
class StructureReport:
    """The structure of a model and its loss, along the batch.

    `model_simd`: every component of the model's output depends on its own sample only, by the same function.
    `loss_structure`: `"simd+reduction"`, `"reduction"` or `"none"`, see `bnrewrite.analyze`. `mixing`: what mixes
    samples, in the order of the graph; `unlike`: what keeps samples apart, but does not treat them alike. `nodes`: all
    operations. `quantities`: what exists, by name. `samples`: batch size of the analysis. `target_factor`: whether the
    sum over samples has a factor that depends on all targets.
    """

    model: str
    loss: str
    samples: int
    model_simd: bool
    loss_structure: LossStructure
    mixing: list[Mixing]
    unlike: list[Mixing]
    nodes: list[NodeStructure]
    quantities: dict[str, Quantity]
    target_factor: bool

    def exists(self, name: str) -> bool:
        """Whether a quantity of `quantities` exists; InputError for another name."""
        if name not in self.quantities:
            raise InputError(f"no quantity is called {name!r}; there are {', '.join(self.quantities)}.")
        return self.quantities[name].exists

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {"kind": "structure"} | asdict(self)

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw the computation graph by sample, as PNG or SVG, by the suffix of `path`; needs matplotlib.

        Raises InputError for another suffix, FileError where the file cannot be written.
        """
        from ..report.structures import draw

        draw(self.to_dict(), path)

    def __str__(self) -> str:
        lines = [f"structure of {self.model} with loss {self.loss}", "", *self._verdicts()]
        if self.mixing:
            lines += ["", "what mixes samples", *_table(self.mixing)]
        if self.unlike:
            lines += ["", "what depends on the place of a sample", *_table(self.unlike)]
        assumed = [node for node in self.nodes if node.decided != "rule"]
        if assumed:
            lines += ["", f"decided numerically or assumed: {', '.join(_counted(assumed))}"]
        width = max(map(len, self.quantities))
        lines += ["", "what exists"]
        lines += [
            f"  {name:<{width}}  {'yes' if quantity.exists else 'no ':<3}  {quantity.why}"
            for name, quantity in self.quantities.items()
        ]
        return "\n".join(lines)

    def _verdicts(self) -> list[str]:
        model = [entry for entry in self.mixing if not entry.in_loss]
        if self.model_simd:
            first = "SIMD: every sample for itself, F_n(X) = f(x_n)"
        elif model:
            first = f"mixes samples in {_places(len(model))}: F_n(X) depends on the whole batch"
        else:
            first = "keeps samples apart, but does not treat them alike"
        second = {
            "simd+reduction": "SIMD + reduction: L = R(l(F_1, y_1), ..., l(F_N, y_N))",
            "reduction": "reduction: L = R(L_1, ..., L_N), but L_n depends on several components",
            "none": "no sum over samples",
        }[self.loss_structure]
        factor = ", with a factor that depends on all targets" if self.target_factor else ""
        return [f"model  {first}", f"loss   {second}{factor}"]


def _places(count: int) -> str:
    return "one place" if count == 1 else f"{count} places"


def _counted(nodes: Sequence[NodeStructure]) -> list[str]:
    names = [f"{node.operation} ({node.decided})" for node in nodes]
    return [f"{name} x {names.count(name)}" for name in dict.fromkeys(names)]


def _table(entries: Sequence[Mixing]) -> list[str]:
    rows = [
        (entry.module or ("(loss)" if entry.in_loss else "(model)"), entry.kind or "-", entry.operation, entry.how,
         _near(entry.where))
        for entry in entries[:SHOWN]
    ]  # fmt: skip
    rows.insert(0, ("module", "class", "operation", "how", "where"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    rest = len(entries) - SHOWN
    return lines + ([f"  and {rest} more"] if rest > 0 else [])


def _near(where: str) -> str:
    """A source line by the last two parts of its path."""
    return "/".join(Path(where).parts[-2:])
