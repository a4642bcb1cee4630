"""How the time of H v grows: with the batch, with the depth, with the number of directions.

    python -m benchmarks.scaling [--sweeps batch,depth,vectors] [--rounds 5] [--threads 1]
                                 [--json scaling.json] [--markdown scaling.md] [--quick]

- batch: ResNet-8 on digits and ResNet-18 (32x32) at 1, 2, 4 and 8 times a batch.
- depth: residual networks of 8, 14, 20 and 32 layers (6n + 2) on 32x32; the time to compile them stands beside.
- vectors: K = 1, 2, 4, 8, 16 directions in one call; seconds are per direction.

At each size all methods are timed in turns, as in `benchmarks.speed`, and every product is looked at first. `slope` is
the exponent of the size in a power law, by least squares over the logarithms: 1 means proportional.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bnrewrite.files import check_writable, written_whole
from bnrewrite.models.resnet import CifarResNet

from .environment import described, environment
from .speed import METHODS, choice
from .speed_cases import CASES, Case
from .speed_measure import Row, measure

SINGLE = ("gradient", "double_backward", "torch_func", "transform", "retained", "apply")
BLOCK = (
    "double_backward",
    "torch_func_block",
    "transform_block",
    "retained",
    "retained_block",
    "apply_block",
)


@dataclass(frozen=True)
class Step:
    """One size of one sweep."""

    sweep: str
    network: str
    size: int
    case: Case
    methods: tuple[str, ...]
    vectors: int = 1


def steps(sweeps: Sequence[str], quick: bool) -> Iterator[Step]:
    """All sizes of the sweeps; `quick`: the two smallest of each, on small batches."""
    digits = replace(CASES["resnet8_digits"], batch=4 if quick else 32)
    resnet18 = replace(CASES["resnet18"], shape=(3, 32, 32), batch=8)
    small = [("ResNet-8 on digits", digits)] + ([] if quick else [("ResNet-18, 32x32", resnet18)])
    most = 2 if quick else None
    if "batch" in sweeps:
        for network, case in small:
            for factor in (1, 2, 4, 8)[:most]:
                size = case.batch * factor
                yield Step("batch", network, size, replace(case, batch=size), SINGLE)
    if "depth" in sweeps:
        batch, side = (2, 8) if quick else (16, 32)
        for n in (1, 2, 3, 5)[:most]:
            case = Case(
                "", CifarResNet, (3, side, side), batch, 10, {"n": n, "num_classes": 10, "in_channels": 3}
            )
            yield Step("depth", "residual, 6n + 2 layers", 6 * n + 2, case, SINGLE)
    if "vectors" in sweeps:
        for network, case in small:
            for count in (1, 2, 4, 8, 16)[:most]:
                yield Step("vectors", network, count, case, BLOCK, count)


def run(step: Step, rounds: int, limit: float) -> list[Row]:
    """The rows of one size, with what was swept."""
    methods = {key: METHODS[key] for key in step.methods}
    found = measure(step.case, methods, vectors=step.vectors, rounds=rounds, limit=limit)
    return [{"sweep": step.sweep, "network": step.network, "size": step.size, **row} for row in found]


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float | None:
    """The exponent p of seconds ~ size^p, or None for fewer than two sizes."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else None


def curves(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows gathered: one curve for each sweep, network and method, with its slope."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        curve = found.setdefault(
            (row["sweep"], row["network"], row["method"]),
            {key: row[key] for key in ("sweep", "network", "method")}
            | {"title": METHODS[row["method"]].title.format(K="K")}
            | {"sizes": [], "seconds": [], "prepared": [], "wrong": []},
        )
        if row["status"] == "ok":
            curve["sizes"].append(row["size"])
            curve["seconds"].append(row["seconds"])
            curve["prepared"].append(sum(row.get("stages", {}).values()))
        else:
            curve["wrong"].append(f"{row['size']}: {row['status']} {row.get('reason', '')}".rstrip())
    for curve in found.values():
        curve["slope"] = slope(curve["sizes"], curve["seconds"])
    return list(found.values())


def lines(all_curves: Sequence[dict[str, Any]], sweep: str, network: str) -> list[list[str]]:
    """Header and rows of one table: milliseconds for one product at each size."""
    part = [curve for curve in all_curves if (curve["sweep"], curve["network"]) == (sweep, network)]
    sizes = sorted({size for curve in part for size in curve["sizes"]})
    table = [["method", *(f"{sweep} {size}" for size in sizes), "slope", "prepared", ""]]
    for curve in part:
        at = dict(zip(curve["sizes"], curve["seconds"], strict=True))
        table.append(
            [
                curve["title"],
                *(f"{1000 * at[size]:.2f} ms" if size in at else "" for size in sizes),
                "" if curve["slope"] is None else f"{curve['slope']:.2f}",
                " ".join(f"{seconds:.1f}" for seconds in curve["prepared"]) + " s",
                "; ".join(curve["wrong"]),
            ]
        )
    return table


def markdown(all_curves: Sequence[dict[str, Any]], foot: str) -> str:
    """All tables as one Markdown text."""
    text: list[str] = []
    for sweep, network in dict.fromkeys((curve["sweep"], curve["network"]) for curve in all_curves):
        header, *rows = lines(all_curves, sweep, network)
        text += [
            f"### {network}: {sweep}",
            "",
            f"| {' | '.join(header)} |",
            "| --- |" + " ---: |" * (len(header) - 1),
        ]
        text += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows] + [""]
    return "\n".join([*text, foot, ""])


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write; exit status 1 if a method fails or is wrong at some size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ["batch", "depth", "vectors"]
    parser.add_argument("--sweeps", type=lambda text: choice(text, known, "sweep"), default=known)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=300, help="seconds for one step of one method")
    parser.add_argument("--json", type=Path, default=Path("scaling.json"), metavar="OUT")
    parser.add_argument("--markdown", type=Path, metavar="OUT")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    arguments = parser.parse_args(argv)
    files = [file for file in (arguments.json, arguments.markdown) if file is not None]
    for file in files:
        check_writable(file)
    torch.set_num_threads(arguments.threads)
    where = environment(arguments.threads)
    rows: list[Row] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in steps(arguments.sweeps, arguments.quick):
            print(f"{step.network}: {step.sweep} {step.size} ...", file=sys.stderr, flush=True)
            rows += run(step, arguments.rounds, arguments.limit)
            found = curves(rows)
            results = {"environment": where, "rounds": arguments.rounds, "curves": found, "rows": rows}
            for file in files:
                text = (
                    json.dumps(results, indent=1)
                    if file is arguments.json
                    else markdown(found, described(where))
                )
                with written_whole(file) as temporary:
                    temporary.write_text(text)
    console = Console(width=170)
    for sweep, network in dict.fromkeys((curve["sweep"], curve["network"]) for curve in found):
        header, *cells = lines(found, sweep, network)
        table = Table(*header, title=f"{network}: {sweep}")
        for row in cells:
            table.add_row(*(cell.replace("[", r"\[") for cell in row))
        console.print(table)
    print(described(where))
    return 0 if all(row["status"] == "ok" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
