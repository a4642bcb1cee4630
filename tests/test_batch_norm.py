"""BatchNorm: the closed forms as functions, as nodes of a graph in all shapes and modes, and what they must satisfy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import direction, dot, relative_error, truth
from torch import Tensor, nn

import bnrewrite
from bnrewrite.errors import InputError
from bnrewrite.formulas import phases
from bnrewrite.rules import batch_norm as bn

EXACT = 1e-12  # closed form against autograd on well-scaled data: a few hundred roundings


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (3, 2, 4, 5), (2, 3, 2, 3, 2)])
def test_formulas_against_autograd(shape: tuple[int, ...]) -> None:
    """All letters of the closed form, with gamma and beta cross terms, by forward-over-reverse on plain autograd."""
    axes = [i for i in range(len(shape)) if i != 1]
    channel = [1, shape[1]] + [1] * (len(shape) - 2)
    x, x_dot, y_bar, y_bar_dot = (_random(*shape, seed=i) for i in range(4))
    gamma, beta, gamma_dot, beta_dot = (_random(*channel, seed=i) for i in range(4, 8))

    def y_of(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            x, None, None, gamma.flatten(), beta.flatten(), training=True, eps=1e-3
        )

    def pull_back(x: Tensor, gamma: Tensor, beta: Tensor, y_bar: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(y_of, x, gamma, beta)[1](y_bar)

    y, y_dot = torch.func.jvp(y_of, (x, gamma, beta), (x_dot, gamma_dot, beta_dot))
    bars, bar_dots = torch.func.jvp(
        pull_back, (x, gamma, beta, y_bar), (x_dot, gamma_dot, beta_dot, y_bar_dot)
    )

    count = x.numel() // shape[1]
    x_hat, s = phases.standardize(x, 1e-3, axes)
    k = gamma * s
    tangent = phases.tangent(x_hat, s, k, x_dot, gamma_dot, beta_dot, axes, count)
    adjoint = phases.adjoint(x_hat, k, y_bar, axes, count)
    x_bar_dot, q_dot, p_dot = phases.adjoint_tangent(
        x_hat,
        s,
        k,
        x_dot,
        tangent.m,
        tangent.a,
        tangent.k_dot,
        y_bar,
        adjoint.q,
        adjoint.p,
        y_bar_dot,
        axes,
        count,
    )
    found = (
        gamma * x_hat + beta,
        tangent.y_dot,
        adjoint.x_bar,
        adjoint.q,
        adjoint.p,
        x_bar_dot,
        q_dot,
        p_dot,
    )
    expected = (y, y_dot, bars[0], bars[1], bars[2], bar_dots[0], bar_dots[1], bar_dots[2])
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=EXACT, atol=EXACT)
    # The output ignores a shift of a channel: both adjoints sum to zero over it.
    assert float(adjoint.x_bar.sum(axes).abs().max()) < EXACT
    assert float(x_bar_dot.sum(axes).abs().max()) < EXACT


class Sandwich(nn.Module):
    """Affine layer, BatchNorm, a curved function, affine layer: every cross term of the BatchNorm is exercised."""

    def __init__(self, dimensions: int, norm: nn.Module) -> None:
        super().__init__()
        convolution = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        self.first = convolution(3, 4) if dimensions == 0 else convolution(3, 4, 2)
        self.norm, self.last = norm, nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.norm(self.first(x)))
        return self.last(z if z.dim() == 2 else z.flatten(2).mean(2))


NORMS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def _sandwich(dimensions: int, training: bool, **options: object) -> tuple[Sandwich, Tensor, Tensor]:
    torch.manual_seed(dimensions)
    norm = NORMS[dimensions](4, **options).train()
    for buffer in ("running_mean", "running_var"):
        if getattr(norm, buffer) is not None:
            setattr(norm, buffer, torch.rand(4) + 0.5)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    model = Sandwich(dimensions, norm.train(training)).double()
    return model, _random(6, 3, *[4] * dimensions, seed=9), torch.randint(5, (6,))


@pytest.mark.parametrize("dimensions", [0, 1, 2, 3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_network_with_one_batch_norm(dimensions: int, affine: bool, training: bool) -> None:
    model, x, y = _sandwich(dimensions, training, affine=affine)
    v = direction(model)
    gm = bnrewrite.transform(model, (x, y), products=("hvp", "ggn"))
    loss, grad, hvp = truth(model, x, y, v)
    found = gm(x, y, v)
    assert float(found[0]) == pytest.approx(float(loss), rel=EXACT)
    assert relative_error(found[1], grad) < EXACT
    assert relative_error(found[2], hvp) < EXACT
    assert relative_error(found[3], truth(model, x, y, v, product="ggn")[2]) < EXACT
    (site,) = gm.meta["bnrewrite"]["sites"]
    assert site["module"] == "norm" and site["statistics"] == ("batch" if training else "running")
    assert site["affine"] is affine and site["shape"][:2] == ["N", 4]


@pytest.mark.parametrize("options", [{"momentum": None}, {"track_running_stats": False}, {"eps": 0.7}])
def test_options_of_the_module(options: dict[str, object]) -> None:
    model, x, y = _sandwich(2, True, **options)
    v = direction(model)
    _, grad, hvp = truth(model, x, y, v)
    found = bnrewrite.transform(model, (x, y))(x, y, v)
    assert relative_error(found[1], grad) < EXACT and relative_error(found[2], hvp) < EXACT


def test_without_tracked_statistics_evaluation_mode_uses_the_batch() -> None:
    model, x, y = _sandwich(2, False, track_running_stats=False)
    v = direction(model)
    found = bnrewrite.transform(model, (x, y))(x, y, v)
    assert relative_error(found[2], truth(model, x, y, v)[2]) < EXACT


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_bn_argument_overrides_the_modules(statistics: str) -> None:
    model, x, y = _sandwich(2, statistics == "running")
    v = direction(model)
    found = bnrewrite.transform(model, (x, y), bn=statistics)(x, y, v)
    assert model.norm.training is (statistics == "running")
    model.norm.train(statistics == "batch")
    assert relative_error(found[2], truth(model, x, y, v)[2]) < EXACT


def test_running_statistics_are_read_at_each_call_and_never_written() -> None:
    model, x, y = _sandwich(1, False)
    gm, v = bnrewrite.transform(model, (x, y)), direction(model)
    model.norm.running_var.mul_(3.0)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert relative_error(gm(x, y, v)[2], truth(model, x, y, v)[2]) < EXACT
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_symmetry_and_linearity() -> None:
    model, x, y = _sandwich(2, True)
    gm = bnrewrite.transform(model, (x, y))
    u, v = direction(model, 1), direction(model, 2)
    hu, hv = gm(x, y, u)[2], gm(x, y, v)[2]
    assert dot(u, hv) == pytest.approx(dot(v, hu), rel=EXACT)
    combined = {name: 2 * u[name] - 3 * v[name] for name in u}
    expected = {name: 2 * hu[name] - 3 * hv[name] for name in u}
    assert relative_error(gm(x, y, combined)[2], expected) < EXACT


def test_bias_before_batch_norm_has_no_gradient_and_no_curvature() -> None:
    model, x, y = _sandwich(2, True)
    v = direction(model)
    _, grad, hvp = bnrewrite.transform(model, (x, y))(x, y, v)
    scale = float(grad["first.weight"].abs().max())
    assert float(grad["first.bias"].abs().max()) < EXACT * scale
    assert float(hvp["first.bias"].abs().max()) < EXACT * float(hvp["first.weight"].abs().max())


def test_scale_identity_of_the_weight_before_batch_norm() -> None:
    """With eps -> 0 the loss ignores the scale of w_c: <w_c, grad_c> = 0 and H w = -grad on those weights."""
    model, x, y = _sandwich(2, True, eps=1e-30)
    w = model.first.weight.detach()
    v = {name: torch.zeros_like(part) for name, part in model.named_parameters()} | {"first.weight": w}
    _, grad, hvp = bnrewrite.transform(model, (x, y))(x, y, v)
    per_channel = (w * grad["first.weight"]).sum((1, 2, 3))
    assert float(per_channel.abs().max()) < EXACT * float(grad["first.weight"].norm() * w.norm())
    torch.testing.assert_close(hvp["first.weight"], -grad["first.weight"], rtol=1e-11, atol=1e-13)


def test_central_differences_converge_at_second_order() -> None:
    model, x, y = _sandwich(2, True)
    gm, v = bnrewrite.transform(model, (x, y)), direction(model)
    hvp = gm(x, y, v)[2]
    start = {name: part.detach().clone() for name, part in model.named_parameters()}

    def gradient_at(t: float) -> dict[str, Tensor]:
        with torch.no_grad():
            for name, part in model.named_parameters():
                part.copy_(start[name] + t * v[name])
        return gm(x, y, v)[1]

    errors = []
    for h in (2e-3, 1e-3):
        plus, minus = gradient_at(h), gradient_at(-h)
        errors.append(relative_error({n: (plus[n] - minus[n]) / (2 * h) for n in v}, hvp))
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)


def test_single_element_is_refused_at_capture_and_at_the_call() -> None:
    model, x, y = _sandwich(0, True)
    with pytest.raises(InputError, match=r"BatchNorm in module 'norm'.*single element"):
        bnrewrite.transform(model, (x[:1], y[:1]), dynamic_batch=False)
    gm = bnrewrite.transform(model, (x, y))
    with pytest.raises(InputError, match=r"module 'norm' needs a batch of at least 2"):
        gm(x[:1], y[:1], direction(model))


def test_running_statistics_that_do_not_exist() -> None:
    model, x, y = _sandwich(2, True, track_running_stats=False)
    with pytest.raises(InputError, match=r"module 'norm' \(.*test_batch_norm.py:\d+\) keeps none"):
        bnrewrite.transform(model, (x, y), bn="running")


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Shared(nn.Module):
    """One BatchNorm at two places, its second output used twice."""

    def __init__(self, training: bool) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).train(training)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(torch.tanh(self.norm(self.first(x))))
        return (torch.tanh(z) * z).mean((2, 3))


FUNCTIONAL: dict[str, Callable[[Functional, Tensor, Tensor], tuple[Any, ...]]] = {
    "computed": lambda self, x, z: (z, None, None, self.gamma.exp(), self.gamma * self.beta, True),
    "from the input": lambda self, x, z: (z, None, None, x.mean() + self.gamma, self.beta, True),
    "no gamma": lambda self, x, z: (z, self.mean, self.var, None, self.beta, True),
    "no beta": lambda self, x, z: (z, self.mean, self.var, self.gamma, None, False),
    "computed statistics": lambda self, x, z: (z, self.mean - 1, self.var.exp(), self.gamma, self.beta, False),
}  # fmt: skip


class Functional(nn.Module):
    """`F.batch_norm` with tensors of one's own."""

    def __init__(self, how: str, explicit: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.how, self.explicit = nn.Conv2d(3, 4, 1), how, explicit
        self.gamma, self.beta = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.randn(4))
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("var", torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        z, mean, var, gamma, beta, training = FUNCTIONAL[self.how](self, x, self.first(x))
        if self.explicit and gamma is None:  # PyTorch's second derivative fails without it
            gamma = torch.ones_like(beta)
        return torch.tanh(nn.functional.batch_norm(z, mean, var, gamma, beta, training)).mean((2, 3))


def _exact(model: nn.Module, x: Tensor, reference: nn.Module | None = None) -> list[dict[str, Any]]:
    """Captured at one batch size, compared at another; the model stays as it was. Returns the sites."""
    y, before = torch.randint(4, (len(x),)), {name: part.clone() for name, part in model.state_dict().items()}
    gm, v = bnrewrite.transform(model, (x, y)), direction(model)
    x, y = x[1:], y[1:]
    found, expected = gm(x, y, v), truth(reference or model, x, y, v)
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=EXACT)
    assert relative_error(found[1], expected[1]) < EXACT and relative_error(found[2], expected[2]) < EXACT
    assert all(torch.equal(before[name], part) for name, part in model.state_dict().items())
    return gm.meta["bnrewrite"]["sites"]


@pytest.mark.parametrize("training", [True, False])
def test_one_module_twice(training: bool) -> None:
    torch.manual_seed(0)
    sites = _exact(Shared(training).double(), _random(6, 3, 4, 4, seed=0))
    assert [site["module"] for site in sites] == ["norm", "norm"]


@pytest.mark.parametrize("how", FUNCTIONAL)
def test_functional_form_with_tensors_of_ones_own(how: str) -> None:
    reference = Functional(how, explicit=True).double()
    (site,) = _exact(Functional(how).double(), _random(6, 3, 4, 4, seed=0), reference)
    assert site["statistics"] == ("batch" if how in list(FUNCTIONAL)[:3] else "running")


def test_a_frozen_one_inside_a_training_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Tanh(), nn.BatchNorm2d(4).eval(), nn.Tanh(), Mean()
    )
    model[3].running_var.mul_(3)
    sites = _exact(model.double(), _random(6, 3, 4, 4, seed=0))
    assert [(site["module"], site["statistics"]) for site in sites] == [("1", "batch"), ("3", "running")]


def test_channels_last_memory() -> None:
    model, x, _ = _sandwich(2, True)
    channels_last = torch.channels_last
    _exact(model.to(memory_format=channels_last), x.to(memory_format=channels_last))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_sync_batch_norm_outside_a_process_group(momentum: float | None) -> None:
    """Alone, it is BatchNorm of its own batch."""
    model, x, _ = _sandwich(2, True, momentum=momentum)
    (site,) = _exact(nn.SyncBatchNorm.convert_sync_batchnorm(model), x)
    assert site["module"] == "norm" and site["statistics"] == "batch"
    assert model.norm.momentum == momentum


def test_lazy_modules() -> None:
    model, x = (
        nn.Sequential(nn.LazyConv2d(4, 1), nn.LazyBatchNorm2d(), nn.Tanh(), Mean()).double(),
        _random(6, 3, 4, 4, seed=0),
    )
    with pytest.raises(InputError, match=r"module '0' \(LazyConv2d\) has no sizes yet: run the model once"):
        bnrewrite.transform(model, (x, torch.randint(4, (6,))))
    model(x)
    (site,) = _exact(model, x)
    assert site["module"] == "1" and site["shape"] == ["N", 4, 4, 4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(dtype: torch.dtype) -> None:
    """Statistics of half-precision data are sums in float32: the tangent has the error of its own rounding only."""
    rule, x = bn.BatchNorm(), (_random(256, 2, 8, 8, seed=0) * 0.1 + 30).to(dtype)
    gamma, beta = torch.ones(2, dtype=dtype), torch.zeros(2, dtype=dtype)
    from bnrewrite.passes.rule import run

    ctx = run(rule, [x, gamma, beta, None, None, True, 0.1, 1e-5, False])
    assert ctx.y.dtype == dtype
    exact = nn.functional.batch_norm(x.double(), None, None, training=True)
    assert float((ctx.y.double() - exact).abs().max()) <= 2 * torch.finfo(dtype).eps * float(
        exact.abs().max()
    )
