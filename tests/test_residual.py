"""R v, what the model itself curves: H = G + R, against autograd, without cancellation, under every name it goes by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from reference import direction, dot, relative_error, truth
from torch import Tensor, nn

import bnrewrite
from bnrewrite import runtime
from bnrewrite.compiler import compile_joint, door_check
from bnrewrite.emit.graph_module import build
from bnrewrite.emit.onnx import lower
from bnrewrite.errors import InputError
from bnrewrite.options import Options
from bnrewrite.passes.graph import JointGraph

PRODUCTS = ("hvp", "ggn", "residual")


def network(last: nn.Module | None = None) -> nn.Module:
    """Convolution and dense layer, each with a BatchNorm, and a smooth and a piecewise-linear activation."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 6), nn.BatchNorm1d(6), nn.ReLU(),
        last or nn.Linear(6, 3),
    ).double()  # fmt: skip


def data(size: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, 2, 5, 5, generator=generator, dtype=torch.float64), torch.arange(size) % 3


def in_onnxruntime(joint: JointGraph, x: Tensor, y: Tensor, v: dict[str, Tensor]) -> Any:
    file = lower(joint)
    (product,) = joint.meta["products"]  # type: ignore[misc]
    session = onnxruntime.InferenceSession(file.SerializeToString())
    feed = {"input": x, "target": y, **{f"v.{name}": part for name, part in v.items()}}
    found = session.run([f"{product}.{name}" for name in v], {n: t.numpy() for n, t in feed.items()})
    return {name: torch.from_numpy(np.asarray(part)) for name, part in zip(v, found, strict=True)}


def in_graph(joint: JointGraph, x: Tensor, y: Tensor, v: dict[str, Tensor]) -> Any:
    return build(joint, door_check(joint))(x, y, v)[2]


def test_the_hessian_is_the_sum_of_its_parts() -> None:
    """Three graphs that share nothing, at another batch size than the example's; R against autograd as well. The last
    operation is a BatchNorm: it has curvature of its own where nothing has arrived yet."""
    model, (x, y) = network(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))), data(7)
    v = direction(model)
    expected = {product: truth(model, x, y, v, product=product)[2] for product in PRODUCTS}
    difference = {name: expected["hvp"][name] - expected["ggn"][name] for name in v}
    assert relative_error(expected["residual"], difference) < 1e-12  # the oracle of R is one of its own
    joints = [compile_joint(model, data(5), Options(products=(product,))) for product in PRODUCTS]
    for evaluate in (in_graph, in_onnxruntime):
        H, G, R = (evaluate(joint, x, y, v) for joint in joints)
        rest = {name: H[name] - G[name] - R[name] for name in v}
        scale = dot(H, H) ** 0.5 + dot(G, G) ** 0.5
        assert dot(rest, rest) ** 0.5 < 1e-12 * scale
        assert dot(R, R) ** 0.5 > 0.05 * scale
        assert relative_error(R, expected["residual"]) < 1e-12


def test_the_sum_is_not_walked_twice() -> None:
    """With G v and R v at hand H v is an addition."""
    nodes = {
        products: sum(node.op == "call_function" for node in joint.graph.nodes)
        for products in (("ggn", "residual"), ("hvp", "ggn", "residual"))
        for joint in [compile_joint(network(), data(), Options(products=products))]
    }
    count = len(list(network().parameters()))
    assert nodes["hvp", "ggn", "residual"] <= nodes["ggn", "residual"] + count


def test_nothing_cancels() -> None:
    """Near interpolation (residuals of 1e-6, MSE) R is that much smaller than G; float32 products have lost it from
    their difference, and hold it by itself."""
    model, (x, _) = network(), data(7)
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter *= 1e-6
    y, v = torch.zeros(7, 3, dtype=torch.float64), direction(model)
    expected = truth(model, x, y, v, "mse", "residual")[2]
    scale = dot(expected, expected) ** 0.5
    model, v = model.float(), {name: part.float() for name, part in v.items()}
    found: dict[str, Any] = {}
    for products in (("hvp", "ggn"), ("residual",)):  # with all three, H v would be the sum
        gm = bnrewrite.transform(model, (x.float(), y.float()), loss="mse", products=products)
        found |= dict(zip(products, gm(x.float(), y.float(), v)[2:], strict=True))
    G = found["ggn"]
    assert dot(G, G) ** 0.5 > 1e5 * scale
    assert relative_error(found["residual"], expected) < 1e-5
    assert relative_error({name: found["hvp"][name] - G[name] for name in v}, expected) > 1e-2


@pytest.mark.parametrize("vectors", [None, 2])
def test_where_the_model_does_not_curve_it_is_zero(vectors: int | None) -> None:
    """The output is linear in the parameters of the last layer."""
    model, (x, y) = network(), data(7)
    options: dict[str, Any] = {"products": ("residual", "hvp"), "wrt": ["7.*"], "vectors": vectors}
    v = {name: part for name, part in direction(model).items() if name.startswith("7.")}
    if vectors is not None:
        v = {name: torch.stack([part] * vectors) for name, part in v.items()}
    _, _, residual, hvp = bnrewrite.transform(model, data(5), **options)(x, y, v)
    primal, apply = bnrewrite.linearize(model, data(5), **options)
    again = apply(primal(x, y)[2], v)[0]
    for name, part in v.items():
        assert residual[name].shape == again[name].shape == part.shape
        assert not residual[name].any() and not again[name].any() and hvp[name].any()


# Names ---------------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A network whose parameters are called `residual.*`."""

    def __init__(self) -> None:
        super().__init__()
        self.residual = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(torch.tanh(self.residual(x)))


def test_saved_tensors_and_the_product_keep_apart(tmp_path: Path) -> None:
    """`residual.<i>` is handed from file to file, `residual.<parameter>` is R v, `residual.weight` a parameter."""
    torch.manual_seed(0)
    model = Residual().double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 4
    options: dict[str, Any] = {"products": ("residual", "ggn"), "params": "inputs", "vectors": 2}
    bnrewrite.export_onnx(model, tmp_path / "c.onnx", (x, y), linearize=True, **options)
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    c = runtime.open(tmp_path / "c.onnx", (x.numpy(), y.numpy()), parameters=weights)
    v = direction(model)
    expected = truth(model, x, y, v, product="residual")[2]
    assert relative_error(c.residual({name: part.numpy() for name, part in v.items()}), expected) < 1e-12
    flat = c.space.flatten(v)
    np.testing.assert_allclose(c.operator("residual") @ flat, c.residual(flat), rtol=1e-15)
    assert c.trace(matrix="residual").value == pytest.approx(
        np.trace(c.operator("residual") @ np.eye(flat.size))
    )


def test_refusals() -> None:
    with pytest.raises(InputError, match="products='residual' needs to know where the model ends"):
        Options(loss=None, products=("residual",))

    class Numbered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_parameter("0", nn.Parameter(torch.ones(4, dtype=torch.float64)))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x * self.get_parameter("0"))

    x, y = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 4
    with pytest.raises(
        InputError, match=r"the parameter called '0' would share the name 'residual\.0' with a tensor"
    ):
        bnrewrite.transform(Numbered(), (x, y), products=("residual",))
