"""Initial weights of a dense network: established ones, the source's, and two that are scaled by curvature.

Seed 004 gives no scheme; its code takes standard deviations of 0.3 in the last two layers, after a look at the
curvature of each layer along its gradient. What is derived here: each layer's weights are multiplied by one number, so
that a curvature of the layer comes out as wanted. Let kappa_l be a curvature of the block of G of layer l (with ReLU
that of H is the same). While the logits are small, dz/dW_l is a product of all layers but l, so

    log kappa_l = c_l + 2 sum_{k != l} log s_k

for a network that is homogeneous in each layer (ReLU, and others near 0). This is linear in the logarithms of the
scales s; solving it gives a step, which is taken at half its length with kappa measured anew each time.

    equal   the mean curvature trace(G_ll) / n_l of all layers is one number; the product of the scales is kept.
            Defazio & Bottou 2019, "Scaling laws for the principled design, initialization and preconditioning of ReLU
            networks", ask for this balance.
    unit    the largest eigenvalue of every G_ll is 1: the layers' Hessians have a norm that is given, as in Skorski,
            Temperoni & Theobald 2020, "Revisiting initialization of neural networks" (without their formula for it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .curvature import Curvature, Point, along
from .networks import ACTIVATIONS, Data

WIDTHS = (64, 128, 84, 10)
DAMPING = 0.5
PROBES = 4
POWERS = 4
"""Power iterations in each iteration; the vectors are kept."""

Weights = list[Tensor]


def dense(activation: str) -> nn.Sequential:
    """64 inputs, layers of 128, 84 and 10, in float64; biases 0."""
    modules: list[nn.Module] = [nn.Flatten()]
    for i in range(len(WIDTHS) - 1):
        modules += [nn.Linear(WIDTHS[i], WIDTHS[i + 1]), ACTIVATIONS[activation]()]
    model = nn.Sequential(*modules[:-1]).double()
    for layer in linear(model):
        nn.init.zeros_(layer.bias)
    return model


def linear(model: nn.Module) -> list[nn.Linear]:
    """Its layers with weights."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def put(model: nn.Module, weights: Sequence[Tensor]) -> None:
    """Give the layers their weights."""
    with torch.no_grad():
        for layer, weight in zip(linear(model), weights, strict=True):
            layer.weight.copy_(weight)


def _drawn(fill: Callable[..., Any], **options: Any) -> Callable[[torch.Generator], Weights]:
    def weights(generator: torch.Generator) -> Weights:
        empty = [torch.empty(o, i, dtype=torch.float64) for i, o in pairwise(WIDTHS)]
        return [fill(weight, generator=generator, **options) for weight in empty]

    return weights


def _source(generator: torch.Generator) -> Weights:
    """Glorot's first layer, then normal, standard deviation 0.3, cut off at two of them."""
    first, *_ = _drawn(nn.init.xavier_uniform_)(generator)
    _, *rest = _drawn(nn.init.trunc_normal_, std=0.3, a=-0.6, b=0.6)(generator)
    return [first, *rest]


DRAWN: dict[str, Callable[[torch.Generator], Weights]] = {
    "Glorot": _drawn(nn.init.xavier_uniform_),
    "He": _drawn(nn.init.kaiming_normal_),
    "LeCun": _drawn(nn.init.kaiming_normal_, nonlinearity="linear"),
    "orthogonal": _drawn(nn.init.orthogonal_),
    "the source's": _source,
}
SCALED = ("equal", "unit")
BASE = "He"
"""What is scaled."""
NAMES = (*DRAWN, *SCALED)


class Layers:
    """Curvatures of the layers of a dense network, on a batch."""

    def __init__(self, model: nn.Module, data: Data) -> None:
        self.model, self.data = model, data
        self.curvature = Curvature(model, data, "none", len(WIDTHS) - 1)

    def point(self, weights: Weights) -> tuple[Point, Tensor]:
        """The point at `weights`, and which entries of a flat vector are of which weights: (layers, n) of bool."""
        put(self.model, weights)
        point = self.curvature.at(*self.data)
        owners = [torch.full((part.numel(),), i) for i, part in enumerate(point.parts.values())]
        owner = torch.cat(owners)
        return point, torch.stack([owner == 2 * i for i in range(len(weights))])  # biases lie between

    def mean(self, weights: Weights, generator: torch.Generator) -> Tensor:
        """trace(G_ll) / n_l of each layer, by random signs: (layers,)."""
        point, spans = self.point(weights)
        signs = (
            torch.randint(2, (PROBES, spans.shape[1]), generator=generator, dtype=torch.float64)
            .mul_(2)
            .sub_(1)
        )
        probes = (spans[:, None] * signs).flatten(0, 1)
        forms = (probes * point.products(probes)["G"]).sum(1).view(len(weights), PROBES).mean(1)
        return forms / spans.sum(1)

    def top(self, weights: Weights, start: Tensor) -> tuple[Tensor, Tensor]:
        """Largest eigenvalue of each G_ll, and its vector; `start` (layers, n) is where the iteration begins."""
        point, spans = self.point(weights)
        v = start * spans
        values = torch.zeros(len(v), dtype=v.dtype)
        for _ in range(POWERS):
            v = v / v.norm(dim=1, keepdim=True)
            w = point.products(v)["G"] * spans
            values, v = (v * w).sum(1), w
        return values, v

    def along_gradient(self, weights: Weights) -> list[float]:
        """g.Hg / g.g of each layer's own block and gradient: what the source looks at."""
        point, spans = self.point(weights)
        starts = spans * point.gradient
        products = point.products(starts)
        return [along(v, {"H": products["H"][i]})["H"] for i, v in enumerate(starts)]

    def scaled(self, weights: Weights, kind: str, seed: int, iterations: int) -> Weights:
        """`weights` times one number a layer, so that the curvature is `equal` or `unit`."""
        generator = torch.Generator().manual_seed(seed)
        n = sum(p.numel() for p in self.model.parameters())
        v = torch.randn(len(weights), n, generator=generator, dtype=torch.float64)
        log_scales = torch.zeros(len(weights), dtype=torch.float64)
        for _ in range(iterations):
            now = [s.exp() * weight for s, weight in zip(log_scales, weights, strict=True)]
            if kind == "equal":
                log_kappa = self.mean(now, generator).log()
                log_scales += DAMPING * balance(log_kappa, None)
            else:
                values, v = self.top(now, v)
                log_scales += DAMPING * balance(values.log(), 0.0)
        return [s.exp() * weight for s, weight in zip(log_scales, weights, strict=True)]


def balance(log_kappa: Tensor, wanted: float | None) -> Tensor:
    """The change of the logarithms of the scales that makes all of log kappa `wanted`, or None: equal, sum kept.

    Inverts d log kappa = 2 (1 1^T - 1) d log s: deviations from the mean by -1/2, the mean by 1 / (2 (layers - 1)).
    """
    mean = log_kappa.mean()
    common = 0.0 if wanted is None else (wanted - mean) / (2 * (len(log_kappa) - 1))
    return (log_kappa - mean) / 2 + common


def spread(values: Sequence[float]) -> float:
    """Largest over smallest."""
    return max(values) / min(values) if min(values) > 0 else math.inf
