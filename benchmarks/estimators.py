"""Time of `eigs(5)` and `trace` of an exported ResNet-18 in onnxruntime, beside the same on PyTorch's double backward.

python -m benchmarks.estimators [--samples 150] [--batch 50] [--size 64] [--vectors K] [--pair]

Digits, enlarged, and a network that was trained on them for a few steps. Both go through the same estimators with the
same seeds over the same batches; the products differ. One product of each is timed in turns first, so that the ratio is
of one run on one machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import bnrewrite
from bnrewrite import runtime
from bnrewrite.models import digits, resnet18
from bnrewrite.runtime.eigen import lanczos
from bnrewrite.runtime.operator import CurvatureOperator
from bnrewrite.runtime.trace import trace

TRAINING = 20
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def double_backward(model: nn.Module, data: Batches) -> CurvatureOperator:
    """H of the weighted mean over the batches; the gradient's graph is built anew for every product."""
    parameters = list(model.parameters())
    total = sum(len(x) for x, _ in data)

    def product(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        found = []
        for row in rows:
            parts = torch.from_numpy(row.astype(np.float32)).split([p.numel() for p in parameters])
            v = [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
            sums = [torch.zeros(p.shape, dtype=torch.float64) for p in parameters]
            for x, y in data:
                loss = nn.functional.cross_entropy(model(x), y)
                gradient = torch.autograd.grad(loss, parameters, create_graph=True)
                for into, part in zip(sums, torch.autograd.grad(gradient, parameters, v), strict=True):
                    into += part.double() * len(x) / total
            found.append(torch.cat([part.reshape(-1) for part in sums]).numpy())
        return np.stack(found)

    return CurvatureOperator(product, sum(p.numel() for p in parameters))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


def main() -> None:
    """Print a table of seconds, products and values."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--vectors", type=int, help="Directions of one call of the file.")
    parser.add_argument("--pair", action="store_true", help="Primal and apply instead of one file.")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = resnet18(num_classes=10).train()
    x, y = (part[: options.samples] for part in digits("train"))
    x = nn.functional.interpolate(x, (options.size, options.size), mode="bilinear").repeat(1, 3, 1, 1)
    data = list(zip(x.split(options.batch), y.split(options.batch), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    for step in range(TRAINING):  # at random weights the largest eigenvalues are many and alike
        x, y = data[step % len(data)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "c.onnx"
        _, seconds = timed(
            lambda: bnrewrite.export_onnx(
                model, file, data[0], vectors=options.vectors, linearize=options.pair
            )
        )
        print(f"transform and export: {seconds:.1f} s")
        c, seconds = timed(lambda: runtime.open(file, [(a.numpy(), b.numpy()) for a, b in data]))
        print(f"session: {seconds:.1f} s")
        ours, theirs = c.operator(), double_backward(model, data)
        v = np.random.default_rng(0).standard_normal((ours.shape[0], options.vectors or 1))
        times: dict[str, list[float]] = {"onnxruntime": [], "double backward": []}
        for _ in range(4):
            results = []
            for name, operator in (("onnxruntime", ours), ("double backward", theirs)):
                found, seconds = timed(lambda operator=operator: operator.matmat(v))
                times[name].append(seconds / v.shape[1])
                results.append(found)
        print(
            f"difference of H v: {np.linalg.norm(results[0] - results[1]) / np.linalg.norm(results[1]):.1e}"
        )
        one, other = (statistics.median(values[1:]) for values in times.values())
        print(f"one product: onnxruntime {one:.2f} s, double backward {other:.2f} s, ratio {one / other:.2f}")
        for label, estimate in (
            ("eigs(5)", lambda operator: lanczos(operator, 5, "LM", tol=0.05, seed=0)),
            ("trace", lambda operator: trace(operator, method="hutchinson", tol=0.05, samples=20)),
        ):
            for name, operator in (("onnxruntime", c.operator()), ("double backward", theirs)):
                found, seconds = timed(lambda operator=operator, estimate=estimate: estimate(operator))
                print(
                    f"{label:8} {name:16} {seconds:7.1f} s  {found.products} products  "
                    + str(found).replace("\n", "; ")
                )


if __name__ == "__main__":
    main()
