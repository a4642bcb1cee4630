"""What the split into model and loss gives, against dense matrices by autograd of the untouched model in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import ROOT, blocks
from reference import dense_hessian
from torch import Tensor, nn

import bnrewrite
from bnrewrite import runtime
from bnrewrite.errors import BnrewriteError, CaptureError, InputError, NumericalError
from bnrewrite.gauss_newton import diagonal, gradients, spectrum
from bnrewrite.gauss_newton.loss_factor import loss_factor, multinomial_factor
from bnrewrite.gauss_newton.pullback import Pullback, batch_options
from bnrewrite.gauss_newton.sampling import sampler

BAR = 1e-10
N = 7


def images() -> nn.Module:
    """Convolution and dense layer, each with a BatchNorm; 222 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(),
        nn.Linear(6, 3),
    ).double()  # fmt: skip


def dense(*more: nn.Module) -> nn.Module:
    """A BatchNorm in the middle and six outputs; 62 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 6), *more
    ).double()


def inputs(*shape: int) -> Tensor:
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


CLASSES = torch.arange(N) % 3


def flat(parts: dict[str, Tensor], lead: int = 0) -> Tensor:
    return torch.cat([part.flatten(lead) for part in parts.values()], dim=lead)


def oracle(model: nn.Module, x: Tensor, y: Tensor, loss: Any) -> tuple[Tensor, Tensor, Tensor]:
    """J (NC, D), dl/dz (NC,) and the loss's Hessian (NC, NC), row by row."""
    parameters, z = list(model.parameters()), model(x)
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in z.flatten()]
    J = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    z = z.detach()

    def of_output(flat: Tensor) -> Tensor:
        return loss(flat.reshape(z.shape), y)

    slope = torch.autograd.functional.jacobian(of_output, z.flatten())
    return J, slope, torch.autograd.functional.hessian(of_output, z.flatten())


def relative(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


# Losses ------------------------------------------------------------------------------------------------------------


def mixed(z: Tensor, y: Tensor) -> Tensor:
    """Couples the six outputs of a sample: blocks of samples where they are shaped (N, 2, 3)."""
    return nn.functional.softplus(z.flatten(1).sum(1)).sum() + (z**4).mean()


def contrast(z: Tensor, y: Tensor) -> Tensor:
    """Couples all samples."""
    return torch.logsumexp((z @ z.T).flatten() / 3, 0) + (z**4).mean()


def wells(z: Tensor, y: Tensor) -> Tensor:
    """Curved downwards around zero."""
    return (z**4 / 4 - z**2 / 2).sum()


def weights() -> Tensor:
    return torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0, 0.1], dtype=torch.float64)


def probabilities() -> Tensor:
    return torch.softmax(inputs(6), 1)


PIXELS = torch.stack([CLASSES, CLASSES.roll(1)], dim=1) % 3

# name: (loss, target, what follows the six outputs, entries of a block, columns that are not zero)
LOSSES: dict[str, tuple[Any, Callable[[], Tensor], tuple[nn.Module, ...], int, int]] = {
    "cross entropy": (nn.CrossEntropyLoss(), lambda: CLASSES, (), 6, 5 * N),
    "weights, smoothing, ignored class": (
        nn.CrossEntropyLoss(weights(), ignore_index=1, label_smoothing=0.1, reduction="sum"),
        lambda: CLASSES, (), 6, 5 * 5,
    ),
    "probabilities": (nn.CrossEntropyLoss(weights(), label_smoothing=0.2), probabilities, (), 6, 5 * N),
    "cross entropy of positions": (
        nn.CrossEntropyLoss(ignore_index=0), lambda: PIXELS, (nn.Unflatten(1, (3, 2)),), 3, 2 * 8,
    ),
    "a function": (nn.functional.cross_entropy, lambda: PIXELS, (nn.Unflatten(1, (3, 2)),), 3, 2 * 2 * N),
    "mse": (nn.MSELoss(), lambda: inputs(6), (), 1, 6 * N),
    "bce": (
        nn.BCEWithLogitsLoss(weights(), pos_weight=1 + weights()), lambda: (inputs(6) > 0).double(), (), 1, 6 * N
    ),
    "samples": (mixed, lambda: CLASSES, (nn.Unflatten(1, (2, 3)),), 6, 6 * N),
    "the whole batch": (contrast, lambda: CLASSES, (), 6 * N, 6 * N),
    "downwards": (wells, lambda: CLASSES, (), 1, 6 * N),
    "linear": (nn.NLLLoss(), lambda: CLASSES, (nn.LogSoftmax(1),), 1, 0),
}  # fmt: skip


@cache
def case(name: str) -> tuple[tuple[nn.Module, tuple[Tensor, Tensor]], Any, Pullback, Tensor, Tensor]:
    """Model and data, loss, its pullback, and by autograd J and the loss's Hessian."""
    loss, target, more, *_ = LOSSES[name]
    model, x, y = dense(*more), inputs(4), target()
    J, _, hessian = oracle(model, x, y, loss)
    return (model, (x, y)), loss, Pullback(model, (x, y), batch_options(loss, None, None, "off")), J, hessian


def found_by_all(monkeypatch: pytest.MonkeyPatch, pullback: Pullback) -> None:
    """The public functions compile nothing, but take this one."""
    for module in (diagonal, gradients, spectrum):
        monkeypatch.setattr(module, "Pullback", lambda *_: pullback)


@pytest.mark.parametrize("name", LOSSES)
def test_the_factor_of_every_kind_of_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """S diag(signs) S^T is the loss's Hessian; diagonal and spectrum of G follow."""
    arguments, loss, pullback, J, hessian = case(name)
    found_by_all(monkeypatch, pullback)
    G, factor = J.T @ hessian @ J, loss_factor(pullback)
    S, signs = factor.cotangents(factor.used).flatten(1), factor.signs[tuple(factor.used.T)]
    scale = hessian.norm() or 1.0
    assert (S.T @ (signs[:, None] * S) - hessian).norm() < 1e-12 * scale
    assert (factor.index.shape[1], len(S)) == LOSSES[name][3:]
    assert bool((signs < 0).any()) == (name == "downwards")
    scale = G.diagonal().norm() or 1.0
    found = bnrewrite.ggn_diagonal(*arguments, loss=loss)
    assert (flat(found) - G.diagonal()).norm() < BAR * scale
    values = bnrewrite.ggn_spectrum(*arguments, loss=loss).values
    expected = torch.linalg.eigvalsh(G)
    expected = expected[expected.abs().argsort(descending=True)][: len(values)]
    assert (values - expected).norm() < BAR * scale
    assert len(values) == torch.linalg.matrix_rank(G)


SAMPLED = [
    "weights, smoothing, ignored class",
    "probabilities",
    "cross entropy of positions",
    "mse",
    "bce",
    "samples",
]


@pytest.mark.parametrize("name", SAMPLED)
def test_random_cotangents_have_the_hessian_for_covariance(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E[u u^T] = H_L in every entry, E[u] = 0, and so the diagonal within 5 of the standard errors that it states."""
    arguments, loss, pullback, J, hessian = case(name)
    found_by_all(monkeypatch, pullback)
    u = sampler(pullback, 0)(20_000).flatten(1)
    for found, expected in ((u[:, :, None] * u[:, None, :], hessian), (u, torch.zeros(u.shape[1]))):
        error = found.std(0) / len(u) ** 0.5
        assert ((found.mean(0) - expected).abs() <= 5 * error + 1e-12).all()
    exact = (J.T @ hessian @ J).diagonal()
    values, errors = map(flat, bnrewrite.ggn_diagonal(*arguments, loss=loss, samples=400, seed=3))
    away = (values - exact) / errors
    assert away.abs().max() < 5 and 0.3 < away.square().mean() < 3
    assert errors.norm() < 0.3 * exact.norm()
    few, again, other = (sampler(pullback, seed)(3) for seed in (3, 3, 4))
    assert torch.equal(few, again) and not torch.equal(few, other)


def test_the_closed_form_of_the_multinomial_covariance() -> None:
    """Without cancellation: rows of extreme probabilities, zeros and a single class are no exception."""
    p = torch.tensor(
        [[1 - 1e-14, 1e-14, 1e-300, 0.0], [0.25] * 4, [0, 0, 0, 1], [0, 1, 0, 0]], dtype=torch.float64
    )
    L = multinomial_factor(p)
    for row, found in zip(p, L @ L.mT, strict=True):
        expected = -torch.outer(row, row).fill_diagonal_(0)
        expected -= torch.diag(
            expected.sum(1)
        )  # p_j (1 - p_j) as p_j times the others, which does not cancel
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-310)
    assert multinomial_factor(torch.ones(2, 1)).shape == (2, 1, 0)


# Networks with BatchNorm --------------------------------------------------------------------------------------------


def test_images_through_two_batch_norms() -> None:
    """Diagonal, spectrum with eigenvectors, in blocks of any size; the model is left as it was."""
    model, x = images(), inputs(2, 4, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    J, _, hessian = oracle(model, x, CLASSES, nn.functional.cross_entropy)
    before |= {name: tensor.clone() for name, tensor in model.state_dict().items() if "running" in name}
    before |= {name: tensor.clone() for name, tensor in model.state_dict().items() if "tracked" in name}
    G = J.T @ hessian @ J
    for block in (None, 3):
        found = bnrewrite.ggn_diagonal(model, (x, CLASSES), block=block)
        assert {name: part.shape for name, part in found.items()} == {
            name: parameter.shape for name, parameter in model.named_parameters()
        }
        assert relative(flat(found), G.diagonal()) < BAR
    found = bnrewrite.ggn_spectrum(model, (x, CLASSES), vectors=True, k=5)
    assert found.vectors is not None and list(found.vectors) == list(dict(model.named_parameters()))
    Q = flat(found.vectors, 1)
    assert relative(found.values, torch.linalg.eigvalsh(G).flip(0)[:5]) < BAR
    assert (Q @ Q.T - torch.eye(5)).norm() < 1e-9
    assert (Q @ G - found.values[:, None] * Q).norm() < BAR * found.values[0]
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_curvlinops_says_the_same() -> None:
    """With running statistics, which is what curvlinops computes; it need not be installed."""
    operator = pytest.importorskip("curvlinops").GGNLinearOperator
    model, x = images().eval(), inputs(2, 4, 4)
    for loss, y in ((nn.CrossEntropyLoss(), CLASSES), (nn.MSELoss(), inputs(3))):
        linear = operator(model, loss, list(model.parameters()), [(x, y)])
        G = linear @ torch.eye(linear.shape[1], dtype=torch.float64)
        assert relative(flat(bnrewrite.ggn_diagonal(model, (x, y), loss=loss)), G.diagonal()) < BAR
        values = bnrewrite.ggn_spectrum(model, (x, y), loss=loss).values
        assert relative(values, torch.linalg.eigvalsh(G).flip(0)[: len(values)]) < BAR


def test_eigenvectors_where_the_loss_curves_downwards(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, loss, pullback, J, hessian = case("downwards")
    found_by_all(monkeypatch, pullback)
    G = J.T @ hessian @ J
    found = bnrewrite.ggn_spectrum(*arguments, loss=loss, vectors=True)
    assert found.vectors is not None
    Q = flat(found.vectors, 1)
    assert bool((found.values < 0).any()) and bool((found.values > 0).any())
    assert relative((Q.T * found.values) @ Q, G) < BAR
    assert (Q @ Q.T - torch.eye(len(Q))).norm() < 1e-8


def test_a_gram_matrix_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the pulled-back columns do not fit they are made in pieces, with the same result."""
    arguments, _, pullback, *_ = case("cross entropy")
    found_by_all(monkeypatch, pullback)
    whole = bnrewrite.ggn_spectrum(*arguments)
    pieces = []
    plain = spectrum._pulled
    monkeypatch.setattr(spectrum, "_pulled", lambda *a: (pieces.append(len(a[2])), plain(*a))[1])
    part = bnrewrite.ggn_spectrum(*arguments, memory=2 * 10 * 8 * pullback.size)
    assert pieces == [10, 10, 10, 10, 10, 10, 5, 10, 10, 10]  # each with itself and all before it
    assert relative(part.values, whole.values) < 1e-13
    with pytest.raises(
        InputError, match=r"Gram matrix of 35 columns takes 9,800 bytes and each column.* 528, of which"
    ):
        bnrewrite.ggn_spectrum(*arguments, memory=9_000)


@pytest.mark.parametrize("by_input", [False, True])
def test_components_sum_to_the_gradient(by_input: bool) -> None:
    """With batch statistics each is J_n^T dl/dF_n, which depends on all samples."""
    model, x = images(), inputs(2, 4, 4)
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64))
    found = bnrewrite.per_component_gradients(
        model, (x, CLASSES), loss=loss, wrt="input" if by_input else None
    )
    x = x.clone().requires_grad_(by_input)
    sources = [x] if by_input else list(model.parameters())
    z = model(x)
    (slope,) = torch.autograd.grad(loss(z, CLASSES), z, retain_graph=True)
    expected = [torch.autograd.grad(z[n] @ slope[n], sources, retain_graph=True) for n in range(N)]
    whole = torch.autograd.grad(loss(z, CLASSES), sources)
    for i, part in enumerate(found.values()):
        torch.testing.assert_close(part.sum(0), whole[i], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(part, torch.stack([row[i] for row in expected]), rtol=1e-11, atol=1e-13)
    if by_input:
        assert bool((found["input"][0, 1:] != 0).any()), "sample 0's row depends on the others"


class Centred(nn.Module):
    """Mixes samples without any BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x - x.mean(0))


def test_per_sample_gradients_where_they_exist() -> None:
    model, x = images(), inputs(2, 4, 4)
    with pytest.raises(
        InputError, match=r"do not exist\. The model mixes samples, in '1', '5'\. per_component_g"
    ):
        bnrewrite.per_sample_gradients(model, (x, CLASSES))
    with pytest.raises(InputError, match="The model mixes samples"):
        bnrewrite.per_sample_gradients(Centred(), (inputs(4), CLASSES))
    found = bnrewrite.per_sample_gradients(model, (x, CLASSES), bn="running")
    for n in range(N):
        alone = nn.functional.cross_entropy(model.eval()(x[n : n + 1]), CLASSES[n : n + 1]) / N
        expected = torch.autograd.grad(alone, list(model.parameters()))
        for part, one in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(part[n], one, rtol=1e-11, atol=1e-13)


# Dense blocks --------------------------------------------------------------------------------------------------------


def test_dense_blocks() -> None:
    model, x = dense(), inputs(4)
    H = torch.from_numpy(dense_hessian(model, [(x.numpy(), CLASSES.numpy())])[2])
    J, _, hessian = oracle(model, x, CLASSES, nn.functional.cross_entropy)
    for product, expected in {"ggn": J.T @ hessian @ J, "residual": H - J.T @ hessian @ J}.items():
        found = bnrewrite.dense_block(model, (x, CLASSES), product=product)  # type: ignore[arg-type]
        assert relative(found, expected) < 1e-12
    # 0.weight 20, 1.weight 5, 1.bias 5, 3.weight 30, 3.bias 6
    tall, wide = {"rows": "3.*", "columns": ["1.weight", "1.bias"]}, {"rows": ["1.*"], "columns": "3.*"}
    assert relative(bnrewrite.dense_block(model, (x, CLASSES), **tall, block=4), H[30:, 20:30]) < 1e-12
    assert relative(bnrewrite.dense_block(model, (x, CLASSES), **wide, bn="batch"), H[20:30, 30:]) < 1e-12
    x.requires_grad_()
    by_input = bnrewrite.dense_block(model, (x, CLASSES), rows="input")
    exact = torch.autograd.functional.hessian(
        lambda x: nn.functional.cross_entropy(model(x), CLASSES), x.detach()
    )
    assert relative(by_input, exact.reshape(4 * N, 4 * N)) < 1e-12


# Refusals ------------------------------------------------------------------------------------------------------------


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x), self.b(x)


class Total(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).square().sum()


def both(z: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(z[0] * z[1], y)


REFUSED: dict[str, tuple[Callable[[nn.Module, Any], Any], type[BnrewriteError], str]] = {
    "no loss": (
        lambda m, d: bnrewrite.per_component_gradients(m, d, loss=None), InputError, "where the model ends and the",
    ),
    "two outputs": (
        lambda m, d: bnrewrite.ggn_diagonal(TwoOutputs().double(), d, loss=both), CaptureError,
        "reads 2 values of the model .*hands one tensor to its loss",
    ),
    "no blocks": (
        lambda m, d: bnrewrite.ggn_diagonal(
            nn.Sequential(m, nn.Linear(6, 1100)).double(), d, loss=lambda z, y: torch.logsumexp(z.flatten(), 0)
        ), InputError, r"on an output of shape \[7, 1100\] falls into no blocks of at most 1024 entries",
    ),
    "too many columns": (
        lambda m, d: bnrewrite.ggn_spectrum(nn.Sequential(m, nn.Linear(6, 40_000)).double(), d), InputError,
        "has 279,993 columns, and each takes a pass back through the batch: use ggn_diagonal with samples=",
    ),
    "not finite": (
        lambda m, d: bnrewrite.ggn_diagonal(m, (d[0] * torch.nan, d[1]), loss=wells), NumericalError,
        "is NaN or infinite at the output",
    ),
    "a single number": (
        lambda m, d: bnrewrite.per_component_gradients(Total(m), d, loss=lambda z, y: z), InputError,
        "has no components",
    ),
    "negative": (
        lambda m, d: bnrewrite.ggn_diagonal(m, d, loss=wells, samples=4), InputError, "has negative eigenvalues",
    ),
    "samples": (lambda m, d: bnrewrite.ggn_diagonal(m, d, samples=1), InputError, "whole number of at least 2"),
    "k": (lambda m, d: bnrewrite.ggn_spectrum(m, d, k=0), InputError, "k must be None or a whole number"),
    "block": (lambda m, d: bnrewrite.ggn_spectrum(m, d, block=0), InputError, "block must be None or a whole number"),
    "block of products": (
        lambda m, d: bnrewrite.dense_block(m, d, block=-1), InputError, "block must be None or a whole number",
    ),
    "rows": (lambda m, d: bnrewrite.dense_block(m, d, rows="5.*"), InputError, r"rows: no parameter matches '5\.\*'"),
    "input and parameters": (
        lambda m, d: bnrewrite.dense_block(m, d, rows="input", columns="0.*"), InputError, "no other columns",
    ),
    "size of a block": (
        lambda m, d: bnrewrite.dense_block(m, d, memory=100), InputError, "66 x 66 takes up to 34,848 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call(dense(), (inputs(4), CLASSES))


# Without PyTorch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_low_rank_from_a_file(dtype: torch.dtype, tmp_path: Path) -> None:
    """Two batches of N samples and three classes: their mean has rank 2 N 2 of 273, found exactly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 30, bias=False), nn.BatchNorm1d(30), nn.Tanh(), nn.Linear(30, 3)).to(
        dtype
    )
    x = inputs(4).to(dtype)
    batches = [(x.numpy(), CLASSES.numpy()), (x.flip(0).numpy() ** 2, CLASSES.numpy())]
    bnrewrite.export_onnx(
        model, tmp_path / "c.onnx", (x, CLASSES), products=("ggn", "residual"), vectors=8, linearize=True
    )
    c = runtime.open(tmp_path / "c.onnx", batches)
    bar = 1e-10 if dtype == torch.float64 else 1e-3
    G = torch.zeros(273, 273, dtype=torch.float64)
    for a, _ in batches:
        J, _, hessian = oracle(
            model.double(), torch.from_numpy(a).double(), CLASSES, nn.functional.cross_entropy
        )
        G += J.T @ hessian @ J / 2
    found = c.low_rank()
    assert found.converged and found.complete and c.space.size == 273
    if dtype == torch.float64:
        assert len(found.values) == 4 * N
    assert found.products <= 2 * 4 * N + 8
    expected = torch.linalg.eigvalsh(G).flip(0)[: len(found.values)]
    assert relative(torch.from_numpy(found.values), expected) < bar
    exact = c.diagonal(matrix="ggn", method="low_rank")
    assert exact.converged and relative(torch.from_numpy(exact.values), G.diagonal()) < bar
    short = c.diagonal(matrix="ggn", method="low_rank", samples=20)
    assert not short.converged and short.products == 20
    assert np.linalg.norm(short.standard_error) > 0.1 * np.linalg.norm(short.values - G.diagonal().numpy())
    for matrix in ("ggn", "residual"):
        some = c.diagonal(matrix=matrix, method="hutchinson", samples=400, tol=None)  # type: ignore[arg-type]
        dense = (c.operator(matrix) @ np.eye(c.space.size)).diagonal()  # type: ignore[arg-type]
        assert np.abs(some.values - dense).max() < 6 * some.standard_error.max()


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it says of its network is true."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "gauss_newton.md", "python"):
        block.run(namespace)
    assert len(namespace["spectrum"].values) == len(namespace["found"].values) == 24
    assert namespace["G"].shape == (51, 128) and namespace["c"].space.size == 227
    assert namespace["found"].converged
