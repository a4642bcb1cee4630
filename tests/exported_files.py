"""What tests of TorchScript and .pt2 files share: calling a file where there is no bnrewrite, and the truth."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from reference import direction, relative_error, truth
from torch import Tensor, nn

from bnrewrite.models import MODELS

BAR = 1e-10  # of the graph in float64

FRESH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "bnrewrite":
            raise ModuleNotFoundError("there is no bnrewrite here")

sys.meta_path.insert(0, Absent())
import torch

for path in sys.argv[1:]:
    load = torch.jit.load if path.endswith(".pt") else lambda path: torch.export.load(path).module()
    calls = torch.load(path + ".calls", weights_only=True)
    module = load(path)
    results = [module(*arguments) for arguments in calls]
    torch.save([(loss, *map(dict, parts)) for loss, *parts in results], path + ".results")
    torch.save(sorted(module.state_dict()), path + ".names")
assert "bnrewrite" not in sys.modules
"""


@dataclass(frozen=True)
class Case:
    """A network, its loss, and data of two batch sizes."""

    model: nn.Module
    batches: Sequence[tuple[Any, Any]]
    loss: Any = "cross_entropy"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def products(self) -> Sequence[str]:
        return self.options.get("products", ("hvp",))

    def directions(self, batch: tuple[Any, Any]) -> dict[str, Tensor]:
        if self.options.get("wrt") == "input":
            return {"input": torch.randn_like(batch[0])}
        return direction(self.model)


class Join(nn.Module):
    """Two inputs, sizes of the batch in arithmetic, an empty index, a running BatchNorm under a numeric name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)])
        self.layers[1].eval()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("order", torch.tensor([2, 0, 1]))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = torch.tanh(self.layers[1](self.layers[0](a))) * b[:, [5, 4, 3, 2, 1, 0]]
        x = self.layers[2](x * self.scale).unflatten(0, (-1, 1)).flatten(0, 1)
        return x[:, self.order] / x.shape[0] ** 0.5


class Named(nn.Module):
    """Takes its inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.join = Join()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.join(first, second)


def _data(n: int, *shape: int) -> Tensor:
    return torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def _reference(name: str, **options: Any) -> Case:
    entry = MODELS[name]
    batches = [entry.example(n, dtype=torch.float64) for n in (4, 7)]
    return Case(entry.build_small(dtype=torch.float64), batches, options=options)


def _small(model: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model().double()


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Hardswish(), nn.MaxPool2d(2), nn.BatchNorm2d(4),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def _convolution_case(**options: Any) -> Case:
    batches = [(_data(n, 2, 6, 6), torch.arange(n) % 3) for n in (3, 5)]
    return Case(_small(_convolutions), batches, nn.CrossEntropyLoss(label_smoothing=0.1), options)  # type: ignore[arg-type]


def _join_case(kind: type) -> Case:
    batches = []
    for n in (2, 5):
        a, b = _data(n, 4), _data(n, 6)
        batches.append(((a, b) if kind is tuple else {"first": a, "second": b}, _data(n, 3)))
    return Case(_small(Join if kind is tuple else Named), batches, "mse", {"products": ("ggn", "hvp")})


CASES = {
    "mlp": lambda: _reference("mlp_bn", products=("hvp", "ggn", "residual")),
    "resnet": lambda: _reference("resnet8_digits"),
    "running": lambda: _reference("lenet5", bn="running"),
    "convolutions": _convolution_case,
    "by the input": lambda: _convolution_case(wrt="input"),
    "tuple": lambda: _join_case(tuple),
    "dict": lambda: _join_case(dict),
}
"""Small networks that between them have every kind of argument and result."""


def write_calls(case: Case, path: Path) -> list[tuple[Any, Any, dict[str, Tensor]]]:
    """The calls that `run_fresh` will make of the file at `path`."""
    calls = [(*batch, case.directions(batch)) for batch in case.batches]
    torch.save(calls, f"{path}.calls")
    return calls


def run_fresh(paths: Sequence[Path]) -> None:
    """Load the files in a process that cannot import bnrewrite, and make their calls."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def check_results(case: Case, path: Path, calls: Sequence[tuple[Any, Any, dict[str, Tensor]]]) -> None:
    """Loss, gradient and products against PyTorch's double backward in float64, and the names of the state dict."""
    results = torch.load(f"{path}.results", weights_only=True)
    assert len(results) == len(calls) > 1
    for (x, y, v), (loss, grad, *products) in zip(calls, results, strict=True):
        for name, product in zip(case.products, products, strict=True):
            expected = _truth(case, x, y, v, name)
            assert abs(float(loss - expected[0])) <= BAR * abs(float(expected[0]))
            assert relative_error(grad, expected[1]) <= BAR
            assert relative_error(product, expected[2]) <= BAR, name
        assert not any(t.requires_grad for t in (loss, *grad.values()))
    assert set(dict(case.model.named_parameters())) <= set(torch.load(f"{path}.names", weights_only=True))


def _truth(case: Case, x: Any, y: Any, v: dict[str, Tensor], product: str) -> tuple[Tensor, Any, Any]:
    if case.options.get("wrt") == "input":
        return _truth_by_input(case.model, case.loss, x, y, v["input"])
    if case.options.get("bn") == "running":
        modules = [
            m for m in case.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training
        ]
        for module in modules:
            module.eval()
        try:
            return truth(case.model, x, y, v, case.loss, product)
        finally:
            for module in modules:
                module.train()
    return truth(case.model, x, y, v, case.loss, product)


def _truth_by_input(model: nn.Module, loss: Any, x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Any, Any]:
    x = x.clone().requires_grad_()
    value = loss(model(x), y)
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    (product,) = torch.autograd.grad(grad, x, v)
    return value.detach(), {"input": grad.detach()}, {"input": product}
