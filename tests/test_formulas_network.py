"""`bnrewrite.formulas.network` against automatic differentiation, and against the matrix forms of its sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from formula_case import EXACT, error
from torch import Tensor
from torch.func import grad

from bnrewrite import formulas
from bnrewrite.errors import InputError

ACTIVATIONS: dict[Any, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    (np.sin, np.cos): torch.sin,
}


def draw(N: int, p_1: int, p_2: int, p_3: int, seed: int) -> tuple[np.ndarray, ...]:
    """X, Gamma_1, gamma, beta, Gamma_2, y."""
    random = np.random.default_rng(seed)
    shapes = ((N, p_1), (p_1, p_2), (p_2,), (p_2,), (p_2, p_3), (N, p_3))
    return tuple(random.standard_normal(shape) for shape in shapes)


def given(X: Any, Gamma_1: Any, gamma: Any, beta: Any, Gamma_2: Any, y: Any, eps: float) -> tuple[Any, ...]:
    """In the order of the library."""
    return X, Gamma_1, gamma, beta, eps, Gamma_2, y


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize(("shape", "eps"), [((10, 7, 4, 1), 0.0), ((6, 2, 5, 3), 1e-3)])
def test_gradient_is_that_of_autograd(shape: tuple[int, ...], eps: float, activation: Any) -> None:
    arrays = draw(*shape, seed=0)
    X, *parameters, y = (torch.from_numpy(array) for array in arrays)

    def R(Gamma_1: Tensor, gamma: Tensor, beta: Tensor, Gamma_2: Tensor) -> Tensor:
        b = torch.batch_norm(X @ Gamma_1, gamma, beta, None, None, True, 0.0, eps, False)
        return (y - ACTIVATIONS[activation](b) @ Gamma_2).square().sum(1).mean()

    expected = (*grad(R, argnums=(0, 1, 2, 3))(*parameters), R(*parameters))
    in_torch = activation if isinstance(activation, str) else (torch.sin, torch.cos)
    for inputs, chosen, bar in (
        (arrays, activation, EXACT),
        ([torch.from_numpy(array) for array in arrays], in_torch, EXACT),
        ([array.astype(np.float32) for array in arrays], activation, 1e-4),
    ):
        at = given(*inputs, eps=eps)
        found = (*formulas.network_gradient(*at, chosen), formulas.network_loss(*at, chosen))
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == inputs[0].dtype
            assert error(ours, theirs) < bar


def test_sigmoid_and_its_slope_do_not_overflow() -> None:
    X, Gamma_1, gamma, beta, Gamma_2, y = draw(5, 2, 3, 1, seed=1)
    with np.errstate(all="raise"):
        found = formulas.network_gradient(X, Gamma_1, 1e4 * gamma, beta, 1e-5, Gamma_2, y, "sigmoid")
    assert all(np.isfinite(part).all() for part in found)


def test_gradient_has_the_matrix_form_of_the_answer() -> None:
    """diag((X Gamma_1 - e mu^T)^T W Sigma^(-1/2)) and e^T W, with the factor 1/N of the loss in W."""
    X, Gamma_1, gamma, beta, Gamma_2, y = draw(8, 3, 4, 1, seed=2)
    A, e = X @ Gamma_1, np.ones((8, 1))
    mu, Sigma = A.mean(0)[:, None], np.diag(A.var(0))
    root = np.diag(np.diag(Sigma) ** -0.5)
    b = (A - e @ mu.T) @ np.diag(gamma) @ root + e @ beta[None]
    epsilon_hat = y - np.maximum(b, 0) @ Gamma_2
    W = (b > 0) * (-2 / 8 * epsilon_hat @ Gamma_2.T)
    found = formulas.network_gradient(X, Gamma_1, gamma, beta, 0.0, Gamma_2, y)
    assert error(found.gamma, np.diag((A - e @ mu.T).T @ W @ root)) < EXACT
    assert error(found.beta, (e.T @ W)[0]) < EXACT


def test_adjoint_is_that_of_the_post() -> None:
    """Its last lines of code, word for word."""
    random = np.random.default_rng(3)
    h, dy = random.standard_normal((2, 6, 4))
    gamma, eps, N = random.standard_normal(4), 1e-5, 6
    mu = 1.0 / N * np.sum(h, axis=0)
    var = 1.0 / N * np.sum((h - mu) ** 2, axis=0)
    dbeta = np.sum(dy, axis=0)
    dgamma = np.sum((h - mu) * (var + eps) ** (-1.0 / 2.0) * dy, axis=0)
    centred = (h - mu) * (var + eps) ** (-1.0) * np.sum(dy * (h - mu), axis=0)
    dx = (1.0 / N) * gamma * (var + eps) ** (-1.0 / 2.0) * (N * dy - np.sum(dy, axis=0) - centred)
    found = formulas.adjoint(h, gamma, np.zeros(4), eps, dy)
    for ours, theirs in zip(found, (dx, dgamma, dbeta), strict=True):
        assert error(ours, theirs) < EXACT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "gelu"}, "activation is 'gelu': give one of 'relu', 'tanh', 'sigmoid', or a pair"),
        ({"activation": (np.sin,)}, "activation is .* or a pair of functions"),
        ({"activation": (np.sum, np.cos)}, r"a\(b\) is of type float64: b is a NumPy array"),
        ({"activation": (np.sin, np.sum)}, r"a'\(b\) is of type float64: b is a NumPy array"),
        ({"y": np.ones(5)}, r"y has the shape \(5,\): it must be \(N, p_3\)"),
        ({"y": np.ones((4, 1))}, r"y has the shape \(4, 1\): it must be \(5, 1\), as X is \(5, 2\)"),
        ({"Gamma_1": np.ones((3, 3))}, r"Gamma_1 has the shape \(3, 3\): it must be \(2, 3\)"),
        ({"Gamma_2": np.ones((3, 2))}, r"Gamma_2 has the shape \(3, 2\): it must be \(3, 1\)"),
        ({"gamma": np.ones(2)}, r"gamma has the shape \(2,\): it must be \(3,\), as Gamma_1 is \(2, 3\)"),
        ({"Gamma_1": np.zeros((2, 3)), "eps": 0}, "column 0 of X Gamma_1 is constant and eps is 0"),
        ({"eps": -1}, "eps is -1"),
    ],
)
def test_wrong_argument_is_named(change: dict[str, Any], message: str) -> None:
    names = ("X", "Gamma_1", "gamma", "beta", "Gamma_2", "y")
    arguments = dict(zip(names, draw(5, 2, 3, 1, seed=4), strict=True)) | {"eps": 0.1} | change
    with pytest.raises(InputError, match=message):
        formulas.network_gradient(**arguments)
