"""Gradients of a network with one hidden layer and BatchNorm, in matrix form.

    A = X Gamma_1         b = batch_norm(A; gamma, beta, eps)        V = a(b)        y_hat = V Gamma_2
    E = y - y_hat         R = 1/N sum(E^2)

With W = a'(b) o (-2/N E Gamma_2^T), o the element-wise product, and A_bar the adjoint of BatchNorm at W, which takes mu
and sigma as the functions of A that they are:

    dR/dGamma_2 = -2/N V^T E     dR/dbeta = 1^T W     dR/dgamma = diag(A_hat^T W)     dR/dGamma_1 = X^T A_bar

Sources: "Matrix form of backpropagation with batch normalization", Cross Validated: the question asks for these, the
answer gives dR/dgamma and dR/dbeta. "What does the gradient flowing through batch normalization looks like?" (2016) has
A_bar. docs/seeds/002.md lists what differs from the question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple

from ..errors import InputError
from .arrays import Array, check_alike, check_eps, check_matrix, library
from .products import adjoint, batch_norm

Activation = Literal["relu", "tanh", "sigmoid"] | tuple[Callable[[Any], Any], Callable[[Any], Any]]
"""A name, or element-wise functions (a, a')."""


def _sigmoid(b: Any) -> Any:
    return (library(b).tanh(b / 2) + 1) / 2  # without an overflow of exp


ACTIVATIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "relu": (lambda b: library(b).where(b <= 0, 0, b), lambda b: library(b).ones_like(b) * (b > 0)),
    "tanh": (lambda b: library(b).tanh(b), lambda b: 1 - library(b).tanh(b) ** 2),
    "sigmoid": (_sigmoid, lambda b: _sigmoid(b) * (1 - _sigmoid(b))),
}
"""(a, a') by name. The derivative of ReLU at zero is zero, as in PyTorch."""


class Layers(NamedTuple):
    """The quantities of one forward pass that the gradients use again."""

    A: Any
    b: Any
    V: Any
    E: Any
    slope: Callable[[Any], Any]


def _forward(
    X: Any, Gamma_1: Any, gamma: Any, beta: Any, eps: Any, Gamma_2: Any, y: Any, activation: Any
) -> Layers:
    check_matrix("X", X, "(N, p_1)")
    check_matrix("y", y, "(N, p_3)")
    check_matrix("Gamma_1", Gamma_1, "(p_1, p_2)")
    inner, hidden, outputs = X.shape[1], Gamma_1.shape[1], y.shape[1]
    check_alike("y", y, (X.shape[0], outputs), "X", X)
    check_alike("Gamma_1", Gamma_1, (inner, hidden), "X", X)
    check_alike("gamma", gamma, (hidden,), "Gamma_1", Gamma_1)
    check_alike("beta", beta, (hidden,), "Gamma_1", Gamma_1)
    check_alike("Gamma_2", Gamma_2, (hidden, outputs), "Gamma_1", Gamma_1)
    a, slope = _activation(activation)
    A = X @ Gamma_1
    b = batch_norm(A, gamma, beta, check_eps("X Gamma_1", A, eps))
    V = a(b)
    check_alike("a(b)", V, tuple(b.shape), "b", b)
    return Layers(A, b, V, y - V @ Gamma_2, slope)


def _activation(activation: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    if isinstance(activation, str) and activation in ACTIVATIONS:
        return ACTIVATIONS[activation]
    if isinstance(activation, tuple) and len(activation) == 2 and all(map(callable, activation)):
        return activation
    names = ", ".join(map(repr, ACTIVATIONS))
    raise InputError(f"activation is {activation!r}: give one of {names}, or a pair of functions (a, a').")


def network_loss(
    X: Array,
    Gamma_1: Array,
    gamma: Array,
    beta: Array,
    eps: float,
    Gamma_2: Array,
    y: Array,
    activation: Activation = "relu",
) -> Array:
    """R = 1/N sum((y - a(b(X Gamma_1)) Gamma_2)^2), a scalar.

    X: (N, p_1); Gamma_1: (p_1, p_2); gamma, beta: (p_2,); Gamma_2: (p_2, p_3); y: (N, p_3), with p_3 = 1 in the source.
    """
    E = _forward(X, Gamma_1, gamma, beta, eps, Gamma_2, y, activation).E
    return (E * E).sum() / E.shape[0]


class NetworkGradient(NamedTuple, Generic[Array]):
    """dR by each parameter, in its shape."""

    Gamma_1: Array
    gamma: Array
    beta: Array
    Gamma_2: Array


def network_gradient(
    X: Array,
    Gamma_1: Array,
    gamma: Array,
    beta: Array,
    eps: float,
    Gamma_2: Array,
    y: Array,
    activation: Activation = "relu",
) -> NetworkGradient[Array]:
    """dR/dGamma_1, dR/dgamma, dR/dbeta and dR/dGamma_2; arguments as in `network_loss`."""
    A, b, V, E, slope = _forward(X, Gamma_1, gamma, beta, eps, Gamma_2, y, activation)
    y_hat_bar = -2 / E.shape[0] * E
    a_prime = slope(b)
    check_alike("a'(b)", a_prime, tuple(b.shape), "b", b)
    W = a_prime * (y_hat_bar @ Gamma_2.T)  # type: ignore[attr-defined]
    A_bar, gamma_bar, beta_bar = adjoint(A, gamma, beta, eps, W)
    return NetworkGradient(X.T @ A_bar, gamma_bar, beta_bar, V.T @ y_hat_bar)  # type: ignore[attr-defined]
