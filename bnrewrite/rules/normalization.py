"""LayerNorm, GroupNorm, InstanceNorm and RMSNorm: one closed form over other groups of elements than BatchNorm's.

    z = x standardized over each group of M elements      y = gamma z + beta, gamma and beta broadcast

The affine part is separate, because its axes are not those of a group:

    y_dot = gamma z_dot + gamma_dot z + beta_dot
    z_bar = gamma y_bar                    gamma_bar = S(z y_bar)                     beta_bar = S(y_bar)
    z_bar_dot = gamma y_bar_dot + gamma_dot y_bar
    gamma_bar_dot = S(z y_bar_dot + z_dot y_bar)            beta_bar_dot = S(y_bar_dot)

with S the sum over the axes along which gamma was stretched, and z's derivatives from `standardization`.

Sources: J. Ba, J. Kiros, G. Hinton, arXiv:1607.06450 (LayerNorm); Y. Wu, K. He, arXiv:1803.08494 (GroupNorm);
D. Ulyanov, A. Vedaldi, V. Lempitsky, arXiv:1607.08022 (InstanceNorm); B. Zhang, R. Sennrich, arXiv:1910.07467
(RMSNorm). The second order is derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..passes.rule import Context, Needs, PerArgument, Rule, RuleTable, State, unbroadcast
from ..passes.zero import MaybeZero, add, mul
from .batch_norm import BatchNorm, working_type
from .batch_norm import cast as cast_if_there
from .elementwise import Choice, FirstOutput
from .standardization import Centred, Uncentred

aten = torch.ops.aten


def cast(t: MaybeZero, dtype: torch.dtype) -> Any:
    """`t` in `dtype`; a structural zero stays one."""
    return cast_if_there(t, dtype)


class Layout(State):
    """Where the groups of one call are: x as `shape`, standardized over `axes`; gamma and beta of shape `affine`."""

    def __init__(
        self,
        shape: Sequence[Any],
        axes: list[int],
        affine: Sequence[Any],
        eps: float,
        gamma: int,
        beta: int | None,
    ) -> None:
        self.shape, self.axes, self.affine, self.eps = list(shape), axes, list(affine), eps
        self.gamma, self.beta = gamma, beta
        """Positions of the parameters among the arguments."""

    @property
    def M(self) -> Any:
        return math.prod(self.shape[axis] for axis in self.axes)


class Normalization(Rule):
    """`layout(*args)` says which groups; `core` standardizes them."""

    def __init__(
        self, layout: Callable[..., Layout], core: type[Centred] | type[Uncentred], names: tuple[str, ...]
    ) -> None:
        self.layout, self.core, self.names = layout, core, names

    def value(self, ctx: Context, *args: Any) -> Tensor:
        x = args[0]
        ctx.layout, ctx.dtype = self.layout(*args), working_type(x)
        z, ctx.s = self.core.standardize(self._grouped(ctx, x), ctx.layout.eps, ctx.layout.axes)
        ctx.z = z.reshape(x.shape)
        y = add(mul(*self._scaled(ctx, ctx.z, args)), self._parameter(ctx, args, ctx.layout.beta))
        return cast(y, x.dtype)

    def _grouped(self, ctx: Context, t: MaybeZero) -> Any:
        return None if t is None else cast(t, ctx.dtype).reshape(ctx.layout.shape)

    def _parameter(self, ctx: Context, entries: Sequence[Any], position: int | None) -> MaybeZero:
        """gamma, beta or the tangent of one, so that it broadcasts against x."""
        t = None if position is None else entries[position]
        return None if t is None else cast(t, ctx.dtype).reshape(ctx.layout.affine)

    def _scaled(self, ctx: Context, t: MaybeZero, args: Sequence[Any]) -> list[MaybeZero]:
        """The factors of gamma t; gamma may be absent."""
        gamma = self._parameter(ctx, args, ctx.layout.gamma)
        return [t] if gamma is None else [gamma, t]

    def _z_dot(self, ctx: Context, x_dot: MaybeZero) -> MaybeZero:
        if x_dot is None:
            return None
        z_dot = self.core.tangent(
            self._grouped(ctx, ctx.z), ctx.s, self._grouped(ctx, x_dot), ctx.layout.axes
        )
        return None if z_dot is None else z_dot.reshape(ctx.z.shape)

    def tangent(self, ctx: Context, dots: PerArgument) -> MaybeZero:
        gamma_dot = self._parameter(ctx, dots, ctx.layout.gamma)
        beta_dot = self._parameter(ctx, dots, ctx.layout.beta)
        z_dot = self._z_dot(ctx, dots[0])
        y_dot = add(mul(*self._scaled(ctx, z_dot, ctx.args)), mul(gamma_dot, ctx.z), beta_dot)
        if y_dot is beta_dot and y_dot is not None:
            y_dot = y_dot.expand(ctx.z.shape)
        return cast(y_dot, ctx.args[0].dtype)

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        return self.adjoint_tangent(ctx, [None] * len(ctx.args), None, y_bar, needs)

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        return self.adjoint_tangent(ctx, dots, y_bar, None, needs)

    def adjoint_tangent(
        self, ctx: Context, dots: PerArgument, y_bar: Any, y_bar_dot: Any, needs: Needs
    ) -> PerArgument:
        layout, x_dot = ctx.layout, dots[0]
        y_bar, y_bar_dot = cast(y_bar, ctx.dtype), cast(y_bar_dot, ctx.dtype)
        bars: list[Any] = [None] * len(ctx.args)
        if needs[0]:
            gamma_dot = self._parameter(ctx, dots, layout.gamma)
            z_bar = mul(*self._scaled(ctx, y_bar, ctx.args))
            z_bar_dot = add(mul(*self._scaled(ctx, y_bar_dot, ctx.args)), mul(gamma_dot, y_bar))
            groups = (self._grouped(ctx, t) for t in (x_dot, z_bar, z_bar_dot))
            x_bar_dot = self._core_adjoint_tangent(ctx, *groups)
            bars[0] = None if x_bar_dot is None else cast(x_bar_dot.reshape(ctx.z.shape), ctx.args[0].dtype)
        if needs[layout.gamma]:
            z_dot = None if y_bar is None else self._z_dot(ctx, x_dot)
            bars[layout.gamma] = self._collect(
                ctx, layout.gamma, add(mul(ctx.z, y_bar_dot), mul(z_dot, y_bar))
            )
        if layout.beta is not None and needs[layout.beta]:
            bars[layout.beta] = self._collect(ctx, layout.beta, y_bar_dot)
        return bars

    def _core_adjoint_tangent(
        self, ctx: Context, x_dot: MaybeZero, z_bar: MaybeZero, z_bar_dot: MaybeZero
    ) -> MaybeZero:
        z, s, axes, M = self._grouped(ctx, ctx.z), ctx.s, ctx.layout.axes, ctx.layout.M
        if x_dot is None or z_bar is None:
            return None if z_bar_dot is None else self.core.adjoint(z, s, z_bar_dot, axes, M)
        return self.core.adjoint_tangent(z, s, x_dot, z_bar, z_bar_dot, axes, M)

    def _collect(self, ctx: Context, position: int, terms: MaybeZero) -> MaybeZero:
        """S: the sum over the axes along which the parameter was stretched, in the parameter's own shape and type."""
        if terms is None:
            return None
        parameter = ctx.args[position]
        return unbroadcast(terms, ctx.layout.affine).reshape(parameter.shape).to(parameter.dtype)


# Layouts


def last_axes(x: Tensor, normalized_shape: Sequence[Any]) -> list[int]:
    return list(range(x.dim() - len(normalized_shape), x.dim()))


def layer_layout(
    x: Tensor, normalized_shape: Sequence[Any], gamma: Any, beta: Any, eps: float, *_: Any
) -> Layout:
    return Layout(x.shape, last_axes(x, normalized_shape), normalized_shape, eps, 2, 3)


def rms_layout(x: Tensor, normalized_shape: Sequence[Any], gamma: Any, eps: float | None) -> Layout:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return Layout(x.shape, last_axes(x, normalized_shape), normalized_shape, eps, 2, None)


def per_channel(x: Tensor) -> list[Any]:
    return [1, x.shape[1]] + [1] * (x.dim() - 2)


def groups_of(x: Tensor, groups: int) -> list[Any]:
    return [x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]]


def group_layout(x: Tensor, groups: int, gamma: Any, beta: Any, eps: float, *_: Any) -> Layout:
    shape = groups_of(x, groups)
    return Layout(shape, list(range(2, len(shape))), per_channel(x), eps, 2, 3)


def native_group_layout(
    x: Tensor, gamma: Any, beta: Any, N: Any, C: Any, HxW: Any, groups: int, eps: float
) -> Layout:
    shape = groups_of(x, groups)
    return Layout(shape, list(range(2, len(shape))), per_channel(x), eps, 1, 2)


def instance_layout(
    x: Tensor,
    gamma: Any,
    beta: Any,
    running_mean: Any,
    running_var: Any,
    own: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Layout:
    return Layout(x.shape, list(range(2, x.dim())), per_channel(x), eps, 1, 2)


LAYER = Normalization(layer_layout, Centred, ("x", "", "gamma", "beta"))
GROUP = Normalization(group_layout, Centred, ("x", "", "gamma", "beta"))
NATIVE_GROUP = Normalization(native_group_layout, Centred, ("x", "gamma", "beta"))
INSTANCE = Normalization(instance_layout, Centred, ("x", "gamma", "beta"))
RMS = Normalization(rms_layout, Uncentred, ("x", "", "gamma"))
RUNNING = BatchNorm()


def use_input_statistics(*args: Any) -> Rule:
    """With running statistics InstanceNorm is BatchNorm with running statistics, argument for argument."""
    return INSTANCE if args[5] else RUNNING


def statistics(ctx: Context, *args: Any) -> tuple[Tensor, ...]:
    """Mean and s of each group, as the native operations return them beside y."""
    layout = ctx.layout
    x = cast(args[0], ctx.dtype).reshape(layout.shape)
    return x.mean(layout.axes, keepdim=True), ctx.s


def group_statistics(ctx: Context, *args: Any) -> tuple[Tensor, ...]:
    return tuple(t.reshape(ctx.layout.shape[:2]) for t in statistics(ctx, *args))


REFUSAL = (
    "the model computes further with the statistics that a normalization returns beside its result: "
    "compute them with mean() and var() instead."
)

RULES: RuleTable = {
    aten.layer_norm.default: LAYER,
    aten.native_layer_norm.default: FirstOutput(LAYER, statistics, REFUSAL),
    aten.group_norm.default: GROUP,
    aten.native_group_norm.default: FirstOutput(NATIVE_GROUP, group_statistics, REFUSAL),
    aten.instance_norm.default: Choice(use_input_statistics, ("x", "gamma", "beta")),
    aten.rms_norm.default: RMS,
    aten._fused_rms_norm.default: FirstOutput(RMS, lambda ctx, *args: (ctx.s,), REFUSAL),
}
