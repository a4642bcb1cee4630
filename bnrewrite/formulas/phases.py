r"""BatchNorm: value, tangent, adjoint and tangent of the adjoint in closed form.

Per channel, `sum` and `mean` over its M elements (all axes but the channel axis), derivation in docs/derivation.md:

    mu = mean(x)     var = mean((x - mu)^2)     s = (var + eps)^(-1/2)     x_hat = (x - mu) s     k = gamma s
    y  = gamma x_hat + beta

    m = mean(x_dot)      a = mean(x_hat x_dot)      k_dot = s (gamma_dot - a k)
    y_dot = k x_dot + (gamma_dot - k a) x_hat + (beta_dot - k m)

    p = sum(y_bar)       q = sum(x_hat y_bar)
    x_bar = k y_bar - (k q / M) x_hat - k p / M         gamma_bar = q         beta_bar = p

    p_dot = sum(y_bar_dot)
    q_dot = sum(x_hat y_bar_dot) + s (sum(x_dot y_bar) - m p - a q)
    x_bar_dot = k y_bar_dot + k_dot y_bar - (k s q / M) x_dot
              + ((k s a q - k_dot q - k q_dot) / M) x_hat + (k s m q - k_dot p - k p_dot) / M

The functions below take broadcastable arrays (per-channel letters have size 1 on the reduced axes), torch tensors or
NumPy arrays, and `None` for structural zeros. They check nothing. The rule of BatchNorm splices them into graphs,
LayerNorm and its relatives use them with another set of axes, and `bnrewrite.formulas` hands them out with checks.

Source: S. Ioffe and C. Szegedy, arXiv:1502.03167 (forward, first order); P. Fischer, "Hessian backpropagation for
BatchNorm" (module Hessian and residual, input only); the gamma and beta cross terms are derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..passes.zero import add, mul, sub

Letter = Any
"""A torch tensor or a NumPy array."""

MaybeZero = Any
"""A letter, or `None` for a structural zero."""

Axes = Sequence[int]
"""The axes of the M elements; NumPy asks for a tuple."""


def total(x: MaybeZero, axes: Axes) -> MaybeZero:
    """The sum of `x` over `axes`, which stay with size 1."""
    return None if x is None else x.sum(axes, keepdims=True)


def _over(x: MaybeZero, count: Any) -> MaybeZero:
    return None if x is None else x / count


def standardize(x: Letter, eps: float, axes: Axes) -> tuple[Letter, Letter]:
    """x_hat and s of `x` over `axes`."""
    x_centred = x - x.mean(axes, keepdims=True)
    var_eps = (x_centred * x_centred).mean(axes, keepdims=True) + eps
    s = 1 / np.sqrt(var_eps) if isinstance(x, np.ndarray) else var_eps.rsqrt()
    return x_centred * s, s


class Tangent(NamedTuple):
    """y_dot and the per-channel letters that the second-order step uses again."""

    y_dot: MaybeZero
    m: MaybeZero
    a: MaybeZero
    k_dot: MaybeZero


def tangent(
    x_hat: Letter,
    s: Letter,
    k: Letter,
    x_dot: MaybeZero,
    gamma_dot: MaybeZero,
    beta_dot: MaybeZero,
    axes: Axes,
    count: Any,
) -> Tangent:
    """Tangent with batch statistics along (x_dot, gamma_dot, beta_dot); `count` is M."""
    m = a = None
    if x_dot is not None:
        m = x_dot.sum(axes, keepdims=True) / count
        a = (x_hat * x_dot).sum(axes, keepdims=True) / count
    k_dot = sub(mul(s, gamma_dot), mul(s, k, a))
    x_hat_coefficient = sub(gamma_dot, mul(k, a))
    offset = sub(beta_dot, mul(k, m))
    y_dot = add(mul(k, x_dot), mul(x_hat_coefficient, x_hat), offset)
    return Tangent(y_dot, m, a, k_dot)


class Adjoint(NamedTuple):
    """x_bar (`None` where it was not asked for), and q = gamma_bar, p = beta_bar, both per channel."""

    x_bar: MaybeZero
    q: Letter
    p: Letter


def adjoint(x_hat: Letter, k: Letter, y_bar: Letter, axes: Axes, count: Any, need_x: bool = True) -> Adjoint:
    """Adjoint with batch statistics; `count` is M."""
    p = y_bar.sum(axes, keepdims=True)
    q = (x_hat * y_bar).sum(axes, keepdims=True)
    if not need_x:
        return Adjoint(None, q, p)
    x_bar = k * y_bar - (k * q / count) * x_hat - k * p / count
    return Adjoint(x_bar, q, p)


def adjoint_tangent(
    x_hat: Letter,
    s: Letter,
    k: Letter,
    x_dot: MaybeZero,
    m: MaybeZero,
    a: MaybeZero,
    k_dot: MaybeZero,
    y_bar: MaybeZero,
    q: MaybeZero,
    p: MaybeZero,
    y_bar_dot: MaybeZero,
    axes: Axes,
    count: Any,
    need_x: bool = True,
) -> tuple[MaybeZero, MaybeZero, MaybeZero]:
    """(x_bar_dot, q_dot = gamma_bar_dot, p_dot = beta_bar_dot) with batch statistics."""
    p_dot = total(y_bar_dot, axes)
    q_dot = total(mul(x_hat, y_bar_dot), axes)
    ksq = None
    if x_dot is not None and y_bar is not None:
        q_dot = add(q_dot, s * ((x_dot * y_bar).sum(axes, keepdims=True) - m * p - a * q))
        ksq = k * s * q
    if not need_x:
        return None, q_dot, p_dot
    x_hat_coefficient = sub(add(mul(k_dot, q), mul(k, q_dot)), mul(ksq, a))
    offset = sub(add(mul(k_dot, p), mul(k, p_dot)), mul(ksq, m))
    x_bar_dot = sub(
        add(mul(k, y_bar_dot), mul(k_dot, y_bar)),
        mul(_over(ksq, count), x_dot),
        mul(_over(x_hat_coefficient, count), x_hat),
        _over(offset, count),
    )
    return x_bar_dot, q_dot, p_dot
