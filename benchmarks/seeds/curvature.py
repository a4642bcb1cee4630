"""H v, G v and R v of a network's loss at a point, and how large R is beside H.

H = G + R (seed 004): G, the "linearization effect", is the Gauss-Newton matrix; R, the "curvature effect", is what the
network itself curves. G v and R v come from `bnrewrite.linearize`, H v is their sum, and along the gradient it is
compared with PyTorch's double backward. R is no difference, so nothing cancels in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import cross_entropy

import bnrewrite

from .networks import BATCH_NORMS, Data

STATISTICS = {"none": None, "fixed": "running", "batch": "batch"}


class Curvature:
    """The compiled graphs of one network; `model` may get other weights between two calls of `at`."""

    def __init__(self, model: nn.Module, example: Data, norm: str, block: int) -> None:
        self.model, self.norm, self.block = model, norm, block
        bn: Any = STATISTICS[norm]
        self.primal, self.apply = bnrewrite.linearize(
            model, example, products=("ggn", "residual"), bn=bn, vectors=block
        )

    def at(self, x: Tensor, y: Tensor) -> Point:
        """The point that the model's weights are, with the loss of a batch."""
        loss, gradient, residuals = self.primal(x, y)
        return Point(self.apply, self.block, float(loss), gradient, residuals)

    def double_backward(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """H v by PyTorch's own differentiation of the model as it is, flat like `v`."""
        for module in self.model.modules():
            module.training = self.norm == "batch" and isinstance(module, BATCH_NORMS)
        parameters = list(self.model.parameters())
        loss = cross_entropy(self.model(x), y)
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        products = torch.autograd.grad(gradient, parameters, pieces(v, parameters), materialize_grads=True)
        self.model.eval()
        return torch.cat([h.flatten() for h in products])


@dataclass(frozen=True)
class Point:
    """Loss and gradient at the weights, and what the products take from there."""

    apply: fx.GraphModule
    block: int
    loss: float
    parts: dict[str, Tensor]
    residuals: Any

    @property
    def gradient(self) -> Tensor:
        """Flat, in the order of the parameters."""
        return flat(self.parts, 0)

    def products(self, v: Tensor) -> dict[str, Tensor]:
        """`v` (k, n) times H, G and R, each (k, n), a block at a time, the last one filled up with zeros."""
        G: list[Tensor] = []
        R: list[Tensor] = []
        for rows in v.split(self.block):
            padded = torch.zeros(self.block, v.shape[1], dtype=v.dtype)
            padded[: len(rows)] = rows
            directions = dict(zip(self.parts, pieces(padded, list(self.parts.values())), strict=True))
            for found, product in zip((G, R), self.apply(self.residuals, directions), strict=True):
                found.append(flat(product, 1)[: len(rows)])
        g, r = torch.cat(G), torch.cat(R)
        return {"H": g + r, "G": g, "R": r}

    def span(self, layer: str) -> Tensor:
        """Which entries of a flat vector are of the module `layer`: (n,) of bool."""
        owners = [
            torch.full((part.numel(),), name.rpartition(".")[0] == layer) for name, part in self.parts.items()
        ]
        return torch.cat(owners)


def pieces(v: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """A flat vector (n,), or rows (k, n), in the shapes of `like`."""
    split = v.split([part.numel() for part in like], dim=-1)
    return [piece.reshape(*v.shape[:-1], *part.shape) for piece, part in zip(split, like, strict=True)]


def flat(parts: dict[str, Tensor], axes: int) -> Tensor:
    """All parts in one; the first `axes` axes are kept."""
    return torch.cat([part.flatten(axes) for part in parts.values()], dim=axes)


def along(v: Tensor, products: dict[str, Tensor]) -> dict[str, float]:
    """v.Av / v.v for each product A v; v (n,)."""
    return {symbol: float(v @ product / (v @ v)) for symbol, product in products.items()}


def size(rows: Tensor) -> float:
    """Root mean square of the norms of rows: of A v with standard normal v an estimate of the Frobenius norm of A."""
    return math.sqrt(float(rows.double().square().sum()) / len(rows))


def whole(point: Point, probes: Tensor) -> dict[str, Any]:
    """R beside H over all parameters: along the gradient, and by random directions `probes` (k, n).

    `gradient`: g.Ag / g.g for A = H, G, R, and `norms`, |A g| / |g|. `random`: estimates of the Frobenius norms, and
    `forms`, root mean squares of v.Av.
    """
    g = point.gradient
    products = point.products(torch.cat([g[None], probes]))
    random = {symbol: rows[1:] for symbol, rows in products.items()}
    return {
        "loss": point.loss,
        "gradient": {
            **along(g, {symbol: rows[0] for symbol, rows in products.items()}),
            "norms": {symbol: float(rows[0].norm() / g.norm()) for symbol, rows in products.items()},
        },
        "random": {
            **{symbol: size(rows) for symbol, rows in random.items()},
            "forms": {symbol: size((probes * rows).sum(1)[:, None]) for symbol, rows in random.items()},
        },
    }


def along_weights(point: Point, weights: Tensor) -> dict[str, float]:
    """What A does to the weights themselves: `weights` (n,), zero where they are left out.

    `G` and `R`: |A w| / |g| on the entries of w; `of_gradient`: c of the multiple c g that comes nearest to R w, and
    `rest`, |R w - c g| / |R w|. Euler's theorem on homogeneous functions says: where the loss does not depend on the
    scale of any of these layers (BatchNorm behind each, eps small) G w = 0 and R w = -g; where the output is
    proportional to each of k of them (ReLU, no biases, no shortcuts) R w = (k - 1) g.
    """
    span = weights != 0
    g = point.gradient[span]
    found = point.products(weights[None])
    G, R = (found[symbol][0][span] for symbol in ("G", "R"))
    multiple = R @ g / (g @ g)
    return {
        "G": float(G.norm() / g.norm()),
        "R": float(R.norm() / g.norm()),
        "of_gradient": float(multiple),
        "rest": float((R - multiple * g).norm() / R.norm()),
    }


def by_layer(point: Point, names: Sequence[str], generator: torch.Generator) -> dict[str, Any]:
    """The same layer by layer, for the modules `names`: each one's weights and bias alone, one random direction each.

    `gradient`: g.Ag / g.g of each layer, for its own block of A and its own part g of the gradient: what the code of
    seed 004 measures. `blocks`: |A_jk v_k| for rows j and columns k, v_k standard normal in layer k: their Frobenius
    norms, by one direction each, of H and R; `diagonal`: those with j = k.
    """
    spans = [point.span(name) for name in names]
    g = point.gradient
    starts = torch.stack([torch.where(span, g, 0) for span in spans])
    noise = torch.randn(g.shape, generator=generator, dtype=torch.float64).to(g.dtype)
    probes = torch.stack([torch.where(span, noise, 0) for span in spans])
    products = point.products(torch.cat([starts, probes]))
    count = len(names)
    blocks = {
        symbol: [[float(products[symbol][count + k][span].norm()) for k in range(count)] for span in spans]
        for symbol in ("H", "R")
    }
    return {
        "gradient": [
            along(v, {symbol: rows[i] for symbol, rows in products.items()}) for i, v in enumerate(starts)
        ],
        "diagonal": {symbol: [rows[k][k] for k in range(count)] for symbol, rows in blocks.items()},
        "blocks": blocks,
    }
