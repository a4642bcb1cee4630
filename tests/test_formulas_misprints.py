"""The sources' formulas as they are printed, evaluated literally: how far each is off, and that the pages say so.

Every number in the tables of docs/seeds is measured here.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from formula_case import APPENDIX_D, EXACT, error
from numpy.typing import NDArray
from pages import ROOT
from scipy.special import ndtri

from bnrewrite import formulas

SEEDS = ROOT / "docs" / "seeds"

Array = NDArray[np.float64]


# Fischer, "Hessian backpropagation for BatchNorm" ------------------------------------------------------------

X = APPENDIX_D
N, D = X.shape
AT = (X, np.ones(D), np.zeros(D), 0.0)
S = X.var(0) ** -0.5
X_HAT = (X - X.mean(0)) * S
DELTA_Z, V = np.random.default_rng(0).standard_normal((2, N, D))


def rvp(third: Array, fifth: Array) -> Array:
    """The formula of section 3 with the two summands given."""
    x, dz, v = X_HAT, DELTA_Z, V
    return S**2 / N * (
        -dz * (x * v).sum(0)
        + 1 / N * dz.sum(0) * (x * v).sum(0)
        + third
        + 1 / N * x * dz.sum(0) * v.sum(0)
        + fifth
        + 1 / N * (x * dz).sum(0) * v.sum(0)
        + 3 / N * x * (x * v).sum(0) * (x * dz).sum(0)
    )  # fmt: skip


THIRD, FIFTH = -X_HAT * (DELTA_Z * V).sum(0), -V * (X_HAT * DELTA_Z).sum(0)
THIRD_PRINTED = 1 / N * DELTA_Z.sum(0) * (DELTA_Z * V).sum(0)
FIFTH_PRINTED = 1 / N * (X_HAT * DELTA_Z).sum(0) * V.sum(0)


def delta(i: int, j: int) -> int:
    return int(i == j)


def jacobian_of_appendix_d() -> Array:
    """Its loops. The bracket that `factor` opens closes before the other two summands."""
    der = np.zeros((N, D, N, D))
    for i, j, k, n in np.ndindex(der.shape):
        factor = delta(j, n) / (N * np.sqrt(X.var(0)[j]))
        der[i, j, k, n] = factor * (N * delta(i, k)) - 1 - X_HAT[i][j] * X_HAT[k][j]
    return der


def hessian_of_appendix_e() -> Array:
    """Its loops. `factor` multiplies the first summand alone."""
    result = np.zeros((N, D, N, D, N, D))
    for i, j, k, p, m, n in np.ndindex(result.shape):
        factor = (delta(j, p) * delta(j, n)) / (N * X.var(0)[j])
        sum_1 = (delta(i, k) - 1 / N) * X_HAT[m][j]
        sum_2 = (delta(i, m) - 1 / N) * X_HAT[k][j]
        sum_3 = (delta(k, m) - 1 / N) * X_HAT[i][j]
        sum_4 = (3 / N) * X_HAT[i][j] * X_HAT[k][j] * X_HAT[m][j]
        result[i, j, k, p, m, n] = factor * (-sum_1) - sum_2 - sum_3 + sum_4
    return result


def fischer() -> dict[str, float]:
    """How far each place is off."""
    right = formulas.residual_vector_product(*AT, DELTA_Z, V)
    return {
        "section 3, RVP, third summand": error(rvp(THIRD_PRINTED, FIFTH), right),
        "section 3, RVP, fifth summand": error(rvp(THIRD, FIFTH_PRINTED), right),
        "section 3, RVP, both": error(rvp(THIRD_PRINTED, FIFTH_PRINTED), right),
        "appendix D, code": error(jacobian_of_appendix_d(), formulas.jacobian(*AT)),
        "appendix E, code": error(hessian_of_appendix_e(), formulas.hessian(*AT)),
    }


def test_the_rest_of_the_printed_product_is_right() -> None:
    assert error(rvp(THIRD, FIFTH), formulas.residual_vector_product(*AT, DELTA_Z, V)) < EXACT


def test_what_else_fischer_prints_is_right() -> None:
    """The Jacobian, its products and the Hessian, in the indices of section 3."""
    x, d = X_HAT, np.eye(N) - 1 / N
    J = np.einsum("j,jl,ikj->ijkl", S / N, np.eye(D), N * np.eye(N)[..., None] - 1 - x[:, None] * x[None])
    assert error(J, formulas.jacobian(*AT)) < EXACT
    v_sum, xv_sum = V.sum(0), (x * V).sum(0)
    assert error(S / N * (N * V - v_sum - x * xv_sum), formulas.jvp(*AT, V)) < EXACT
    inner = (
        -np.einsum("ik,mj->ikmj", d, x) - np.einsum("im,kj->ikmj", d, x) - np.einsum("km,ij->ikmj", d, x)
        + 3 / N * np.einsum("ij,kj,mj->ikmj", x, x, x)
    )  # fmt: skip
    assert error(S**2 / N * inner, formulas.hessian_blocks(*AT)) < EXACT


# "Matrix form of backpropagation with batch normalization" ---------------------------------------------------


class Session:
    """The data of the question, which begins with `set.seed(1)`: R's own random numbers.

    Mersenne twister started by the congruential generator 69069 s + 1, normal numbers by inversion with 54 bits.
    """

    def __init__(self, seed: int) -> None:
        state = []
        for count in range(50 + 625):
            seed = (69069 * seed + 1) % 2**32
            if count > 50:  # the first of 625 is the position
                state.append(seed)
        self.twister = np.random.RandomState()
        self.twister.set_state(("MT19937", np.array(state, np.uint32), 624))

    def runif(self, count: int) -> Array:
        return self.twister.randint(0, 2**32, size=count, dtype=np.uint32) * 2.3283064365386963e-10

    def rnorm(self, count: int) -> Array:
        first, second = self.runif(2 * count).reshape(count, 2).T
        return ndtri((np.floor(2**27 * first) + second) / 2**27)


class Question:
    """Letters of the question in the order in which its code draws them; matrices fill by column."""

    def __init__(self) -> None:
        r = Session(1)
        self.N, p_1, p_2 = 10, 7, 4
        self.G1 = r.rnorm(p_1 * p_2).reshape(p_2, p_1).T
        self.G2 = r.rnorm(p_2)
        self.gamma = np.arange(1, p_2 + 1) + 1.0
        self.beta = -self.gamma
        self.u = r.rnorm(10)[:, None]
        self.X = np.round(r.runif(self.N * p_1) * 10 - 5).reshape(p_1, self.N).T
        self.A = self.X @ self.G1
        self.minus_2_u_G2 = -2 * self.u @ self.G2[None]

    def scale(self, sample: bool) -> Array:
        return (self.A - self.A.mean(0)) / self.A.std(0, ddof=int(sample))

    def gradient(self) -> formulas.NetworkGradient[Array]:
        """The right one, at the y that makes the residual u."""
        arguments = (self.X, self.G1, self.gamma, self.beta, 0.0, self.G2[:, None])
        b = formulas.batch_norm(self.A, self.gamma, self.beta, 0.0)
        return formulas.network_gradient(*arguments, np.maximum(b, 0) @ self.G2[:, None] + self.u)


Q = Question()
AP_IN_R = np.ones_like(Q.A)
"""`v[v < 0] <- 0` and then `v[v >= 0] <- 1`: what was negative is zero by then, and becomes 1 too."""


def test_the_question_computes_what_it_prints() -> None:
    """Its numbers, to the digits shown, from the same random numbers and the code read literally."""
    stub = Q.minus_2_u_G2 * AP_IN_R
    drdb = [-0.44609015, 0.38991862, 1.26758024, -0.09589582]
    assert np.abs(stub.sum(0) - drdb).max() < 1e-8
    drdG1 = Q.X.T @ (stub * Q.gamma * Q.A.std(0, ddof=1))  # w is gamma times the deviation, not over it
    assert np.abs(drdG1[0] - [-61.531877, 122.66157, 360.08132, -51.666215]).max() < 1e-5
    assert np.abs(drdG1[6] - [79.617345, -158.71430, -465.91653, 66.851965]).max() < 1e-5
    drdg = Q.scale(sample=True).T @ (stub * Q.gamma)
    assert np.abs(np.diag(drdg) - [0.8580574, 5.9607870, -11.7678486, -4.6025996]).max() < 1e-7


def question() -> dict[str, float]:
    """How far each place is off, everything else being right, on the question's own data."""
    right = Q.gradient()
    A_hat = Q.scale(sample=False)
    a_prime = (Q.gamma * A_hat + Q.beta > 0).astype(float)
    W = a_prime * Q.minus_2_u_G2 / Q.N
    w = Q.gamma / Q.A.std(0)
    beta = (W.sum(0), right.beta)
    assert error(*beta) < EXACT
    return {
        "every gradient": error(Q.N * right.beta, right.beta),
        "update 1, dR/dbeta": error(((Q.A > 0) * Q.minus_2_u_G2 / Q.N).sum(0), right.beta),
        "code, `ap`": error((AP_IN_R * Q.minus_2_u_G2 / Q.N).sum(0), right.beta),
        "code, `scale` and `sd`": error(Q.scale(sample=True), A_hat),
        "update 3, dR/dGamma_1": error(Q.X.T @ (W * w), right.Gamma_1),
        "update 3, code, `w`": error(Q.X.T @ (W * Q.gamma * Q.A.std(0)), Q.X.T @ (W * w)),
        "update 4, dR/dgamma": error(np.diag(A_hat.T @ (W * Q.gamma)), right.gamma),
    }


def test_gradients_without_batch_norm_are_swapped() -> None:
    """`-2 V^T e` has the shape of Gamma_2, the other one that of Gamma_1; both lack the 1/N of the loss."""
    random = np.random.default_rng(0)
    X, G1, G2, y = (random.standard_normal(shape) for shape in ((6, 3), (3, 4), (4, 1), (6, 1)))

    def R(G1: Array, G2: Array) -> float:
        return float(((y - np.maximum(X @ G1, 0) @ G2) ** 2).sum() / 6)

    def numerical(f: Callable[[Array], float], at: Array) -> Array:
        """Quadratic in each entry as long as no ReLU switches: central differences are exact but for rounding."""
        found = np.zeros_like(at)
        for place in np.ndindex(at.shape):
            step = np.zeros_like(at)
            step[place] = 1e-4
            found[place] = (f(at + step) - f(at - step)) / 2e-4
        return found

    V, e = np.maximum(X @ G1, 0), y - np.maximum(X @ G1, 0) @ G2
    printed_as_1, printed_as_2 = -2 * V.T @ e, X.T @ ((X @ G1 > 0) * (-2 * e @ G2.T))
    assert printed_as_1.shape == G2.shape != G1.shape == printed_as_2.shape
    assert error(printed_as_1 / 6, numerical(lambda G: R(G1, G), G2)) < 1e-9
    assert error(printed_as_2 / 6, numerical(lambda G: R(G, G2), G1)) < 1e-9


def test_looping_way_agrees_only_through_the_slip() -> None:
    """It takes rows of Gamma_1 for columns, so its BatchNorm is another; a derivative of 1 hides that."""
    rows = np.stack([(Q.X[:, [i]] @ Q.G1[[i]])[:, i] for i in range(4)], axis=1)
    slope = rows - rows.mean(0) > rows.std(0, ddof=1)  # gamma x_hat + beta > 0 where beta = -gamma
    looped = (Q.minus_2_u_G2 * slope).sum(0)
    assert error((Q.minus_2_u_G2 * AP_IN_R).sum(0), [-0.44609015, 0.38991862, 1.26758024, -0.09589582]) < 1e-7
    assert error(looped, Q.N * Q.gradient().beta) > 0.1


# The pages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "measured"), [("000.md", fischer), ("002.md", question)], ids=["000", "002"]
)
def test_pages_say_how_far_each_place_is_off(page: str, measured: Callable[[], dict[str, float]]) -> None:
    words = (SEEDS / page).read_text(encoding="utf-8").split("<!-- begin")[0]  # tables of timings come after
    rows = re.findall(r"^\|([^|]*)\|.*\|([^|]*)\|[^|]*\|$", words, re.MULTILINE)
    said = {place.strip(): figure.strip() for place, figure in rows}
    found = measured()
    assert min(found.values()) > 0.05
    assert {place: figure for place, figure in said.items() if re.fullmatch(r"[\d.]+", figure)} == {
        place: f"{value:.2g}" for place, value in found.items()
    }
