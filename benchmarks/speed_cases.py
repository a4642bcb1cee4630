"""The networks that are timed, each at one batch, and the point and directions that every method is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bnrewrite.models import MODELS
from bnrewrite.models.layers import StochasticDepth

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Point:
    """Where a product is computed: a model in train mode, a batch, and K directions over all parameters."""

    model: nn.Module
    x: Tensor
    y: Tensor
    vectors: list[Parts]

    @cached_property
    def stacked(self) -> Parts:
        """The directions as one block: (K, *shape) by name."""
        return {name: torch.stack([v[name] for v in self.vectors]) for name in self.vectors[0]}


@dataclass(frozen=True)
class Case:
    """A network and its batch. `factory` builds the network; `shape` is that of one sample."""

    title: str
    factory: Callable[..., nn.Module]
    shape: tuple[int, ...]
    batch: int
    classes: int
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def point(self, vectors: int, dtype: torch.dtype = torch.float32) -> Point:
        """Weights, batch and `vectors` directions, the same for the same seed whatever `dtype`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = quiet(self.factory(**self.keywords).train()).to(dtype)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(self.batch, *self.shape, generator=generator)
        y = torch.randint(self.classes, (self.batch,), generator=generator)
        directions = [
            {
                name: torch.randn(p.shape, generator=generator).to(dtype)
                for name, p in model.named_parameters()
            }
            for _ in range(vectors)
        ]
        return Point(model, x.to(dtype), y, directions)


def quiet(model: nn.Module) -> nn.Module:
    """`model` with what draws random numbers in evaluation mode, so that all methods differentiate one function."""
    for module in model.modules():
        if isinstance(module, (nn.Dropout, StochasticDepth)):
            module.eval()
    return model


def _case(name: str, title: str, batch: int, side: int | None = None, **keywords: Any) -> Case:
    entry = MODELS[name]
    shape = entry.input_shape if side is None else (entry.input_shape[0], side, side)
    return Case(title, entry.factory, shape, batch, entry.num_classes, keywords)


CASES: dict[str, Case] = {
    "resnet18": _case("resnet18", "ResNet-18", 32, 64),
    "resnet50": _case("resnet50", "ResNet-50", 8, 64),
    "mobilenet_v2": _case("mobilenet_v2", "MobileNetV2", 16, 64),
    "efficientnet_b0": _case("efficientnet_b0", "EfficientNet-B0", 8, 64),
    "densenet121": _case("densenet121", "DenseNet-121", 8, 64),
    # The classifier of the paper, 4096 wide, holds nine tenths of the weights and no BatchNorm.
    "vgg16_bn": _case("vgg16_bn", "VGG-16-BN, 512 wide classifier", 4, 64, hidden=512),
    "resnet8_digits": _case("resnet8_digits", "ResNet-8 on digits", 64),
    "mlp_bn": _case("mlp_bn", "MLP with BatchNorm", 256, hidden=(256, 256)),
}
"""Every network that `benchmarks.speed` times, largest first."""


def quick(name: str) -> Case:
    """The same network as small as the tests have it."""
    entry = MODELS[name]
    classes = entry.small.get("num_classes", entry.num_classes)
    return Case(CASES[name].title, entry.factory, entry.input_shape, entry.batch, classes, entry.small)
