"""What a chosen part of the parameters costs: `python -m benchmarks.wrt [MODEL]`.

Tangents and adjoints that nothing needs are not in the graph, so that a block of the Hessian costs what it has to. Each
row: nodes and convolutions of the graph, and the median time of a call beside that for all parameters, interleaved in
one process.
"""

from __future__ import annotations

import sys
import time
import warnings
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

import bnrewrite
from bnrewrite.models import MODELS

CHOICES: dict[str, list[str] | None] = {
    "all": None,
    "BatchNorm only": ["*bn*"],
    "last stage and head": ["layer4.*", "fc.*"],
    "head": ["fc.*"],
    "first convolution": ["conv1.weight"],
}
ROUNDS = 7


def main(name: str) -> None:
    model = MODELS[name].build_small()
    x, y = MODELS[name].example(8)
    graphs, calls = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for choice, wrt in CHOICES.items():
            graphs[choice] = gm = bnrewrite.transform(model, (x, y), wrt=wrt)
            names = gm.meta["bnrewrite"]["parameters"]
            calls[choice] = {key: torch.randn_like(p) for key, p in model.named_parameters() if key in names}
    times: dict[str, list[float]] = {choice: [] for choice in CHOICES}
    for _ in range(ROUNDS + 1):
        for choice, gm in graphs.items():
            clock = time.perf_counter()
            gm(x, y, calls[choice])
            times[choice].append(time.perf_counter() - clock)
    table = Table("wrt", "parameters", "nodes", "convolutions", "time", title=f"{name}, batch {x.shape[0]}")
    for choice, gm in graphs.items():
        share = median(times[choice][1:]) / median(times["all"][1:])
        convolutions = sum("convolution" in str(node.target) for node in gm.graph.nodes)
        table.add_row(
            choice, str(len(calls[choice])), str(len(gm.graph.nodes)), str(convolutions), f"{share:.2f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "resnet18")
