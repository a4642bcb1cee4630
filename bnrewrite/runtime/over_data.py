"""Loss, gradient and products as means over the batches of a data set, weighted by their sizes.

    f(w) = sum_b n_b loss_b(w) / sum_b n_b      and the same mean for grad f, H v and G v

Sums are accumulated in float64, whatever the type of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, NumericalError
from .data import Batch, Data
from .engine import Engine
from .session import Array
from .vectors import Parts, VectorSpace

Matrix = NDArray[np.float64]


class OverData:
    """One engine over one data set at one point; `space` gives names and shapes of the parameters."""

    def __init__(self, engine: Engine, data: Data, parameters: Mapping[str, Array]) -> None:
        self.engine, self.data, self._parameters = engine, data, dict(parameters)
        shapes = engine.meta["parameters"]
        self._by_input = any("N" in shape for shape in shapes.values())
        batch = data.first() if self._by_input else None
        self.space = VectorSpace(
            {
                name: [batch.size if batch is not None and size == "N" else size for size in shape]
                for name, shape in shapes.items()
            }
        )
        self._point: Parts = {}

    def point(self) -> Parts:
        """`loss` and every `grad.<parameter>`."""
        if not self._point:
            totals = _Means()
            for batch, feeds in self._batches():
                totals.add(self.engine.point(feeds, batch.number), batch.size, self.data.place(batch))
            self._point = totals.means()
        return self._point

    def loss_at(self, parameters: Mapping[str, Array]) -> float:
        """The mean loss at other parameters, which may be infinite or not a number there."""
        losses, sizes = [], []
        for batch in self.data:
            losses.append(self.engine.loss({**batch.feeds, **parameters}))
            sizes.append(batch.size)
        return float(np.average(losses, weights=sizes))

    def products(self, product: str, rows: Matrix) -> Matrix:
        """The product with each row of `rows` (m, n), as rows (m, n). Every batch is loaded once."""
        total, samples = np.zeros(rows.shape), 0
        for batch, results in self._per_batch(product, rows):
            total += batch.size * results
            samples += batch.size
        return total / samples

    def forms(self, product: str, v: Matrix) -> tuple[Matrix, Matrix]:
        """v . (A_b v) of every batch b, and the sizes of the batches."""
        found = [(results[0] @ v, batch.size) for batch, results in self._per_batch(product, v[None])]
        values, sizes = zip(*found, strict=True)
        return np.array(values), np.array(sizes, np.float64)

    def _per_batch(self, product: str, rows: Matrix) -> Iterator[tuple[Batch, Matrix]]:
        """Batches with the product of each row on them; loss and gradient come along once and are kept."""
        converted = rows.astype(self.engine.dtype)
        if not np.isfinite(converted).all():
            raise InputError(f"v is too large for {self.engine.dtype}, the type of the file.")
        found = np.empty(rows.shape)
        totals = None if self._point else _Means()
        for batch, feeds in self._batches():
            place = self.data.place(batch)
            along: dict[str, Array] | None = None if totals is None else {}
            for row, parts in zip(
                found,
                self.engine.apply(product, feeds, batch.number, converted, self.space, along),
                strict=True,
            ):
                for name, part in parts.items():
                    _check_finite(f"{product}.{name}", part, place)
                    row[self.space.slices[name]] = part.reshape(-1)
            if totals is not None:
                totals.add(along or {}, batch.size, place)
            yield batch, found
        if totals is not None:
            self._point = totals.means()

    def _batches(self) -> Iterator[tuple[Batch, dict[str, Array]]]:
        for batch in self.data:
            if self._by_input and batch.number > 0:
                raise InputError(
                    "a file made with wrt='input' has one Hessian for each batch: give a single batch."
                )
            yield batch, {**batch.feeds, **self._parameters}


class _Means:
    """Weighted means of named arrays, all of them finite."""

    def __init__(self) -> None:
        self._total: dict[str, Any] = {}
        self._samples = 0

    def add(self, results: Mapping[str, Array], size: int, place: str) -> None:
        for name, value in results.items():
            _check_finite(name, value, place)
            self._total[name] = self._total.get(name, 0.0) + size * value.astype(np.float64)
        self._samples += size

    def means(self) -> Parts:
        return {name: np.asarray(value / self._samples) for name, value in self._total.items()}


def _check_finite(name: str, value: Array, place: str) -> None:
    if not np.isfinite(value).all():
        raise NumericalError(f"{name} is NaN or infinite on {place}.")
