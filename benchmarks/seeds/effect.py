"""Seed 004, figure 3: how large the "curvature effect" R is beside H, at random weights and along training.

At each point along the gradient, along random directions, over the whole network and layer by layer. Activations are
exchanged; BatchNorm is taken out (`none`), has batch statistics (`batch`), or the same statistics held constant
(`fixed`), which leaves the loss as it is and makes each BatchNorm an affine map: what is between the last two is due to
the statistics alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from .curvature import Curvature, along_weights, by_layer, flat, whole
from .networks import NETWORKS, built, draw, hold_statistics, layers
from .settings import Case, Effect
from .training import checkpoints

Progress = Callable[[str, int, int, str], None]
Result = dict[str, Any]

PROBES = 1_000
"""Added to a seed for the generator of directions, which must not be that of the weights."""


def run(parts: tuple[Effect, ...], progress: Progress) -> Result:
    """All points of all cases: {"start": ..., "training": ...}, a row for each case."""
    rows: dict[str, list[Result]] = {"start": [], "training": []}
    todo = [(case, part) for part in parts for case in dict.fromkeys((*part.cases, *part.trained))]
    for number, (case, part) in enumerate(todo):
        progress("effect", number, len(todo), f"{case.network}, {case.activation}, norm: {case.norm}")
        measure = Measure(case, part)
        if case in part.cases:
            rows["start"].append({**measure.described(), "points": measure.start()})
        if case in part.trained:
            runs = [measure.training(seed) for seed in range(part.runs)]
            rows["training"].append({**measure.described(), "epochs": list(part.checkpoints), "runs": runs})
    progress("effect", len(todo), len(todo), "done")
    return rows


class Measure:
    """One case, compiled, on the first digits of the training set."""

    def __init__(self, case: Case, settings: Effect) -> None:
        self.case, self.settings = case, settings
        self.network = NETWORKS[case.network]
        self.model = built(case)
        self.data = self.network.data("train", settings.batch, self.network.dtype)
        self.names = layers(self.model, settings.layers)
        self.curvature = Curvature(self.model, self.data, case.norm, settings.block)

    def described(self) -> Result:
        """The names of the case and titles of its layers."""
        return {**asdict(self.case), "layers": list(self.names.values())}

    def start(self) -> list[Result]:
        """A point for each seed."""
        points = []
        for seed in range(self.settings.seeds):
            draw(self.model, seed)
            if self.case.norm == "fixed":
                hold_statistics(self.model, self.data[0])
            points.append(self.point(seed))
        return points

    def training(self, seed: int) -> list[Result]:
        """A point for each checkpoint of a training from `seed`."""
        model = built(self.case, torch.float32)
        draw(model, seed)
        points = []
        data = self.network.data("train", None, torch.float32)
        for _, state in checkpoints(model, data, self.settings.checkpoints, seed):
            self.model.load_state_dict(state)
            points.append(self.point(seed))
            del points[-1]["layers"]["blocks"]  # nothing is shown of them here
        return points

    def inner_weights(self) -> Tensor:
        """The weights of all layers but the last, flat, with zeros for all other parameters."""
        *inner, _ = layers(self.model)
        kept = {f"{name}.weight" for name in inner}
        parts = {name: p.detach() * (name in kept) for name, p in self.model.named_parameters()}
        return flat(parts, 0)

    def point(self, seed: int) -> Result:
        """What is measured at the weights that the model has; `sum`: G g + R g against H g by double backward."""
        generator = torch.Generator().manual_seed(PROBES + seed)
        point = self.curvature.at(*self.data)
        g = point.gradient
        probes = torch.randn(self.settings.probes, len(g), generator=generator, dtype=torch.float64)
        h = self.curvature.double_backward(*self.data, g)
        products = point.products(g[None])
        return {
            "seed": seed,
            "parameters": len(g),
            "sum": float((products["G"] + products["R"] - h).norm() / h.norm()),
            **whole(point, probes.to(g.dtype)),
            "weights": along_weights(point, self.inner_weights()),
            "layers": by_layer(point, list(self.names), generator),
        }
