"""The trace of a symmetric matrix from its products: Hutchinson, Hutch++ and XTrace.

- Hutchinson 1990: tr A = E[v.A v] for random signs v. The error falls as 1 / sqrt(products).
- Meyer, Musco, Musco, Woodruff 2021 (Hutch++): the trace on a random subspace of the range of A exactly, the rest by
  Hutchinson. Good where few eigenvalues are large, as in trained networks.
- Epperly, Tropp, Webber 2024 (XTrace): every probe serves both purposes, each estimate leaving one probe out of the
  subspace. The most accurate for a given number of products; keeps three times as many vectors as probes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ..errors import InputError
from .monitor import Monitor, Steps, Stopped, shown
from .plain import plain
from .probes import rademacher
from .sketch import Sketch

Matrix = NDArray[np.float64]
Method = Literal["hutchinson", "hutch++", "xtrace", "exact"]

LEAST = 10
"""Probes before a standard error is trusted to stop a run."""
_SHARED = np.sqrt(2)
"""XTrace's estimates share all probes but one, so their spread understates the error of their mean: by 1.1 to 1.3 on
two matrices of known trace (a network's Hessian, five large eigenvalues and a flat rest). This is on the safe side."""
_MEMORY = 1 << 27
"""Numbers that XTrace may keep by default (one gigabyte)."""


@dataclass(frozen=True)
class Trace:
    """`value` and its `standard_error`; `samples` independent probes, `products` with the matrix.

    `converged`: the standard error is within the tolerance. `complete`: false where the run was stopped early.
    """

    value: float
    standard_error: float
    method: Method
    samples: int
    products: int
    converged: bool
    complete: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return plain(asdict(self))

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        state = "" if self.complete else ", stopped early"
        return (
            f"{self.value:.6g} ± {self.standard_error:.2g} ({self.method}, {self.products} products{state})"
        )


def check_budget(tol: float | None, samples: int) -> None:
    """Raise InputError for a tolerance or a number of samples that makes no sense."""
    if tol is not None and not (isinstance(tol, (int, float)) and 0 < tol < np.inf):
        raise InputError(f"tol must be a relative error above 0, such as 0.05, or None, not {tol!r}.")
    if isinstance(samples, bool) or not isinstance(samples, (int, np.integer)) or samples < 2:
        raise InputError(f"samples must be a whole number of products, at least 2, not {samples!r}.")


def default_method(n: int, samples: int) -> Method:
    """What is most accurate within the products: all n columns, XTrace where its vectors fit, else Hutchinson."""
    if n <= samples:
        return "exact"
    return "xtrace" if 3 * n * (samples // 2) <= _MEMORY else "hutchinson"


def trace(
    operator: LinearOperator,
    *,
    method: Method | None = None,
    tol: float | None = 0.05,
    samples: int = 200,
    seed: int = 0,
    monitor: Monitor | None = None,
    task: str = "trace",
    forms: Callable[[], Iterator[Matrix]] | None = None,
) -> Trace:
    """The trace of a symmetric `operator` (n, n), within at most `samples` products.

    Stops where the standard error is at most `tol` times the absolute value of the trace (`None`: uses all samples).
    `forms` gives the quadratic forms v.A v of blocks of sign vectors where the caller has them already. Raises
    InputError for a wrong argument, Stopped where it was stopped before there was an estimate.
    """
    check_budget(tol, samples)
    n = operator.shape[0]
    method = default_method(n, samples) if method is None else method
    steps = Steps(operator, f"{task} {method} seed {seed}", monitor or Monitor())
    if method == "exact":
        return _exact(steps)
    if method == "hutchinson":
        return _averaged(
            "hutchinson", forms() if forms is not None else _forms(steps, seed), 0.0, steps, tol, samples, 0
        )
    if method == "hutch++":
        return _hutch_plus_plus(steps, tol, samples, seed)
    if method == "xtrace":
        return _xtrace(steps, tol, samples, seed)
    raise InputError(f"method must be 'hutchinson', 'hutch++', 'xtrace' or 'exact', not {method!r}.")


def within(error: float, value: float, tol: float | None) -> bool:
    """Whether a standard error is small enough."""
    return tol is not None and error <= tol * abs(value)


def _exact(steps: Steps) -> Trace:
    n, total = steps.shape[0], 0.0
    for start in range(0, n, steps.block):
        columns = np.zeros((n, min(steps.block, n - start)))
        columns[range(start, start + columns.shape[1]), range(columns.shape[1])] = 1.0
        total += float(np.sum(columns * steps.matmat(columns)))
        steps.monitor.tell("trace", start + columns.shape[1], n, f"sum so far {total:.5g}")
    return Trace(total, 0.0, "exact", n, n, True, True)


def _forms(steps: Steps, seed: int) -> Iterator[Matrix]:
    start = 0
    while True:
        v = rademacher(steps.shape[0], seed, "trace", range(start, start + steps.block))
        yield np.sum(v * steps.matmat(v), axis=0)
        start += steps.block


def _averaged(
    method: Method, forms: Iterator[Matrix], known: float, steps: Steps, tol: float | None, samples: int, spent: int
) -> Trace:  # fmt: skip
    """`known` plus the mean of quadratic forms, until that is good enough; `spent` products were made before."""
    found = np.zeros(0)
    complete = True
    while len(found) < samples - spent:
        try:
            found = np.concatenate([found, next(forms)])
        except Stopped:
            if len(found) < 2:
                raise
            complete = False
            break
        value, error = known + found.mean(), _standard_error(found)
        steps.monitor.tell("trace", spent + len(found), samples, shown(value, error))
        if len(found) >= LEAST and within(error, value, tol):
            break
    value, error = known + float(found.mean()), _standard_error(found)
    return Trace(value, error, method, len(found), spent + len(found), within(error, value, tol), complete)


def _standard_error(values: Matrix) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")


def _hutch_plus_plus(steps: Steps, tol: float | None, samples: int, seed: int) -> Trace:
    """A third of the products each for the subspace, for the trace on it, and for the rest."""
    n, size = steps.shape[0], max(1, min(samples // 3, steps.shape[0] // 3))
    sketch = steps.matmat(rademacher(n, seed, "sketch", range(size)))
    basis = np.linalg.qr(sketch)[0]
    known = float(np.sum(basis * steps.matmat(basis)))

    def forms() -> Iterator[Matrix]:
        start = 0
        while True:
            v = rademacher(n, seed, "trace", range(start, start + steps.block))
            v -= basis @ (basis.T @ v)
            yield np.sum(v * steps.matmat(v), axis=0)
            start += steps.block

    return _averaged("hutch++", forms(), known, steps, tol, max(samples, 2 * size + 2), 2 * size)


def _xtrace(steps: Steps, tol: float | None, samples: int, seed: int) -> Trace:
    sketch = Sketch(steps, seed)
    value, error, complete = float("nan"), float("inf"), True
    while sketch.size < samples // 2:
        try:
            sketch.grow(min(max(steps.block, 4), samples // 2 - sketch.size))
        except Stopped:
            if sketch.size < 2:
                raise
            complete = False
            break
        value, error = _leave_one_out(sketch)
        steps.monitor.tell("trace", 2 * sketch.size, samples, shown(value, error))
        if sketch.size >= LEAST and within(error, value, tol):
            break
    return Trace(value, error, "xtrace", sketch.size, 2 * sketch.size, within(error, value, tol), complete)


def _leave_one_out(sketch: Sketch) -> tuple[float, float]:
    """The mean of the estimates that leave probe i out of the subspace, and its error (Epperly et al., section 2).

    With A Omega = Q R, Z = A Q, H = Q'Z, W = Q'Omega and s_i the normalised column i of R^-T, the subspace without
    probe i is that of Q (I - s_i s_i'). Probe i, taken to its complement, is rescaled to the length that it has there
    on average.
    """
    n, m = sketch.probes.shape
    h = sketch.basis.T @ sketch.products
    w = sketch.basis.T @ sketch.probes
    t = sketch.products.T @ sketch.probes
    s = sketch.left_out()
    x = w - s * np.sum(s * w, axis=0)
    outside = n - np.sum(x * x, axis=0)
    form = (
        np.sum(sketch.probes * sketch.images, axis=0)
        - 2 * np.sum(x * t, axis=0)
        + np.sum(x * (h @ x), axis=0)
    )
    inside = np.trace(h) - np.sum(s * (h @ s), axis=0)
    estimates = inside + (n - m + 1) / outside * form
    return float(estimates.mean()), _SHARED * _standard_error(estimates)
