"""Seed 004, figure 4: training curves of a network of 128, 84 and 10 units from different initial weights.

As in the source: plain SGD, batches of 64, the loss over all training data on the way. Many runs are trained at once,
as one batched computation. A seed means its own weights and its own order of the digits, which is the same for all
initial weights and step sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from bnrewrite.models import digits

from .scaling import BASE, DRAWN, NAMES, Layers, Weights, dense, linear, put
from .settings import Start

Progress = Callable[[str, int, int, str], None]
Result = dict[str, Any]
Parameters = dict[str, Tensor]

CHUNK = 48
"""Runs trained at once: their weights stay within the cache."""


def run(settings: Start, progress: Progress) -> Result:
    """For each activation: curvature of the layers at the start, and losses by initial weights and step size."""
    found = {}
    for number, activation in enumerate(settings.activations):
        progress("start", number, len(settings.activations), activation)
        found[activation] = one(activation, settings, progress)
    progress("start", len(settings.activations), len(settings.activations), "done")
    return {"names": list(NAMES), "base": BASE, "rates": list(settings.rates), "activations": found}


def one(activation: str, settings: Start, progress: Progress) -> Result:
    """The study of one activation: rows by initial weights."""
    model = dense(activation)
    images, labels = digits("train", dtype=torch.float64)
    layers = Layers(model, (images[: settings.digits], labels[: settings.digits]))
    weights = {
        name: [drawn(name, seed, layers, settings.iterations) for seed in range(settings.seeds)]
        for name in NAMES
    }
    rows: dict[str, Result] = {name: curvatures(weights[name], layers) for name in NAMES}
    runs = [(n, rate, seed) for n in NAMES for rate in settings.rates for seed in range(settings.seeds)]
    curves: dict[tuple[str, float, int], tuple[list[float], float]] = {}
    for first in range(0, len(runs), CHUNK):
        chunk = runs[first : first + CHUNK]
        stacked = stack(model, [weights[name][seed] for name, _, seed in chunk])
        trained = train(model.float(), stacked, [r for _, r, _ in chunk], [s for *_, s in chunk], settings)
        model.double()
        curves |= dict(zip(chunk, trained, strict=True))
    for name in NAMES:
        of_rate = [[curves[name, rate, seed] for seed in range(settings.seeds)] for rate in settings.rates]
        rows[name]["loss"] = [[curve for curve, _ in seeds] for seeds in of_rate]  # rate, seed, point
        rows[name]["accuracy"] = [[right for _, right in seeds] for seeds in of_rate]
    return {"steps": steps_of(settings), "rows": rows}


def drawn(name: str, seed: int, layers: Layers, iterations: int) -> Weights:
    """Initial weights by name; the scaled ones begin with those of the same seed by `BASE`."""
    generator = torch.Generator().manual_seed(seed)
    if name in DRAWN:
        return DRAWN[name](generator)
    return layers.scaled(DRAWN[BASE](generator), name, seed, iterations)


def curvatures(weights: list[Weights], layers: Layers) -> Result:
    """By seed and layer: mean curvature, largest eigenvalue of G_ll, curvature along the layer's gradient; scales."""
    generator = torch.Generator().manual_seed(0)
    found: Result = {"deviation": [], "mean": [], "top": [], "along_gradient": []}
    for one in weights:
        v = torch.randn(
            len(one), sum(p.numel() for p in layers.model.parameters()), generator=generator
        ).double()
        found["deviation"].append([float(weight.std()) for weight in one])
        found["mean"].append(layers.mean(one, generator).tolist())
        found["top"].append(layers.top(one, layers.top(one, v)[1])[0].tolist())
        found["along_gradient"].append(layers.along_gradient(one))
    return found


def stack(model: nn.Module, weights: list[Weights]) -> Parameters:
    """Parameters of many networks in float32, the runs along a leading axis."""
    single = []
    for one in weights:
        put(model, one)
        single.append({name: p.detach().float() for name, p in model.named_parameters()})
    assert len(linear(model)) == len(weights[0])
    return {name: torch.stack([parameters[name] for parameters in single]) for name in single[0]}


def steps_of(settings: Start) -> list[int]:
    """The steps after which the loss is taken."""
    return [round(i * settings.steps / settings.points) for i in range(settings.points + 1)]


def train(
    model: nn.Module, parameters: Parameters, rates: list[float], seeds: list[int], settings: Start
) -> list[tuple[list[float], float]]:
    """For each run the losses over the training set along the way and the accuracy on held-out digits at the end."""

    def loss(p: Parameters, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, p, (x,)), y)

    gradients, losses = vmap(grad(loss)), vmap(loss, in_dims=(0, None, None))
    (images, labels), held_out = digits("train"), digits("test")
    orders = [batches(seed, len(images), settings) for seed in seeds]
    rate = torch.tensor(rates)
    wanted, curve = set(steps_of(settings)), []
    with torch.no_grad():
        for step in range(settings.steps + 1):
            if step in wanted:
                curve.append(losses(parameters, images, labels))
            if step == settings.steps:
                break
            chosen = torch.stack([order[step] for order in orders])
            g = gradients(parameters, images[chosen], labels[chosen])
            for name, p in parameters.items():
                p.sub_(rate.view(-1, *[1] * (p.ndim - 1)) * g[name])
        outputs = vmap(lambda p: functional_call(model, p, (held_out[0],)))(parameters)
        right = (outputs.argmax(2) == held_out[1]).double().mean(1)
    return list(zip(torch.stack(curve, 1).tolist(), right.tolist(), strict=True))


def batches(seed: int, count: int, settings: Start) -> Tensor:
    """Indices (steps, batch) of one seed: shuffled anew in every epoch, the rest of an epoch left out."""
    generator = torch.Generator().manual_seed(seed)
    rounds: list[Tensor] = []
    while sum(map(len, rounds)) < settings.steps:
        order = torch.randperm(count, generator=generator)
        rounds.append(order[: count // settings.batch * settings.batch].view(-1, settings.batch))
    return torch.cat(rounds)
