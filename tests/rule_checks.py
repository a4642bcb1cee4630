"""The checks that every row goes through: against the oracle, adjointness, types."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from rule_harness import Case, Draw, Leaf, call, difference, leaves_of, outputs_of, pick, place, wrap
from rule_oracle import Oracle
from torch import Tensor
from torch.utils import _pytree as pytree

from bnrewrite.passes.rule import Context, Rule, run


def subsets(leaves: list[Leaf]) -> list[list[Leaf]]:
    """Which arguments move, or are asked for: all subsets of up to three, else each alone and all of them."""
    if len(leaves) <= 3:
        return [list(c) for n in range(1, len(leaves) + 1) for c in combinations(leaves, n)]
    return [*([leaf] for leaf in leaves), list(leaves)]


def random_like(t: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype)


def check_against_autograd(rule: Rule, case: Case, seed: int = 0) -> None:
    """Value, tangent, adjoint and adjoint_tangent, for every pattern of zeros that matters."""
    args = case.args(Draw(seed))
    leaves = leaves_of(case, args)
    assert leaves, "a case has at least one differentiable argument"
    generator = torch.Generator().manual_seed(seed + 1)
    dots = {leaf: random_like(pick(args, leaf), generator) for leaf in leaves}
    oracle = Oracle(case, args, leaves, dots)
    tolerance = case.tolerance

    ctx = run(rule, args)
    ys = outputs_of(case, ctx.y)
    expected_y = pytree.tree_leaves(call(case.op, args))
    for found, expected in zip(pytree.tree_leaves(ctx.y), expected_y, strict=True):
        difference(found, expected, tolerance, "value")

    if case.second_order:
        _check_tangents(rule, args, leaves, dots, oracle, ctx, tolerance)
    for active in _output_patterns(ys):
        y_bar = [
            random_like(y, generator) if y is not None and o in active else None for o, y in enumerate(ys)
        ]
        y_bar_dot = [None if b is None else random_like(b, generator) for b in y_bar]
        _check_pullbacks(rule, case, args, leaves, dots, oracle, ctx, y_bar, y_bar_dot)


def _output_patterns(ys: list[Tensor | None]) -> list[list[int]]:
    real = [o for o, y in enumerate(ys) if y is not None]
    return [real] if len(real) == 1 else [*([o] for o in real), real]


def _check_tangents(
    rule: Rule,
    args: list[Any],
    leaves: list[Leaf],
    dots: dict[Leaf, Tensor],
    oracle: Oracle,
    ctx: Context,
    tolerance: float,
) -> None:
    columns = oracle.tangents()
    for moving in subsets(leaves):
        found = rule.tangent(ctx, place(args, {leaf: dots[leaf] for leaf in moving}, None))
        many = isinstance(ctx.y, (list, tuple))
        found_list = [None] * len(oracle.y) if found is None else list(found) if many else [found]
        for o, y_dot in enumerate(found_list):
            if oracle.y[o] is None:
                assert y_dot is None, "an output without a derivative has no tangent"
                continue
            expected = sum(columns[leaf][o] for leaf in moving)
            difference(y_dot, expected, tolerance, f"tangent of output {o} along {moving}")


def _check_pullbacks(
    rule: Rule,
    case: Case,
    args: list[Any],
    leaves: list[Leaf],
    dots: dict[Leaf, Tensor],
    oracle: Oracle,
    ctx: Context,
    y_bar: list[Tensor | None],
    y_bar_dot: list[Tensor | None],
) -> None:
    tolerance = case.tolerance
    first, first_dot = oracle.adjoint(y_bar), oracle.adjoint(y_bar_dot)
    second = oracle.curvatures(y_bar) if case.second_order else {}
    for asked in subsets(leaves):
        needs = place(args, dict.fromkeys(asked, True), False)
        bars = rule.adjoint(ctx, wrap(ctx.y, y_bar), needs)
        _compare(bars, args, leaves, asked, first, tolerance, "adjoint")
        if not case.second_order:
            continue
        for moving in [[], *subsets(leaves)]:
            moved = place(args, {leaf: dots[leaf] for leaf in moving}, None)
            for bar in (None, y_bar):
                for bar_dot in (None, y_bar_dot):
                    found = rule.adjoint_tangent(
                        ctx,
                        moved,
                        None if bar is None else wrap(ctx.y, bar),
                        None if bar_dot is None else wrap(ctx.y, bar_dot),
                        needs,
                    )
                    expected = {leaf: torch.zeros_like(pick(args, leaf)) for leaf in leaves}
                    for leaf in leaves:
                        if bar_dot is not None:
                            expected[leaf] = expected[leaf] + first_dot[leaf]
                        if bar is not None:
                            expected[leaf] = sum((second[j][leaf] for j in moving), expected[leaf])
                    given = f"y_bar {bar is not None}, y_bar_dot {bar_dot is not None}"
                    what = f"adjoint_tangent (moving {moving}, {given})"
                    _compare(found, args, leaves, asked, expected, tolerance, what)


def _compare(
    bars: Sequence[Any],
    args: list[Any],
    leaves: list[Leaf],
    asked: list[Leaf],
    expected: dict[Leaf, Tensor],
    tolerance: float,
    what: str,
) -> None:
    assert len(bars) == len(args), f"{what}: {len(bars)} entries for {len(args)} arguments"
    for leaf in leaves:
        found = pick(bars, leaf)
        if leaf in asked:
            difference(found, expected[leaf], tolerance, f"{what} of argument {leaf}")


def check_adjointness(rule: Rule, case: Case, seed: int = 5) -> None:
    """<y_bar, J x_dot> = <J^T y_bar, x_dot>, and <u, C v> = <v, C u> for the curvature C of <y_bar, f>."""
    args = case.args(Draw(seed))
    leaves = leaves_of(case, args)
    generator = torch.Generator().manual_seed(seed + 1)
    u, v = ({leaf: random_like(pick(args, leaf), generator) for leaf in leaves} for _ in range(2))
    ctx = run(rule, args)
    y_bar = [None if y is None else random_like(y, generator) for y in outputs_of(case, ctx.y)]
    needs = place(args, dict.fromkeys(leaves, True), False)

    y_dot = rule.tangent(ctx, place(args, u, None))
    y_dots = (
        [None] * len(y_bar) if y_dot is None else list(y_dot) if isinstance(ctx.y, (list, tuple)) else [y_dot]
    )
    bars = rule.adjoint(ctx, wrap(ctx.y, y_bar), needs)
    left = _pairing(y_bar, y_dots)
    right = _pairing([pick(bars, leaf) for leaf in leaves], [u[leaf] for leaf in leaves])
    assert _close(left, right, case.tolerance), (
        f"<y_bar, J x_dot> = {left[0]}, <J^T y_bar, x_dot> = {right[0]}"
    )
    if not case.second_order:
        return
    along_u = rule.adjoint_tangent(ctx, place(args, u, None), wrap(ctx.y, y_bar), None, needs)
    along_v = rule.adjoint_tangent(ctx, place(args, v, None), wrap(ctx.y, y_bar), None, needs)
    left = _pairing([pick(along_u, leaf) for leaf in leaves], [v[leaf] for leaf in leaves])
    right = _pairing([pick(along_v, leaf) for leaf in leaves], [u[leaf] for leaf in leaves])
    assert _close(left, right, case.tolerance), f"<v, C u> = {left[0]}, <u, C v> = {right[0]}"


def _pairing(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> tuple[float, float]:
    """The pairing, and the sum of the magnitudes of its terms: what its rounding is measured by."""
    products = [
        (p * q).double().flatten() for p, q in zip(a, b, strict=True) if p is not None and q is not None
    ]
    terms = torch.cat(products) if products else torch.zeros(1, dtype=torch.float64)
    terms = terms.nan_to_num()
    return terms.sum().item(), terms.abs().sum().item()


def _close(left: tuple[float, float], right: tuple[float, float], tolerance: float) -> bool:
    return abs(left[0] - right[0]) <= tolerance * (left[1] + right[1])


def check_types(rule: Rule, case: Case, dtype: torch.dtype) -> None:
    """Every result has the type and the shape of what it belongs to, in another floating-point type."""
    args = case.args(Draw(0, dtype))
    leaves = leaves_of(case, args)
    generator = torch.Generator().manual_seed(1)
    ctx = run(rule, args)
    dots = place(args, {leaf: random_like(pick(args, leaf), generator) for leaf in leaves}, None)
    needs = place(args, dict.fromkeys(leaves, True), False)
    ys = outputs_of(case, ctx.y)
    y_bar = wrap(ctx.y, [None if y is None else random_like(y, generator) for y in ys])
    y_dot = rule.tangent(ctx, dots)
    y_dots = (
        [None] * len(ys) if y_dot is None else list(y_dot) if isinstance(ctx.y, (list, tuple)) else [y_dot]
    )
    for y, y_dot in zip(ys, y_dots, strict=True):
        assert y_dot is None or (y is not None and y_dot.dtype == y.dtype and y_dot.shape == y.shape), (
            "tangent"
        )
    for bars in (rule.adjoint(ctx, y_bar, needs), rule.adjoint_tangent(ctx, dots, y_bar, y_bar, needs)):
        for leaf in leaves:
            x, x_bar = pick(args, leaf), pick(bars, leaf)
            assert x_bar is None or (x_bar.dtype == x.dtype and x_bar.shape == x.shape), f"adjoint of {leaf}"
