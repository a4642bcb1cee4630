"""The computation graph by sample: a column for each, boxes that stay in it or reach across.

After figures 1 and 2 of F. Dangel, "Structural implications of batch normalization" (2021), for any model. Rows from
the top: the samples x_n; parts of the model, one box f a column where they keep samples apart, one box across where
they mix; the components F_n; the loss with its targets, the reduction, the scalar.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from .canvas import COLOURS, DARK, MIDDLE, NORMAL, PALE, SMALL, Panel, check_path, compose, plain, save
from .results import Result, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MOST = 9
"""Parts of a model that are shown apart; a longer model is grouped by the outer names of its modules."""

LEAST = 4
"""Fewer parts than this say too little: then neighbours of the finer division are put together."""

NAMES = 3
COLUMNS = (0.0, 1.7, 4.8)
DOTS = 3.25
LEFT, RIGHT = -0.62, 5.42
WIDTH, HEIGHT = 1.1, 0.5
ACROSS = COLOURS[1]


@dataclass(frozen=True)
class Part:
    """A stretch of the model: what it is called, and what in it mixes samples."""

    modules: tuple[str, ...]
    mixing: tuple[Result, ...] = ()


def draw(structure: Result, path: str | os.PathLike[str]) -> None:
    """Draw a structure report, as `StructureReport.to_dict` gives it, into a PNG or SVG file."""
    check_path(path)
    save(figure(structure), path)


def figure(structure: Result) -> Figure:
    """The picture of a structure report."""
    return compose([panel(structure)])


def panel(structure: Result) -> Panel:
    """The same as a panel, to stand among others."""
    parts = parts_of(structure)
    split = _split(structure)
    rows = len(parts) + 2 + (3 if split else 1)

    def on(sheet: SubFigure) -> None:
        axes = sheet.subplots()
        _Drawing(axes, structure, parts, split).draw()

    title = f"{structure['model']} with loss {structure['loss']}, by sample"
    return Panel(shortened(title, 80), on, 0.55 + 0.62 * rows)


def _split(structure: Result) -> bool:
    return bool(structure["quantities"]["ggn"]["exists"])


# Parts -------------------------------------------------------------------------------------------------------------


def parts_of(structure: Result) -> list[Part]:
    """The model as at most `MOST` parts, in the order of its graph, as finely divided as that allows."""
    mixing = {entry["node"]: entry for entry in structure["mixing"]}
    nodes = [n for n in structure["nodes"] if not n["in_loss"] and n["kind"] not in ("free", "target")]
    steps = [Part((node["module"] or node["operation"],), _of(mixing, node["name"])) for node in nodes]
    deepest = max((step.modules[0].count(".") + 1 for step in steps), default=1)
    finer = _merged(steps)
    for depth in range(deepest, 0, -1):
        if len(finer) <= MOST:
            return finer
        coarser = _merged(_grouped(steps, depth))
        if len(coarser) < LEAST:
            break
        finer = coarser
    return finer if len(finer) <= MOST else _shortened(finer)


def _of(mixing: dict[str, Result], name: str) -> tuple[Result, ...]:
    return (mixing[name],) if name in mixing else ()


def _grouped(steps: Sequence[Part], depth: int) -> Iterator[Part]:
    """Neighbours whose paths begin with the same `depth` names as one part."""
    for head, group in groupby(steps, lambda step: ".".join(step.modules[0].split(".")[:depth])):
        yield Part((head,), tuple(entry for step in group for entry in step.mixing))


def _merged(parts: Iterator[Part] | Sequence[Part]) -> list[Part]:
    """Neighbours that keep samples apart as one part; so are neighbours of one name."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if last and not part.mixing and not last.mixing:
            found[-1] = Part(tuple(dict.fromkeys(last.modules + part.modules)))
        elif last and part.mixing and last.modules == part.modules:
            found[-1] = Part(last.modules, last.mixing + part.mixing)
        else:
            found.append(part)
    return found


def _shortened(parts: list[Part]) -> list[Part]:
    """Neighbours put together, as many at a time as it takes."""
    size = -(-len(parts) // MOST)
    groups = [parts[start : start + size] for start in range(0, len(parts), size)]
    return _merged(
        [
            Part(
                tuple(dict.fromkeys(name for part in group for name in part.modules)),
                tuple(entry for part in group for entry in part.mixing),
            )
            for group in groups
        ]
    )


def _names(part: Part, most: int = NAMES) -> str:
    """The names of a part in a few words."""
    names = list(part.modules)
    if len(names) <= most:
        return ", ".join(shortened(name, 30) for name in names)
    return f"{shortened(names[0], 16)} ... {shortened(names[-1], 16)}"


def _outer(part: Part) -> Part:
    """The same by the outer names of its modules, where these are few."""
    outer = tuple(dict.fromkeys(name.split(".")[0] for name in part.modules))
    return Part(outer) if len(outer) <= NAMES else part


def _what_mixes(part: Part) -> str:
    """What mixes in a part, counted by the class of the module."""
    kinds = [entry["kind"] or entry["operation"] for entry in part.mixing]
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    return ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in counts.items())


# Drawing -----------------------------------------------------------------------------------------------------------


class _Drawing:
    """Rows from top to bottom; `y` is the height of the next one."""

    def __init__(self, axes: Axes, structure: Result, parts: Sequence[Part], split: bool) -> None:
        self.axes, self.structure, self.parts, self.split, self.y = axes, structure, parts, split, 0.0

    def draw(self) -> None:
        self.axes.set_axis_off()
        self._circles("x")
        mixes = any(part.mixing for part in self.parts)
        simple = not mixes and len(self.parts) == 1
        number = 0
        for part in self.parts:
            if part.mixing:
                verb = "mix" if len(part.mixing) > 1 else "mixes"
                self._across(_names(part, 1), f"{_what_mixes(part)} {verb} samples", ACROSS)
            else:
                number += 1
                letter, shown = ("f", _outer(part)) if simple else (f"f^{{({number})}}", part)
                self._boxes(letter, _names(shown))
        if self.split:
            self._circles("F")
            self._loss()
        self._end()
        self.axes.set_xlim(LEFT - 0.75, 10.0)
        self.axes.set_ylim(self.y - 0.3, 0.45)

    def _loss(self) -> None:
        breaks = [entry for entry in self.structure["mixing"] if entry["in_loss"]]
        named = ", ".join(dict.fromkeys(entry["operation"] for entry in breaks))
        kind = self.structure["loss_structure"]
        if kind == "simd+reduction":
            self._boxes(r"\ell", "individual losses", targets=True)
        elif kind == "reduction":
            self._across("individual losses", f"mix components: {shortened(named, 30)}", ACROSS)
        else:
            self._across("loss", f"no sum over samples: {shortened(named, 30)}", ACROSS)

    def _end(self) -> None:
        if self.structure["loss_structure"] != "none":
            self._across("R", "sum or mean over samples", MIDDLE)
        self._arrow((COLUMNS[0] + COLUMNS[-1]) / 2)
        self._text((COLUMNS[0] + COLUMNS[-1]) / 2, "$L$", NORMAL + 2)

    def _circles(self, letter: str) -> None:
        top = self.y == 0
        for x, index in zip(COLUMNS, ("1", "2", "N"), strict=True):
            if not top:
                self._arrow(x)
            self._text(x, f"${letter}_{{{index}}}$", NORMAL + 2)
        self._text(DOTS, r"$\cdots$", NORMAL + 2)
        what = {"x": "samples", "F": "components of the output"}[letter]
        self._note(what)
        self.y -= 1

    def _boxes(self, letter: str, note: str, targets: bool = False) -> None:
        """One box a column."""
        for x, index in zip(COLUMNS, ("1", "2", "N"), strict=True):
            self._arrow(x)
            self._box(x - WIDTH / 2, WIDTH, PALE, DARK)
            self._text(x, f"${letter}$", NORMAL + 1)
            if targets:
                self._text(x - 0.84, f"$y_{{{index}}}$", SMALL)
                self.axes.annotate(
                    "",
                    (x - WIDTH / 2, self.y),
                    (x - 0.7, self.y),
                    arrowprops={"arrowstyle": "-", "color": "0.5"},
                )
        self._text(DOTS, r"$\cdots$", NORMAL + 2)
        self._note(note)
        self.y -= 1

    def _across(self, name: str, note: str, colour: str) -> None:
        """One box over all columns."""
        for x in COLUMNS:
            self._arrow(x)
        self._box(LEFT, RIGHT - LEFT, "white", colour, thick=True)
        self._text((LEFT + RIGHT) / 2, plain(shortened(name, 34)), SMALL + 0.5)
        self._note(note)
        self.y -= 1

    def _box(self, left: float, width: float, face: str, edge: str, thick: bool = False) -> None:
        from matplotlib.patches import FancyBboxPatch

        self.axes.add_patch(
            FancyBboxPatch(
                (left, self.y - HEIGHT / 2),
                width,
                HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.08",
                facecolor=face,
                edgecolor=edge,
                linewidth=1.8 if thick else 0.9,
            )
        )

    def _arrow(self, x: float) -> None:
        """From the row above to the next one."""
        style: dict[str, Any] = {"arrowstyle": "-|>", "color": "0.35", "linewidth": 0.8, "mutation_scale": 8}
        self.axes.annotate("", (x, self.y + HEIGHT / 2), (x, self.y + 1 - HEIGHT / 2), arrowprops=style)

    def _text(self, x: float, text: str, size: float) -> None:
        self.axes.text(x, self.y, text, ha="center", va="center", fontsize=size)

    def _note(self, text: str) -> None:
        self.axes.text(RIGHT + 0.3, self.y, plain(text), ha="left", va="center", fontsize=SMALL, color="0.25")
