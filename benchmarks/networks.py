"""Every reference network: errors against double backward in both precisions, and what compiling it costs.

    python -m benchmarks.networks [NAME ...] [--batches 2 7]

Prints a table: time of `transform`, of `export_onnx` and of creating the session; in float64 the relative errors of
gradient and H v (GraphModule and onnxruntime, worst over the batch sizes) against PyTorch's double backward; for the
float32 file, what `bnrewrite.verify` says: error and bar of H v. Exit status 1 if anything is beyond its bar.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

import bnrewrite
from bnrewrite.models import MODELS
from bnrewrite.verification.oracle import Oracle

GRAPH_BAR, ONNX_BAR = 1e-10, 1e-9


def relative(found: dict[str, Any], expected: dict[str, torch.Tensor]) -> float:
    """Error over all parts together."""
    pairs = [(torch.as_tensor(found[name]), expected[name]) for name in expected]
    return float(
        (sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)) ** 0.5
    )


def float64(name: str, batches: list[int], file: Path) -> dict[str, float]:
    """Seconds and worst errors of one network in float64."""
    entry = MODELS[name]
    model = entry.build_small(dtype=torch.float64)
    example = entry.example(dtype=torch.float64)
    clock = [time.perf_counter()]
    gm = bnrewrite.transform(model, example)
    clock.append(time.perf_counter())
    bnrewrite.export_onnx(model, file, example)
    clock.append(time.perf_counter())
    session = onnxruntime.InferenceSession(file)
    clock.append(time.perf_counter())
    seconds = [b - a for a, b in pairwise(clock)]
    row = dict(zip(("transform", "export", "session"), seconds, strict=True))
    off = gm.meta["bnrewrite"]["random_off"]
    v = {key: torch.randn_like(part) for key, part in model.named_parameters()}
    for batch in (entry.batch, *batches):
        x, y = entry.example(batch, dtype=torch.float64, seed=3)
        truth = Oracle(model, "cross_entropy", {"random_off": off}, list(v), torch.float64).evaluate(
            x, y, [v], ["hvp"]
        )
        _, grad, hvp = gm(x, y, v)
        feed = {"input": x, "target": y, **{f"v.{key}": part for key, part in v.items()}}
        results = session.run(None, {key: value.numpy() for key, value in feed.items()})
        outputs = dict(zip([output.name for output in session.get_outputs()], results, strict=True))
        errors = {
            "graph grad": relative(grad, truth.grad),
            "graph hvp": relative(hvp, truth.products["hvp"][0]),
            "onnx grad": relative({key: outputs[f"grad.{key}"] for key in v}, truth.grad),
            "onnx hvp": relative({key: outputs[f"hvp.{key}"] for key in v}, truth.products["hvp"][0]),
        }
        row |= {key: max(value, row.get(key, 0.0)) for key, value in errors.items()}
    return row


def float32(name: str, file: Path) -> tuple[float, float, bool]:
    """Error of H v in the float32 file, its bar, and whether every row of `verify` passed."""
    entry = MODELS[name]
    model, example = entry.build_small(), entry.example()
    bnrewrite.export_onnx(model, file, example)
    report = bnrewrite.verify(file, model, example, vectors=1)
    row = next(row for row in report.rows if row.quantity.startswith("hvp"))
    return row.error, row.bar, report.passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(MODELS))
    parser.add_argument("--batches", nargs="*", type=int, default=[2, 7])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    columns = ("transform", "export", "session", "graph grad", "graph hvp", "onnx grad", "onnx hvp")
    table = Table("network", *columns, "float32 hvp", "its bar", "ok")
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            row = float64(name, arguments.batches, Path(folder) / "double.onnx")
            error, bar, passed = float32(name, Path(folder) / "single.onnx")
            passed &= max(row["graph grad"], row["graph hvp"]) <= GRAPH_BAR
            passed &= max(row["onnx grad"], row["onnx hvp"]) <= ONNX_BAR
            good &= passed
            shown = [
                f"{row[c]:.1f} s" if c in ("transform", "export", "session") else f"{row[c]:.1e}"
                for c in columns
            ]
            table.add_row(name, *shown, f"{error:.1e}", f"{bar:.1e}", "yes" if passed else "NO")
    Console(width=150).print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
