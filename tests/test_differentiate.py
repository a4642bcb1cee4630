"""The walk: products, chosen parameters, structural zeros, pieces that are traced once, and golden graphs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference import direction, dot, relative_error, truth
from torch import Tensor, nn

import bnrewrite
from bnrewrite.compiler import compile_joint
from bnrewrite.models import MODELS
from bnrewrite.options import Options
from bnrewrite.passes.splice import Splicer

GOLDEN = Path(__file__).parent / "golden"


class ConvBnRelu(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )


def _small(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    return ConvBnRelu().double(), torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.randint(3, (5,))


@pytest.mark.parametrize("name", ["lenet5", "resnet8_digits", "mlp_bn"])
def test_gauss_newton_product(name: str) -> None:
    model = MODELS[name].build_small(dtype=torch.float64)
    x, y = MODELS[name].example(6, dtype=torch.float64)
    v = direction(model)
    gm = bnrewrite.transform(model, (x, y), products=("hvp", "ggn"))
    _, _, hvp, ggn = gm(x, y, v)
    assert relative_error(hvp, truth(model, x, y, v)[2]) < 1e-11
    assert relative_error(ggn, truth(model, x, y, v, product="ggn")[2]) < 1e-11
    assert dot(v, ggn) >= 0


def test_chosen_parameters_are_a_block_of_the_hessian() -> None:
    model = MODELS["resnet8_digits"].build_small(dtype=torch.float64)
    x, y = MODELS["resnet8_digits"].example(6, dtype=torch.float64)
    whole, part = (
        bnrewrite.transform(model, (x, y)),
        bnrewrite.transform(model, (x, y), wrt=["fc.*", "*bn1.weight"]),
    )
    v = direction(model)
    chosen = list(part.meta["bnrewrite"]["parameters"])
    assert "fc.weight" in chosen and 0 < len(chosen) < len(v)
    inside = {name: p if name in chosen else torch.zeros_like(p) for name, p in v.items()}
    expected = whole(x, y, inside)[2]
    found = part(x, y, {name: v[name] for name in chosen})[2]
    assert relative_error(found, {name: expected[name] for name in chosen}) < 1e-11


def test_what_no_derivative_needs_is_not_in_the_graph() -> None:
    model = MODELS["resnet8_digits"].build_small(dtype=torch.float64)
    example = MODELS["resnet8_digits"].example(6, dtype=torch.float64)
    count = {
        name: sum("convolution" in str(node.target) for node in joint.graph.nodes)
        for name, joint in {
            "all": compile_joint(model, example, Options()),
            "head": compile_joint(model, example, Options(wrt=["fc.*"])),
        }.items()
    }
    forward = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert count["head"] == forward
    # forward 1, tangent 2, adjoint 2, adjoint tangent 4; the first convolution has no x_dot and needs no x_bar
    assert count["all"] == 9 * forward - 5


def test_derivative_by_the_input() -> None:
    model, x, y = _small()
    gm = bnrewrite.transform(model, (x, y), wrt="input")
    v = {"input": torch.randn_like(x)}
    _, grad, hvp = gm(x, y, v)

    def loss(x: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(x), y)

    exact = torch.autograd.functional.hvp(loss, x, v["input"])[1]
    assert relative_error(hvp, {"input": exact}) < 1e-11
    assert relative_error(grad, {"input": torch.autograd.grad(loss(x.requires_grad_()), x)[0]}) < 1e-11


def test_unused_and_frozen_and_tied_parameters() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(2, 2)
            self.norm, self.b.weight = nn.BatchNorm1d(4), self.a.weight
            self.norm.bias.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.norm(self.a(x))))

    torch.manual_seed(0)
    model, x, y = Odd().double(), torch.randn(6, 4, dtype=torch.float64), torch.randint(4, (6,))
    gm = bnrewrite.transform(model, (x, y))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert "b.weight" not in names and "norm.bias" not in names
    v = {name: part for name, part in direction(model).items() if name in names}
    _, grad, hvp = gm(x, y, v)
    assert list(grad) == names and not grad["unused.weight"].any() and not hvp["unused.weight"].any()
    _, expected_grad, expected = truth(model, x, y, v)
    assert relative_error(grad, expected_grad) < 1e-12 and relative_error(hvp, expected) < 1e-12


def test_equal_pieces_are_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve identical blocks cost the tracing of two, and give the numbers of twelve."""
    traced: list[int] = []
    plain = Splicer._trace
    monkeypatch.setattr(Splicer, "_trace", lambda self, *a: (traced.append(1), plain(self, *a))[1])

    def net(depth: int) -> nn.Module:
        torch.manual_seed(1)
        blocks = [
            nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Tanh()) for _ in range(depth)
        ]
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()

    x, y = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.randint(2, (5,))
    counts = []
    for depth in (2, 12):
        traced.clear()
        model = net(depth)
        gm = bnrewrite.transform(model, (x, y))
        counts.append(len(traced))
        v = direction(model)
        assert relative_error(gm(x, y, v)[2], truth(model, x, y, v)[2]) < 1e-10
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", ["batch_norm", "conv_bn_relu"])
def test_golden_graph(name: str, request: pytest.FixtureRequest) -> None:
    """The spliced graph as text. Numbers stand in the tests above; `--update-golden` rewrites the text."""
    torch.manual_seed(0)
    if name == "batch_norm":
        model, x = nn.BatchNorm1d(3).double(), torch.randn(5, 3, dtype=torch.float64)
        y = torch.randint(3, (5,))
    else:
        model, x, y = _small()
    gm = bnrewrite.transform(model, (x, y))
    v = direction(model)
    assert relative_error(gm(x, y, v)[2], truth(model, x, y, v)[2]) < 1e-11
    text = str(gm.graph).strip() + "\n"
    file = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()
