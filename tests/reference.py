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


def dense_hessian(
    model: nn.Module, data: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss, gradient and Hessian of the mean over batches weighted by size, by autograd in float64."""
    parameters = list(model.parameters())
    total = sum(len(x) for x, _ in data)
    loss: Any = 0.0
    for x, y in data:
        output = model(torch.from_numpy(x))
        loss = loss + nn.functional.cross_entropy(output, torch.from_numpy(y)) * len(x) / total
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    rows = [
        torch.cat([h.reshape(-1) for h in torch.autograd.grad(g, parameters, retain_graph=True)])
        for g in gradient
    ]
    return loss.item(), gradient.detach().numpy(), torch.stack(rows).numpy()
