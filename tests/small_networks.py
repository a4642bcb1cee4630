"""Networks that compile in a second or two, and their data: what several tests look at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnrewrite.models import MODELS
from bnrewrite.models.mobilenet import InvertedResidual


def mobile_block() -> nn.Module:
    """Two blocks of MobileNetV2, with and without a skip, and a classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            InvertedResidual(4, 4, 3, 1),
            InvertedResidual(4, 6, 2, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 10),
        ).double()


def network(name: str) -> nn.Module:
    if name == "tiny":
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 10)).double()
    return mobile_block() if name == "mobile_block" else MODELS[name].build_small(dtype=torch.float64)


def data(name: str, batch: int) -> tuple[Tensor, Tensor]:
    if name in MODELS:
        return MODELS[name].example(batch, dtype=torch.float64, seed=batch)
    g = torch.Generator().manual_seed(batch)
    shape = (3,) if name == "tiny" else (4, 8, 8)
    return torch.randn(batch, *shape, generator=g, dtype=torch.float64), torch.arange(batch) % 10
