"""The trace of the diagonal block of every parameter, all from the same probes.

For a vector v of independent signs, the part of v.A v that belongs to a parameter, v_l.(A v)_l, has the trace of that
parameter's block as its mean: the cross terms average out. So one product serves every layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from .monitor import Monitor, Stopped, shown
from .plain import plain
from .probes import rademacher
from .trace import LEAST, check_budget

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LayerTraces:
    """`traces` and `standard_errors` by parameter name; `means` are traces per entry of the parameter.

    Flags as in `Trace`; the errors of all layers together are compared with the tolerance.
    """

    traces: dict[str, float]
    standard_errors: dict[str, float]
    sizes: dict[str, int]
    samples: int
    products: int
    converged: bool
    complete: bool

    @property
    def means(self) -> dict[str, float]:
        return {name: value / self.sizes[name] for name, value in self.traces.items()}

    def as_dict(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """For JSON: one row for each parameter."""
        rows = [
            {
                "name": name,
                "shape": list(shapes[name]),
                "size": self.sizes[name],
                "trace": value,
                "standard_error": self.standard_errors[name],
                "mean": self.means[name],
            }
            for name, value in self.traces.items()
        ]
        flags = {key: getattr(self, key) for key in ("samples", "products", "converged", "complete")}
        return plain({**flags, "layers": rows})

    def __getitem__(self, name: str) -> float:
        return self.traces[name]

    def __str__(self) -> str:
        rows = (
            f"{name}: {shown(value, self.standard_errors[name])} ({self.means[name]:.3g} an entry)"
            for name, value in self.traces.items()
        )
        return "\n".join(rows)


class LayerForms:
    """v_l.(A v)_l for blocks of probes and every layer l; what was computed once is kept."""

    def __init__(
        self, operator: LinearOperator, slices: Mapping[str, slice], seed: int, monitor: Monitor, task: str
    ) -> None:
        self._operator, self._slices, self._seed = operator, slices, seed
        self._monitor, self._task = monitor, f"{task} probes seed {seed}"
        self._block: int = getattr(operator, "block", 1)
        self._found: list[Array] = []

    def __iter__(self) -> Iterator[Array]:
        """Blocks (m, L), one row for each probe, without end. Raises Stopped where one has to be computed."""
        number = 0
        while True:
            if number == len(self._found):
                found = self._monitor.step(self._task, number, partial(self._block_of, number))
                self._found.append(found["forms"])
            yield self._found[number]
            number += 1

    def _block_of(self, number: int) -> dict[str, Array]:
        numbers = range(number * self._block, (number + 1) * self._block)
        v = rademacher(self._operator.shape[0], self._seed, "trace", numbers)
        product = v * self._operator.matmat(v)
        return {"forms": np.array([product[part].sum(axis=0) for part in self._slices.values()]).T}


def layer_traces(
    forms: LayerForms, sizes: Mapping[str, int], *, tol: float | None, samples: int, monitor: Monitor
) -> LayerTraces:
    """The mean of `forms` over probes, until the standard errors of all layers are within `tol` of all traces (root
    mean squares), or `samples` probes were used. Raises InputError, and Stopped without any estimate."""
    check_budget(tol, samples)
    found = np.zeros((0, len(sizes)))
    values = errors = np.zeros(len(sizes))
    complete = converged = True
    blocks = iter(forms)
    while len(found) < samples:
        try:
            found = np.vstack([found, next(blocks)])
        except Stopped:
            if len(found) < 2:
                raise
            complete = False
            break
        if len(found) < 2:
            continue
        values, errors = found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(len(found))
        size = np.linalg.norm(values)
        relative = float(np.linalg.norm(errors) / size) if size > 0 else np.inf
        converged = tol is not None and relative <= tol
        monitor.tell("layers", len(found), samples, f"relative error of all layers {relative:.1%}")
        if len(found) >= LEAST and converged:
            break
    count = len(found)
    return LayerTraces(
        dict(zip(sizes, values.tolist(), strict=True)),
        dict(zip(sizes, errors.tolist(), strict=True)),
        dict(sizes), count, count, converged, complete,
    )  # fmt: skip
