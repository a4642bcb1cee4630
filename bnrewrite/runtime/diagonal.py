"""The diagonal of a symmetric matrix from its products.

- Hutchinson (Bekas, Kokiopoulou, Saad 2007): diag A = E[v * A v] for random signs v.
- XDiag (Epperly, Tropp, Webber 2024): the diagonal on a random subspace of the range of A exactly, the rest by
  Hutchinson, each estimate leaving one probe out of the subspace.
- Low rank: the whole matrix, and so its diagonal, exactly, where its rank is less than the products (`low_rank`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ..errors import InputError
from .low_rank import low_rank
from .monitor import Monitor, Steps, Stopped
from .plain import plain
from .probes import rademacher
from .sketch import Sketch
from .trace import LEAST, check_budget, default_method

Vector = NDArray[np.float64]
Method = Literal["hutchinson", "xdiag", "low_rank", "exact"]


@dataclass(frozen=True)
class Diagonal:
    """`values` (n,) with a `standard_error` (n,) for each; flags as in `Trace`.

    `relative_error`: the norm of the standard errors over the norm of the values.
    """

    values: Vector
    standard_error: Vector
    method: Method
    samples: int
    products: int
    converged: bool
    complete: bool

    @property
    def relative_error(self) -> float:
        return _relative(self.values, self.standard_error)

    def as_dict(self, slices: Mapping[str, slice]) -> dict[str, Any]:
        """For JSON: a summary of the entries of each parameter; `standard_error` is that of their mean."""
        rows = []
        for name, part in slices.items():
            values, errors = self.values[part], self.standard_error[part]
            rows.append(
                {
                    "name": name,
                    "size": len(values),
                    "min": values.min(),
                    "max": values.max(),
                    "mean": values.mean(),
                    "standard_error": np.linalg.norm(errors) / len(errors),
                }
            )
        flags = {
            key: getattr(self, key) for key in ("method", "samples", "products", "converged", "complete")
        }
        return plain({**flags, "relative_error": self.relative_error, "layers": rows})

    def __str__(self) -> str:
        state = "" if self.complete else ", stopped early"
        return (
            f"diagonal of {len(self.values)} entries, relative error {self.relative_error:.1%} "
            f"({self.method}, {self.products} products{state})"
        )


def diagonal(
    operator: LinearOperator,
    *,
    method: Method | None = None,
    tol: float | None = 0.05,
    samples: int = 200,
    seed: int = 0,
    monitor: Monitor | None = None,
    task: str = "diagonal",
    eps: float = float(np.finfo(np.float64).eps),
) -> Diagonal:
    """The diagonal of a symmetric `operator` (n, n), within at most `samples` products.

    Stops where the norm of the standard errors is at most `tol` times the norm of the diagonal; `"low_rank"`, where
    nothing but rounding is missing (`eps`: that of a product). Raises as `trace` does.
    """
    check_budget(tol, samples)
    if method is None:
        default = default_method(operator.shape[0], samples)
        method = "xdiag" if default == "xtrace" else "exact" if default == "exact" else "hutchinson"
    steps = Steps(operator, f"{task} {method} seed {seed}", monitor or Monitor())
    if method == "exact":
        return _exact(steps)
    if method == "hutchinson":
        return _hutchinson(operator, steps, tol, samples, seed)
    if method == "xdiag":
        return _xdiag(steps, tol, samples, seed)
    if method == "low_rank":
        found = low_rank(steps, samples=samples, seed=seed, eps=eps)
        values, error, count = found.diagonal(), np.abs(found.rest), found.products
        return Diagonal(values, error, "low_rank", count, count, found.converged, found.complete)
    raise InputError(f"method must be 'hutchinson', 'xdiag', 'low_rank' or 'exact', not {method!r}.")


def _relative(values: Vector, error: Vector) -> float:
    size = float(np.linalg.norm(values))
    return float(np.linalg.norm(error)) / size if size > 0 else float("inf")


def _exact(steps: Steps) -> Diagonal:
    n = steps.shape[0]
    values = np.zeros(n)
    for start in range(0, n, steps.block):
        indices = np.arange(start, min(start + steps.block, n))
        columns = np.zeros((n, len(indices)))
        columns[indices, range(len(indices))] = 1.0
        values[indices] = steps.matmat(columns)[indices, range(len(indices))]
        steps.monitor.tell("diagonal", int(indices[-1]) + 1, n, f"{len(indices)} more entries")
    return Diagonal(values, np.zeros(n), "exact", n, n, True, True)


def _hutchinson(
    operator: LinearOperator, steps: Steps, tol: float | None, samples: int, seed: int
) -> Diagonal:
    """Sums of v * A v and of its square are all that is kept, in memory as in a checkpoint."""
    monitor = steps.monitor
    state = monitor.recall(steps.task) or {
        "count": np.zeros((), np.int64),
        "first": np.zeros(steps.shape[0]),
        "second": np.zeros(steps.shape[0]),
    }
    count, first, second = int(state["count"]), state["first"], state["second"]
    complete, values, error = True, first, np.full_like(first, np.inf)
    while True:
        if count > 1:
            values = first / count
            error = np.sqrt(np.maximum(second / count - values**2, 0.0) / (count - 1))
        if count >= samples or (count >= LEAST and tol is not None and _relative(values, error) <= tol):
            break
        if monitor.stopped:
            if count < 2:
                raise Stopped("stopped before the first estimate of the diagonal.")
            complete = False
            break
        v = rademacher(steps.shape[0], seed, "trace", range(count, count + steps.block))
        found = v * operator.matmat(v)
        first, second = first + found.sum(axis=1), second + (found**2).sum(axis=1)
        count += steps.block
        monitor.keep(steps.task, count=np.array(count), first=first, second=second)
        monitor.tell("diagonal", count, samples, f"relative error {_relative(values, error):.1%}")
    converged = tol is not None and _relative(values, error) <= tol
    return Diagonal(values, error, "hutchinson", count, count, converged, complete)


def _xdiag(steps: Steps, tol: float | None, samples: int, seed: int) -> Diagonal:
    sketch = Sketch(steps, seed, signs=True)
    n = steps.shape[0]
    values, error, complete = np.full(n, np.nan), np.full(n, np.inf), True
    while sketch.size < samples // 2:
        try:
            sketch.grow(min(max(steps.block, 4), samples // 2 - sketch.size))
        except Stopped:
            if sketch.size < 2:
                raise
            complete = False
            break
        values, error = _leave_one_out(sketch)
        steps.monitor.tell(
            "diagonal", 2 * sketch.size, samples, f"relative error {_relative(values, error):.1%}"
        )
        if sketch.size >= LEAST and tol is not None and _relative(values, error) <= tol:
            break
    converged = tol is not None and _relative(values, error) <= tol
    return Diagonal(values, error, "xdiag", sketch.size, 2 * sketch.size, converged, complete)


def _leave_one_out(sketch: Sketch) -> tuple[Vector, Vector]:
    """Mean and error of diag(P_i A) + omega_i * (I - P_i) A omega_i, with P_i = Q (I - s_i s_i') Q'.

    A omega_i lies in the range of Q, so what P_i leaves of it is Q s_i (s_i . r_i) with r_i column i of R.
    """
    s = sketch.left_out()
    m = sketch.size
    unit = sketch.basis @ s
    inside = np.sum(sketch.basis * sketch.products, axis=1)[:, None] - unit * (sketch.products @ s)
    outside = sketch.probes * unit * np.sum(s * sketch.triangle, axis=0)
    estimates = inside + outside
    values = estimates.mean(axis=1)
    return values, estimates.std(axis=1, ddof=1) / np.sqrt(m)
