"""Random networks: the graph against double backward in float64, at another batch size than the example's.

Over 200 networks in a plain run, always the same. `BNREWRITE_NETWORKS=5000 pytest tests/test_random_networks.py` draws
that many; `BNREWRITE_SEED=7` draws others. A failure names its network; `BNREWRITE_SHRINK=1` shrinks it (minutes) to a
`Fleet(...)`, which becomes a row of `ROWS`.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from random_networks import (
    DIFFERENTIABLE_TWICE,
    GROUPS,
    HEADS,
    LOSSES,
    PIECES,
    Criterion,
    Fleet,
    Network,
    build,
    example,
    fleets,
)
from reference import direction, relative_error
from torch import Tensor, nn

from bnrewrite.compiler import compile_blocked, door_check
from bnrewrite.emit.graph_module import build as graph_module
from bnrewrite.emit.onnx import lower
from bnrewrite.options import Options
from bnrewrite.passes.graph import JointGraph
from bnrewrite.verification.oracle import Oracle

SHARDS, ROUNDS = 7, max(1, int(os.environ.get("BNREWRITE_NETWORKS", "0")) // 200)
FLEETS = 5
"""A round of a shard: the least fleet there is, then four of seven networks. Hypothesis begins to repeat itself
after ten examples, so that more rounds find more than longer ones."""
SEED = int(os.environ.get("BNREWRITE_SEED", "0"))
SHRINK = "BNREWRITE_SHRINK" in os.environ
EXAMPLE, BATCH = 6, 5
GRAPH_BAR, ONNX_BAR = 1e-10, 1e-9  # the contract's

Parts = dict[str, Tensor]

ROWS = [
    # the way back of channel_shuffle took its channels from the third axis from the end
    Fleet((Network(("channel_shuffle",), head="flatten"),), rank=1),
    Fleet(
        (
            Network(("bicubic", "batch_norm")),
            Network(("pixel_unshuffle", "conv 1x1", "tanh", "pixel_shuffle")),
            Network(("nearest", "conv strided", "pad circular", "gelu")),
            Network(("pad zero", "silu", "conv strided", "conv transposed", "adaptive_max")),
            Network(("pad reflect", "conv wide", "adaptive_avg", "elu")),
            Network(("linear resize", "conv transposed grouped", "lp_pool", "sigmoid")),
        ),
        products=("hvp", "ggn"),
        onnx=True,
    ),
]
"""What failed once, shrunk; and the words that the shards of a plain run happen not to draw."""


def check(fleet: Fleet) -> None:
    """Loss, gradient and every product of the graph, and of the file where the fleet asks for one."""
    model, _ = build(fleet)
    options = Options(Criterion(fleet).double(), products=fleet.products, vectors=fleet.vectors)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        joint = compile_blocked(model, example(fleet, model, EXAMPLE), options)
    messages = [str(w.message) for w in caught if "the graph serves batch size" in str(w.message)]
    assert not messages, messages

    x, y = example(fleet, model, BATCH)
    directions = [direction(model, k) for k in range(fleet.vectors or 1)]
    expected = truth(fleet, model, x, y, directions)
    v = joined(directions, fleet)
    loss, *results = graph_module(joint, door_check(joint))(x, y, v)
    compare(fleet, [{"loss": loss}, *results], expected, GRAPH_BAR)
    if fleet.onnx:
        compare(fleet, run_file(joint, x, y, v, fleet.products), expected, ONNX_BAR)


def joined(vectors: Sequence[Parts], fleet: Fleet) -> Parts:
    """One vector as it is, K of them along a leading axis."""
    if fleet.vectors is None:
        return vectors[0]
    return {name: torch.stack([vector[name] for vector in vectors]) for name in vectors[0]}


def truth(fleet: Fleet, model: nn.Module, x: Tensor, y: Any, directions: Sequence[Parts]) -> list[Parts]:
    """Loss, gradient and each product by autograd."""
    twin = copy.deepcopy(model)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if type(child) in DIFFERENTIABLE_TWICE:
                setattr(module, name, DIFFERENTIABLE_TWICE[type(child)]())
    oracle = Oracle(twin, Criterion(fleet), {}, list(directions[0]), torch.float64)
    found = oracle.evaluate(x, y, directions, fleet.products)
    return [{"loss": found.loss}, found.grad, *(joined(parts, fleet) for parts in found.products.values())]


def compare(fleet: Fleet, found: Sequence[Mapping[str, Any]], expected: Sequence[Parts], bar: float) -> None:
    """Each network by itself: a large one does not hide the error of a small one."""
    assert relative_error(found[0], expected[0]) <= bar
    for index, network in enumerate(fleet.networks):
        for kind, a, b in zip(("grad", *fleet.products), found[1:], expected[1:], strict=True):
            own = [name for name in b if name.startswith(f"nets.{index}.")]
            error = relative_error({name: a[name] for name in own}, {name: b[name] for name in own})
            assert error <= bar, f"{kind} of {network}: {error}"


def run_file(
    joint: JointGraph, x: Tensor, y: Tensor, v: Mapping[str, Tensor], products: Sequence[str]
) -> list[Any]:
    """The same by onnxruntime in float64."""
    session = onnxruntime.InferenceSession(lower(joint, metadata={}).SerializeToString())
    targets = {f"target.{i}": part for i, part in enumerate(y)}
    feed = {"input": x, **targets, **{f"v.{name}": part for name, part in v.items()}}
    results = session.run(None, {name: value.numpy() for name, value in feed.items()})
    outputs = dict(zip([output.name for output in session.get_outputs()], results, strict=True))
    return [{"loss": outputs["loss"]}] + [
        {name: outputs[f"{part}.{name}"] for name in v} for part in ("grad", *products)
    ]


def drawn(number: int) -> Any:
    """A decorator that runs a function of one fleet on all fleets of a round."""
    options = settings(
        max_examples=FLEETS,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink) if SHRINK else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    return lambda function: seed(number)(options(given(fleets())(function)))


@pytest.mark.parametrize("shard", range(SHARDS))
def test_random_networks(shard: int) -> None:
    for turn in range(ROUNDS):
        drawn((SEED * ROUNDS + turn) * SHARDS + shard)(check)()


@pytest.mark.parametrize("fleet", ROWS, ids=range(len(ROWS)))
def test_networks_that_failed_once(fleet: Fleet) -> None:
    check(fleet)


def test_every_piece_is_drawn() -> None:
    """What the shards draw, without checking it: enough networks, and everything that there is."""
    networks, fitted, ranks = 0, set(), set()

    def count(fleet: Fleet) -> None:
        nonlocal networks
        networks += len(fleet.networks)
        fitted.update(build(fleet)[1])
        ranks.add(fleet.rank)

    for shard in range(SHARDS):
        drawn(SEED * ROUNDS * SHARDS + shard)(count)()
    for fleet in ROWS:
        count(fleet)
    assert networks >= 200 and len(ranks) == 4
    assert not {*PIECES, *GROUPS, *HEADS, *LOSSES} - fitted
