"""Solves (A + damping I) x = b by conjugate gradients: Newton steps, influence functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg

from ..errors import InputError, NumericalError
from .monitor import Monitor, Steps, Stopped

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Solution:
    """`x` (n,), and the norm of b - (A + damping I) x over that of b as `residual`; flags as in `Trace`."""

    x: Vector
    residual: float
    damping: float
    products: int
    converged: bool
    complete: bool

    def __str__(self) -> str:
        state = "" if self.complete else ", stopped early"
        return f"relative residual {self.residual:.1e} with damping {self.damping:g} ({self.products} products{state})"


def solve(
    operator: LinearOperator,
    b: Vector,
    *,
    damping: float = 0.0,
    tol: float = 1e-6,
    maxiter: int | None = None,
    monitor: Monitor | None = None,
    task: str = "solve",
) -> Solution:
    """x with |b - (A + damping I) x| <= tol |b| for a symmetric `operator` A (n, n).

    The sum must be positive definite on the way: NumericalError says how much damping it lacks along the direction
    where it is not. Without convergence after `maxiter` products (default 10 n) `converged` is false.
    """
    n = operator.shape[0]
    if not (isinstance(damping, (int, float)) and 0 <= damping < np.inf):
        raise InputError(f"damping must be a number, at least 0, not {damping!r}.")
    if not 0 < tol < 1:
        raise InputError(f"tol must be a relative residual between 0 and 1, not {tol!r}.")
    size = float(np.linalg.norm(b))
    monitor = monitor or Monitor()
    steps = Steps(operator, f"{task} damping {damping}", monitor)
    best = np.zeros(n)
    if size == 0:
        return Solution(best, 0.0, damping, 0, True, True)
    total = 10 * n if maxiter is None else maxiter
    complete = True

    def damped(p: Vector) -> Vector:
        image = steps.matvec(p)
        curvature = float(p @ image / (p @ p))
        if curvature + damping <= 0:
            raise NumericalError(
                f"the matrix has curvature {curvature:.3g} along a direction that the solver took, so with damping "
                f"{damping:g} it is not positive definite: use damping above {-curvature:.3g}, or the 'ggn' matrix."
            )
        return image + damping * p

    def keep(x: Vector) -> None:
        nonlocal best
        best = x.copy()
        monitor.tell("solve", steps.products, total, f"step of length {np.linalg.norm(x):.4g}")

    matrix = LinearOperator((n, n), matvec=damped, dtype=np.float64)
    try:
        best, _ = cg(matrix, b, rtol=tol, maxiter=total, callback=keep)
    except Stopped:
        complete = False
    # The residual that the solver carries along drifts: this one is computed. It is made after a stop too.
    current = float(np.linalg.norm(b - operator.matvec(best) - damping * best)) / size
    return Solution(best, current, damping, steps.products + 1, current <= 2 * tol, complete)
