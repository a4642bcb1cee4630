"""Seed 004, figure 1: the loss over a plane through the weights, beside its quadratic models from H and from G.

The plane as in the source's code: two random directions of length 1, orthogonal, over all parameters; steps to 10 on
both sides. Unlike the source's, LeNet5 here has no biases in front of a BatchNorm, and is drawn before training as well.
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

from .curvature import Curvature
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
    todo = [(norm, epochs) for norm in ("none", "batch") for epochs in (0, settings.epochs)]
    planes = []
    for number, (norm, epochs) in enumerate(todo):
        progress("surface", number, len(todo), f"norm: {norm}, after {epochs} epochs")
        case = Case(settings.network, settings.activation, norm)
        planes.append({"norm": norm, "epochs": epochs, **plane(case, epochs, settings)})
    progress("surface", len(todo), len(todo), "done")
    return {"network": settings.network, "activation": settings.activation, "planes": planes}


def plane(case: Case, epochs: int, settings: Surface) -> Result:
    """Losses on the grid, and what the quadratic models are made of: loss, slopes (2,), and (2, 2) of H and G."""
    network = NETWORKS[case.network]
    model = built(case, torch.float32)
    draw(model, SEED)
    for _, state in checkpoints(model, network.data("train", None, torch.float32), (epochs,), SEED):
        model.load_state_dict(state)
    held_out = network.data("test", None, torch.float64)
    double = copy.deepcopy(model).double()
    point = Curvature(double, held_out, case.norm, 2).at(*held_out)
    directions = orthogonal_pair(len(point.gradient))
    products = point.products(directions)
    x = coordinates(settings.extent, settings.points)
    return {
        "parameters": len(point.gradient),
        "norm_of_weights": float(torch.cat([p.detach().flatten() for p in double.parameters()]).norm()),
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
    pieces = directions.split([p.numel() for p in weights.values()], dim=1)
    first, second = (
        {name: piece[row].reshape(p.shape).numpy() for (name, p), piece in zip(weights.items(), pieces, strict=True)}
        for row in range(2)
    )  # fmt: skip
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            module.train()
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
    return float(wrong / np.sqrt(np.mean((true - result["loss"]) ** 2)))
