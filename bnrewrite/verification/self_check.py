"""A file checked against itself, where its model is not at hand.

    gradient       <g, v>  =  d/dt loss(w + t v)            central differences
    H v            =  d/dt g(w + t v)                       central differences
    G v + R v      =  the same
    symmetric      <u, A v> = <v, A u>                      A = H, G, R
    linear         A (2 u - 3 v) = 2 A u - 3 A v
    semidefinite   <v, G v> >= 0

Central differences D(h) = (f(w + h v) - f(w - h v)) / 2h have an error of order h^2. A large step goes over kinks of
ReLU and max pooling, a small one loses digits; so a ladder of steps is descended, and the D that the next one confirms
best is taken: the file's own product has no say in that. How far the two differ says how good the reference is.
Between the kinks and the lost digits there is room in float64 only: ResNet-50 on 4 images needs steps below 1e-8 of its
weights. So a float32 file is compared with the same graph in float64 arithmetic, and the differences are of that.

G v alone has no such reference: that it is the Gauss-Newton product of this model shows only beside the model. The same
goes for R v.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..emit.onnx_reading import load, serialised, tensors, with_parameters_as_inputs
from ..emit.onnx_reference import Evaluator, as_float64, only
from ..errors import InputError
from ..runtime.session import Array, Session
from .report import Row, relative_error, worst_parts, zero_floor

Parts = dict[str, NDArray[Any]]
Found = Mapping[str, Parts]
Say = Callable[[str], None]

# Steps relative to the weights, |h v| / |w|, each a quarter of the one before. At the top the error of order h^2 is
# about 1e-10, at the bottom float64 has three or four digits left.
TOP_STEP, RUNGS = 1e-5, 12
# Differences of right files agreed with their products to 1e-11 (MLP) to 1e-6 (ResNet-50), and to within a few times
# what two neighbouring steps differ.
DIFFERENCE_BAR, UNCERTAINTY_FACTOR = 1e-6, 10.0
# The descent ends when a step changes less than the first; differences that never change less than the second are no
# reference.
SETTLED, UNSETTLED = DIFFERENCE_BAR / UNCERTAINTY_FACTOR, 1e-2
# Rounding errors of right files: float64 1e-15, float32 1e-7 to 1e-5, and up to 2e-2 where a ReLU is within rounding of
# its kink (MobileNetV2 with random weights).
ROUNDING_BAR = 5e-2
ALGEBRA_BAR = {"float64": 1e-8, "float32": 1e-3}


def self_check(
    session: Session,
    path: str | os.PathLike[str],
    feeds: Mapping[str, Array],
    directions: Sequence[Parts],
    found: Found,
    say: Say,
) -> list[Row]:
    """The rows of a report: `found` is what the file at `path` gave for `feeds` and the vectors `directions`."""
    if session.of_kind("parameter"):
        raise InputError(
            f"'{session.name}' takes its parameters as inputs, so it has no point of its own: verify it with its model."
        )
    model = load(path)
    gradient = _Gradient(model, session, feeds)
    floor = _Floor(found, gradient)
    rows: list[Row] = []
    exact = found
    if session.dtype == np.float32:
        say("the same graph in float64 arithmetic")
        exact = _in_float64(model, session, feeds, directions)
        for name in exact:
            least = floor.of(name, directions)
            error = relative_error(found[name], exact[name], least)
            worst = worst_parts(found[name], exact[name])
            rows.append(Row(f"{name} rounding", error, ROUNDING_BAR, worst=worst))
    for i, v in enumerate(directions):
        say(f"differences along v[{i}]")
        along, typical = _dot(exact["grad"], v), floor.slope(exact["grad"], v)
        slope, curvature = _differences(gradient, v, typical, floor.product(v))
        error = abs(along - float(slope.value["loss"])) / max(abs(along), typical)
        rows.append(Row(f"grad.v[{i}] against differences of loss", error, slope.bar()))
        for name, ours in _hessian_products(exact, i):
            truth = curvature.value
            error, bar = relative_error(ours, truth, floor.product(v)), curvature.bar()
            rows.append(
                Row(f"{name} against differences of grad", error, bar, worst=worst_parts(ours, truth))
            )
    say("symmetry and linearity")
    for product in session.products:
        rows += _algebra(session, feeds, product, directions, floor)
    return rows


def _hessian_products(found: Found, i: int) -> Iterator[tuple[str, Parts]]:
    """What is H v[i] in the file: the product itself, and the sum of its two parts."""
    if f"hvp[{i}]" in found:
        yield f"hvp[{i}]", found[f"hvp[{i}]"]
    if f"ggn[{i}]" in found and f"residual[{i}]" in found:
        linear, curved = found[f"ggn[{i}]"], found[f"residual[{i}]"]
        yield f"ggn[{i}] + residual[{i}]", {name: linear[name] + curved[name] for name in linear}


class _Floor:
    """Sizes below which the derivatives at hand count as zero (see `zero_floor`)."""

    def __init__(self, found: Found, gradient: _Gradient) -> None:
        self._loss, self._weights = float(found["loss"]["loss"]), _norm(gradient.centre)
        self.grad = zero_floor(self._loss, self._weights)

    def product(self, v: Parts) -> float:
        return zero_floor(self._loss, self._weights, _norm(v))

    def slope(self, grad: Parts, v: Parts) -> float:
        """<g, v> may vanish by chance: its typical size for a random v is |g| |v| / sqrt(n)."""
        n = sum(part.size for part in grad.values())
        return max(_norm(grad), self.grad) * _norm(v) / n**0.5 or 1.0

    def of(self, name: str, directions: Sequence[Parts]) -> float:
        """The floor of a quantity by its name in `run_file`."""
        if name == "loss":
            return 0.0
        return self.grad if name == "grad" else self.product(directions[int(name.split("[")[1][:-1])])


# The file as a function ----------------------------------------------------------------------------------------


def _in_float64(
    model: onnx.ModelProto, session: Session, feeds: Mapping[str, Array], directions: Sequence[Parts]
) -> dict[str, Parts]:
    """What the float32 file would give without rounding, in the form of `run_file`."""
    evaluator = Evaluator(as_float64(model))
    results: dict[str, Parts] = {}
    for i, v in enumerate(directions):
        arrays = {**feeds, **{f"v.{name}": part for name, part in v.items()}}
        out = evaluator.run(_widened(arrays), session.outputs)
        if i == 0:
            results["loss"] = {"loss": out["loss"]}
            results["grad"] = {name: out[f"grad.{name}"] for name in v}
        for product in session.products:
            results[f"{product}[{i}]"] = {name: out[f"{product}.{name}"] for name in v}
    return results


def _widened(arrays: Mapping[str, Array]) -> Parts:
    return {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in arrays.items()}


class _Gradient:
    """Loss and gradient of the file in float64 arithmetic, as a function of what it differentiates by."""

    def __init__(self, model: onnx.ModelProto, session: Session, feeds: Mapping[str, Array]) -> None:
        self.names = list(session.meta["parameters"])
        self.outputs = ["loss", *(f"grad.{name}" for name in self.names)]
        stored = tensors(model, self.names)
        # Not stored: an input of the model (wrt="input"), or a parameter that the loss does not reach.
        held = stored | {name: feeds[name] for name in self.names if name in feeds}
        self.centre = _widened(held)
        zeros = {a.name: np.zeros(_sizes(a.shape, feeds), a.dtype) for a in session.of_kind("vector")}
        self.feeds = _widened({**feeds, **zeros})
        part = with_parameters_as_inputs(only(model, self.outputs), list(stored))
        self._accepts = {value.name for value in part.graph.input}
        self._run = (
            Evaluator(as_float64(part)).run if session.dtype == np.float32 else Session(serialised(part)).run
        )

    def __call__(self, moved: Parts) -> Parts:
        """Outputs by name, with the parameters in `moved` for those of the file."""
        feeds = {name: array for name, array in {**self.feeds, **moved}.items() if name in self._accepts}
        return self._run(feeds, self.outputs)


def _sizes(shape: Sequence[int | str | None], feeds: Mapping[str, Array]) -> list[int]:
    batch = next(iter(feeds.values())).shape[:1]
    return [size if isinstance(size, int) else batch[0] for size in shape]


# Differences ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """A derivative by differences, and how far, relatively, the next smaller step differs from it."""

    value: Parts
    uncertainty: float

    def bar(self) -> float:
        """What the error of a right file stays below; InputError where the differences tell nothing."""
        if not self.uncertainty <= UNSETTLED:
            raise InputError(
                "no step is small enough to miss the kinks of this network on this data and large enough to leave "
                f"digits (differences still change by {self.uncertainty:.0e}): verify the file with its model, or with "
                "fewer samples."
            )
        return max(DIFFERENCE_BAR, UNCERTAINTY_FACTOR * self.uncertainty)


def _differences(
    gradient: _Gradient, v: Parts, slope_floor: float, curvature_floor: float
) -> tuple[Reference, Reference]:
    """d/dt of loss and of gradient along v; changes are relative to the value, or to its floor if that is larger."""
    along = {name: v[name].astype(np.float64) for name in gradient.centre}
    top = TOP_STEP * (_norm(gradient.centre) or 1.0) / (_norm(along) or 1.0)
    slopes: list[Parts] = []
    curvatures: list[Parts] = []
    for rung in range(RUNGS):
        value = _central(gradient, along, top / 4**rung)
        slopes.append({"loss": value["loss"]})
        curvatures.append({name: value[f"grad.{name}"] for name in gradient.names})
        if rung > 0 and relative_error(curvatures[-2], curvatures[-1], curvature_floor) < SETTLED:
            break
    return _most_settled(slopes, slope_floor), _most_settled(curvatures, curvature_floor)


def _central(gradient: _Gradient, along: Parts, h: float) -> Parts:
    """D(h) of loss and gradient."""
    forth, back = (
        gradient({name: w + sign * h * along[name] for name, w in gradient.centre.items()})
        for sign in (1, -1)
    )
    return {name: (forth[name] - back[name]) / (2 * h) for name in gradient.outputs}


def _most_settled(values: Sequence[Parts], floor: float) -> Reference:
    """The value that the next one confirms best."""
    changes = [relative_error(coarse, fine, floor) for coarse, fine in pairwise(values)]
    best = int(np.argmin(np.nan_to_num(changes, nan=np.inf)))
    return Reference(values[best], changes[best])


# Algebra -------------------------------------------------------------------------------------------------------


def _algebra(
    session: Session, feeds: Mapping[str, Array], product: str, directions: Sequence[Parts], floor: _Floor
) -> list[Row]:
    def apply(w: Parts) -> Parts:
        vector = {f"v.{name}": part for name, part in w.items()}
        out = session.run({**feeds, **vector}, [f"{product}.{name}" for name in w])
        return {name: out[f"{product}.{name}"].astype(np.float64) for name in w}

    u = directions[0]
    v = directions[1] if len(directions) > 1 else {name: np.flip(part) for name, part in u.items()}
    a_u, a_v = apply(u), apply(v)
    bar = ALGEBRA_BAR[session.dtype.name]
    least_u, least_v = floor.product(u), floor.product(v)
    sizes = (_norm(u) * max(_norm(a_v), least_v) + _norm(v) * max(_norm(a_u), least_u)) / 2
    found = apply({name: 2 * u[name] - 3 * v[name] for name in u})
    expected = {name: 2 * a_u[name] - 3 * a_v[name] for name in u}
    rows = [
        Row(f"{product} symmetric", abs(_dot(u, a_v) - _dot(v, a_u)) / (sizes or 1.0), bar),
        Row(
            f"{product} linear",
            relative_error(found, expected, least_u + least_v),
            bar,
            worst=worst_parts(found, expected),
        ),
    ]
    if product == "ggn":
        least = min(
            _dot(w, a_w) / (_norm(w) * max(_norm(a_w), floor.product(w)) or 1.0)
            for w, a_w in ((u, a_u), (v, a_v))
        )
        rows.append(Row("ggn semidefinite", max(0.0, -least), bar))
    return rows


def _dot(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    return sum(float(np.vdot(a[name].astype(np.float64), b[name].astype(np.float64))) for name in a)


def _norm(a: Mapping[str, Any]) -> float:
    return _dot(a, a) ** 0.5
