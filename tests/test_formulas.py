"""`bnrewrite.formulas` for BatchNorm: every function against automatic differentiation, on NumPy arrays and tensors."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from formula_case import APPENDIX_D, EXACT, error
from pages import ROOT, blocks
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp

from bnrewrite import formulas
from bnrewrite.errors import InputError

PAGE = ROOT / "docs" / "formulas.md"


class Case:
    """A point, directions, and a function E(z) = logsumexp(B z) + sum(w sin(z)) of the output."""

    def __init__(self, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, seed: int) -> None:
        random = torch.Generator().manual_seed(100 + seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random, dtype=torch.float64)

        self.x, self.eps, self.point = x, eps, (x, gamma, beta)
        self.delta_z, self.delta_z_dot = draw(*x.shape), draw(*x.shape)
        self.dots = (draw(*x.shape), draw(x.shape[1]), draw(x.shape[1]))
        self.v = self.dots[0]
        self.B, self.w = draw(4, x.numel()), draw(*x.shape)
        z = self.z(*self.point)
        self.dE, self.d2E = grad(self.E)(z), hessian(self.E)(z)

    def z(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """PyTorch's BatchNorm; its front door refuses eps = 0."""
        return torch.batch_norm(x, gamma, beta, None, None, True, 0.0, self.eps, False)

    def z_of_x(self, x: Tensor) -> Tensor:
        return self.z(x, *self.point[1:])

    def linear(self, x: Tensor) -> Tensor:
        """A function whose curvature by x is the residual."""
        return (self.delta_z * self.z_of_x(x)).sum()

    def E(self, z: Tensor) -> Tensor:
        return (self.B @ z.flatten()).logsumexp(0) + (self.w * z.sin()).sum()

    def adjoint(self, x: Tensor, gamma: Tensor, beta: Tensor, delta_z: Tensor) -> tuple[Tensor, ...]:
        return vjp(self.z, x, gamma, beta)[1](delta_z)


def random_case(rows: int, columns: int, eps: float, seed: int) -> Case:
    random = torch.Generator().manual_seed(seed)
    shapes = ((rows, columns), columns, columns)
    x, gamma, beta = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes)
    return Case(2 * x + 1, gamma, beta, eps, seed)


CASES = {
    "Appendix D": Case(torch.from_numpy(APPENDIX_D), torch.ones(2).double(), torch.zeros(2).double(), 0, 0),
    "5 x 3": random_case(5, 3, 1e-5, 1),
    "8 x 1": random_case(8, 1, 0.3, 2),
    "3 x 4": random_case(3, 4, 0, 3),
    "2 x 3": random_case(2, 3, 0.5, 4),  # with a small eps all of the second order cancels here
}

# Function: its arguments after eps, and what automatic differentiation says.
TABLE: dict[str, tuple[Callable[[Case], Any], Callable[[Case], Any]]] = {
    "batch_norm": (lambda c: (), lambda c: c.z(*c.point)),
    "jvp": (lambda c: (c.v,), lambda c: jvp(c.z_of_x, (c.x,), (c.v,))[1]),
    "vjp": (lambda c: (c.delta_z,), lambda c: grad(c.linear)(c.x)),
    "residual_vector_product": (
        lambda c: (c.delta_z, c.v),
        lambda c: jvp(grad(c.linear), (c.x,), (c.v,))[1],
    ),
    "hvp": (
        lambda c: (c.dE, c.d2E, c.v),
        lambda c: jvp(grad(lambda x: c.E(c.z_of_x(x))), (c.x,), (c.v,))[1],
    ),
    "tangent": (lambda c: c.dots, lambda c: jvp(c.z, c.point, c.dots)[1]),
    "adjoint": (lambda c: (c.delta_z,), lambda c: c.adjoint(*c.point, c.delta_z)),
    "adjoint_tangent": (
        lambda c: (*c.dots, c.delta_z, c.delta_z_dot),
        lambda c: jvp(c.adjoint, (*c.point, c.delta_z), (*c.dots, c.delta_z_dot))[1],
    ),
    "jacobian": (lambda c: (), lambda c: jacrev(c.z_of_x)(c.x)),
    "hessian": (lambda c: (), lambda c: hessian(c.z_of_x)(c.x)),
    "hessian_blocks": (lambda c: (), lambda c: torch.einsum("ijkjmj->ikmj", hessian(c.z_of_x)(c.x))),
    "residual": (lambda c: (c.delta_z,), lambda c: hessian(c.linear)(c.x)),
    "hessian_backpropagation": (
        lambda c: (c.dE, c.d2E),
        lambda c: hessian(lambda x: c.E(c.z_of_x(x)))(c.x),
    ),
}


def arguments(name: str, case: Case) -> tuple[Any, ...]:
    return (*case.point, case.eps, *TABLE[name][0](case))


def parts(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", TABLE)
def test_formula_is_that_of_autograd(name: str, case: Case) -> None:
    """In NumPy and in torch; and float32 stays float32, as near as its roundings (1e-7) allow."""
    function, given = getattr(formulas, name), arguments(name, case)
    expected = parts(TABLE[name][1](case))
    in_numpy = [a.numpy() if isinstance(a, Tensor) else a for a in given]
    in_single = [a.astype(np.float32) if isinstance(a, np.ndarray) else np.float64(a) for a in in_numpy]
    for change, kind, bar in (
        (given, (Tensor, torch.float64), EXACT),
        (in_numpy, (np.ndarray, np.float64), EXACT),
        (in_single, (np.ndarray, np.float32), 1e-4),  # x_hat loses digits of x to its mean
    ):
        found = parts(function(*change))
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert (type(ours), ours.dtype) == kind
            assert error(ours, theirs) < bar


def test_products_are_those_of_the_dense_tensors() -> None:
    case = CASES["5 x 3"]
    x, gamma, beta, delta_z, H_z, v = (a.numpy() for a in (*case.point, case.dE, case.d2E, case.v))
    at = (x, gamma, beta, case.eps)
    J = formulas.jacobian(*at)
    assert error(J, np.einsum("ijkl->klij", J)) < EXACT  # the report's section 3: J is symmetric
    R = np.einsum("ijklmn,ij->klmn", formulas.hessian(*at), delta_z)
    assert error(formulas.residual(*at, delta_z), R) < EXACT
    H = np.einsum("ijkl,ijpq,pqmn->klmn", J, H_z, J) + R
    assert error(formulas.hessian_backpropagation(*at, delta_z, H_z), H) < EXACT
    product = np.einsum("klmn,mn->kl", H, v)
    for hessian_z in (H_z, lambda u: np.einsum("ijpq,pq->ij", H_z, u)):
        assert error(formulas.hvp(*at, delta_z, hessian_z, v), product) < EXACT


def test_products_take_no_dense_tensor() -> None:
    """(N D)^2 numbers would be 3 TB."""
    random = np.random.default_rng(0)
    x, delta_z, v = random.standard_normal((3, 200_000, 3))
    at = (x, np.ones(3), np.zeros(3), 1e-5)
    product = formulas.hvp(*at, delta_z, lambda u: u, v)
    without = formulas.vjp(*at, formulas.jvp(*at, v)) + formulas.residual_vector_product(*at, delta_z, v)
    assert error(product, without) < EXACT


def test_tensors_stay_differentiable() -> None:
    """By torch.func too, which runs them on batches of tangents."""
    case = CASES["5 x 3"]

    def of_x(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: function(x, *case.point[1:], case.eps)

    J = jacrev(of_x(formulas.batch_norm))(case.x)
    assert error(J, formulas.jacobian(*case.point, case.eps)) < EXACT
    H = jacfwd(of_x(formulas.jacobian))(case.x)
    assert error(H, formulas.hessian(*case.point, case.eps)) < EXACT


@pytest.mark.parametrize("name", TABLE)
def test_tensors_stay_on_their_device(name: str) -> None:
    """The meta device has shapes alone: meeting a tensor of another device is an error there."""
    given = [a.to("meta") if isinstance(a, Tensor) else a for a in arguments(name, CASES["5 x 3"])]
    assert {part.device.type for part in parts(getattr(formulas, name)(*given))} == {"meta"}


# Definiteness ------------------------------------------------------------------------------------------------


def form(case: Case, delta_z: Tensor, v: Tensor) -> float:
    """<v, R v> by automatic differentiation."""
    product = jvp(grad(lambda x: (delta_z * case.z_of_x(x)).sum()), (case.x,), (v,))[1]
    return float((v * product).sum())


@pytest.mark.parametrize("name", ["Appendix D", "5 x 3", "8 x 1"])
def test_definiteness_finds_a_vector_of_each_sign(name: str) -> None:
    case = CASES[name]
    one = torch.zeros_like(case.x)
    one[1, 0] = 1
    for delta_z, given in ((case.delta_z, case.delta_z), (one, (1, 0))):
        found = formulas.definiteness(*case.point, case.eps, given)
        assert found.least < 0 < found.greatest
        eigenvalues = np.linalg.eigvalsh(
            formulas.residual(*case.point, case.eps, delta_z).reshape(case.x.numel(), -1)
        )
        for value, v, expected in (
            (found.least, found.least_v, eigenvalues[0]),
            (found.greatest, found.greatest_v, eigenvalues[-1]),
        ):
            assert float(v.norm()) == pytest.approx(1)
            assert form(case, delta_z, v) == pytest.approx(float(value), rel=1e-10)
            assert float(value) == pytest.approx(expected, rel=1e-10)
        arrays = [p.numpy() for p in case.point]
        in_numpy = formulas.definiteness(*arrays, case.eps, given if given == (1, 0) else delta_z.numpy())
        assert in_numpy.least == pytest.approx(float(found.least), rel=1e-10)


@pytest.mark.parametrize("rows", [2, 3, 6])
@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_eigenvalues_of_the_residual(rows: int, eps: float) -> None:
    """The claim of docs/seeds/000.md: all eigenvalues of R in a column, and when both signs occur."""
    random = np.random.default_rng(rows)
    x, delta_z = random.standard_normal((2, rows, 1))
    R = formulas.residual(x, np.ones(1), np.zeros(1), eps, delta_z).reshape(rows, rows)
    s2 = 1 / (x.var() + eps)
    x_hat, w = ((x - x.mean()) * s2**0.5)[:, 0], (delta_z - delta_z.mean())[:, 0]
    r, q = 1 - eps * s2, x_hat @ w
    c = np.linalg.norm(w - q / (rows * r) * x_hat) * np.linalg.norm(x_hat)
    pair = np.linalg.eigvalsh([[-3 * q * (1 - r), -c], [-c, -q]]) if rows > 2 else [-3 * q * (1 - r)]
    expected = sorted([0, *[-q] * (rows - 3), *pair])
    assert np.abs(np.linalg.eigvalsh(R) - s2 / rows * np.array(expected)).max() < EXACT * s2 * np.linalg.norm(
        w
    )
    for i in range(rows):
        found = formulas.definiteness(x, np.ones(1), np.zeros(1), eps, (i, 0))
        indefinite = rows > 2 and r * (rows - 1) > (4 - 3 * r) * x_hat[i] ** 2
        assert (found.least < -1e-12 and found.greatest > 1e-12) == indefinite


def test_hessian_of_two_rows_is_zero_without_eps() -> None:
    """There x_hat is 1 and -1 whatever x is: appendix F measures this case."""
    x = np.random.default_rng(0).random((2, 4))
    scale = 1 / x.var(axis=0)
    assert np.abs(formulas.hessian_blocks(x, np.ones(4), np.zeros(4), 0.0) / scale).max() < EXACT


# Arguments ---------------------------------------------------------------------------------------------------

X, ONE = np.random.default_rng(0).standard_normal((4, 2)), np.ones(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: formulas.batch_norm([[1.0]], ONE, ONE, 0.1), "x is of type list: give a NumPy array or a torch"),
        (lambda: formulas.batch_norm(X.view(np.matrix), ONE, ONE, 0.1), "x is of type matrix"),
        (lambda: formulas.batch_norm(np.ones((2, 2), int), ONE, ONE, 0.1), "a NumPy array of int64: give"),
        (lambda: formulas.batch_norm(torch.ones(2, 2).half(), ONE, ONE, 0.1), "a torch tensor of float16: give"),
        (lambda: formulas.batch_norm(X[0], ONE, ONE, 0.1), r"shape \(2,\): it must be \(N, D\)"),
        (lambda: formulas.batch_norm(X[:0], ONE, ONE, 0.1), "with at least one row"),
        (lambda: formulas.batch_norm(X, np.ones(3), ONE, 0.1), r"gamma has the shape \(3,\): it must be \(2,\)"),
        (lambda: formulas.batch_norm(X, ONE, 1.0, 0.1), "beta is of type float: x is a NumPy array of float64"),
        (lambda: formulas.batch_norm(X, torch.ones(2).double(), ONE, 0.1), "gamma is a torch tensor of float64"),
        (lambda: formulas.jvp(X, ONE, ONE, 0.1, X.astype(np.float32)), "v is a NumPy array of float32: x is a"),
        (lambda: formulas.tangent(X, ONE, ONE, 0.1, X, X, ONE), r"gamma_dot has the shape \(4, 2\)"),
        (lambda: formulas.vjp(X, ONE, ONE, -1e-5, X), "eps is -1e-05: give a finite number that is not negative"),
        (lambda: formulas.vjp(X, ONE, ONE, float("nan"), X), "eps is nan"),
        (lambda: formulas.vjp(X, ONE, ONE, None, X), "eps is None"),
        (lambda: formulas.jacobian(X[:1], ONE, ONE, 0), "x has one row, so its variance is zero, and eps is 0"),
        (lambda: formulas.jacobian(X * [1, 0], ONE, ONE, 0), "column 1 of x is constant and eps is 0"),
        (lambda: formulas.hvp(X, ONE, ONE, 0.1, X, X, X), r"hessian_z has the shape \(4, 2\): .* \(4, 2, 4, 2\)"),
        (lambda: formulas.hvp(X, ONE, ONE, 0.1, X, np.sum, X), r"hessian_z\(J v\) is of type float64"),
        (lambda: formulas.definiteness(X, ONE, ONE, 0.1, (4, 0)), r"delta_z is \(4, 0\): as \(i, j\) it must name"),
    ],
)  # fmt: skip
def test_wrong_argument_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_one_row_with_eps_is_constant() -> None:
    at = (X[:1], ONE, 2 * ONE, 0.1)
    assert np.array_equal(formulas.batch_norm(*at), [[2, 2]])
    assert not formulas.jacobian(*at).any()
    assert not formulas.hessian(*at).any()


# Without torch; the page -------------------------------------------------------------------------------------


def run_without_torch(code: str) -> None:
    program = f"import sys; sys.modules['torch'] = sys.modules['onnxruntime'] = None\n{code}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_example_of_the_page_runs_without_torch() -> None:
    (block,) = blocks(PAGE, "python")
    assert 8 <= len(block.text.splitlines()) <= 20
    run_without_torch(block.text)


def test_every_function_is_on_the_page() -> None:
    rows = re.findall(r"^\| `(\w+)\(([^)]*)\)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name: re.findall(r"\w+", words) for name, words in rows}
    functions = {name: f for name in formulas.__all__ if inspect.isfunction(f := getattr(formulas, name))}
    assert listed.keys() == functions.keys()
    for name, function in functions.items():
        names = list(inspect.signature(function).parameters)
        assert listed[name] == [
            word for word in names if word not in ("x", "gamma", "beta", "eps") or "X" in names
        ]
