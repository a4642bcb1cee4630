"""Curvature over a data set: loss, gradient, H v and G v as means over its batches, weighted by batch size.

    f(w) = sum_b n_b loss_b(w) / sum_b n_b      and the same mean for grad f, H v and G v

Sums are accumulated in float64, and all results are float64, whatever the type of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..errors import InputError, NumericalError
from .data import Batch, Data
from .eigen import Eigs, Which, lanczos
from .operator import CurvatureOperator
from .session import Array, Session
from .vectors import Parts, Vector, VectorSpace, as_array, listed

Matrix = Literal["hessian", "ggn"]
_PRODUCT: dict[str, str] = {"hessian": "hvp", "ggn": "ggn"}


def open_curvature(
    file: str | os.PathLike[str],
    data: Any,
    *,
    parameters: Mapping[str, Any] | None = None,
    providers: Sequence[Any] | None = None,
    session_options: onnxruntime.SessionOptions | None = None,
) -> Curvature:
    """Open an exported file over a data set.

    Parameters
    ----------
    file : an ONNX file that `bnrewrite.export_onnx` wrote.
    data : `(x, y)` arrays, the path of an `.npz` with `input` and `target`, or an iterable of `(x, y)` batches. Several
        batches mean: the mean over the batches as given, weighted by their sizes.
    parameters : arrays by name, for a file exported with `params="inputs"`.
    providers, session_options : as for `onnxruntime.InferenceSession`.

    Raises
    ------
    FileError : the file or the data file is missing, damaged, or not what it should be.
    InputError : data or parameters that do not fit the file.
    """
    session = Session(file, providers=providers, session_options=session_options)
    return Curvature(session, Data(data, session), parameters)


class Curvature:
    """Loss, gradient and curvature of one file over one data set.

    `space` holds names and shapes of the parameters and turns dicts into flat vectors and back.
    """

    def __init__(self, session: Session, data: Data, parameters: Mapping[str, Any] | None = None) -> None:
        self.session, self.data = session, data
        self._parameters = fitted_parameters(session, parameters)
        self._by_input = any("N" in shape for shape in session.meta["parameters"].values())
        self.space = VectorSpace(_shapes(session, data.first() if self._by_input else None))
        self._point: dict[str, NDArray[np.float64]] = {}

    @property
    def products(self) -> list[str]:
        """The products that the file computes: `hvp`, `ggn`."""
        return self.session.products

    @property
    def loss(self) -> float:
        """The mean loss."""
        return float(self._at_point()["loss"])

    def grad(self) -> Parts:
        """The mean gradient by parameter name."""
        point = self._at_point()
        return {name: point[f"grad.{name}"] for name in self.space.shapes}

    @overload
    def hvp(self, v: Mapping[str, Any]) -> Parts: ...
    @overload
    def hvp(self, v: Array) -> Vector: ...
    def hvp(self, v: Mapping[str, Any] | Array) -> Parts | Vector:
        """H v: a dict for a dict by parameter name, a flat vector (n,) for a flat vector (n,)."""
        return self._product("hvp", v)

    @overload
    def ggn(self, v: Mapping[str, Any]) -> Parts: ...
    @overload
    def ggn(self, v: Array) -> Vector: ...
    def ggn(self, v: Mapping[str, Any] | Array) -> Parts | Vector:
        """G v, the generalized Gauss-Newton product; forms as in `hvp`."""
        return self._product("ggn", v)

    def operator(self, matrix: Matrix = "hessian") -> CurvatureOperator:
        """H or G as a symmetric `scipy.sparse.linalg.LinearOperator` on flat vectors."""
        if matrix not in _PRODUCT:
            raise InputError(f"operator must be 'hessian' or 'ggn', not {matrix!r}.")
        product = _PRODUCT[matrix]
        self._require(product)
        apply: Callable[[Vector], Vector] = lambda v: self._product(product, v)  # type: ignore[assignment,return-value]  # noqa: E731
        return CurvatureOperator(apply, self.space.size)

    def eigs(
        self,
        k: int = 1,
        *,
        which: Which = "LM",
        matrix: Matrix = "hessian",
        tol: float | None = None,
        seed: int = 0,
        maxiter: int | None = None,
    ) -> Eigs:
        """k eigenpairs by Lanczos: largest magnitude (`"LM"`), largest (`"LA"`) or smallest algebraic (`"SA"`).

        `tol` is the relative accuracy, by default 1e-9 for a float64 file and 1e-6 for a float32 one, whose products
        carry no more. `seed` fixes the start vector.
        """
        if tol is None:
            tol = 1e-9 if self.session.dtype == np.float64 else 1e-6
        return lanczos(self.operator(matrix), k, which, tol=tol, seed=seed, maxiter=maxiter)

    # One pass over the data --------------------------------------------------------------------------------------

    def _require(self, product: str) -> None:
        if product not in self.products:
            raise InputError(
                f"'{self.session.name}' does not hold {product}, only {', '.join(self.products)}: "
                f"export it with products=(..., '{product}')."
            )

    def _product(self, product: str, v: Mapping[str, Any] | Array) -> Parts | Vector:
        self._require(product)
        if isinstance(v, Mapping):
            return self._over_data(product, self.space.checked(v))
        return self.space.flatten(self._over_data(product, self.space.unflatten(v)))

    def _over_data(self, product: str, v: Parts) -> Parts:
        names = {f"{product}.{name}": name for name in self.space.shapes}
        means = self._means(list(names), v)
        return {name: means[output] for output, name in names.items()}

    def _at_point(self) -> dict[str, NDArray[np.float64]]:
        if not self._point:
            # The graph computes everything at once; without a direction it is asked with v = 0.
            self._means([], {name: np.zeros(shape) for name, shape in self.space.shapes.items()})
        return self._point

    def _means(self, outputs: list[str], v: Parts) -> dict[str, NDArray[np.float64]]:
        """Weighted means of `outputs` over the batches. Loss and gradient come along once and are kept."""
        kept = [] if self._point else ["loss", *(f"grad.{name}" for name in self.space.shapes)]
        feeds = {f"v.{name}": part.astype(self.session.dtype) for name, part in v.items()}
        total: dict[str, NDArray[np.float64]] = {}
        samples = 0
        for batch in self.data:
            if self._by_input and batch.number > 0:
                raise InputError(
                    "a file made with wrt='input' has one Hessian for each batch: give a single batch."
                )
            results = self.session.run(batch.feeds | self._parameters | feeds, [*outputs, *kept])
            for name, value in results.items():
                if not np.isfinite(value).all():
                    raise NumericalError(f"{name} is NaN or infinite on {self.data.place(batch)}.")
                total[name] = total.get(name, 0.0) + batch.size * value.astype(np.float64)
            samples += batch.size
        means = {name: np.asarray(value / samples) for name, value in total.items()}
        if kept:
            self._point = {name: means[name] for name in kept}
        return means


def _shapes(session: Session, batch: Batch | None) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters; the batch axis of `wrt="input"` takes the size of the batch."""
    return {
        name: tuple(batch.size if batch is not None and size == "N" else size for size in shape)
        for name, shape in session.meta["parameters"].items()
    }


def fitted_parameters(session: Session, parameters: Mapping[str, Any] | None) -> dict[str, Array]:
    """Feeds for a file whose parameters are inputs; empty for one that holds them."""
    expected = {argument.name: argument for argument in session.of_kind("parameter")}
    if not expected:
        if parameters is not None:
            raise InputError(f"'{session.name}' holds its parameters: it takes none from outside.")
        return {}
    missing = [name for name in expected if name not in (parameters or {})]
    if parameters is None or missing:
        raise InputError(
            f"'{session.name}' takes its parameters as inputs: give parameters= with {listed(missing)}."
        )
    feeds = {name: as_array(parameters[name]) for name in expected}
    for name, array in feeds.items():
        if array.shape != expected[name].shape or array.dtype.kind != expected[name].dtype.kind:
            raise InputError(
                f"parameter '{name}' is {array.dtype} {list(array.shape)}, the file takes {expected[name].described()}."
            )
    return {name: np.ascontiguousarray(array, dtype=expected[name].dtype) for name, array in feeds.items()}
