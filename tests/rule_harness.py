"""One row per case, four oracles per row: how a rule is checked.

A `Case` names an overload and builds its arguments from a `Draw`; batch sizes are written `d.N`, so that the same row
gives an example at one batch size, another at a second one, and symbolic arguments while tracing.

Oracle: PyTorch's reverse mode twice, in float64, on the plain operation (or on `reference`, where PyTorch has no second
derivative). With w an adjoint of y that is differentiated in turn:

    A_i(w)      = (J^T w)_i                       one backward pass
    J x_dot     = d/dw   <A(w), x_dot>            A is linear in w
    C_ij(w)     = d/dx_i <A_j(w), x_dot_j>        the Hessian of <w, f(x)> is symmetric
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils import _pytree as pytree

from bnrewrite.passes.rule import Context, Rule, run

BATCH = 13
"""A prime that no other size in a case equals: an axis of this length is a batch axis."""

OTHER_BATCH = 7


class Draw:
    """Source of example tensors. While tracing it hands out the traced tensors instead, in the same order."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64, batch: int = BATCH) -> None:
        self.generator, self.dtype, self.batch = torch.Generator().manual_seed(seed), dtype, batch
        self.carrier = torch.zeros(batch)
        """Has the batch size as its length, for arguments that have no batch axis themselves."""
        self.asked_for_batch = False
        self.made: list[Tensor] = []
        self.given: list[Tensor] | None = None

    @property
    def N(self) -> Any:
        """The batch size; symbolic while tracing."""
        self.asked_for_batch = True
        return self.carrier.shape[0]

    def _hand_out(self, make: Callable[[], Tensor]) -> Tensor:
        if self.given is not None:
            self.made.append(self.given[len(self.made)])
        else:
            self.made.append(make())
        return self.made[-1]

    def normal(self, *shape: int, low_gap: float = 0.0) -> Tensor:
        """Standard normal; `low_gap` moves every value that far away from zero."""

        def make() -> Tensor:
            t = torch.randn(shape, generator=self.generator, dtype=torch.float64)
            return (t + low_gap * t.sign()).to(self.dtype)

        return self._hand_out(make)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        def make() -> Tensor:
            t = torch.rand(shape, generator=self.generator, dtype=torch.float64)
            return (low + (high - low) * t).to(self.dtype)

        return self._hand_out(make)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return self._hand_out(lambda: torch.randint(low, high, shape, generator=self.generator))

    def coin(self, *shape: int) -> Tensor:
        return self._hand_out(lambda: torch.rand(shape, generator=self.generator) < 0.5)

    def values(self, data: Any, dtype: torch.dtype | None = None) -> Tensor:
        """Exactly these numbers (kinks, ties, indices)."""
        return self._hand_out(lambda: torch.tensor(data, dtype=dtype or self.dtype))

    def distinct(self, *shape: int) -> Tensor:
        """No two elements closer than 0.01: the choice of a maximum is not a matter of rounding."""

        def make() -> Tensor:
            count = torch.Size(shape).numel()
            order = torch.randperm(count, generator=self.generator).to(torch.float64)
            return (0.01 * (order - count / 2) + 0.003).reshape(shape).to(self.dtype)

        return self._hand_out(make)


Arguments = Callable[[Draw], list[Any]]


@dataclass(frozen=True)
class Case:
    """One row: an overload at one kind of arguments.

    `args(d)`: all arguments in schema order, keyword-only ones too, as the driver passes them.
    `constant`: positions of floating-point arguments that no rule differentiates (class weights, running statistics).
    `reference`: the operation from primitives, same arguments, where PyTorch has no second derivative of its own.
    `outputs`: which of several outputs carry derivatives; the others must not be asked for.
    `traced`: False where another row is traced to the same operations (tracing takes most of the time).
    `second_order`: False at a kink where PyTorch's second reverse pass disagrees with its first (0 times
    infinity, other conventions): value and adjoint are compared, the tangent follows from the adjointness test.
    """

    op: torch._ops.OpOverload
    args: Arguments
    note: str = ""
    constant: tuple[int, ...] = ()
    reference: Callable[..., Any] | None = None
    second_order: bool = True
    tolerance: float = 1e-12
    outputs: tuple[int, ...] | None = None
    traced: bool = True

    @property
    def name(self) -> str:
        return f"{self.op.__name__}{'-' + self.note if self.note else ''}".replace(" ", "_")


def call(op: torch._ops.OpOverload, args: Sequence[Any]) -> Any:
    """`op` with its arguments in schema order."""
    schema = op._schema.arguments
    positional = [a for s, a in zip(schema, args, strict=True) if not s.kwarg_only]
    return op(*positional, **{s.name: a for s, a in zip(schema, args, strict=True) if s.kwarg_only})


# Leaves: floating-point tensors among the arguments, by position; a list argument has one leaf an entry.

Leaf = tuple[int, int | None]


def leaves_of(case: Case, args: Sequence[Any]) -> list[Leaf]:
    found: list[Leaf] = []
    for i, arg in enumerate(args):
        if i in case.constant:
            continue
        if isinstance(arg, Tensor) and arg.is_floating_point():
            found.append((i, None))
        elif isinstance(arg, (list, tuple)):
            found += [(i, k) for k, e in enumerate(arg) if isinstance(e, Tensor) and e.is_floating_point()]
    return found


def pick(entries: Sequence[Any], leaf: Leaf) -> Any:
    i, k = leaf
    if k is None:
        return entries[i]
    return None if entries[i] is None else entries[i][k]


def place(args: Sequence[Any], values: dict[Leaf, Any], missing: Any) -> list[Any]:
    """One entry an argument, with `values` at their leaves: the form of dots and of needs."""
    result: list[Any] = []
    for i, arg in enumerate(args):
        if isinstance(arg, (list, tuple)) and any(isinstance(e, Tensor) for e in arg):
            result.append([values.get((i, k), missing) for k in range(len(arg))])
        else:
            result.append(values.get((i, None), missing))
    return result


def outputs_of(case: Case, y: Any) -> list[Tensor | None]:
    """Outputs that carry derivatives; `None` stands for the others."""
    ys = list(y) if isinstance(y, (list, tuple)) else [y]
    active = range(len(ys)) if case.outputs is None else case.outputs
    return [t if t.is_floating_point() and o in active else None for o, t in enumerate(ys)]


def wrap(y: Any, bars: list[Tensor | None]) -> Any:
    """Adjoints in the form of y; all of them zero is a plain `None`."""
    if all(b is None for b in bars):
        return None
    return list(bars) if isinstance(y, (list, tuple)) else bars[0]


class Oracle:
    """A_i, J and C_ij of one case at one point, for one choice of x_dot, y_bar and y_bar_dot."""

    def __init__(self, case: Case, args: list[Any], leaves: list[Leaf], dots: dict[Leaf, Tensor]) -> None:
        self.leaves, self.dots = leaves, dots
        self.x = {leaf: pick(args, leaf).detach().clone().requires_grad_() for leaf in leaves}
        full = [list(a) if isinstance(a, (list, tuple)) else a for a in args]
        for (i, k), x in self.x.items():
            if k is None:
                full[i] = x
            else:
                full[i][k] = x
        y = case.reference(*full) if case.reference is not None else call(case.op, full)
        self.y = outputs_of(case, y)

    def adjoint(self, bars: list[Tensor | None], create_graph: bool = False) -> dict[Leaf, Tensor]:
        pairs = [
            (y, b)
            for y, b in zip(self.y, bars, strict=True)
            if y is not None and b is not None and y.requires_grad
        ]
        found: Sequence[Tensor | None] = [None] * len(self.leaves)
        if pairs:
            found = torch.autograd.grad(
                [y for y, _ in pairs],
                list(self.x.values()),
                [b for _, b in pairs],
                create_graph=create_graph,
                retain_graph=True,
                allow_unused=True,
            )
        return {
            l: torch.zeros_like(x) if g is None else g
            for (l, x), g in zip(self.x.items(), found, strict=True)
        }

    def tangents(self) -> dict[Leaf, list[Tensor | None]]:
        """J_j x_dot_j of every output, one entry a leaf j."""
        w = [None if y is None else torch.zeros_like(y).requires_grad_() for y in self.y]
        bars = self.adjoint(w, create_graph=True)
        wanted = [t for t in w if t is not None]
        result = {}
        for leaf in self.leaves:
            pairing = (bars[leaf] * self.dots[leaf]).sum()
            found: Sequence[Tensor | None] = [None] * len(wanted)
            if pairing.requires_grad:
                found = torch.autograd.grad(pairing, wanted, retain_graph=True, allow_unused=True)
            numbers = iter(found)
            result[leaf] = [None if t is None else _filled(next(numbers), t) for t in w]
        return result

    def curvatures(self, bars: list[Tensor | None]) -> dict[Leaf, dict[Leaf, Tensor]]:
        """C_ij of sum over outputs, indexed [j][i]."""
        adjoints = self.adjoint(bars, create_graph=True)
        result = {}
        for j in self.leaves:
            pairing = (adjoints[j] * self.dots[j]).sum()
            found: Sequence[Tensor | None] = [None] * len(self.leaves)
            if pairing.requires_grad:
                found = torch.autograd.grad(
                    pairing, list(self.x.values()), retain_graph=True, allow_unused=True
                )
            result[j] = {i: _filled(g, x) for (i, x), g in zip(self.x.items(), found, strict=True)}
        return result


def _filled(t: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if t is None else t.detach()


def difference(found: Tensor | None, expected: Tensor, tolerance: float, what: str) -> None:
    """Raise unless `found` (`None` = zero) is `expected`, relative to the largest element of `expected`."""
    if found is None:
        assert not expected.any(), (
            f"{what}: structurally zero, but the oracle is not ({expected.abs().max():.2e})"
        )
        return
    assert found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    assert found.dtype == expected.dtype, f"{what}: {found.dtype}, not {expected.dtype}"
    if expected.numel() == 0 or not expected.is_floating_point():
        assert torch.equal(found, expected), f"{what}: other values"
        return
    assert torch.equal(found.isnan(), expected.isnan()), f"{what}: NaN in other places"
    found, expected = found.nan_to_num(), expected.nan_to_num()
    # An oracle of exact zeros is met to a rounding of numbers of order one.
    scale = expected.abs().max().item() or 1e-2
    error = (found - expected).abs().max().item() / scale
    assert error <= tolerance, f"{what}: relative error {error:.2e}"


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


# Tracing ----------------------------------------------------------------------------------------------------------


def all_phases(rule: Rule, case: Case, carrier: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Every result of the rule at the case's arguments, from `tensors`, with directions that are functions of them."""
    d = Draw()
    d.carrier, d.given = carrier, tensors
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


def check_tracing(rule: Rule, case: Case) -> None:
    """Traced once at a symbolic batch, the graph gives the eager results at another batch size."""
    example, other = Draw(0), Draw(1, batch=OTHER_BATCH)
    case.args(example)
    case.args(other)
    fakes = [symbolic(t) for t in (example.carrier, *example.made)]
    with symbolic_mode(), enable_python_dispatcher(), torch.no_grad():
        traced = make_fx(lambda carrier, *tensors: all_phases(rule, case, carrier, list(tensors)))(*fakes)
    fixed = symbolic_mode().shape_env.replacements
    assert not fixed, f"the batch size was fixed, here or in a case before this one: {fixed}"
    found, expected = traced(other.carrier, *other.made), all_phases(rule, case, other.carrier, other.made)
    for a, b in zip(found, expected, strict=True):
        difference(a, b, 1e-12, "traced graph at another batch size")
