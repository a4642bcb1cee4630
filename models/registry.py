"""The table of reference networks, with example inputs small enough for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .densenet import densenet121, densenet_bc_cifar
from .efficientnet import efficientnet_b0
from .lenet import lenet5
from .mlp import mlp_bn
from .mobilenet import mobilenet_v2
from .resnet import resnet8, resnet8_digits, resnet18, resnet20, resnet50
from .vgg import vgg11_bn, vgg16_bn

SMALL_CLASSES = 10


@dataclass(frozen=True)
class Entry:
    """One network: how to build it and what to feed it.

    `input_shape` is the shape of one sample, `batch` a small batch size that BatchNorm can live with,
    `num_classes` the number of classes of `factory()`. `small` holds keyword arguments that shrink the
    classifier for tests.
    """

    factory: Callable[..., nn.Module]
    input_shape: tuple[int, ...]
    batch: int
    num_classes: int
    small: Mapping[str, Any] = field(default_factory=dict)

    def example(
        self, batch: int | None = None, *, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Standard normal input (batch, *input_shape) and labels (batch,) int64; the same for the same seed.

        Labels stay below 10, so that they serve `factory()` and the network that `build_small` returns.
        """
        generator = torch.Generator().manual_seed(seed)
        size = self.batch if batch is None else batch
        # Drawn in float64 whatever `dtype`, so that examples of two precisions are roundings of each other.
        x = torch.randn((size, *self.input_shape), generator=generator, dtype=torch.float64)
        y = torch.randint(min(self.num_classes, SMALL_CLASSES), (size,), generator=generator)
        return x.to(dtype), y

    def build_small(self, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
        """`factory(**small)` in `dtype`, weights drawn from `seed`; the global random state is kept."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.factory(**self.small).to(dtype)


_TEN = {"num_classes": SMALL_CLASSES}
_TEN_NARROW = {"num_classes": SMALL_CLASSES, "hidden": 64}

MODELS: dict[str, Entry] = {
    entry.factory.__name__: entry
    for entry in (
        Entry(mlp_bn, (64,), 16, 10),
        Entry(lenet5, (1, 28, 28), 8, 10),
        Entry(resnet8_digits, (1, 8, 8), 16, 10),
        Entry(resnet8, (3, 32, 32), 4, 10),
        Entry(resnet20, (3, 32, 32), 4, 10),
        Entry(densenet_bc_cifar, (3, 32, 32), 4, 10),
        Entry(resnet18, (3, 64, 64), 4, 1000, _TEN),
        Entry(resnet50, (3, 64, 64), 4, 1000, _TEN),
        Entry(vgg11_bn, (3, 32, 32), 4, 1000, _TEN_NARROW),
        Entry(vgg16_bn, (3, 32, 32), 4, 1000, _TEN_NARROW),
        Entry(mobilenet_v2, (3, 64, 64), 4, 1000, _TEN),
        Entry(efficientnet_b0, (3, 64, 64), 4, 1000, _TEN),
        Entry(densenet121, (3, 64, 64), 4, 1000, _TEN),
    )
}
"""Every reference network under its factory's name."""


def example_for(
    factory_name: str, batch: int | None = None, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """`MODELS[factory_name].example(...)`: a small (input, labels); InputError for another name."""
    if factory_name not in MODELS:
        raise InputError(f"no reference network is called {factory_name!r}; there are {', '.join(MODELS)}")
    return MODELS[factory_name].example(batch, dtype=dtype, seed=seed)
