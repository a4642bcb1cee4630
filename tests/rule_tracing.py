"""Rules traced at a symbolic batch: the graph serves other batch sizes, types and devices."""

from __future__ import annotations

from functools import cache

import torch
from rule_harness import BATCH, OTHER_BATCH, Case, Draw, difference, leaves_of, outputs_of, pick, place, wrap
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils import _pytree as pytree

from bnrewrite.passes.rule import Context, Rule, run


def all_phases(rule: Rule, case: Case, carrier: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Every result of the rule at the case's arguments, from `tensors`, with directions that are functions of them."""
    d = Draw(carrier=carrier, given=tensors)
    args = case.args(d)
    leaves = leaves_of(case, args)
    ctx: Context = run(rule, args)
    dots = place(args, {leaf: (3 * pick(args, leaf)).cos() for leaf in leaves}, None)
    needs = place(args, dict.fromkeys(leaves, True), False)
    ys = outputs_of(case, ctx.y)
    y_bar = wrap(ctx.y, [None if y is None else (y.detach() + 0.5).cos() for y in ys])
    y_bar_dot = wrap(ctx.y, [None if y is None else (2 * y.detach()).sin() for y in ys])
    results = [
        ctx.y,
        rule.tangent(ctx, dots),
        list(rule.adjoint(ctx, y_bar, needs)),
        list(rule.adjoint_tangent(ctx, dots, y_bar, y_bar_dot, needs)),
    ]
    return [t for t in pytree.tree_leaves(results) if isinstance(t, Tensor)]


def has_batch(case: Case) -> bool:
    """Whether the case has a batch axis, so that there is something to trace symbolically."""
    example = Draw()
    case.args(example)
    return example.asked_for_batch


@cache
def symbolic_mode() -> FakeTensorMode:
    """One for all cases: they share one batch symbol, and what PyTorch has worked out about it."""
    return FakeTensorMode(shape_env=ShapeEnv())


def symbolic(t: Tensor) -> Tensor:
    """A fake of `t` whose axes of length `BATCH` have the batch symbol for a size."""
    kinds = [DimDynamic.DUCK if size == BATCH else DimDynamic.STATIC for size in t.shape]
    return symbolic_mode().from_tensor(t, symbolic_context=StatelessSymbolicContext(dynamic_sizes=kinds))


def _check_follows_its_inputs(graph: fx.Graph, case: Case) -> None:
    """Whether the graph would run in another floating-point type and on another device than it was traced with."""
    for node in graph.nodes:
        if node.op != "call_function" or node.target is case.op:
            continue
        assert node.kwargs.get("device") is None, f"the device is fixed: {node.format_node()}"
        dtype = node.kwargs.get("dtype")
        assert dtype is None or not dtype.is_floating_point, f"the type is fixed: {node.format_node()}"


@cache
def traced_phases(rule: Rule, case: Case) -> fx.GraphModule:
    """Graph of `all_phases` of a case, its batch symbolic: arguments are the carrier and the case's tensors."""
    example = Draw(0)
    case.args(example)
    fakes = [symbolic(t) for t in (example.carrier, *example.made)]
    with symbolic_mode(), enable_python_dispatcher(), torch.no_grad():
        return make_fx(lambda carrier, *tensors: all_phases(rule, case, carrier, list(tensors)))(*fakes)


def check_tracing(rule: Rule, case: Case) -> None:
    """Traced once at a symbolic batch, the graph gives the eager results at another batch size."""
    example, other = Draw(0), Draw(1, batch=OTHER_BATCH)
    case.args(example)
    case.args(other)
    traced = traced_phases(rule, case)
    fixed = symbolic_mode().shape_env.replacements
    assert not fixed, f"the batch size was fixed, here or in a case before this one: {fixed}"
    if (
        len({t.dtype for t in example.made if t.is_floating_point()}) == 1
    ):  # conversions between types are fixed
        _check_follows_its_inputs(traced.graph, case)
    found, expected = traced(other.carrier, *other.made), all_phases(rule, case, other.carrier, other.made)
    for a, b in zip(found, expected, strict=True):
        difference(a, b, 1e-12, "traced graph at another batch size")
