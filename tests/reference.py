"""What the tests compare with: PyTorch's double backward on the untouched model, and relative errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bnrewrite.losses import Loss
from bnrewrite.verification.oracle import Oracle

Parts = dict[str, Tensor]


def truth(
    model: nn.Module,
    x: Any,
    y: Any,
    v: Mapping[str, Tensor],
    loss: Loss = "cross_entropy",
    product: str = "hvp",
    random_off: Sequence[str] = (),
) -> tuple[Tensor, Parts, Parts]:
    """Loss, gradient and product in float64; the model's own modes, dropout and `random_off` off."""
    found = Oracle(model, loss, {"random_off": random_off}, list(v), torch.float64).evaluate(
        x, y, [v], [product]
    )
    return found.loss, found.grad, found.products[product][0]


def direction(model: nn.Module, seed: int = 1) -> Parts:
    """A standard normal direction over all parameters."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        for name, p in model.named_parameters()
    }


def relative_error(found: Mapping[str, Any], expected: Mapping[str, Tensor]) -> float:
    """|found - expected| / |expected| over all parts together; both must have the same names and shapes."""
    assert list(found) == list(expected)
    difference = total = 0.0
    for name, reference in expected.items():
        value = (
            torch.as_tensor(np.asarray(found[name])) if not isinstance(found[name], Tensor) else found[name]
        )
        assert value.shape == reference.shape, name
        difference += float((value.detach().double() - reference).square().sum())
        total += float(reference.square().sum())
    return (difference / total) ** 0.5 if total else difference**0.5


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return float(sum((a[name] * b[name]).sum() for name in a))
