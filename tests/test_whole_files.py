"""Whole files with each option, read twice: by onnxruntime and by the ONNX project's own evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from reference import direction, relative_error, truth
from torch import Tensor, nn

from bnrewrite.compiler import compile_blocked
from bnrewrite.emit.onnx import lower
from bnrewrite.options import Options

BAR = 1e-12  # a few layers in float64; nothing here is ill-conditioned


class Net(nn.Module):
    """A residual block with a depthwise convolution, max-pooling, and a hidden layer with BatchNorm1d."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.depthwise = nn.Conv2d(4, 4, 3, stride=1, padding=1, groups=4, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Linear(16, 6), nn.BatchNorm1d(6), nn.SiLU(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = nn.functional.max_pool2d(nn.functional.relu(x + self.bn(self.depthwise(x))), 2)
        return self.head(x.flatten(1))


def network() -> Net:
    torch.manual_seed(0)
    model = Net().double()
    model(torch.randn(8, 2, 4, 4, dtype=torch.float64))  # running statistics of its own
    return model


def data(n: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(n)
    return torch.randn(n, 2, 4, 4, generator=g, dtype=torch.float64), torch.randint(3, (n,), generator=g)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "running statistics": {"bn": "running", "products": ("residual", "hvp")},
    "parameters as inputs": {"params": "inputs"},
    "three vectors": {"vectors": 3},
    "chosen parameters": {"wrt": ["bn.*", "head.0.weight"]},
    "all products": {"products": ("ggn", "hvp", "residual")},
    "by the input": {"wrt": "input"},
    "opset 21": {"opset": 21},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_two_readings_of_one_file(name: str) -> None:
    options = dict(OPTIONS[name])
    lowering = {key: options.pop(key) for key in ("params", "opset") if key in options}
    model = network()
    joint = compile_blocked(model, data(6), Options(**options))
    file = lower(joint, **lowering)
    x, y = data(5)
    whole = direction(model) | {"input": torch.randn_like(x)}
    v = {key: whole[key] for key in joint.meta["parameters"]}  # type: ignore[attr-defined]
    count = options.get("vectors")
    given = (
        v
        if count is None
        else {key: torch.stack([(k + 1) * part for k in range(count)]) for key, part in v.items()}
    )
    feed = {"input": x, "target": y, **{f"v.{key}": part for key, part in given.items()}}
    if "params" in lowering:
        feed |= dict(model.named_parameters())
    arrays = {key: part.detach().numpy() for key, part in feed.items()}
    session = onnxruntime.InferenceSession(file.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    readings = [session.run(names, arrays), ReferenceEvaluator(file).run(names, arrays)]

    twin = network()
    if options.get("bn") == "running":
        twin.eval()
    for found in readings:
        outputs = dict(zip(names, map(np.asarray, found), strict=True))
        for product in options.get("products", ("hvp",)):
            loss, grad, expected = truth(twin, x, y, v, product=product)
            assert float(outputs["loss"]) == pytest.approx(float(loss), rel=BAR)
            assert relative_error({key: outputs[f"grad.{key}"] for key in v}, grad) < BAR
            parts = {key: outputs[f"{product}.{key}"] for key in v}
            if count is not None:
                parts = {key: part[2] / 3 for key, part in parts.items()}
            assert relative_error(parts, expected) < BAR
