"""Every estimator against the dense Hessian of a small convolutional network with BatchNorm, and its own error."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import dense_hessian
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from scipy.stats import wasserstein_distance
from torch import nn

import bnrewrite
from bnrewrite import runtime
from bnrewrite.errors import InputError, NumericalError
from bnrewrite.models import digits
from bnrewrite.runtime.density import spectral_density
from bnrewrite.runtime.diagonal import diagonal
from bnrewrite.runtime.eigen import lanczos
from bnrewrite.runtime.monitor import Monitor
from bnrewrite.runtime.trace import trace

Matrix = NDArray[np.float64]


def network() -> nn.Module:
    """532 parameters, two BatchNorms, digits in."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.Tanh(),
        nn.Flatten(), nn.Linear(24, 10),
    ).double()  # fmt: skip


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[runtime.Curvature, Matrix]:
    """The file over two batches of digits, after a few steps of training, and its dense Hessian."""
    folder = tmp_path_factory.mktemp("estimators")
    x, y = digits("train")
    x, y = x[:120].double(), y[:120]
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    bnrewrite.export_onnx(model, folder / "c.onnx", (x[:8], y[:8]))
    data = [(x[:80].numpy(), y[:80].numpy()), (x[80:].numpy(), y[80:].numpy())]
    matrix = dense_hessian(model, data)[2]
    return runtime.open(folder / "c.onnx", data), (matrix + matrix.T) / 2


def test_the_operator_is_the_hessian(case: tuple[runtime.Curvature, Matrix]) -> None:
    c, dense = case
    assert len(dense) < 2000
    np.testing.assert_allclose(
        c.operator() @ np.eye(len(dense)), dense, rtol=0, atol=1e-13 * np.abs(dense).max()
    )


@pytest.mark.parametrize("which", ["LM", "LA", "SA"])
def test_top_five_eigenvalues(case: tuple[runtime.Curvature, Matrix], which: Any) -> None:
    c, dense = case
    every = np.linalg.eigvalsh(dense)
    order = {"LM": np.argsort(-np.abs(every)), "LA": np.argsort(-every), "SA": np.argsort(every)}[which]
    found = c.eigs(5, which=which)
    np.testing.assert_allclose(found.values, every[order][:5], rtol=1e-8)  # the bar is 1e-5
    assert found.residuals.max() < 1e-8 * np.abs(every).max()


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_the_trace_is_within_three_of_its_standard_errors(
    case: tuple[runtime.Curvature, Matrix], method: Any
) -> None:
    """In at least 95 of 100 seeds; and the errors say what they should: two thirds are within one of them."""
    _, dense = case
    operator, exact = aslinearoperator(dense), np.trace(dense)
    found = [trace(operator, method=method, tol=None, samples=60, seed=seed) for seed in range(100)]
    ratios = np.array([abs(t.value - exact) / t.standard_error for t in found])
    assert (ratios < 3).sum() >= 95
    assert 50 <= (ratios < 1).sum() <= 82
    assert {t.products for t in found} == {60}


def test_what_a_sketch_is_worth(case: tuple[runtime.Curvature, Matrix]) -> None:
    """Few eigenvalues are large: with the same products Hutch++ and XTrace are more than twice as accurate."""
    _, dense = case
    operator, exact = aslinearoperator(dense), np.trace(dense)
    methods: tuple[Any, ...] = ("hutchinson", "hutch++", "xtrace")
    errors = [
        np.sqrt(
            np.mean(
                [
                    (trace(operator, method=m, tol=None, samples=90, seed=s).value - exact) ** 2
                    for s in range(60)
                ]
            )
        )
        for m in methods
    ]
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[0] / 2


def test_the_trace_of_the_file(case: tuple[runtime.Curvature, Matrix]) -> None:
    c, dense = case
    found = c.trace(tol=0.02)
    assert found.method == "xtrace" and found.converged and found.complete
    assert found.standard_error <= 0.02 * abs(found.value)
    assert abs(found.value - np.trace(dense)) < 3 * found.standard_error
    assert found.products < 200
    short = c.trace(tol=1e-12, samples=20)
    assert not short.converged and short.products == 20
    exact = c.trace(samples=len(dense))
    assert exact.method == "exact" and exact.standard_error == 0
    assert float(exact) == pytest.approx(np.trace(dense), rel=1e-12)


@pytest.mark.parametrize("method", ["hutchinson", "xdiag"])
def test_diagonal(case: tuple[runtime.Curvature, Matrix], method: Any) -> None:
    """Each entry within its error about as often as a normal number; the error of all of them as stated."""
    _, dense = case
    exact = np.diag(dense)
    found = diagonal(aslinearoperator(dense), method=method, tol=None, samples=100)
    off = np.abs(found.values - exact)
    assert np.mean(off < 3 * found.standard_error) > 0.95
    assert np.linalg.norm(off) / np.linalg.norm(found.standard_error) == pytest.approx(1, abs=0.35)
    assert found.products == 100
    errors = [np.linalg.norm(diagonal(aslinearoperator(dense), method=m, tol=None, samples=100).values - exact)
              for m in ("hutchinson", "xdiag")]  # fmt: skip
    assert errors[1] < errors[0] / 2


def test_diagonal_of_the_file(case: tuple[runtime.Curvature, Matrix]) -> None:
    c, dense = case
    found = c.diagonal(tol=0.1)
    assert found.method == "xdiag" and found.converged and found.relative_error <= 0.1
    assert np.linalg.norm(found.values - np.diag(dense)) < 0.15 * np.linalg.norm(np.diag(dense))
    exact = c.diagonal(method="exact")
    np.testing.assert_allclose(exact.values, np.diag(dense), atol=1e-13 * np.abs(dense).max())


def test_density(case: tuple[runtime.Curvature, Matrix]) -> None:
    """Quadrature of the dense spectrum: in Wasserstein distance within 1% of the support; moments within errors."""
    _, dense = case
    every = np.linalg.eigvalsh(dense)
    found = spectral_density(aslinearoperator(dense), steps=60, probes=8)
    nodes, weights = found.quadrature()
    width = found.support[1] - found.support[0]
    assert wasserstein_distance(nodes, every, weights) < 0.01 * width
    step = found.grid[1] - found.grid[0]
    assert found.density.sum() * step == pytest.approx(1, abs=1e-3)  # the Gaussians reach four widths out
    for power, exact in ((1, every.mean()), (2, (every**2).mean())):
        value, error = found.moment(power)
        assert abs(value - exact) < 3 * error
    assert found.support[0] <= every[0] + 1e-9 * width and found.support[1] >= every[-1] - 1e-9 * width
    assert found.products == 480


def test_density_of_all_steps_is_the_spectrum() -> None:
    """With n steps a probe sees every eigenvalue; full reorthogonalisation keeps copies away."""
    every = np.array([-1.0, 0.5, 2.0, 2.5, 7.0])
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    found = spectral_density(aslinearoperator((q * every) @ q.T), steps=5, probes=2)
    for nodes in found.nodes:
        np.testing.assert_allclose(nodes, every, atol=1e-12)


def test_density_of_a_matrix_of_low_rank() -> None:
    """Lanczos ends after three steps: what is left has no weight, and nothing divides by zero."""
    u = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 2)))[0]
    found = spectral_density(aslinearoperator((u * [3.0, -2.0]) @ u.T), steps=20, probes=1)
    seen = found.nodes[0][found.weights[0] > 1e-12]
    np.testing.assert_allclose(np.unique(seen.round(9)), [-2, 0, 3], atol=1e-9)
    assert found.weights[0].sum() == pytest.approx(1)


def test_density_of_the_file(case: tuple[runtime.Curvature, Matrix]) -> None:
    c, dense = case
    found = c.spectral_density(steps=20, probes=2)
    expected = spectral_density(aslinearoperator(dense), steps=20, probes=2)
    np.testing.assert_allclose(found.support, expected.support, rtol=1e-9)
    assert "2 probes of 20 steps, 40 products" in str(found)


def test_layer_traces(case: tuple[runtime.Curvature, Matrix]) -> None:
    c, dense = case
    found = c.layer_traces(samples=200)
    assert list(found.traces) == list(c.space.shapes)
    ratios = []
    for name, part in c.space.slices.items():
        ratios.append(abs(found[name] - np.trace(dense[part, part])) / (found.standard_errors[name] + 1e-12))
        assert found.means[name] == found[name] / (part.stop - part.start)
    assert max(ratios) < 4
    assert found.products == 200
    whole = c.trace(method="hutchinson", tol=None, samples=200)  # the same probes
    assert whole.value == pytest.approx(sum(found.traces.values()), rel=1e-12)
    early = c.layer_traces(samples=200, tol=0.5)
    assert early.converged and early.samples < 200


def test_quadratic_form(case: tuple[runtime.Curvature, Matrix]) -> None:
    c, dense = case
    v = np.random.default_rng(3).standard_normal(len(dense))
    found = c.quadratic_form(v)
    assert found.value == pytest.approx(v @ dense @ v, rel=1e-12)
    assert found.batches == 2
    (first, second), sizes = c._over.forms("hvp", v)
    assert (first * sizes[0] + second * sizes[1]) / sizes.sum() == pytest.approx(found.value)
    mean = (2 * first + second) / 3
    expected = np.sqrt(2 * ((2 / 3) ** 2 * (first - mean) ** 2 + (1 / 3) ** 2 * (second - mean) ** 2))
    assert found.standard_error == pytest.approx(expected)
    assert float(c.quadratic_form(c.space.unflatten(v))) == found.value


@pytest.mark.parametrize("tol", [1e-4, 1e-10])
def test_solve(case: tuple[runtime.Curvature, Matrix], tol: float) -> None:
    c, dense = case
    damping = 0.1 - np.linalg.eigvalsh(dense)[0]
    b = c.space.flatten(c.grad())
    x, how = c.solve(b, damping=damping, tol=tol)
    left = np.linalg.norm(dense @ x + damping * x - b) / np.linalg.norm(b)
    assert how.converged and left <= 1.01 * tol
    assert how.residual == pytest.approx(left, rel=1e-3, abs=1e-14)
    parts, _ = c.solve(c.grad(), damping=damping, tol=tol)
    assert np.array_equal(c.space.flatten(parts), x)
    short = c.solve(b, damping=damping, tol=1e-10, maxiter=3)[1]
    assert not short.converged and short.residual > 1e-10


def test_solve_meets_negative_curvature(case: tuple[runtime.Curvature, Matrix]) -> None:
    c, dense = case
    assert np.linalg.eigvalsh(dense)[0] < -0.01
    with pytest.raises(
        NumericalError, match=r"has curvature -\d.* use damping above \d.*or the 'ggn' matrix"
    ):
        c.solve(np.linalg.eigh(dense)[1][:, 0] + 0.1, damping=1e-3)
    assert np.array_equal(c.solve(np.zeros(len(dense)))[0], np.zeros(len(dense)))


# Stopping ------------------------------------------------------------------------------------------------------

TASKS: dict[str, Callable[[runtime.Curvature], Any]] = {
    "eigs": lambda c: c.eigs(3),
    "hutchinson": lambda c: c.trace(method="hutchinson", tol=None, samples=40),
    "xtrace": lambda c: c.trace(method="xtrace", tol=None, samples=40),
    "hutch++": lambda c: c.trace(method="hutch++", tol=None, samples=42),
    "diagonal": lambda c: c.diagonal(method="hutchinson", tol=None, samples=40),
    "xdiag": lambda c: c.diagonal(method="xdiag", tol=None, samples=40),
    "low rank": lambda c: c.low_rank(matrix="hessian", samples=60),
    "density": lambda c: c.spectral_density(steps=10, probes=4),
    "layers": lambda c: c.layer_traces(samples=40),
    "solve": lambda c: c.solve(c.grad(), damping=1.0, tol=1e-12)[1],
}


@pytest.mark.parametrize("task", TASKS)
def test_a_stopped_run_gives_what_it_has(case: tuple[runtime.Curvature, Matrix], task: str) -> None:
    c, dense = case
    steps = 0

    def stop_after_some(name: str, done: int, total: int, estimate: str) -> None:
        nonlocal steps
        steps += 1
        assert estimate
        if steps == (25 if task == "density" else 7 if task in ("eigs", "layers", "solve") else 3):
            monitored.monitor.stop()

    monitored = runtime.Curvature(c.engine, c.data, {}, Monitor(stop_after_some))
    found = TASKS[task](monitored)
    assert not found.complete
    assert "stopped early" in str(found) or task == "layers"
    if task == "eigs":
        error = np.linalg.norm(dense @ found.vectors - found.vectors * found.values, axis=0)
        np.testing.assert_allclose(found.residuals, error, rtol=1e-6)
        assert found.values[0] == pytest.approx(max(np.linalg.eigvalsh(dense), key=abs), rel=0.3)
        assert len(found.values) == 3
    with pytest.raises(runtime.Stopped, match="stopped before"):
        monitored.trace(method="xtrace")


def test_the_estimate_on_the_way_gets_better_through_restarts(case: tuple[runtime.Curvature, Matrix]) -> None:
    """ARPACK restarts and 28 products are kept; what is reported never falls back behind what was found."""
    _, dense = case
    said: list[float] = []
    monitor = Monitor(
        lambda task, done, total, estimate: said.append(float(estimate.split(": ")[1].split()[0]))
    )
    found = lanczos(aslinearoperator(dense), 4, "LA", tol=1e-10, seed=0, monitor=monitor)
    assert len(said) > 30
    assert all(b >= a * (1 - 1e-4) for a, b in pairwise(said))
    assert said[-1] == pytest.approx(found.values[0], rel=1e-4)


# Wrong questions ---------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[runtime.Curvature], Any], str]] = {
    "k": (lambda c: c.eigs(c.space.size + 1), "k must be a whole number from 1 to 532, the dimension of the matrix"),
    "steps": (lambda c: c.spectral_density(steps=533), "steps must be at most 532, the dimension of the matrix"),
    "probes": (lambda c: c.spectral_density(probes=0), "probes must be a whole number, at least 1, not 0"),
    "sigma": (lambda c: c.spectral_density(sigma=-1), "sigma must be above 0, not -1"),
    "method": (lambda c: c.trace(method="best"), "method must be 'hutchinson', 'hutch\\+\\+', 'xtrace' or 'exact'"),
    "diagonal": (lambda c: c.diagonal(method="best"), "must be 'hutchinson', 'xdiag', 'low_rank' or 'exact'"),
    "tol": (lambda c: c.trace(tol=0), "tol must be a relative error above 0, such as 0.05, or None, not 0"),
    "samples": (lambda c: c.layer_traces(samples=1), "samples must be a whole number of products, at least 2"),
    "matrix": (lambda c: c.trace(matrix="ggn"), "does not hold ggn, only hvp"),
    "damping": (lambda c: c.solve(c.grad(), damping=-1), "damping must be a number, at least 0, not -1"),
    "solve tol": (lambda c: c.solve(c.grad(), tol=2), "tol must be a relative residual between 0 and 1"),
    "solve shape": (lambda c: c.solve(np.ones(3)), "v has shape \\[3\\], but the 10 parameters of the file have 532"),
}  # fmt: skip


@pytest.mark.parametrize("question", WRONG)
def test_wrong_questions(case: tuple[runtime.Curvature, Matrix], question: str) -> None:
    ask, message = WRONG[question]
    with pytest.raises(InputError, match=message):
        ask(case[0])


def test_dense_operators_are_enough() -> None:
    """The estimators take any symmetric LinearOperator."""
    operator: LinearOperator = aslinearoperator(np.diag(np.arange(1.0, 301.0)))
    found = trace(operator, samples=40, tol=None)
    assert found.value == pytest.approx(300 * 301 / 2, abs=3 * found.standard_error)
