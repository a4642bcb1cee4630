"""A file checked against itself, where its model is not at hand.

    gradient       <g, v>  =  d/dt loss(w + t v)            central differences
    H v            =  d/dt g(w + t v)                       central differences
    symmetric      <u, A v> = <v, A u>                      A = H, G
    linear         A (2 u - 3 v) = 2 A u - 3 A v
    semidefinite   <v, G v> >= 0

Central differences D(h) = (f(w + h v) - f(w - h v)) / 2h have an error of order h^2, which one Richardson step removes:
R(h) = (16 D(h/4) - D(h)) / 15. A large step goes over kinks of ReLU and max pooling, a small one loses digits; so a
ladder of steps is descended, and the R that agrees best with the one before is taken: the file's own product has no say
in that. Between the kinks and the lost digits there is room in float64 only (in float32, steps that miss the kinks of
16 images are too small to leave a digit). So a float32 file is compared with the same graph in float64 arithmetic, and
the differences are taken of that.

G v has no such reference: that it is the Gauss-Newton product of this model shows only beside the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .emit.onnx_reading import load, serialised, tensors, with_parameters_as_inputs
from .emit.onnx_reference import Evaluator, as_float64, only
from .errors import InputError
from .runtime.session import Array, Session
from .verify_report import Row, relative_error, worst_parts

Parts = dict[str, NDArray[Any]]
Found = Mapping[str, Parts]
Say = Callable[[str], None]

# Steps relative to the weights, |h v| / |w|. The top stands above the kinks of small networks, the bottom where
# float64 has about eight digits left.
TOP_STEP, RUNGS = 1e-4, 8
# Differences of right files agreed with their products to 1e-9 or better on the reference networks.
DIFFERENCE_BAR = 1e-6
# Rounding errors of right files: float64 1e-15, float32 1e-7 to 1e-5, and up to 2e-2 where a ReLU is within rounding of
# its kink (MobileNetV2 with random weights).
ROUNDING_BAR = 5e-2
ALGEBRA_BAR = {"float64": 1e-10, "float32": 1e-3}


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
    rows: list[Row] = []
    exact = found
    if session.dtype == np.float32:
        say("the same graph in float64 arithmetic")
        exact = _in_float64(model, session, feeds, directions)
        for name in exact:
            error, worst = relative_error(found[name], exact[name]), worst_parts(found[name], exact[name])
            rows.append(Row(f"{name} rounding", error, ROUNDING_BAR, worst=worst))
    gradient = _Gradient(model, session, feeds)
    for i, v in enumerate(directions):
        say(f"differences along v[{i}]")
        slope, curvature = _differences(gradient, v)
        rows.append(_slope_row(i, exact["grad"], v, slope))
        if "hvp" in session.products:
            ours = exact[f"hvp[{i}]"]
            error, worst = relative_error(ours, curvature), worst_parts(ours, curvature)
            rows.append(Row(f"hvp[{i}] against differences of grad", error, DIFFERENCE_BAR, worst=worst))
    say("symmetry and linearity")
    for product in session.products:
        rows += _algebra(session, feeds, product, directions)
    return rows


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


def _differences(gradient: _Gradient, v: Parts) -> tuple[float, Parts]:
    """d/dt of loss and of gradient along v."""
    along = {name: v[name].astype(np.float64) for name in gradient.centre}
    scale = _norm(gradient.centre) / (_norm(along) or 1.0)

    def central(h: float) -> Parts:
        ends = [
            gradient({name: w + sign * h * along[name] for name, w in gradient.centre.items()})
            for sign in (1, -1)
        ]
        return {name: (ends[0][name] - ends[1][name]) / (2 * h) for name in gradient.outputs}

    slopes: list[Parts] = []
    curvatures: list[Parts] = []
    for rung, value in enumerate(_richardson(central, TOP_STEP * (scale or 1.0)), start=1):
        slopes.append({"loss": value["loss"]})
        curvatures.append({name: value[f"grad.{name}"] for name in gradient.names})
        if rung > 1 and relative_error(curvatures[-1], curvatures[-2]) < DIFFERENCE_BAR / 100:
            break
    return float(_most_settled(slopes)["loss"]), _most_settled(curvatures)


def _richardson(central: Callable[[float], Parts], top: float) -> Iterator[Parts]:
    """R(h), R(h/4), ...: free of the error of order h^2."""
    coarse = central(top)
    for rung in range(1, RUNGS):
        fine = central(top / 4**rung)
        yield {name: (16 * fine[name] - coarse[name]) / 15 for name in fine}
        coarse = fine


def _most_settled(values: Sequence[Parts]) -> Parts:
    """The value that differs least from the one before it."""
    changes = [_norm({name: b[name] - a[name] for name in a}) for a, b in pairwise(values)]
    return values[int(np.argmin(changes)) + 1]


def _slope_row(i: int, grad: Parts, v: Parts, slope: float) -> Row:
    along = _dot(grad, v)
    # <g, v> may vanish by chance: its typical size for a random v is |g| |v| / sqrt(n).
    n = sum(part.size for part in grad.values())
    size = max(abs(along), _norm(grad) * _norm(v) / n**0.5)
    error = abs(along - slope) / size if size > 0 else abs(slope)
    return Row(f"grad.v[{i}] against differences of loss", error, DIFFERENCE_BAR)


# Algebra -------------------------------------------------------------------------------------------------------


def _algebra(
    session: Session, feeds: Mapping[str, Array], product: str, directions: Sequence[Parts]
) -> list[Row]:
    def apply(w: Parts) -> Parts:
        vector = {f"v.{name}": part for name, part in w.items()}
        out = session.run({**feeds, **vector}, [f"{product}.{name}" for name in w])
        return {name: out[f"{product}.{name}"].astype(np.float64) for name in w}

    u = directions[0]
    v = directions[1] if len(directions) > 1 else {name: np.flip(part) for name, part in u.items()}
    a_u, a_v = apply(u), apply(v)
    bar = ALGEBRA_BAR[session.dtype.name]
    sizes = (_norm(u) * _norm(a_v) + _norm(v) * _norm(a_u)) / 2
    found = apply({name: 2 * u[name] - 3 * v[name] for name in u})
    expected = {name: 2 * a_u[name] - 3 * a_v[name] for name in u}
    rows = [
        Row(f"{product} symmetric", abs(_dot(u, a_v) - _dot(v, a_u)) / (sizes or 1.0), bar),
        Row(f"{product} linear", relative_error(found, expected), bar, worst=worst_parts(found, expected)),
    ]
    if product == "ggn":
        least = min(_dot(w, a_w) / (_norm(w) * _norm(a_w) or 1.0) for w, a_w in ((u, a_u), (v, a_v)))
        rows.append(Row("ggn semidefinite", max(0.0, -least), bar))
    return rows


def _dot(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    return sum(float(np.vdot(a[name].astype(np.float64), b[name].astype(np.float64))) for name in a)


def _norm(a: Mapping[str, Any]) -> float:
    return _dot(a, a) ** 0.5
