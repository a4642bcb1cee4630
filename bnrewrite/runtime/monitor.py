"""What a long computation tells the outside, and what it hears from there: progress, a wish to stop, stored steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ..errors import BnrewriteError
from .checkpoint import Checkpoint

Vector = NDArray[np.float64]


Progress = Callable[[str, int, int, str], None]
"""Called after every step: the task, steps done, steps at most (0: unknown), and the estimate with its error so far."""


class Stopped(BnrewriteError):
    """The computation was asked to stop before there was any estimate."""


class Monitor:
    """Hands progress out, and stops a computation between two products when `stop()` was called."""

    def __init__(self, progress: Progress | None = None, checkpoint: Checkpoint | None = None) -> None:
        self._progress, self.checkpoint = progress, checkpoint
        self.stopped = False

    def stop(self) -> None:
        """Ask the running computation for what it has so far; safe in a signal handler."""
        self.stopped = True

    def tell(self, task: str, done: int, total: int, estimate: str) -> None:
        """Report a step."""
        if self._progress is not None:
            self._progress(task, done, total, estimate)

    def step(
        self, task: str, number: int, compute: Callable[[], Mapping[str, NDArray[Any]]]
    ) -> dict[str, Any]:
        """The arrays of a step: from the checkpoint, or computed now and stored there. Raises Stopped when asked to."""
        if self.checkpoint is not None:
            stored = self.checkpoint.load(task, number)
            if stored is not None:
                return stored
        if self.stopped:
            raise Stopped(f"stopped before the first result of {task.split()[0]}.")
        found = dict(compute())
        if self.checkpoint is not None:
            self.checkpoint.save(task, number, found)
        return found

    def recall(self, task: str) -> dict[str, Any] | None:
        """The state that `keep` stored last."""
        return None if self.checkpoint is None else self.checkpoint.load(task, 0)

    def keep(self, task: str, **state: NDArray[Any]) -> None:
        """Store the state of a running sum in place of the one before."""
        if self.checkpoint is not None:
            self.checkpoint.save(task, 0, state)

    def forget(self, task: str) -> None:
        """Drop stored steps that nothing needs any more."""
        if self.checkpoint is not None:
            self.checkpoint.forget(task)


def shown(value: float, error: float) -> str:
    """An estimate with its standard error, as progress bars show it."""
    return f"{value:.5g} ± {error:.1g}"


class Steps(LinearOperator):
    """`operator`, each product a step of `task`: stored, found again, stopped between two of them.

    `products` counts them, found or computed. A computation that asks for the same products in the same order gets the
    same numbers after a restart.
    """

    def __init__(self, operator: LinearOperator, task: str, monitor: Monitor) -> None:
        super().__init__(np.dtype(np.float64), operator.shape)
        self.operator, self.task, self.monitor = operator, task, monitor
        self.block: int = getattr(operator, "block", 1)
        self.products = 0
        self._calls = 0

    def _matmat(self, X: NDArray[Any]) -> Vector:
        return np.hstack([self._step(X[:, i : i + self.block]) for i in range(0, X.shape[1], self.block)])

    def _step(self, columns: NDArray[Any]) -> Vector:
        found = self.monitor.step(
            # In one memory order, stored or not: sums over another order round differently.
            self.task, self._calls, lambda: {"product": np.ascontiguousarray(self.operator.matmat(columns))}
        )["product"]  # fmt: skip
        self._calls += 1
        self.products += columns.shape[1]
        return found

    def _matvec(self, x: NDArray[Any]) -> Vector:
        return self._matmat(np.asarray(x, np.float64).reshape(-1, 1))[:, 0]

    def _adjoint(self) -> Steps:
        return self

    def _transpose(self) -> Steps:
        return self
