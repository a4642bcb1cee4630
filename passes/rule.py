"""What differentiation has to know about one operation y = f(args).

    value            y
    tangent          y_dot      = J args_dot
    adjoint          args_bar   = J^T y_bar
    curvature        the part of d/dt (J^T y_bar) that comes from J moving: sum_j  y_bar d2f/(d arg_i d arg_j) arg_j_dot
    adjoint_tangent  args_bar_dot = J^T y_bar_dot + curvature

A rule says the first three and, unless f is linear, the fourth; one that can share work between the two summands of
the last overrides `adjoint_tangent`. `None` is a structural zero wherever a tangent or an adjoint stands.

Rules are objects made of plain torch functions. The driver calls them on traced tensors, the tests on real ones, so
the tested formula is the spliced subgraph. They never write to a tensor in place and never ask for a concrete batch
size: sizes come from `x.shape`, which is symbolic while tracing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .zero import MaybeZero, add, apply, mul

Arguments = Sequence[Any]
"""All arguments of the operation, positional, in schema order (keyword-only ones too), defaults filled in."""

PerArgument = Sequence[Any]
"""One entry an argument: a tensor or `None`; for a list argument, a list of such entries or `None`."""

Needs = Sequence[Any]
"""One entry an argument: whether its adjoint is asked for; for a list argument, a list of such entries."""


class State:
    """Something that a rule keeps between its phases: a plain object whose attributes are tensors, constants, or lists,
    tuples, dicts and further States of them.

    The phases of a rule are traced apart, so tensors have to be found in what is kept: every subclass is a pytree.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        pytree.register_pytree_node(cls, _flatten_state, partial(_unflatten_state, cls))


def _flatten_state(state: State) -> tuple[list[Any], list[str]]:
    names = sorted(vars(state))
    return [vars(state)[name] for name in names], names


def _unflatten_state(cls: type[State], values: Any, names: Any) -> State:
    state = cls.__new__(cls)
    vars(state).update(zip(names, values, strict=True))
    return state


class Context(State):
    """What one call of the operation leaves for its later phases. `args` and `y` are always there."""

    args: tuple[Any, ...]
    y: Any

    def __init__(self, **entries: Any) -> None:
        vars(self).update(entries)

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)[name] = value

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the rule keeps nothing called '{name}'")


class Rule:
    """Base class. `names[i]` is the letter of argument i in quantity names (`x` gives `x_bar`, `x_bar_dot`)."""

    names: tuple[str, ...] = ("x",)

    @property
    def key(self) -> Any:
        """Rules with equal keys do the same."""
        return self

    def value(self, ctx: Context, *args: Any) -> Any:
        """y. May leave more in `ctx` for the other phases."""
        raise NotImplementedError

    def tangent(self, ctx: Context, dots: PerArgument) -> Any:
        """y_dot; at least one entry of `dots` is not zero."""
        raise NotImplementedError

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        """The adjoint of each argument that `needs` asks for, `None` for the others."""
        raise NotImplementedError

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        """Second-order part of the adjoint's tangent; zero for a linear operation."""
        return [None] * len(ctx.args)

    def adjoint_tangent(
        self, ctx: Context, dots: PerArgument, y_bar: Any, y_bar_dot: Any, needs: Needs
    ) -> PerArgument:
        """J^T y_bar_dot + curvature; `y_bar`, `y_bar_dot` and any of `dots` may be zero."""
        zeros: PerArgument = [None] * len(ctx.args)
        first = zeros if is_zero(y_bar_dot) else self.adjoint(ctx, y_bar_dot, needs)
        second = zeros if is_zero(y_bar) or is_zero(dots) else self.curvature(ctx, dots, y_bar, needs)
        return [add_nested(a, b) for a, b in zip(first, second, strict=True)]


def is_zero(entry: Any) -> bool:
    """Whether `entry` (a tensor, `None`, or nested lists of them) is structurally zero throughout."""
    return entry is None or (isinstance(entry, (list, tuple)) and all(is_zero(e) for e in entry))


def add_nested(a: Any, b: Any) -> Any:
    """Sum of two entries of the same structure."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return [add_nested(p, q) for p, q in zip(a, b, strict=True)]
    if isinstance(a, (list, tuple)) or isinstance(b, (list, tuple)):
        return a if b is None else b
    return add(a, b)


def unbroadcast(x_bar: Tensor, shape: Sequence[Any]) -> Tensor:
    """Adjoint of broadcasting to `x_bar.shape` from `shape`: sum over the axes that were stretched."""
    lead = x_bar.dim() - len(shape)
    axes = list(range(lead))
    # Compared as static sizes only: a symbolic size is never 1.
    axes += [
        i + lead
        for i, size in enumerate(shape)
        if isinstance(size, int) and size == 1 and not _static_one(x_bar.shape[i + lead])
    ]
    if not axes:
        return x_bar
    total = x_bar.sum(axes, keepdim=True)
    return total.squeeze(list(range(lead))) if lead else total


def _static_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


class Linear(Rule):
    """y = f(x, *static), linear in its first argument; `transpose(y_bar, x, *static)` is its adjoint.

    `transpose` may use the shape and type of x, never its values.
    """

    def __init__(
        self, f: Callable[..., Any], transpose: Callable[..., Any], names: tuple[str, ...] = ("x",)
    ) -> None:
        self.f, self.transpose, self.names = f, transpose, names

    def value(self, ctx: Context, *args: Any) -> Any:
        return self.f(*args)

    def tangent(self, ctx: Context, dots: PerArgument) -> Any:
        return self.f(dots[0], *ctx.args[1:])

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        return [self.transpose(y_bar, *ctx.args)] + [None] * (len(ctx.args) - 1)


class Bilinear(Rule):
    """y = f(a, b, *static), linear in each of its first two arguments.

    `transpose_a(y_bar, a, b, *static)` may use the values of b and the shape of a; `transpose_b` the other way round.
    """

    def __init__(
        self,
        f: Callable[..., Tensor],
        transpose_a: Callable[..., Tensor],
        transpose_b: Callable[..., Tensor],
        names: tuple[str, ...] = ("a", "b"),
    ) -> None:
        self.f, self.transpose_a, self.transpose_b, self.names = f, transpose_a, transpose_b, names

    def value(self, ctx: Context, *args: Any) -> Tensor:
        return self.f(*args)

    def tangent(self, ctx: Context, dots: PerArgument) -> MaybeZero:
        a, b, *static = ctx.args
        return add(
            apply(lambda a_dot: self.f(a_dot, b, *static), dots[0]),
            apply(lambda b_dot: self.f(a, b_dot, *static), dots[1]),
        )

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        a, b, *static = ctx.args
        a_bar = self.transpose_a(y_bar, a, b, *static) if needs[0] else None
        b_bar = self.transpose_b(y_bar, a, b, *static) if needs[1] else None
        return [a_bar, b_bar] + [None] * len(static)

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        a, b, *static = ctx.args
        a_dot, b_dot = dots[0], dots[1]
        a_bar = self.transpose_a(y_bar, a, b_dot, *static) if needs[0] and b_dot is not None else None
        b_bar = self.transpose_b(y_bar, a_dot, b, *static) if needs[1] and a_dot is not None else None
        return [a_bar, b_bar] + [None] * len(static)


class Pointwise(Rule):
    """y_i = f(x_i): first derivative `first(x, y, *static)`, second `second(x, y, *static)`, `None` where f'' = 0."""

    def __init__(
        self,
        f: Callable[..., Tensor],
        first: Callable[..., Tensor],
        second: Callable[..., Tensor] | None = None,
    ) -> None:
        self.f, self.first, self.second = f, first, second

    def value(self, ctx: Context, *args: Any) -> Tensor:
        return self.f(*args)

    def _first(self, ctx: Context) -> Tensor:
        if not hasattr(ctx, "first"):
            ctx.first = self.first(ctx.args[0], ctx.y, *ctx.args[1:])
        return ctx.first

    def tangent(self, ctx: Context, dots: PerArgument) -> MaybeZero:
        return mul(dots[0], self._first(ctx))

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        return [mul(y_bar, self._first(ctx))] + [None] * (len(ctx.args) - 1)

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        x_bar = None
        if self.second is not None:
            x_bar = mul(self.second(ctx.args[0], ctx.y, *ctx.args[1:]), dots[0], y_bar)
        return [x_bar] + [None] * (len(ctx.args) - 1)


class Masked(Rule):
    """Piecewise-linear f (ReLU and kin): `slope(g, x, y, *static)` is g times f'(x); f'' = 0."""

    def __init__(self, f: Callable[..., Tensor], slope: Callable[..., Tensor]) -> None:
        self.f, self.slope = f, slope

    def value(self, ctx: Context, *args: Any) -> Tensor:
        return self.f(*args)

    def tangent(self, ctx: Context, dots: PerArgument) -> Tensor:
        return self.slope(dots[0], ctx.args[0], ctx.y, *ctx.args[1:])

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        return [self.slope(y_bar, ctx.args[0], ctx.y, *ctx.args[1:])] + [None] * (len(ctx.args) - 1)


def run(rule: Rule, args: Arguments) -> Context:
    """Evaluate `rule` at `args`: a context that holds `args`, `y` and what else the rule keeps."""
    ctx = Context(args=tuple(args))
    ctx.y = rule.value(ctx, *args)
    return ctx


def call(op: torch._ops.OpOverload, args: Arguments) -> Any:
    """`op` at all its arguments, those that are keyword-only by their names."""
    schema = op._schema.arguments
    positional = [value for value, entry in zip(args, schema, strict=True) if not entry.kwarg_only]
    keywords = {entry.name: value for value, entry in zip(args, schema, strict=True) if entry.kwarg_only}
    return op(*positional, **keywords)


RuleTable = dict[torch._ops.OpOverload, Rule]
