"""The spectral density of a symmetric matrix by stochastic Lanczos quadrature.

The eigenvalues of a Lanczos tridiagonal matrix, weighted by the squared first entries of its eigenvectors, are a Gauss
quadrature of the density that a random start vector sees (Golub, Welsch 1969; Lin, Saad, Yang 2016; for the Hessians
of networks Ghorbani, Krishnan, Xiao 2019). Averaged over start vectors and broadened by a Gaussian, they draw the
spectrum.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator

from ..errors import InputError
from .monitor import Monitor, Steps, Stopped
from .plain import plain
from .probes import gaussian

Array = NDArray[np.float64]

STEPS = 64
POINTS = 1024
_EDGE = 4.0
"""The grid reaches so many widths beyond the support."""


@dataclass(frozen=True)
class Density:
    """The density on a grid, and the quadrature that it is drawn from.

    `grid`, `density`, `standard_error`: (points,); the density integrates to 1, its error is that over the probes.
    `nodes`, `weights`: one array for each probe; weights sum to 1. `support`: below and above all nodes by what they
    may be off, the residuals of the outermost Ritz values. `sigma`: width of the Gaussian.
    """

    grid: Array
    density: Array
    standard_error: Array
    nodes: list[Array]
    weights: list[Array]
    support: tuple[float, float]
    sigma: float
    steps: int
    products: int
    complete: bool

    def moment(self, power: int) -> tuple[float, float]:
        """The mean of eigenvalue^power with its standard error; of the first, n times the mean is the trace."""
        found = np.array([w @ x**power for x, w in zip(self.nodes, self.weights, strict=True)])
        error = found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.inf
        return float(found.mean()), float(error)

    def quadrature(self) -> tuple[Array, Array]:
        """All nodes and weights as one discrete distribution."""
        return np.concatenate(self.nodes), np.concatenate(self.weights) / len(self.nodes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return plain(asdict(self) | {"probes": len(self.nodes)})

    def __str__(self) -> str:
        low, high = self.support
        state = "" if self.complete else ", stopped early"
        return (
            f"spectrum within [{low:.4g}, {high:.4g}] ({len(self.nodes)} probes of {self.steps} steps, "
            f"{self.products} products{state})"
        )


def spectral_density(
    operator: LinearOperator,
    *,
    steps: int | None = None,
    probes: int = 4,
    sigma: float | None = None,
    points: int = POINTS,
    seed: int = 0,
    monitor: Monitor | None = None,
    task: str = "density",
) -> Density:
    """The density of the eigenvalues of `operator` (n, n), from `probes` runs of `steps` Lanczos steps.

    A run keeps `steps` (default 64, or n) vectors, all orthogonalised against each other. `sigma` is the width of the
    broadening, by default a hundredth of the support. Raises InputError for a wrong argument,
    Stopped where no probe was finished.
    """
    n = operator.shape[0]
    steps = min(STEPS, n) if steps is None else steps
    for name, value in (("steps", steps), ("probes", probes), ("points", points)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise InputError(f"{name} must be a whole number, at least 1, not {value!r}.")
    if sigma is not None and not 0 < sigma < np.inf:
        raise InputError(f"sigma must be above 0, not {sigma!r}.")
    if steps > n:
        raise InputError(f"steps must be at most {n}, the dimension of the matrix, not {steps}.")
    monitor = monitor or Monitor()
    nodes: list[Array] = []
    weights: list[Array] = []
    residuals: list[Array] = []
    count, complete = 0, True
    block = min(getattr(operator, "block", 1), probes)
    for first in range(0, probes, block):
        numbers = range(first, min(first + block, probes))
        done = Steps(operator, f"{task} {steps} probes {numbers.start}-{numbers.stop} seed {seed}", monitor)
        finished = f"{task} {steps} finished {numbers.start}-{numbers.stop} seed {seed}"
        try:
            stored = monitor.step(finished, 0, partial(_runs, done, steps, numbers, seed, probes))
        except Stopped:
            if not nodes:
                raise
            complete = False
            break
        monitor.forget(done.task)
        nodes += list(stored["nodes"])
        weights += list(stored["weights"])
        residuals += list(stored["residuals"])
        count += steps * len(numbers)
    return _drawn(nodes, weights, residuals, sigma, points, steps, count, complete)


def _runs(steps: Steps, length: int, numbers: range, seed: int, probes: int) -> dict[str, Array]:
    """Nodes, weights and residuals (m, length) of the runs of some probes, which go side by side."""
    start = gaussian(steps.shape[0], seed, "density", numbers)
    alpha, beta = tridiagonal(steps, start, length, probes)
    found = [eigh_tridiagonal(a, b[:-1]) for a, b in zip(alpha, beta, strict=True)]
    return {
        "nodes": np.array([values for values, _ in found]),
        "weights": np.array([vectors[0] ** 2 for _, vectors in found]),
        "residuals": np.array(
            [np.abs(b[-1] * vectors[-1]) for b, (_, vectors) in zip(beta, found, strict=True)]
        ),
    }


def tridiagonal(steps: Steps, start: Array, length: int, probes: int = 1) -> tuple[Array, Array]:
    """Lanczos from each column of `start` (n, m) with full reorthogonalisation: alpha and beta, both (m, length).

    The last beta is the norm of what is left after the last step. A run that ends early, in an invariant subspace,
    goes on from nothing: zero couplings, whose nodes have no weight.
    """
    n, m = start.shape
    basis = np.zeros((m, length, n))
    alpha, beta = np.zeros((m, length)), np.zeros((m, length))
    v = start / np.linalg.norm(start, axis=0)
    for j in range(length):
        basis[:, j] = v.T
        w = steps.matmat(v)
        size = np.linalg.norm(w, axis=0)
        for i in range(m):
            alpha[i, j] = v[:, i] @ w[:, i]
            known = basis[i, : j + 1]
            for _ in range(2):
                w[:, i] -= known.T @ (known @ w[:, i])
            beta[i, j] = np.linalg.norm(w[:, i])
            ended = beta[i, j] <= 100 * np.finfo(np.float64).eps * max(size[i], np.abs(alpha[i]).max())
            v[:, i] = 0.0 if ended else w[:, i] / beta[i, j]
            beta[i, j] = 0.0 if ended else beta[i, j]
        extremes = eigh_tridiagonal(alpha[0, : j + 1], beta[0, :j], eigvals_only=True)
        steps.monitor.tell(
            "density",
            j + 1,
            length,
            f"of {probes} probes, spectrum from {extremes[0]:.4g} to {extremes[-1]:.4g}",
        )
    return alpha, beta


def _drawn(
    nodes: list[Array], weights: list[Array], residuals: list[Array], sigma: float | None, points: int, steps: int,
    products: int, complete: bool,
) -> Density:  # fmt: skip
    every, off = np.concatenate(nodes), np.concatenate(residuals)
    seen = np.concatenate(weights) > 0
    low, high = float((every - off)[seen].min()), float((every + off)[seen].max())
    if sigma is None:
        sigma = (high - low) / 100 or max(abs(high), 1.0) / 100
    grid = np.linspace(low - _EDGE * sigma, high + _EDGE * sigma, points)
    scale = 1 / (sigma * np.sqrt(2 * np.pi))
    each = np.array(
        [
            scale * np.exp(-0.5 * ((grid[:, None] - x) / sigma) ** 2) @ w
            for x, w in zip(nodes, weights, strict=True)
        ]
    )
    error = each.std(axis=0, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.full(points, np.inf)
    return Density(
        grid, each.mean(axis=0), error, nodes, weights, (low, high), float(sigma), steps, products, complete
    )
