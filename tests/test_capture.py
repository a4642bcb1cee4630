"""Capture: what users write in a forward, random modules, models that stay untouched, and refusals by message."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import direction, relative_error, truth
from torch import Tensor, nn

import bnrewrite
from bnrewrite.errors import CaptureError, InputError, UnsupportedOp

EXACT = 1e-11


def conv_bn(cin: int, cout: int, **options: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(cin, cout, 3, **options), nn.BatchNorm2d(cout))


class Net(nn.Module):
    """A small trunk with a `body` to vary: (N, 3, 6, 6) -> (N, 4)."""

    def __init__(self, body: Callable[[Net, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.stem = conv_bn(3, 5, padding=1)
        for name, module in modules.items():
            self.add_module(name, module)
        self.body = body
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self, torch.tanh(self.stem(x))).mean((2, 3)))


def inplace_relu_and_add(net: Net, x: Tensor) -> Tensor:
    y = net.block(x)
    y += x
    return F.relu(y, inplace=True)


def inplace_through_a_view(net: Net, x: Tensor) -> Tensor:
    y = net.block(x)
    left = y[:, :2]
    left.mul_(3.0)
    y[:, 3] += 1.0
    return torch.tanh(y)


def inplace_after_use(net: Net, x: Tensor) -> Tensor:
    y = net.block(x)
    shifted = y + 1.0
    y.add_(x)
    return torch.tanh(shifted) * y


def shared_twice(net: Net, x: Tensor) -> Tensor:
    return net.block(torch.tanh(net.block(x)))


def output_used_twice(net: Net, x: Tensor) -> Tensor:
    y = net.block(x)
    return torch.sigmoid(y) * y + y


def with_buffer(net: Net, x: Tensor) -> Tensor:
    return torch.tanh(net.block(x)) * net.mask.scale


def functional_batch_norm(net: Net, x: Tensor) -> Tensor:
    w = net.block[0].bias
    return torch.tanh(F.batch_norm(net.block(x), None, None, w.exp(), w, training=True))


class Mask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 2.0, 5).reshape(1, 5, 1, 1))


BODIES = [
    inplace_relu_and_add,
    inplace_through_a_view,
    inplace_after_use,
    shared_twice,
    output_used_twice,
    with_buffer,
    functional_batch_norm,
]


def _net(body: Callable[[Net, Tensor], Tensor]) -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(0)
    model = Net(body, block=conv_bn(5, 5, padding=1), mask=Mask()).double()
    return model, torch.randn(6, 3, 6, 6, dtype=torch.float64), torch.randint(4, (6,))


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_what_users_write(body: Callable[[Net, Tensor], Tensor]) -> None:
    model, x, y = _net(body)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    v = direction(model)
    gm = bnrewrite.transform(model, (x[:3], y[:3]))
    found = gm(x, y, v)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    loss, grad, hvp = truth(model, x, y, v)
    assert float(found[0]) == pytest.approx(float(loss), rel=EXACT)
    assert relative_error(found[1], grad) < EXACT and relative_error(found[2], hvp) < EXACT


def test_every_batch_norm_is_found_with_its_path() -> None:
    model, x, y = _net(shared_twice)
    sites = bnrewrite.transform(model, (x, y)).meta["bnrewrite"]["sites"]
    assert [site["module"] for site in sites] == ["stem.1", "block.1", "block.1"]
    assert all("test_capture.py" in site["where"] for site in sites)


# Random modules ------------------------------------------------------------------------------------------------


class Dropping(nn.Module):
    """Dropout as a module and through `F.dropout` of the model's own forward, around a BatchNorm that stays on."""

    def __init__(self, functional: bool = False) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)
        self.drop, self.functional = nn.Dropout(0.4), functional

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.norm(self.first(x)))
        return self.last(F.dropout(z, 0.3, self.training) if self.functional else self.drop(z))


@pytest.mark.parametrize("functional", [False, True])
def test_random_modules_are_switched_off_with_one_warning(functional: bool) -> None:
    torch.manual_seed(0)
    model = Dropping(functional).double().train()
    x, y = torch.randn(8, 6, dtype=torch.float64), torch.randint(4, (8,))
    with pytest.warns(
        UserWarning, match="switched off: " + ("'Dropping'" if functional else "'drop'")
    ) as caught:
        gm = bnrewrite.transform(model, (x, y))
    assert len([w for w in caught if "switched off" in str(w.message)]) == 1
    assert all(module.training for module in model.modules())
    v = direction(model)
    found = gm(x, y, v)
    assert gm.meta["bnrewrite"]["sites"][0]["statistics"] == "batch"
    model.training = model.drop.training = False
    assert relative_error(found[2], truth(model, x, y, v)[2]) < EXACT


def test_dropout_with_probability_zero_or_in_evaluation_mode_needs_no_warning() -> None:
    x, y = torch.randn(8, 6), torch.randint(4, (8,))
    for model in (Dropping(), Dropping()):
        model.drop.p = 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            bnrewrite.transform(model, (x, y))


def test_random_modules_refused_on_request() -> None:
    with pytest.raises(CaptureError, match=r"module 'drop' draws random numbers .*random='error'"):
        bnrewrite.transform(Dropping(), (torch.randn(8, 6), torch.randint(4, (8,))), random="error")


def test_random_numbers_that_no_module_switches_off_are_always_refused() -> None:
    def noisy(net: Net, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)

    model, x, y = _net(noisy)
    with pytest.raises(
        CaptureError, match=r"randn_like.*test_capture.py:\d+ draws random numbers that evaluation"
    ):
        bnrewrite.transform(model, (x, y))


# Refusals ------------------------------------------------------------------------------------------------------


def test_data_dependent_control_flow() -> None:
    def branching(net: Net, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x

    model, x, y = _net(branching)
    with pytest.raises(
        CaptureError, match=r"data-dependent control flow at .*test_capture.py:\d+ \(if x.sum\(\) > 0:\)"
    ):
        bnrewrite.transform(model, (x, y))


def test_an_operation_without_a_rule_is_named_with_its_place() -> None:
    def distances(net: Net, x: Tensor) -> Tensor:
        rows = x.flatten(2)
        return x * torch.cdist(rows, rows, p=3.0).mean((1, 2)).reshape(-1, 1, 1, 1)

    model, x, y = _net(distances)
    with pytest.raises(
        UnsupportedOp,
        match=r"aten._cdist_forward.default at the model's own forward \(.*test_capture.py:\d+\)",
    ):
        bnrewrite.transform(model, (x, y))


def test_the_models_own_error_is_told_with_its_line() -> None:
    def broken(net: Net, x: Tensor) -> Tensor:
        return x.reshape(7, 11)

    model, x, y = _net(broken)
    with pytest.raises(
        CaptureError, match=r"could not be captured at .*test_capture.py:\d+ \(return x.reshape\(7, 11\)\)"
    ):
        bnrewrite.transform(model, (x, y))


def test_a_fixed_batch_size_in_the_model_is_told_and_kept() -> None:
    def fixed(net: Net, x: Tensor) -> Tensor:
        return torch.tanh(x).reshape(6, 5, 36).reshape(6, 5, 6, 6)

    model, x, y = _net(fixed)
    with pytest.warns(UserWarning, match="serves batch size 6 only"):
        gm = bnrewrite.transform(model, (x, y))
    v = direction(model)
    assert relative_error(gm(x, y, v)[2], truth(model, x, y, v)[2]) < EXACT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "hinge"}, "unknown loss 'hinge': choose one of bce_with_logits, cross_entropy"),
        (
            {"loss": nn.CrossEntropyLoss(reduction="none")},
            r"what came out is float64 \[N\]: use a loss with reduction",
        ),
        ({"bn": "both"}, "bn must be one of 'batch', 'running', None, not 'both'"),
        ({"random": "maybe"}, "random must be one of 'off', 'error'"),
        ({"products": ("hvp", "hvp")}, "each product once"),
        ({"products": ("jvp",)}, "each of products must be one of 'hvp', 'ggn', 'residual'"),
        ({"wrt": ["layer9.*"]}, "no parameter matches 'layer9.\\*'. The first ones are stem.0.weight"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    model, x, y = _net(shared_twice)
    with pytest.raises((InputError, CaptureError), match=message):
        bnrewrite.transform(model, (x, y), **arguments)


def test_wrong_example_inputs() -> None:
    model, x, y = _net(shared_twice)
    with pytest.raises(InputError, match="must be a pair"):
        bnrewrite.transform(model, x)
    with pytest.raises(InputError, match="empty batch"):
        bnrewrite.transform(model, (x[:0], y[:0]))
    with pytest.raises(CaptureError, match="could not be captured"):
        bnrewrite.transform(model, (x[:, :2], y))
    with pytest.raises(InputError, match=r"must be an nn\.Module"):
        bnrewrite.transform(lambda x: x, (x, y))
    with pytest.raises(InputError, match=r"target holds class \d+, but the model has classes 0 to 3"):
        bnrewrite.transform(model, (x, y + 9))
    with pytest.raises(InputError, match="class indices of type int64 or probabilities"):
        bnrewrite.transform(model, (x, y.double()))


def test_a_model_without_trainable_parameters() -> None:
    model, x, y = _net(shared_twice)
    with pytest.raises(InputError, match="no parameter that requires grad"):
        bnrewrite.transform(model.requires_grad_(False), (x, y))
