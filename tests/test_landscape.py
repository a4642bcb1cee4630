"""The plane of a loss landscape: its directions, and the losses on it, on arrays alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bnrewrite.errors import InputError
from bnrewrite.runtime.checkpoint import Checkpoint
from bnrewrite.runtime.landscape import (
    Landscape,
    coordinates,
    eigen_directions,
    filter_normalised,
    grid,
    random_directions,
    rows,
)
from bnrewrite.runtime.monitor import Monitor, Stopped
from bnrewrite.runtime.vectors import VectorSpace

Array = NDArray[Any]
Parts = dict[str, Array]


def weights() -> Parts:
    """A convolution with a filter of zeros, a linear layer, a bias, a BatchNorm scale."""
    rng = np.random.default_rng(0)
    conv = rng.standard_normal((4, 3, 2, 2))
    conv[1] = 0
    return {
        "conv": conv,
        "linear": rng.standard_normal((5, 6)).astype(np.float32),
        "bias": rng.standard_normal(5),
        "scale": np.array(2.0),
    }


# Directions ------------------------------------------------------------------------------------------------------


def test_filters_get_the_norms_of_the_weights() -> None:
    rng = np.random.default_rng(1)
    w = weights()
    drawn = {name: rng.standard_normal(value.shape) for name, value in w.items()}
    found = filter_normalised(drawn, w)
    for name in ("conv", "linear"):
        for d, start, filter_ in zip(found[name], drawn[name], w[name], strict=True):
            size = np.linalg.norm(filter_.astype(np.float64))
            assert np.linalg.norm(d) == pytest.approx(size, rel=1e-14)
            np.testing.assert_allclose(d, start * size / np.linalg.norm(start), rtol=1e-14)
    assert not found["conv"][1].any()
    assert not found["bias"].any() and not found["scale"].any()
    assert {name: d.shape for name, d in found.items()} == {name: value.shape for name, value in w.items()}
    drawn["linear"][2] = 0  # no direction: it stays zero
    assert not filter_normalised(drawn, w)["linear"][2].any()


def test_random_directions_follow_the_seed() -> None:
    w = weights()
    first, second = random_directions(w, seed=3)
    again = random_directions(w, seed=3)
    for name in w:
        np.testing.assert_array_equal(first[name], again[0][name])
        np.testing.assert_array_equal(second[name], again[1][name])
    assert not np.array_equal(first["linear"], second["linear"])
    assert not np.array_equal(first["linear"], random_directions(w, seed=4)[0]["linear"])


def test_random_directions_are_normal_before_they_are_scaled() -> None:
    """One filter of n entries: mean 0 within 5 / sqrt(n), cosine of the two within 5 / sqrt(n), fourth moment 3."""
    n = 40_000
    first, second = (d["w"].ravel() for d in random_directions({"w": np.ones((1, n))}))
    assert abs(first.mean()) < 5 / np.sqrt(n)
    assert abs(first @ second) / n < 5 / np.sqrt(n)
    assert np.mean(first**4) == pytest.approx(3, abs=5 * np.sqrt(96 / n))


def test_no_filters_no_random_directions() -> None:
    for w in ({"bias": np.ones(4)}, {"w": np.zeros((2, 2)), "bias": np.ones(3)}):
        with pytest.raises(InputError, match="Use directions='eigs'"):
            random_directions(w)


def test_eigenvectors_become_directions_of_length_one() -> None:
    space = VectorSpace({"a": (2, 3), "b": (4,)})
    vectors = np.random.default_rng(0).standard_normal((10, 2)) * [3.0, 0.1]
    wanted = [column / np.linalg.norm(column) for column in vectors.T]
    for sign in ((1, 1), (-1, 1), (1, -1)):
        for found, column in zip(eigen_directions(vectors * sign, space), wanted, strict=True):
            flat = space.flatten(found)
            np.testing.assert_allclose(flat, column * np.sign(column[np.abs(column).argmax()]), rtol=1e-14)
            assert flat[np.abs(flat).argmax()] > 0
            assert {name: part.shape for name, part in found.items()} == space.shapes


def test_wrong_vectors() -> None:
    space = VectorSpace({"a": (3,)})
    for vectors in (np.ones((3, 1)), np.ones((2, 2)), np.ones(3)):
        with pytest.raises(InputError, match="two directions of 3 entries are needed"):
            eigen_directions(vectors, space)
    for bad in (0.0, np.nan, np.inf):
        with pytest.raises(InputError, match="zero, or holds NaN"):
            eigen_directions(np.full((3, 2), bad), space)


# Losses ----------------------------------------------------------------------------------------------------------


def quadratic(parts: Parts) -> float:
    """A bowl with its minimum away from the weights, in every entry."""
    return float(sum(np.sum((i + 1) * (part - 0.5) ** 2) for i, part in enumerate(parts.values())))


def test_grid_is_the_loss_at_every_point() -> None:
    w = {name: value.astype(np.float64) for name, value in weights().items()}
    first, second = random_directions(w)
    x, y = coordinates(0.7, 4), coordinates(0.2, 3)
    found = grid(quadratic, w, first, second, x, y)
    assert found.shape == (3, 4)
    for j, i in np.ndindex(3, 4):
        wanted = quadratic({name: w[name] + x[i] * first[name] + y[j] * second[name] for name in w})
        assert found[j, i] == pytest.approx(wanted, rel=1e-14)


def test_eigenvectors_see_their_eigenvalues() -> None:
    """Along two eigenvectors from the minimum, the loss is (lambda_1 x^2 + lambda_2 y^2) / 2."""
    space = VectorSpace({"a": (2, 2), "b": (3,)})
    a = np.random.default_rng(0).standard_normal((7, 7))
    hessian = a + a.T
    values, vectors = np.linalg.eigh(hessian)
    pair = eigen_directions(vectors[:, [6, 0]], space)
    x = coordinates(2, 5)

    def loss_at(parts: Parts) -> float:
        flat = space.flatten(parts)
        return float(flat @ hessian @ flat / 2)

    found = grid(loss_at, space.unflatten(np.zeros(7)), *pair, x, x)
    np.testing.assert_allclose(
        found, (values[6] * x**2 + values[0] * x[:, None] ** 2) / 2, rtol=0, atol=1e-12
    )


def test_points_have_the_types_of_the_weights() -> None:
    w = weights()
    seen: list[Parts] = []

    def loss_at(parts: Parts) -> float:
        seen.append(parts)
        return 0.0

    grid(loss_at, w, *random_directions(w), np.array([0.0, 1.0]), np.array([0.0]))
    for point in seen:
        assert {n: (p.dtype, p.shape) for n, p in point.items()} == {
            n: (p.dtype, p.shape) for n, p in w.items()
        }
    for name, value in w.items():
        np.testing.assert_array_equal(seen[0][name], value)
    assert not np.array_equal(seen[1]["linear"], w["linear"])
    np.testing.assert_array_equal(seen[1]["bias"], w["bias"])


def line(number: float) -> tuple[Parts, Parts, Parts]:
    """One weight; the first direction moves it by 1, the second by `number`."""
    return {"w": np.zeros((1, 1))}, {"w": np.ones((1, 1))}, {"w": np.full((1, 1), number)}


def test_a_loss_that_blows_up_is_kept() -> None:
    def loss_at(parts: Parts) -> float:
        w = float(parts["w"][0, 0])
        return float("nan") if w > 1.5 else float("inf") if w < -1.5 else w

    axis = coordinates(1, 3)
    found, complete = rows(loss_at, *line(1.0), axis, axis, Monitor(), "landscape")
    assert complete
    np.testing.assert_array_equal(found, [[np.inf, -1, 0], [-1, 0, 1], [0, 1, np.nan]])
    record = Landscape(axis, axis, found, 0.0, "eigs", (2.0, -1.0), complete).as_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == {
        "directions": "eigs", "x": [-1, 0, 1], "y": [-1, 0, 1], "loss": [[None, -1, 0], [-1, 0, 1], [0, 1, None]],
        "centre": 0.0, "eigenvalues": [2.0, -1.0], "complete": True,
    }  # fmt: skip
    assert Landscape(axis, axis, found, 0.0, "random", None, False).as_dict()["eigenvalues"] is None


@pytest.mark.filterwarnings("error")
def test_a_loss_that_is_nan_everywhere() -> None:
    axis = coordinates(1, 2)
    found, complete = rows(lambda parts: float("nan"), *line(1.0), axis, axis, Monitor(), "landscape")
    assert complete and np.isnan(found).all()


def test_rows_are_stored_and_found_again(tmp_path: Path) -> None:
    """Stopped in the second row, which is still finished; then taken up: each point is computed once."""
    w, first, second = line(10.0)
    x, y = coordinates(1, 3), coordinates(1, 4)
    seen: list[float] = []
    told: list[tuple[str, int, int, str]] = []

    def run(stop_after: int | None) -> tuple[Array, bool]:
        stored = Checkpoint(tmp_path / "stored", {"exported file": "the same"})
        monitor = Monitor(lambda *step: told.append(step), stored)

        def loss_at(parts: Parts) -> float:
            seen.append(float(parts["w"][0, 0]))
            if len(seen) == stop_after:
                monitor.stop()
            return seen[-1]

        return rows(loss_at, w, first, second, x, y, monitor, "landscape random")

    wanted = x + 10 * y[:, None]
    found, complete = run(stop_after=4)
    assert not complete
    np.testing.assert_allclose(found[:2], wanted[:2], rtol=1e-14)
    assert np.isnan(found[2:]).all()
    assert told[-1] == ("landscape", 2, 4, "least loss -11")
    found, complete = run(stop_after=None)
    assert complete
    np.testing.assert_allclose(found, wanted, rtol=1e-14)
    np.testing.assert_allclose(seen, wanted.ravel(), rtol=1e-14)
    monitor = Monitor()
    monitor.stop()
    with pytest.raises(Stopped):
        rows(lambda parts: 0.0, w, first, second, x, y, monitor, "landscape random")


def test_coordinates() -> None:
    np.testing.assert_array_equal(coordinates(2.0, 5), [-2, -1, 0, 1, 2])
    for extent in (0, -1.0, float("nan"), float("inf"), "1"):
        with pytest.raises(InputError, match="extent of the plane must be a number above 0"):
            coordinates(extent, 5)  # type: ignore[arg-type]
    for points in (1, 2.0, True, "3"):
        with pytest.raises(InputError, match="at least 2 points"):
            coordinates(1.0, points)  # type: ignore[arg-type]
