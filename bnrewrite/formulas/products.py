"""BatchNorm on x of shape (N, D) with batch statistics: its value, and products with its first and second derivatives.

For each of the D columns, with sums and means over its N rows,

    mu = mean(x)     var = mean((x - mu)^2)     s = (var + eps)^(-1/2)     x_hat = (x - mu) s     z = gamma x_hat + beta

Write J for the Jacobian dz/dx and, with delta_z = dE/dz and H_z = d2E/dz2 of a function E of the output, R for the
residual sum_ij d2z_ij/dx2 delta_z_ij. Then

    d2E/dx2     = J^T H_z J + R                            (1)
    (d2E/dx2) v = J^T (H_z (J v)) + R v                    (2)

Everything here takes O(N D); `dense` has the tensors themselves.

Source: P. Fischer, "Hessian backpropagation for BatchNorm", sections 2 and 3, whose equation numbers these are. There x
alone varies; `tangent`, `adjoint` and `adjoint_tangent` are the same with gamma and beta (docs/derivation.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple

from . import phases
from .arrays import Array, check_alike, check_eps, check_matrix, library

ROWS = (0,)
"""The axes that share a statistic."""


class Letters(NamedTuple):
    """x_hat (N, D), s and k = gamma s (1, D) of one call."""

    x_hat: Any
    s: Any
    k: Any

    @property
    def N(self) -> int:
        """The number of rows."""
        return int(self.x_hat.shape[0])


def letters(x: Any, gamma: Any, beta: Any, eps: Any, **vectors: Any) -> Letters:
    """Checks the arguments; `vectors` are those of the shape of x."""
    check_matrix("x", x, "(N, D)")
    check_columns(x, gamma=gamma, beta=beta)
    for name, value in vectors.items():
        check_alike(name, value, tuple(x.shape), "x", x)
    x_hat, s = phases.standardize(x, check_eps("x", x, eps), ROWS)
    return Letters(x_hat, s, gamma * s)


def check_columns(x: Any, **vectors: Any) -> None:
    """`vectors` have one entry a column of x."""
    for name, value in vectors.items():
        check_alike(name, value, (x.shape[1],), "x", x)


def check_hessian_z(hessian_z: Any, x: Any) -> None:
    """The dense tensor has the shape of x twice."""
    check_alike("hessian_z", hessian_z, (*x.shape, *x.shape), "x", x)


def batch_norm(x: Array, gamma: Array, beta: Array, eps: float) -> Array:
    """z = gamma x_hat + beta, (N, D). Section 2.

    x: (N, D); gamma, beta: (D,). Here and below all arguments are NumPy arrays or all are torch tensors, all float32 or
    all float64, on one device, and so is the result. Anything else, eps < 0, and eps = 0 where a column does not vary
    (N = 1) raise `bnrewrite.errors.InputError`.
    """
    z: Any = gamma * letters(x, gamma, beta, eps).x_hat + beta
    return z


# First and second order by x ---------------------------------------------------------------------------------


def jvp(x: Array, gamma: Array, beta: Array, eps: float, v: Array) -> Array:
    """J v, (N, D), for v (N, D): gamma s / N (N v - sum(v) - x_hat sum(x_hat v)). Section 3."""
    z_dot: Any = _tangent(letters(x, gamma, beta, eps, v=v), v).y_dot
    return z_dot


def vjp(x: Array, gamma: Array, beta: Array, eps: float, delta_z: Array) -> Array:
    """J^T delta_z, (N, D), for delta_z (N, D). J is symmetric, so `jvp` gives the same but for rounding."""
    at = letters(x, gamma, beta, eps, delta_z=delta_z)
    x_bar: Any = phases.adjoint(at.x_hat, at.k, delta_z, ROWS, at.N).x_bar
    return x_bar


def residual_vector_product(
    x: Array, gamma: Array, beta: Array, eps: float, delta_z: Array, v: Array
) -> Array:
    """R v, (N, D), for delta_z and v (N, D). Section 3, where two of the seven summands are misprinted; it is

    gamma s^2 / N (   - delta_z sum(x_hat v)  + 1/N sum(delta_z) sum(x_hat v)
                      - x_hat sum(delta_z v)  + 1/N x_hat sum(delta_z) sum(v)
                      - v sum(x_hat delta_z)  + 1/N sum(x_hat delta_z) sum(v)
                      + 3/N x_hat sum(x_hat v) sum(x_hat delta_z)   )
    """
    at = letters(x, gamma, beta, eps, delta_z=delta_z, v=v)
    product: Any = _adjoint_tangent(at, _tangent(at, v), v, delta_z, None)[0]
    return product


def hvp(
    x: Array,
    gamma: Array,
    beta: Array,
    eps: float,
    delta_z: Array,
    hessian_z: Array | Callable[[Array], Array],
    v: Array,
) -> Array:
    """(d2E/dx2) v = J^T (H_z (J v)) + R v, (N, D), for delta_z = dE/dz and v (N, D). Equation (2).

    `hessian_z` is H_z: a function u -> H_z u of (N, D) arrays, or the dense tensor (N, D, N, D).
    """
    at = letters(x, gamma, beta, eps, delta_z=delta_z, v=v)
    dot = _tangent(at, v)
    if callable(hessian_z):
        delta_z_dot: Any = hessian_z(dot.y_dot)
        check_alike("hessian_z(J v)", delta_z_dot, tuple(at.x_hat.shape), "x", x)
    else:
        check_hessian_z(hessian_z, x)
        delta_z_dot = library(x).einsum("ijpq,pq->ij", hessian_z, dot.y_dot)
    product: Any = _adjoint_tangent(at, dot, v, delta_z, delta_z_dot)[0]
    return product


# With gamma and beta -----------------------------------------------------------------------------------------


class Gradient(NamedTuple, Generic[Array]):
    """Derivatives of one scalar, or their tangents: by x (N, D), by gamma (D,) and by beta (D,)."""

    x: Array
    gamma: Array
    beta: Array


def tangent(
    x: Array, gamma: Array, beta: Array, eps: float, x_dot: Array, gamma_dot: Array, beta_dot: Array
) -> Array:
    """z_dot, (N, D): the derivative of z along x_dot (N, D), gamma_dot (D,), beta_dot (D,)."""
    at = letters(x, gamma, beta, eps, x_dot=x_dot)
    check_columns(x, gamma_dot=gamma_dot, beta_dot=beta_dot)
    z_dot: Any = _tangent(at, x_dot, gamma_dot, beta_dot).y_dot
    return z_dot


def adjoint(x: Array, gamma: Array, beta: Array, eps: float, delta_z: Array) -> Gradient[Array]:
    """dE/dx, dE/dgamma and dE/dbeta for delta_z = dE/dz (N, D): the backward pass."""
    at = letters(x, gamma, beta, eps, delta_z=delta_z)
    x_bar, q, p = phases.adjoint(at.x_hat, at.k, delta_z, ROWS, at.N)
    return Gradient(x_bar, q[0], p[0])


def adjoint_tangent(
    x: Array,
    gamma: Array,
    beta: Array,
    eps: float,
    x_dot: Array,
    gamma_dot: Array,
    beta_dot: Array,
    delta_z: Array,
    delta_z_dot: Array,
) -> Gradient[Array]:
    """The derivative of `adjoint` along x_dot, gamma_dot, beta_dot and delta_z_dot (N, D): the whole second-order step.

    With gamma_dot = beta_dot = 0 and delta_z_dot = H_z J x_dot, its part by x is `hvp`.
    """
    at = letters(x, gamma, beta, eps, x_dot=x_dot, delta_z=delta_z, delta_z_dot=delta_z_dot)
    check_columns(x, gamma_dot=gamma_dot, beta_dot=beta_dot)
    dot = _tangent(at, x_dot, gamma_dot, beta_dot)
    x_bar_dot, q_dot, p_dot = _adjoint_tangent(at, dot, x_dot, delta_z, delta_z_dot)
    return Gradient(x_bar_dot, q_dot[0], p_dot[0])


def _tangent(at: Letters, x_dot: Any, gamma_dot: Any = None, beta_dot: Any = None) -> phases.Tangent:
    return phases.tangent(at.x_hat, at.s, at.k, x_dot, gamma_dot, beta_dot, ROWS, at.N)


def _adjoint_tangent(at: Letters, dot: phases.Tangent, x_dot: Any, y_bar: Any, y_bar_dot: Any) -> Any:
    _, q, p = phases.adjoint(at.x_hat, at.k, y_bar, ROWS, at.N, need_x=False)
    return phases.adjoint_tangent(
        at.x_hat, at.s, at.k, x_dot, dot.m, dot.a, dot.k_dot, y_bar, q, p, y_bar_dot, ROWS, at.N
    )
