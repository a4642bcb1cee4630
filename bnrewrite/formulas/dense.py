"""The derivatives of BatchNorm on x (N, D) as dense tensors, for small sizes and for checks.

With the letters of `products` and the Kronecker delta d, in each column

    Jacobian   dz_i/dx_k       = gamma s / N (N d_ik - 1 - x_hat_i x_hat_k)
    Hessian    d2z_i/dx_k dx_m = gamma s^2 / N ( -(d_ik - 1/N) x_hat_m - (d_im - 1/N) x_hat_k - (d_km - 1/N) x_hat_i
                                                 + (3/N) x_hat_i x_hat_k x_hat_m )
    residual   R_km            = sum_i d2z_i/dx_k dx_m delta_z_i

and zero between different columns. `blocks` below are without those zeros, with the column as the last axis.

Source: P. Fischer, "Hessian backpropagation for BatchNorm", section 3 and equation (1).
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple

from ..errors import InputError
from .arrays import Array, check_matrix, library
from .products import ROWS, Letters, check_hessian_z, letters


def jacobian(x: Array, gamma: Array, beta: Array, eps: float) -> Array:
    """dz_ij/dx_kl at [i, j, k, l], (N, D, N, D). Section 3."""
    return _dense(_jacobian_blocks(letters(x, gamma, beta, eps)))


def hessian_blocks(x: Array, gamma: Array, beta: Array, eps: float) -> Array:
    """The entries of the Hessian that are not zero: d2z_ij/dx_kj dx_mj at [i, k, m, j], (N, N, N, D)."""
    at = letters(x, gamma, beta, eps)
    x_hat, d = at.x_hat, _centred_delta(at)
    i, k, m = x_hat[:, None, None], x_hat[None, :, None], x_hat[None, None, :]
    mixed = d[:, :, None] * m + d[:, None, :] * k + d[None, :, :] * i
    blocks: Any = at.k * at.s / at.N * (3 / at.N * i * k * m - mixed)
    return blocks


def hessian(x: Array, gamma: Array, beta: Array, eps: float) -> Array:
    """d2z_ij/dx_kl dx_mn at [i, j, k, l, m, n], (N, D, N, D, N, D): the module Hessian. Section 3."""
    return _dense(hessian_blocks(x, gamma, beta, eps))


def residual(x: Array, gamma: Array, beta: Array, eps: float, delta_z: Array) -> Array:
    """R at [k, l, m, n], (N, D, N, D), for delta_z (N, D): the second term of equation (1)."""
    return _dense(_residual_blocks(letters(x, gamma, beta, eps, delta_z=delta_z), delta_z))


def hessian_backpropagation(
    x: Array, gamma: Array, beta: Array, eps: float, delta_z: Array, hessian_z: Array
) -> Array:
    """d2E/dx_kl dx_mn at [k, l, m, n], (N, D, N, D), for delta_z = dE/dz (N, D), H_z (N, D, N, D). Equation (1)."""
    at = letters(x, gamma, beta, eps, delta_z=delta_z)
    check_hessian_z(hessian_z, x)
    einsum, J = library(x).einsum, _jacobian_blocks(at)
    half = einsum("ikj,ijpn->kjpn", J, hessian_z)
    curvature: Any = einsum("kjpn,pmn->kjmn", half, J) + _dense(_residual_blocks(at, delta_z))
    return curvature


class Extremes(NamedTuple, Generic[Array]):
    """Least and greatest value of <v, R v> over all v of length one, and a v (N, D) for each.

    R v = 0 for a constant v, so least <= 0 <= greatest but for rounding; R is indefinite where neither is zero.
    """

    least: Array
    least_v: Array
    greatest: Array
    greatest_v: Array


def definiteness(
    x: Array, gamma: Array, beta: Array, eps: float, delta_z: Array | tuple[int, int]
) -> Extremes[Array]:
    """The extremes of the quadratic form <v, R v> for delta_z (N, D), or `(i, j)` for the Hessian of z_ij alone.

    From the eigenvalues of R, column by column, in O(N^3 D). docs/seeds/000.md says when R is indefinite.
    """
    one: Any = _unit(x, delta_z) if isinstance(delta_z, tuple) else delta_z
    at = letters(x, gamma, beta, eps, delta_z=one)
    numpy = library(x)
    values, vectors = numpy.linalg.eigh(numpy.moveaxis(_residual_blocks(at, one), -1, 0))

    def extreme(place: int, best: Any) -> tuple[Any, Any]:
        column = int(best(values[:, place]))
        v = _zeros(at.x_hat, at.x_hat.shape)
        v[:, column] = vectors[column, :, place]
        return values[column, place], v

    return Extremes(*extreme(0, numpy.argmin), *extreme(at.N - 1, numpy.argmax))


def _centred_delta(at: Letters) -> Any:
    """d_ik - 1/N, (N, N, 1)."""
    return (library(at.s).eye(at.N, dtype=at.s.dtype, device=at.s.device) - 1 / at.N)[..., None]


def _jacobian_blocks(at: Letters) -> Any:
    """[i, k, j] of the Jacobian, (N, N, D)."""
    return at.k * (_centred_delta(at) - at.x_hat[:, None] * at.x_hat[None, :] / at.N)


def _residual_blocks(at: Letters, delta_z: Any) -> Any:
    """[k, m, j] of the residual, (N, N, D): the Hessian's formula with delta_z summed into it over i."""
    delta_z = delta_z - delta_z.mean(ROWS, keepdims=True)
    q = (at.x_hat * delta_z).sum(ROWS, keepdims=True)
    k, m = at.x_hat[:, None], at.x_hat[None, :]
    mixed = delta_z[:, None] * m + delta_z[None, :] * k + _centred_delta(at) * q
    return at.k * at.s / at.N * (3 / at.N * k * m * q - mixed)


def _dense(blocks: Any) -> Any:
    """(N, ..., N, D) as (N, D, ..., N, D), zero where the columns differ."""
    N, D, order = blocks.shape[0], blocks.shape[-1], blocks.ndim - 1
    dense = _zeros(blocks, (N, D) * order)
    columns = library(blocks).arange(D, device=blocks.device)
    # Index arrays apart from each other: their common axis comes first.
    dense[(slice(None), columns) * order] = library(blocks).moveaxis(blocks, -1, 0)
    return dense


def _zeros(like: Any, shape: Any) -> Any:
    """Zeros of the type of `like`; `new_zeros` works inside torch.func as well."""
    return like.new_zeros(shape) if hasattr(like, "new_zeros") else library(like).zeros(shape, like.dtype)


def _unit(x: Any, place: tuple[int, int]) -> Any:
    """One at z_ij, zero elsewhere."""
    check_matrix("x", x, "(N, D)")
    unit = _zeros(x, x.shape)
    try:
        unit[place] = 1
    except IndexError:
        raise InputError(
            f"delta_z is {place}: as (i, j) it must name one entry of the output, {tuple(x.shape)}."
        ) from None
    return unit
