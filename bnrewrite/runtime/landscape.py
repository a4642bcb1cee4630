"""The loss over a plane through the weights: w + x * first + y * second.

Two kinds of planes: random directions scaled filter by filter (Li, Xu, Taylor, Studer and Goldstein 2018, "Visualizing
the Loss Landscape of Neural Nets", section 4), which make networks of different scales comparable; and eigenvectors of
the Hessian, along which the loss bends most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .monitor import Monitor, Stopped
from .plain import plain
from .probes import generator
from .vectors import Parts, VectorSpace, as_array

Array = NDArray[np.float64]
Directions = Literal["random", "eigs"]


@dataclass(frozen=True)
class Landscape:
    """`loss[j, i]` at `x[i]` along the first direction and `y[j]` along the second; `centre`: the loss at the weights.

    Far from the weights a loss may be NaN or infinite, and stays so here. `directions`: filter-normalised random ones,
    in units of the weights' own size, or eigenvectors of length 1 with their `eigenvalues`. `complete`: false where the
    run was stopped early; points that were not reached are NaN.
    """

    x: Array
    y: Array
    loss: Array
    centre: float
    directions: Directions
    eigenvalues: tuple[float, float] | None
    complete: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with null for a loss that is no number."""
        return plain(asdict(self))


def filter_normalised(direction: Mapping[str, Any], weights: Mapping[str, Any]) -> Parts:
    """`direction` with each filter scaled to the norm of the same filter of `weights`, in float64.

    A filter is one index of the first axis: what makes one output of a Linear or Conv layer. Parameters of fewer than
    two axes (biases, the scales and shifts of normalization layers) get zero, as in the paper's pictures.
    """
    found = {}
    for name, value in weights.items():
        w, d = (as_array(entry).astype(np.float64) for entry in (value, direction[name]))
        if w.ndim < 2:
            found[name] = np.zeros_like(w)
            continue
        others = tuple(range(1, w.ndim))
        wanted, size = (np.sqrt(np.sum(a**2, axis=others, keepdims=True)) for a in (w, d))
        found[name] = d * np.divide(wanted, size, out=np.zeros_like(size), where=size > 0)
    return found


def random_directions(weights: Mapping[str, Any], seed: int = 0) -> tuple[Parts, Parts]:
    """Two filter-normalised Gaussian directions; the same seed and the same weights give the same two.

    They are not made orthogonal, as they are not in the paper: in n dimensions the cosine between two of them is about
    1 / sqrt(n). Raises InputError where all weights have fewer than two axes, and so no filters.
    """
    arrays = {name: as_array(w) for name, w in weights.items()}
    if not any(w.ndim > 1 and w.any() for w in arrays.values()):
        raise InputError(
            "random directions follow the filters of the weights, and there are none: "
            "all weights are vectors or zero. Use directions='eigs'."
        )
    first, second = (
        filter_normalised({name: draw.standard_normal(w.shape) for name, w in arrays.items()}, arrays)
        for draw in (generator(seed, "landscape", number) for number in range(2))
    )
    return first, second


def eigen_directions(vectors: Any, space: VectorSpace) -> tuple[Parts, Parts]:
    """The two columns of `vectors` (n, 2) by parameter name, each of length 1 and with its largest entry positive.

    An eigenvector's sign means nothing; this one does not change from run to run.
    """
    columns = as_array(vectors).astype(np.float64)
    if columns.shape != (space.size, 2):
        raise InputError(f"two directions of {space.size} entries are needed, not {list(columns.shape)}.")
    sizes = np.linalg.norm(columns, axis=0)
    if not (np.isfinite(sizes).all() and sizes.all()):
        raise InputError("a direction of the plane is zero, or holds NaN or infinity.")
    signs = np.sign(columns[np.argmax(np.abs(columns), axis=0), range(2)])
    first, second = (columns * (signs / sizes)).T
    return space.unflatten(first), space.unflatten(second)


def coordinates(extent: float, points: int) -> Array:
    """`points` evenly spaced numbers from -`extent` to `extent`; zero is among them where `points` is odd."""
    if isinstance(extent, bool) or not isinstance(extent, (int, float)) or not 0 < extent < np.inf:
        raise InputError(f"the extent of the plane must be a number above 0, not {extent!r}.")
    if isinstance(points, bool) or not isinstance(points, (int, np.integer)) or points < 2:
        raise InputError(f"a side of the plane must have at least 2 points, not {points!r}.")
    return np.linspace(-extent, extent, points)


def grid(
    loss_at: Callable[[Parts], float],
    weights: Mapping[str, Any],
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    x: Array,
    y: Array,
) -> Array:
    """The losses (len(y), len(x)) at weights + x[i] * first + y[j] * second, NaN and infinity as they come.

    `loss_at` gets the weights by name, in the types of `weights`.
    """
    arrays = {name: as_array(w) for name, w in weights.items()}
    found = np.empty((len(y), len(x)))
    for j, b in enumerate(y):
        row = {name: w + b * as_array(second[name]) for name, w in arrays.items()}
        for i, a in enumerate(x):
            found[j, i] = loss_at(
                {name: (w + a * as_array(first[name])).astype(arrays[name].dtype) for name, w in row.items()}
            )
    return found


def rows(
    loss_at: Callable[[Parts], float],
    weights: Mapping[str, Any],
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    x: Array,
    y: Array,
    monitor: Monitor,
    task: str,
) -> tuple[Array, bool]:
    """`grid`, each row a step of `task`: stored, found again, stopped between two of them; and whether it is complete.

    Rows that were not reached are NaN. Raises Stopped where that is all of them.
    """
    found = np.full((len(y), len(x)), np.nan)
    for j in range(len(y)):
        compute = partial(_row, loss_at, weights, first, second, x, y[j : j + 1])
        try:
            found[j] = monitor.step(task, j, compute)["losses"]
        except Stopped:
            if j == 0:
                raise
            return found, False
        monitor.tell(
            "landscape", j + 1, len(y), f"least loss {np.nanmin(found[: j + 1], initial=np.inf):.4g}"
        )
    return found, True


def _row(*arguments: Any) -> dict[str, Array]:
    return {"losses": grid(*arguments)[0]}
