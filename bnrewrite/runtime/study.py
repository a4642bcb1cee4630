"""Several estimates of one file over one data set, as one record that JSON can hold.

What is known is in the record from the start, and each estimate joins it when it is done. So a run that is stopped
leaves everything that came before, and what it was at as far as it got, marked as incomplete.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .curvature import Curvature, Matrix
from .eigen import Which
from .monitor import Stopped
from .plain import plain
from .session import Array


@dataclass
class Study:
    """`record`: what was found, plain (see docs/runtime.md); `arrays`: what is too large for it, by name."""

    record: dict[str, Any]
    arrays: dict[str, Array] = field(default_factory=dict)


def described(c: Curvature, kind: str, source: str) -> dict[str, Any]:
    """What every record starts with: of which file, over which data. Goes through the data once."""
    loss = c.loss
    batches = [batch.size for batch in c.data]
    meta = c.engine.meta
    return plain(
        {
            "kind": kind,
            "file": c.engine.name,
            "version": meta.get("version"),
            "loss_name": meta["loss"],
            "statistics": c.statistics,
            "dtype": str(c.engine.dtype),
            "parameters": c.space.size,
            "data": {"source": source, "batches": len(batches), "samples": sum(batches)},
            "loss": loss,
            "gradient_norm": float(np.linalg.norm(c.space.flatten(c.grad()))),
            "complete": True,
        }
    )


def study(
    c: Curvature,
    *,
    source: str = "",
    top: int = 0,
    which: Which = "LM",
    accuracy: float | None = None,
    trace: bool = False,
    diagonal: bool = False,
    density: bool = False,
    layers: bool = False,
    matrix: Matrix = "hessian",
    tol: float | None = 0.05,
    samples: int = 200,
    steps: int | None = None,
    probes: int = 4,
    seed: int = 0,
) -> Study:
    """The estimates asked for, one after the other; arguments as of the methods of `Curvature`.

    `top` eigenvalues, to a relative `accuracy`; `tol` and `samples` of traces and the diagonal; `steps` and `probes` of
    the density. `source` says in the record where the data came from.

    `arrays` gets the eigenvectors and the diagonal. Raises what the estimators raise, but not Stopped.
    """
    found = Study(described(c, "curvature", source) | {"matrix": matrix})

    def add(name: str, estimate: Callable[[], Any], as_dict: Callable[[Any], dict[str, Any]]) -> None:
        start = time.perf_counter()
        try:
            result = estimate()
        except Stopped:
            found.record["complete"] = False
            return
        found.record[name] = as_dict(result) | {"seconds": round(time.perf_counter() - start, 3)}
        found.record["complete"] &= result.complete
        if name == "eigs":
            found.arrays |= {"eigenvalues": result.values, "eigenvectors": result.vectors}
        if name == "diagonal":
            found.arrays |= {"diagonal": result.values, "diagonal_error": result.standard_error}

    if top:
        add(
            "eigs",
            lambda: c.eigs(top, which=which, tol=accuracy, matrix=matrix, seed=seed),
            lambda r: r.as_dict() | {"which": which},
        )
    if layers:
        add(
            "layers",
            lambda: c.layer_traces(tol=tol, samples=samples, matrix=matrix, seed=seed),
            lambda r: r.as_dict(c.space.shapes),
        )
    if trace:
        add(
            "trace",
            lambda: c.trace(tol=tol, samples=samples, matrix=matrix, seed=seed),
            lambda r: r.as_dict() | {"mean_eigenvalue": r.value / c.space.size},
        )
    if density:
        add(
            "density",
            lambda: c.spectral_density(steps=steps, probes=probes, matrix=matrix, seed=seed),
            lambda r: r.as_dict(),
        )
    if diagonal:
        add(
            "diagonal",
            lambda: c.diagonal(tol=tol, samples=samples, matrix=matrix, seed=seed),
            lambda r: r.as_dict(c.space.slices),
        )
    return found
