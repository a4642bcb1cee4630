"""z = x standardized over groups of M elements (`axes`), to second order.

With a mean it is BatchNorm's own closed form with k = s. Without one (RMSNorm), over each group:

    s = (mean(x^2) + eps)^(-1/2)     z = s x     a = mean(z x_dot)     s_dot = -s^2 a     z_dot = s (x_dot - a z)
    q = sum(z z_bar)                 x_bar = s (z_bar - z q / M)
    q_dot = sum(z z_bar_dot + z_dot z_bar)
    x_bar_dot = s (z_bar_dot - z q_dot / M) + s_dot (z_bar - z q / M) - s z_dot q / M
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..formulas import phases
from ..passes.zero import MaybeZero, add


def _size(x: Tensor, axes: list[int]) -> Any:
    """The number of elements of a group, M."""
    return math.prod(x.shape[axis] for axis in axes)


class Centred:
    """Standardization with a mean: BatchNorm's closed form with k = s."""

    @staticmethod
    def standardize(x: Tensor, eps: float, axes: list[int]) -> tuple[Tensor, Tensor]:
        return phases.standardize(x, eps, axes)

    @staticmethod
    def tangent(z: Tensor, s: Tensor, x_dot: Tensor, axes: list[int]) -> MaybeZero:
        return phases.tangent(z, s, s, x_dot, None, None, axes, _size(z, axes)).y_dot

    @staticmethod
    def adjoint(z: Tensor, s: Tensor, z_bar: Tensor, axes: list[int], M: Any) -> MaybeZero:
        return phases.adjoint(z, s, z_bar, axes, M).x_bar

    @staticmethod
    def adjoint_tangent(
        z: Tensor,
        s: Tensor,
        x_dot: MaybeZero,
        z_bar: MaybeZero,
        z_bar_dot: MaybeZero,
        axes: list[int],
        M: Any,
    ) -> MaybeZero:
        m = a = k_dot = q = p = None
        if x_dot is not None:
            _, m, a, k_dot = phases.tangent(z, s, s, x_dot, None, None, axes, M)
        if z_bar is not None:
            _, q, p = phases.adjoint(z, s, z_bar, axes, M, need_x=False)
        return phases.adjoint_tangent(z, s, s, x_dot, m, a, k_dot, z_bar, q, p, z_bar_dot, axes, M)[0]


class Uncentred:
    """Standardization by the root of the mean square."""

    @staticmethod
    def standardize(x: Tensor, eps: float, axes: list[int]) -> tuple[Tensor, Tensor]:
        s = ((x * x).mean(axes, keepdim=True) + eps).rsqrt()
        return x * s, s

    @staticmethod
    def tangent(z: Tensor, s: Tensor, x_dot: Tensor, axes: list[int]) -> Tensor:
        a = (z * x_dot).mean(axes, keepdim=True)
        return s * (x_dot - a * z)

    @staticmethod
    def adjoint(z: Tensor, s: Tensor, z_bar: Tensor, axes: list[int], M: Any) -> Tensor:
        q = (z * z_bar).sum(axes, keepdim=True)
        return s * (z_bar - z * (q / M))

    @staticmethod
    def adjoint_tangent(
        z: Tensor,
        s: Tensor,
        x_dot: MaybeZero,
        z_bar: MaybeZero,
        z_bar_dot: MaybeZero,
        axes: list[int],
        M: Any,
    ) -> MaybeZero:
        x_bar_dot = None if z_bar_dot is None else Uncentred.adjoint(z, s, z_bar_dot, axes, M)
        if x_dot is None or z_bar is None:
            return x_bar_dot
        z_dot = Uncentred.tangent(z, s, x_dot, axes)
        s_dot = -s * s * (z * x_dot).mean(axes, keepdim=True)
        q = (z * z_bar).sum(axes, keepdim=True)
        q_dot = (z_dot * z_bar).sum(axes, keepdim=True)
        moved = s_dot * (z_bar - z * (q / M)) - s * (z * q_dot + z_dot * q) / M
        return add(x_bar_dot, moved)
