"""Seed 004, figure 1: the loss over a plane through the weights, beside its quadratic models from H and from G.

The plane as in the source's code: two random directions of length 1, orthogonal, over all parameters; steps to 10 on
both sides. Not as there: digits, our LeNet5 (biases in the last layer only), and random weights beside trained ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from bnrewrite.runtime.landscape import coordinates, grid

from .curvature import Curvature, flat, pieces
from .networks import BATCH_NORMS, NETWORKS, Data, built, draw
from .settings import Case, Surface
from .training import checkpoints

Progress = Callable[[str, int, int, str], None]
Result = dict[str, Any]
Array = NDArray[np.float64]

SEED = 0
PLANE = 1
"""Of the directions."""


def run(settings: Surface, progress: Progress) -> Result:
    """A plane for each of: without and with BatchNorm, before and after training."""
    planes: list[Result] = []
    total = 2 * len(settings.norms)
    for norm in settings.norms:
        case = Case(settings.network, settings.activation, norm)
        network = NETWORKS[case.network]
        model = built(case, torch.float32)
        double = built(case, torch.float64)
        held_out = network.data("test", None, torch.float64)
        curvature = Curvature(double, held_out, norm, 2)
        draw(model, SEED)
        train = network.data("train", None, torch.float32)
        for epochs, state in checkpoints(model, train, (0, settings.epochs), SEED):
            progress("surface", len(planes), total, f"norm: {norm}, after {epochs} epochs")
            double.load_state_dict(state)
            planes.append({"norm": norm, "epochs": epochs, **plane(curvature, held_out, settings)})
    progress("surface", total, total, "done")
    return {"network": settings.network, "activation": settings.activation, "planes": planes}


def plane(curvature: Curvature, held_out: Data, settings: Surface) -> Result:
    """Losses on the grid, and what the quadratic models are made of: loss, slopes (2,), and (2, 2) of H and G."""
    point = curvature.at(*held_out)
    directions = orthogonal_pair(len(point.gradient))
    products = point.products(directions)
    x = coordinates(settings.extent, settings.points)
    model = copy.deepcopy(curvature.model).float()
    return {
        "parameters": len(point.gradient),
        "norm_of_weights": float(flat({name: p.detach() for name, p in model.named_parameters()}, 0).norm()),
        "x": x,
        "y": x,
        "losses": losses(model, directions, x, held_out),
        "loss": point.loss,
        "slopes": (directions @ point.gradient).tolist(),
        **{symbol: (directions @ products[symbol].T).tolist() for symbol in ("H", "G")},
    }


def orthogonal_pair(n: int) -> Tensor:
    """Two random directions of length 1, orthogonal: (2, n)."""
    drawn = torch.randn(n, 2, generator=torch.Generator().manual_seed(PLANE), dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.T.contiguous()


def losses(model: nn.Module, directions: Tensor, x: Array, data: Data) -> Array:
    """The losses over the plane, (len(x), len(x)), in float32, BatchNorm with the statistics of all of `data`."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    first, second = (
        {
            name: piece.numpy()
            for name, piece in zip(weights, pieces(row, list(weights.values())), strict=True)
        }
        for row in directions
    )
    for module in model.modules():
        module.training = isinstance(module, BATCH_NORMS)
    images, labels = data[0].float(), data[1]

    def loss_at(parts: dict[str, Any]) -> float:
        with torch.no_grad():
            output = functional_call(model, {n: torch.from_numpy(p) for n, p in parts.items()}, (images,))
            return float(cross_entropy(output, labels))

    return grid(loss_at, {name: p.numpy() for name, p in weights.items()}, first, second, x, x)


def quadratic(result: Result, symbol: str) -> Array:
    """The quadratic model of a plane on its grid: loss + slopes.d + d.A d / 2 with A of H or of G."""
    a, b = np.meshgrid(result["x"], result["y"])
    d = np.stack([a, b])
    bend = np.einsum("iyx,ij,jyx->yx", d, np.asarray(result[symbol]), d) / 2
    return result["loss"] + np.einsum("i,iyx->yx", np.asarray(result["slopes"]), d) + bend


def misfit(result: Result, symbol: str, radius: float) -> float:
    """Of the quadratic model within `radius`: root mean square error, over that of taking the loss as constant."""
    a, b = np.meshgrid(result["x"], result["y"])
    inside = a**2 + b**2 <= radius**2 + 1e-9
    true = np.asarray(result["losses"])[inside]
    wrong = np.sqrt(np.mean((quadratic(result, symbol)[inside] - true) ** 2))
    constant = np.sqrt(np.mean((true - result["loss"]) ** 2))
    return float(wrong / constant) if constant else 0.0
