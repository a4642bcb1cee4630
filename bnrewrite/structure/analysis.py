"""`bnrewrite.analyze`: capture a model with its loss, walk over it, and say what mixes samples and what stays valid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx

from .. import losses
from ..capture import capture, example_of
from ..capture.example import Example
from ..errors import CaptureError, InputError
from ..losses import Loss
from ..options import Options
from ..passes.graph import CapturedGraph, Input
from ..rules.table import RULES
from ..sources import Model, as_module
from .assembly import assemble, located
from .report import StructureReport
from .seen import Seen
from .walk import Walk

SAMPLES = 5
"""Batch size of the walk where the graph serves any: a prime, so that few coincidences can hide anything."""


def analyze(
    model: Model,
    example_inputs: tuple[Any, Any],
    *,
    loss: Loss = "cross_entropy",
    bn: Literal["batch", "running"] | None = None,
    wrt: Sequence[str] | str | None = None,
    random: Literal["off", "error"] = "off",
) -> StructureReport:
    """Which operations of a model and its loss mix samples, and which quantities exist therefore.

    With F the model over a batch and L the loss, in the words of F. Dangel's notes on structural implications of batch
    normalization:

    - the model has SIMD structure if F_n(X) = f(x_n): every sample for itself, and the same is done to each;
    - the loss has reduction structure if it is a sum or a mean of individual losses, L = R(L_1, ..., L_N), and SIMD +
      reduction structure if each of them sees one component, L_n = l(F_n, y_n).

    Targets count as constants, as they do for every derivative. So a cross entropy with class weights, whose mean is
    over the sum of the weights of all targets, is SIMD + reduction: the sum over samples has a factor that depends on
    the targets (the report says so). A function of a mean that is not linear, such as the square root of a mean squared
    error, is no reduction: the gradient is no sum over samples of gradients of anything that belongs to one of them.

    Parameters
    ----------
    model, example_inputs, loss, bn, wrt, random : as for `bnrewrite.transform`. The example's shapes and, of integers,
        values are used; rows of its floating-point tensors are changed a little, so that no two are equal. `wrt`
        matters for what is cheap to compute, not for what mixes.

    Returns
    -------
    `StructureReport`: `print` it, `draw` it, ask it what `exists`.

    How it decides: every operation of the captured graph is run in float64 on five samples (on the example's batch
    where the graph serves that only), with a record, element by element, of which sample a value belongs to. A rule by
    family of operations follows that record exactly, through views and permutations that fold the batch into other
    axes too. An operation without a rule is run with one sample moved at random, and what changes is seen; where not
    even that is possible it is taken to mix. `StructureReport.nodes` says how each was decided. Dependence is that of
    the operation: the difference of two equal values still depends on both. Buffers count with the values that they
    have.

    Raises
    ------
    CaptureError, InputError, UnsupportedOp : as `bnrewrite.transform`; `InputError` also for a batch of one sample
        where the graph serves no other.
    """
    options = Options(loss=loss, bn=bn, wrt=wrt, random=random)
    model = as_module(model)
    criterion = losses.resolve(loss)
    criterion = None if criterion is None else as_module(criterion)
    example = example_of(example_inputs)
    losses.check_target(criterion, example.target)
    captured = capture(model, example_inputs, criterion, keep=RULES.keys(), bn=bn, random=random)
    chosen = options.select(captured.inputs, [name for name, _ in model.named_parameters()])
    walk, seen = _walked(captured, example)
    report = assemble(model, captured, walk, seen, chosen, losses.describe(loss), criterion is not None)
    return located(report, loss)


# The walk --------------------------------------------------------------------------------------------------------


def _walked(captured: CapturedGraph, example: Example) -> tuple[Walk, Seen]:
    """The graph walked over, at the first batch size that it serves."""
    sizes = [SAMPLES, _traced_batch(captured)] if captured.meta["dynamic_batch"] else [example.batch or 0]
    if sizes[-1] < 2:
        raise InputError(
            "the example has one sample, and the graph serves no other batch size, so nothing can mix: give a batch of "
            "at least two."
        )
    for samples in sizes:
        order = _other_order(samples)
        walk = Walk(samples, order, _loss_nodes(captured.graph), bool(captured.meta["dynamic_batch"]))
        try:
            return walk, walk.run(captured.graph, _inputs(captured, example, samples, order))
        except CaptureError:  # the graph may need a larger batch than the first
            if samples == sizes[-1]:
                raise
    raise AssertionError


def _traced_batch(captured: CapturedGraph) -> int:
    """The batch size that the graph was traced with."""
    for node in captured.graph.nodes:
        val = node.meta.get("val")
        if node.op == "placeholder" and isinstance(val, Tensor):
            for size in val.shape:
                if isinstance(size, torch.SymInt) and size.node.hint is not None:
                    return int(size.node.hint)
    return SAMPLES


def _other_order(samples: int) -> Tensor:
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(1))
    return order.flip(0) if torch.equal(order, torch.arange(samples)) else order


def _loss_nodes(graph: fx.Graph) -> frozenset[fx.Node]:
    """The nodes that ran outside the model and that nothing in the model reads."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.meta.get("in_loss") and all(user in found or user.op == "output" for user in node.users):
            found.add(node)
    return frozenset(found)


def _inputs(captured: CapturedGraph, example: Example, samples: int, order: Tensor) -> dict[fx.Node, Seen]:
    """What is known of every placeholder at the start."""
    resized = example.resized(samples) if captured.meta["dynamic_batch"] else example
    placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
    found = {}
    for number, (node, entry) in enumerate(zip(placeholders, captured.inputs, strict=True)):
        if entry.owned:
            assert entry.tensor is not None
            value = _wide(entry.tensor.detach())
            owner = torch.zeros(value.shape, device=value.device)
            found[node] = Seen(value, value, owner, certain=entry.kind != "parameter")
        else:
            found[node] = _of_caller(entry, resized, samples, order, number)
    return found


def _of_caller(entry: Input, example: Example, samples: int, order: Tensor, seed: int) -> Seen:
    value = example.input if entry.kind == "input" else example.target
    for key in entry.path:
        value = value[key]
    axis = _batch_axis(value, samples)
    value = _distinct(_wide(value.detach()), seed)
    owner = torch.zeros(value.shape, device=value.device)
    reordered = value
    if axis is not None:
        reordered = value.index_select(axis, order.to(value.device))
        if entry.kind == "input":
            along = torch.arange(1.0, samples + 1, device=value.device)
            owner = along.view(-1, *[1] * (value.dim() - axis - 1)).expand(value.shape).contiguous()
    return Seen(value, reordered, owner, from_target=entry.kind == "target")


def _batch_axis(value: Tensor, samples: int) -> int | None:
    """The first axis where it has the batch's size; else the only one that has."""
    fitting = [axis for axis, size in enumerate(value.shape) if size == samples]
    return fitting[0] if fitting[:1] == [0] or len(fitting) == 1 else None


def _wide(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _distinct(value: Tensor, seed: int) -> Tensor:
    """With a little noise, so that samples differ: examples may be zeros, or one row repeated."""
    if not value.is_floating_point():
        return value
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    spread = value.std() if value.numel() > 1 else value.abs().max()
    return value + 0.01 * torch.where(spread > 0, spread, 1.0) * noise.to(value.device)
