"""Seed 004, figure 3: how large the "curvature effect" R is beside H, at random weights and along training.

At each point along the gradient, along random directions, over the whole network and layer by layer. Activations are
exchanged; BatchNorm is taken out (`none`), has batch statistics (`batch`), or the same statistics held constant
(`fixed`), which leaves the loss as it is and makes each BatchNorm an affine map: what is between the last two is due to
the statistics alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .curvature import Curvature, by_layer, whole
from .networks import NETWORKS, built, draw, hold_statistics, layers
from .settings import Case, Effect
from .training import checkpoints

Progress = Callable[[str, int, int, str], None]
Result = dict[str, Any]

PROBES = 1_000
"""Added to a seed for the generator of directions, which must not be that of the weights."""


def run(settings: Effect, progress: Progress) -> Result:
    """All points of all cases: {"start": ..., "training": ...}, a row for each case."""
    rows: dict[str, list[Result]] = {"start": [], "training": []}
    every = list(dict.fromkeys((*settings.cases, *settings.trained)))
    for number, case in enumerate(every):
        progress("effect", number, len(every), f"{case.network}, {case.activation}, norm: {case.norm}")
        measure = Measure(case, settings)
        if case in settings.cases:
            rows["start"].append({**named(case), "points": measure.start()})
        if case in settings.trained:
            runs = [measure.training(seed) for seed in range(settings.runs)]
            rows["training"].append({**named(case), "epochs": list(settings.checkpoints), "runs": runs})
    progress("effect", len(every), len(every), "done")
    return rows


def named(case: Case) -> Result:
    """The three names of a case."""
    return {"network": case.network, "activation": case.activation, "norm": case.norm}


class Measure:
    """One case, compiled, on the first digits of the training set."""

    def __init__(self, case: Case, settings: Effect) -> None:
        self.case, self.settings = case, settings
        self.network = NETWORKS[case.network]
        self.model = built(case)
        self.data = self.network.data("train", settings.batch, self.network.dtype)
        self.names = layers(self.model, settings.layers)
        self.curvature = Curvature(self.model, self.data, case.norm, settings.block)

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
        return points

    def point(self, seed: int) -> Result:
        """What is measured at the weights that the model has."""
        generator = torch.Generator().manual_seed(PROBES + seed)
        point = self.curvature.at(*self.data)
        n = len(point.gradient)
        probes = torch.randn(self.settings.probes, n, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            logits = self.model(self.data[0]) if self.case.norm != "batch" else None
        return {
            "seed": seed,
            "parameters": n,
            "logits": None if logits is None else float(logits.std()),
            **whole(point, probes.to(point.gradient.dtype)),
            "layers": by_layer(point, self.names, generator),
        }
