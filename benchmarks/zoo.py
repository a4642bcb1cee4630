"""A table of over a hundred torchvision, timm and small models: what compiles exactly, what runs in onnxruntime.

    python -m benchmarks.zoo [--library torchvision|timm|segmentation|video|signal|sequence] [--only PATTERN]
                             [--jobs 1] [--limit 300] [--json zoo.json] [--again] [--no-float32]

Each model runs in a process of its own. In float64 gradient and H v, of the graph and of the ONNX file, are compared
with PyTorch's double backward on the untouched model at the batch size of the example and at another; the float32 file
by `bnrewrite.verify`. Rows already in the JSON file are kept unless `--again`; the same table is written as Markdown
beside it. Exit status 1 if a model fails. torchvision and timm are not dependencies of the project.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bnrewrite.files import written_whole

from .zoo_measure import GRAPH_BAR, ONNX_BAR, Row
from .zoo_models import Entry, entries, library

LIBRARIES = ("torchvision", "timm", "segmentation", "video", "signal", "sequence")
COLUMNS = (
    "model", "input", "nodes", "transform", "export", "session", "batch",
    "graph grad", "graph H v", "ONNX grad", "ONNX H v", "float32 / bar", "result",
)  # fmt: skip


def run_one(entry: Entry, limit: float, float32: bool) -> Row:
    """The row of one model, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.zoo_measure", f"{entry.library}/{entry.name}"]
    command += [] if float32 else ["--no-float32"]
    fallback: Row = {"library": entry.library, "name": entry.name, "stage": "start"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        row = _last(done.stdout) or fallback
        if "reason" not in row and row["stage"] != "done":
            words = done.stderr.strip().splitlines()
            row["reason"] = (
                f"the process ended with status {done.returncode}: {words[-1] if words else 'no words'}"
            )
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        row = _last(output.decode() if isinstance(output, bytes) else output) or fallback
        row["reason"] = f"not done after {limit:g} s"
    return row


def _last(output: str) -> Row | None:
    lines = [line for line in output.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else None


def graph_exact(row: Row) -> bool:
    return max(row.get("graph_grad", 1.0), row.get("graph_hvp", 1.0)) <= GRAPH_BAR


def onnx_exact(row: Row) -> bool:
    return max(row.get("onnx_grad", 1.0), row.get("onnx_hvp", 1.0)) <= ONNX_BAR


def float32_good(row: Row) -> bool:
    return "float32" in row and row["float32"] <= row["float32_bar"]


def result(row: Row) -> str:
    """'ok', or what is wrong and why."""
    if "reason" in row:
        return f"{row['stage']}: {row['reason']}"
    wrong = [
        name
        for name, good in (
            ("graph inexact", graph_exact(row)),
            ("fixed batch size", row["dynamic"]),
            ("ONNX inexact", onnx_exact(row)),
            (f"float32 {row.get('float32_of', '')} over its bar", float32_good(row) or "float32" not in row),
        )
        if not good
    ]
    return "; ".join(wrong) or "ok"


def cells(row: Row) -> list[str]:
    """The row as words, in the order of COLUMNS."""

    def seconds(key: str) -> str:
        return f"{row[key]:.1f} s" if key in row else ""

    def error(key: str) -> str:
        return f"{row[key]:.0e}" if key in row else ""

    return [
        f"{row['library']}/{row['name']}",
        "x".join(str(size) for size in row.get("shape", ())),
        str(row.get("nodes", "")),
        *(seconds(f"{key}_s") for key in ("transform", "export", "session")),
        {True: "any", False: "fixed", None: ""}[row.get("dynamic")],
        *(error(key) for key in ("graph_grad", "graph_hvp", "onnx_grad", "onnx_hvp")),
        f"{row['float32'] / row['float32_bar']:.2f}" if row.get("float32_bar") else "",
        result(row),
    ]


def counts(rows: list[Row]) -> str:
    """One line for each library: how many are exact, any batch size, run in onnxruntime, hold in float32."""
    lines = []
    for name in (*LIBRARIES, "all"):
        part = [row for row in rows if name in (row["library"], "all")]
        if part:
            found = Counter[str]()
            for row in part:
                found["exact"] += graph_exact(row)
                found["any"] += row.get("dynamic") is True
                found["onnx"] += onnx_exact(row)
                found["float32"] += float32_good(row)
            lines.append(
                f"{name}: {len(part)} models; graph within {GRAPH_BAR:g} {found['exact']}, "
                f"any batch size {found['any']}, ONNX within {ONNX_BAR:g} {found['onnx']}, "
                f"float32 within its bar {found['float32']}"
            )
    return "\n".join(lines)


def markdown(rows: list[Row]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n\n" + counts(rows).replace("\n", "  \n") + "\n"


def save(rows: list[Row], path: Path) -> None:
    for file, text in ((path, json.dumps(rows, indent=1)), (path.with_suffix(".md"), markdown(rows))):
        with written_whole(file) as temporary:
            temporary.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", choices=LIBRARIES)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names or a glob, comma between them")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=float, default=300, help="seconds for one model")
    parser.add_argument("--json", type=Path, default=Path("zoo.json"), metavar="OUT")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--no-float32", action="store_true")
    arguments = parser.parse_args()
    known: dict[tuple[str, str], Row] = {}
    if arguments.json.exists():
        known = {(row["library"], row["name"]): row for row in json.loads(arguments.json.read_text())}
    chosen = [
        e
        for e in entries()
        if arguments.library in (None, e.library)
        and any(fnmatch.fnmatch(e.name, pattern) for pattern in arguments.only.split(","))
    ]
    if not chosen:
        parser.error(f"no model of the table fits '{arguments.only}'")
    for package in {"timm" if e.library == "timm" else "torchvision" for e in chosen} - _needs_none(chosen):
        library(package)
    waiting = [e for e in chosen if arguments.again or (e.library, e.name) not in known]
    console = Console(stderr=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for row in pool.map(lambda e: run_one(e, arguments.limit, not arguments.no_float32), waiting):
            known[row["library"], row["name"]] = row
            save(list(known.values()), arguments.json)
            console.print(f"{row['library']}/{row['name']}: {result(row)}", highlight=False, markup=False)
    rows = [known[e.library, e.name] for e in chosen]
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*cells(row))
    Console(width=220).print(table)
    print(counts(rows))
    return 0 if all(result(row) == "ok" for row in rows) else 1


def _needs_none(chosen: list[Entry]) -> set[str]:
    """Libraries that none of the chosen models comes from."""
    used: set[Any] = {e.library for e in chosen}
    return set() if used & {"torchvision", "segmentation", "video"} else {"torchvision"}


if __name__ == "__main__":
    sys.exit(main())
