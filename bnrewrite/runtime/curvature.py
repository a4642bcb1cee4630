"""Curvature over a data set: loss, gradient, H v and G v, and what is estimated from them.

All of them are means over the batches as they are given, weighted by their sizes; all results are float64, whatever the
type of the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import onnxruntime

from ..errors import InputError
from . import density, diagonal, eigen, layers, low_rank, solve, trace
from .checkpoint import Checkpoint, digest_of
from .data import Data
from .diagonal import Diagonal
from .eigen import Eigs, Which
from .engine import Engine, open_engine
from .landscape import Directions, Landscape, coordinates, eigen_directions, random_directions, rows
from .monitor import Monitor, Progress, Steps
from .operator import CurvatureOperator
from .over_data import OverData
from .parameters import fitted_parameters
from .pruning import saliency
from .sensitivity import Sensitivity, sensitivity
from .session import Array
from .vectors import Parts, Vector, VectorSpace, as_array
from .weights import read_weights

Matrix = Literal["hessian", "ggn", "residual"]
_PRODUCT: dict[str, str] = {"hessian": "hvp", "ggn": "ggn", "residual": "residual"}


def open_curvature(
    file: str | os.PathLike[str],
    data: Any,
    *,
    batch: int | None = None,
    parameters: Mapping[str, Any] | None = None,
    providers: Sequence[Any] | None = None,
    session_options: onnxruntime.SessionOptions | None = None,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Curvature:
    """Open an exported file over a data set.

    Parameters
    ----------
    file : an ONNX file that `bnrewrite.export_onnx` wrote. Of a pair made with `linearize=True` either part, or the
        common name `curvature.onnx` where there is no such file: residuals are computed once for each batch.
    data : `(x, y)` arrays, the path of an `.npz` with `input` and `target`, or an iterable of `(x, y)` batches or of
        such paths. Several batches mean: the mean over the batches as given, weighted by their sizes. They are read
        one at a time, anew for every pass.
    batch : cut one `(x, y)` or `.npz` into batches of this size, the last one smaller where it does not divide. With
        batch statistics every choice of it is another function; nothing is cut or merged otherwise.
    parameters : arrays by name, for a file exported with `params="inputs"`.
    providers, session_options : as for `onnxruntime.InferenceSession`.
    progress : called after every step of an estimator with task, steps done, steps at most (0: unknown), estimate.
    checkpoint : a file in which every step is stored, so that a run that was killed goes on where it was.

    Raises
    ------
    FileError : the file or the data file is missing, damaged, or not what it should be.
    InputError : data or parameters that do not fit the file; a checkpoint of another file or other data.
    """
    engine = open_engine(file, providers=providers, session_options=session_options)
    found = Data(data, engine, batch=batch)
    fitted = fitted_parameters(engine, parameters)
    stored = None
    if checkpoint is not None:
        stored = Checkpoint(
            checkpoint,
            {
                "exported file": digest_of(engine.files),
                "data set": found.digest(),
                "parameters": _digest_of_arrays(fitted),
            },
        )
    return Curvature(engine, found, fitted, Monitor(progress, stored))


class Curvature:
    """Loss, gradient and curvature of one file over one data set, at one point.

    `space` holds names and shapes of the parameters and turns dicts into flat vectors and back. Estimators are random:
    `seed` fixes their probes, and the same seed gives the same numbers on the same machine.
    """

    def __init__(
        self, engine: Engine, data: Data, parameters: Mapping[str, Array], monitor: Monitor | None = None
    ) -> None:
        self.engine, self.data, self.monitor = engine, data, monitor or Monitor()
        self._parameters = dict(parameters)
        self._over = OverData(engine, data, parameters)
        self._forms: dict[tuple[str, int], layers.LayerForms] = {}

    @property
    def space(self) -> VectorSpace:
        """Names, shapes and places in a flat vector of the parameters."""
        return self._over.space

    @property
    def products(self) -> list[str]:
        """The products that the file computes: `hvp`, `ggn`, `residual`."""
        return self.engine.products

    @property
    def statistics(self) -> str:
        """Which statistics the BatchNorms use: `batch`, `running`, `mixed`, or `none` where there is no BatchNorm."""
        used = {site["statistics"] for site in self.engine.meta.get("sites", ())}
        return next(iter(used)) if len(used) == 1 else "mixed" if used else "none"

    @property
    def loss(self) -> float:
        """The mean loss."""
        return float(self._over.point()["loss"])

    def grad(self) -> Parts:
        """The mean gradient by parameter name."""
        point = self._over.point()
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

    @overload
    def residual(self, v: Mapping[str, Any]) -> Parts: ...
    @overload
    def residual(self, v: Array) -> Vector: ...
    def residual(self, v: Mapping[str, Any] | Array) -> Parts | Vector:
        """R v = H v - G v, what the model itself curves, computed without that difference; forms as in `hvp`."""
        return self._product("residual", v)

    def operator(self, matrix: Matrix = "hessian") -> CurvatureOperator:
        """H, G or R as a symmetric `scipy.sparse.linalg.LinearOperator` on flat vectors. `matmat` reads the data
        once."""
        product = self._named(matrix)
        return CurvatureOperator(
            lambda rows: self._over.products(product, rows), self.space.size, self.engine.block
        )

    # Estimators ----------------------------------------------------------------------------------------------------

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
            tol = 1e-9 if self.engine.dtype == np.float64 else 1e-6
        return eigen.lanczos(
            self.operator(matrix), k, which, tol=tol, seed=seed, maxiter=maxiter, monitor=self.monitor,
            task=f"eigs {matrix}",
        )  # fmt: skip

    def trace(
        self,
        *,
        method: trace.Method | None = None,
        tol: float | None = 0.05,
        samples: int = 200,
        seed: int = 0,
        matrix: Matrix = "hessian",
    ) -> trace.Trace:
        """The trace, with a standard error of at most `tol` times its absolute value, or after `samples` products.

        `method`: `"hutchinson"`, `"hutch++"`, `"xtrace"`, `"exact"` (n products), or `None` for what is most accurate:
        XTrace where its vectors fit into a gigabyte, Hutchinson beyond.
        """
        return trace.trace(
            self.operator(matrix), method=method, tol=tol, samples=samples, seed=seed, monitor=self.monitor,
            task=f"trace {matrix}", forms=lambda: (form.sum(axis=1) for form in self._layer_forms(matrix, seed)),
        )  # fmt: skip

    def diagonal(
        self,
        *,
        method: diagonal.Method | None = None,
        tol: float | None = 0.05,
        samples: int = 200,
        seed: int = 0,
        matrix: Matrix = "hessian",
    ) -> diagonal.Diagonal:
        """The diagonal (n,), with errors whose norm is at most `tol` times its own, or after `samples` products.

        `method`: `"hutchinson"`, `"xdiag"`, `"low_rank"` (exact where the rank is below `samples`, which the result
        says; see `low_rank`), `"exact"` (n products), or `None` as in `trace`.
        """
        return diagonal.diagonal(
            self.operator(matrix), method=method, tol=tol, samples=samples, seed=seed, monitor=self.monitor,
            task=f"diagonal {matrix}", eps=self._rounding,
        )  # fmt: skip

    def low_rank(self, *, matrix: Matrix = "ggn", samples: int = 1000, seed: int = 0) -> low_rank.LowRank:
        """All of G: every eigenvalue that is not zero and its eigenvector, from few more products than there are.

        The rank of G is at most the number of outputs, N C over all the data. Probes join until others confirm that
        nothing is missing, or until `samples` products are made: `converged` says which.
        """
        steps = Steps(self.operator(matrix), f"low rank {matrix} seed {seed}", self.monitor)
        return low_rank.low_rank(steps, samples=samples, seed=seed, eps=self._rounding)

    def spectral_density(
        self,
        *,
        steps: int | None = None,
        probes: int = 4,
        sigma: float | None = None,
        points: int = density.POINTS,
        seed: int = 0,
        matrix: Matrix = "hessian",
    ) -> density.Density:
        """The density of the eigenvalues by stochastic Lanczos quadrature: `probes` runs of `steps` products each.

        `steps`: 64 by default; a run keeps that many vectors. `sigma`: width of the Gaussian that broadens them.
        """
        return density.spectral_density(
            self.operator(matrix), steps=steps, probes=probes, sigma=sigma, points=points, seed=seed,
            monitor=self.monitor, task=f"density {matrix}",
        )  # fmt: skip

    def layer_traces(
        self, *, tol: float | None = None, samples: int = 64, seed: int = 0, matrix: Matrix = "hessian"
    ) -> layers.LayerTraces:
        """The trace of every parameter's own block, all from the same `samples` probes, or fewer where `tol` is met."""
        return layers.layer_traces(
            self._layer_forms(matrix, seed), self._sizes(), tol=tol, samples=samples, monitor=self.monitor
        )

    def quadratic_form(self, v: Mapping[str, Any] | Array, *, matrix: Matrix = "hessian") -> QuadraticForm:
        """v.H v (or v.G v) for a dict or a flat vector, with its standard error over the batches."""
        product, flat = self._named(matrix), self._flat(v)
        values, sizes = self._over.forms(product, flat)
        weights = sizes / sizes.sum()
        value = float(weights @ values)
        spread = np.sum(weights**2 * (values - value) ** 2) * len(values) / max(len(values) - 1, 1)
        return QuadraticForm(value, float(np.sqrt(spread)) if len(values) > 1 else float("nan"), len(values))

    @overload
    def solve(
        self,
        b: Mapping[str, Any],
        *,
        damping: float = ...,
        tol: float = ...,
        maxiter: int | None = ...,
        matrix: Matrix = ...,
    ) -> tuple[Parts, solve.Solution]: ...
    @overload
    def solve(
        self,
        b: Array,
        *,
        damping: float = ...,
        tol: float = ...,
        maxiter: int | None = ...,
        matrix: Matrix = ...,
    ) -> tuple[Vector, solve.Solution]: ...
    def solve(
        self,
        b: Mapping[str, Any] | Array,
        *,
        damping: float = 0.0,
        tol: float = 1e-6,
        maxiter: int | None = None,
        matrix: Matrix = "hessian",
    ) -> tuple[Parts | Vector, solve.Solution]:
        """x with (H + damping I) x = b by conjugate gradients, in the form of `b`, and how well it is solved.

        A Newton step is `-solve(grad)`. Raises NumericalError where the damped matrix is not positive definite.
        """
        flat = self._flat(b)
        key = _digest_of_arrays({"b": flat})[:16]
        solution = solve.solve(
            self.operator(matrix), flat, damping=damping, tol=tol, maxiter=maxiter, monitor=self.monitor,
            task=f"solve {matrix} {key}",
        )  # fmt: skip
        return (self.space.unflatten(solution.x) if isinstance(b, Mapping) else solution.x), solution

    # What the weights have to do with it -----------------------------------------------------------------------------

    def weights(self) -> dict[str, Array]:
        """The parameters at which the curvature is taken: read from the file, or as they were given."""
        if self._by_input():
            raise InputError("the file was made with wrt='input': its Hessian is not by the weights.")
        if self._parameters:
            return {name: self._parameters[name] for name in self.space.shapes}
        return read_weights(self.engine.files[0], self.space.shapes)

    def sensitivity(
        self,
        bits: Sequence[int] = (2, 4, 8),
        *,
        tol: float | None = None,
        samples: int = 64,
        seed: int = 0,
        matrix: Matrix = "hessian",
    ) -> Sensitivity:
        """HAWQ-V2 scores of every weight tensor at each width: average trace times squared quantization error.

        Quantization is symmetric with a scale for each output channel. Traces are those of `layer_traces`.
        """
        weights = self.weights()
        traces = self.layer_traces(tol=tol, samples=samples, seed=seed, matrix=matrix)
        return sensitivity(weights, traces, bits)

    def saliency(self, found: Diagonal) -> dict[str, Array]:
        """w_i^2 H_ii / 2 of every entry of the weight tensors (two axes or more), from an estimate of the diagonal."""
        weights = {name: w for name, w in self.weights().items() if w.ndim > 1}
        parts = self.space.unflatten(found.values)
        return saliency(weights, {name: parts[name] for name in weights})

    def landscape(
        self,
        *,
        directions: Directions = "random",
        extent: float = 1.0,
        points: int = 21,
        seed: int = 0,
        matrix: Matrix = "hessian",
    ) -> Landscape:
        """The loss at `points` x `points` weights w + x d1 + y d2, with x and y from -`extent` to `extent`.

        Needs a file exported with `params="inputs"`. `directions`: `"random"`, filter-normalised, or `"eigs"`, the two
        eigenvectors of largest magnitude.
        """
        if not self._parameters:
            raise InputError(
                f"'{self.engine.name}' holds its weights, so they cannot be moved: export it with params='inputs' "
                "(--params inputs) and give the weights with parameters= (--weights)."
            )
        weights, eigenvalues = self.weights(), None
        axis = coordinates(extent, points)
        if directions == "eigs":
            pairs = self.eigs(2, matrix=matrix, seed=seed, tol=1e-4)
            first, second = eigen_directions(pairs.vectors, self.space)
            eigenvalues = (float(pairs.values[0]), float(pairs.values[1]))
        elif directions == "random":
            first, second = random_directions(weights, seed)
        else:
            raise InputError(f"directions must be 'random' or 'eigs', not {directions!r}.")
        task = f"landscape {directions} {extent} {points} {matrix} seed {seed}"
        loss, complete = rows(
            lambda moved: self._over.loss_at({**self._parameters, **moved}), weights, first, second, axis, axis,
            self.monitor, task,
        )  # fmt: skip
        return Landscape(axis, axis, loss, self.loss, directions, eigenvalues, complete)

    # Helpers -------------------------------------------------------------------------------------------------------

    def _named(self, matrix: str) -> str:
        """The product of a matrix, which the file must hold."""
        if matrix not in _PRODUCT:
            raise InputError(f"matrix must be 'hessian', 'ggn' or 'residual', not {matrix!r}.")
        self._require(_PRODUCT[matrix])
        return _PRODUCT[matrix]

    @property
    def _rounding(self) -> float:
        """Relative rounding error of the file's arithmetic."""
        return float(np.finfo(self.engine.dtype).eps)

    def _by_input(self) -> bool:
        return any("N" in shape for shape in self.engine.meta["parameters"].values())

    def _require(self, product: str) -> None:
        if product not in self.products:
            raise InputError(
                f"'{self.engine.name}' does not hold {product}, only {', '.join(self.products)}: "
                f"export it with products=(..., '{product}')."
            )

    def _product(self, product: str, v: Mapping[str, Any] | Array) -> Parts | Vector:
        self._require(product)
        found = self._over.products(product, self._flat(v)[None])[0]
        return self.space.unflatten(found) if isinstance(v, Mapping) else found

    def _flat(self, v: Mapping[str, Any] | Array) -> Vector:
        if isinstance(v, Mapping):
            return self.space.flatten(v)
        return self.space.flatten(self.space.unflatten(as_array(v)))

    def _sizes(self) -> dict[str, int]:
        return {name: part.stop - part.start for name, part in self.space.slices.items()}

    def _layer_forms(self, matrix: Matrix, seed: int) -> layers.LayerForms:
        """The probes of one seed, which traces of layers and of the whole share."""
        key = (matrix, seed)
        if key not in self._forms:
            self._forms[key] = layers.LayerForms(
                self.operator(matrix), self.space.slices, seed, self.monitor, f"layers {matrix}"
            )
        return self._forms[key]


@dataclass(frozen=True)
class QuadraticForm:
    """v.A v over all the data; `standard_error` from its spread over the batches (NaN for a single one)."""

    value: float
    standard_error: float
    batches: int

    def __float__(self) -> float:
        return self.value


def _digest_of_arrays(arrays: Mapping[str, Array]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(name.encode())
        found.update(np.ascontiguousarray(arrays[name]).data)
    return found.hexdigest()
