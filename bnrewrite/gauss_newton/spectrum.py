"""The spectrum of the Gauss-Newton matrix through its Gram matrix, which is as large as the output rather than D.

    V = J^T S  (D, M)     G = V diag(signs) V^T     K = V^T V = U diag(l) U^T  (M, M)

With all signs 1 the nonzero eigenvalues of G are those of K. In general V = Q diag(sqrt l) U^T with orthonormal columns
Q = V U diag(1 / sqrt l), and the nonzero eigenvalues of G are those of diag(sqrt l) U^T diag(signs) U diag(sqrt l),
whose eigenvectors W give those of G as Q W = J^T (S U diag(1 / sqrt l) W): one pass back each (F. Dangel, L. Tatzel,
P. Hennig, "ViViT", 2021). Nothing here needs samples that are kept apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InputError
from ..losses import Loss
from ..sources import Model
from .loss_factor import LossFactor, loss_factor
from .pullback import Parts, Pullback, batch_options


@dataclass(frozen=True)
class Spectrum:
    """`values` (r,): nonzero eigenvalues of G in float64, largest magnitude first; all others, up to D, are zero.
    `vectors`: their eigenvectors of length 1 by parameter, (r, *shape), or `None` where they were not asked for."""

    values: Tensor
    vectors: Parts | None = None


def ggn_spectrum(
    model: Model,
    data: tuple[Any, Any],
    *,
    loss: Loss = "cross_entropy",
    bn: Literal["batch", "running"] | None = None,
    wrt: Sequence[str] | str | None = None,
    random: Literal["off", "error"] = "off",
    k: int | None = None,
    vectors: bool = False,
    memory: int = 1 << 31,
    block: int | None = None,
) -> Spectrum:
    """The nonzero eigenvalues of the Gauss-Newton matrix G of a batch, and their eigenvectors where asked for.

    G has rank at most M, the number of columns of the loss's factor: N (C - 1) for cross entropy on (N, C), N C for
    mean squared error. M passes back through the batch give the pulled-back columns V, of M D numbers.

    Parameters
    ----------
    model, loss, bn, wrt, random : as for `bnrewrite.transform`.
    data : `(input, target)`: the batch, rather than an example.
    k : how many eigenvalues, those of largest magnitude; `None` for all that are not zero.
    vectors : whether to compute eigenvectors too, by one pass each.
    memory : bytes that V and the Gram matrix may each take. Where V does not fit, it is made in B pieces, pairwise,
        which takes (B + 1) / 2 times the passes.
    block : how many cotangents are pulled back at a time; by default as many as fit into 256 MB.

    Raises
    ------
    InputError : the loss's Hessian falls into no small blocks, its factor has more than 262,144 columns, or `memory` is
        too little.
    CaptureError, UnsupportedOp : as `transform`, and where the loss reads several tensors of the model.
    """
    if k is not None and (type(k) is not int or k < 1):
        raise InputError(f"k must be None or a whole number of at least 1, not {k!r}.")
    pullback = Pullback(model, data, batch_options(loss, bn, wrt, random))
    factor = loss_factor(pullback)
    used = factor.used
    signs = factor.signs[used[:, 0], used[:, 1]]
    gram = _gram(pullback, factor, memory, block)
    lengths, u = torch.linalg.eigh(gram)
    eps = max(torch.finfo(dtype).eps for dtype in pullback.dtypes.values())
    inside = lengths > len(used) * eps * lengths.max() if len(used) else lengths > 0
    lengths, u = lengths[inside], u[:, inside]
    values, w = lengths, torch.eye(len(lengths), dtype=gram.dtype, device=gram.device)
    if bool((signs < 0).any()):
        root = u * lengths.sqrt()
        values, w = torch.linalg.eigh(root.T @ (signs[:, None] * root))
    order = values.abs().argsort(descending=True)[:k]
    coefficients = (u / lengths.sqrt()) @ w[:, order]
    found = _vectors(pullback, factor, coefficients, block) if vectors else None
    return Spectrum(values[order], found)


def _gram(pullback: Pullback, factor: LossFactor, memory: int, block: int | None) -> Tensor:
    """V^T V (M, M), from V in pieces of which two fit into `memory`, or in one."""
    used, row = factor.used, 8 * pullback.size
    count = len(used)
    if 8 * count**2 > memory or (count * row > memory and 2 * row > memory):
        raise InputError(
            f"the Gram matrix of {count:,} columns takes {8 * count**2:,} bytes and each column, pulled back, {row:,}, "
            f"of which at least two are kept; memory={memory:,} is too little: give more, use a smaller batch, or the "
            "estimators of bnrewrite.runtime."
        )
    size = count if count * row <= memory else memory // (2 * row)
    starts = range(0, count, max(size, 1))
    gram = torch.zeros(count, count, dtype=torch.float64, device=pullback.output.device)
    for i in starts:
        first = _pulled(pullback, factor, used[i : i + size], block)
        gram[i : i + size, i : i + size] = first @ first.T
        for j in range(0, i, size):
            second = _pulled(pullback, factor, used[j : j + size], block)
            gram[i : i + size, j : j + size] = first @ second.T
            gram[j : j + size, i : i + size] = gram[i : i + size, j : j + size].T
    return gram


def _pulled(pullback: Pullback, factor: LossFactor, used: Tensor, block: int | None) -> Tensor:
    """J^T s of the columns `used`, as rows (m, D) in float64."""
    rows = torch.empty(len(used), pullback.size, dtype=torch.float64, device=used.device)
    for numbers, parts in pullback.blocks(lambda i, j: factor.cotangents(used[i:j]), len(used), block):
        rows[numbers.start : numbers.stop] = torch.cat(
            [part.flatten(1).double() for part in parts.values()], dim=1
        )
    return rows


def _vectors(pullback: Pullback, factor: LossFactor, coefficients: Tensor, block: int | None) -> Parts:
    """J^T S c for each column c of `coefficients` (M, r)."""
    used = factor.used
    weights = factor.signs.new_zeros(coefficients.shape[1], *factor.signs.shape)
    weights[:, used[:, 0], used[:, 1]] = coefficients.T
    found: dict[str, list[Tensor]] = {name: [] for name in pullback.shapes}
    for _, parts in pullback.blocks(lambda i, j: factor.combined(weights[i:j]), len(weights), block):
        for name, part in parts.items():
            found[name].append(part)
    return {
        name: torch.cat([coefficients.new_zeros(0, *shape, dtype=pullback.dtypes[name]), *found[name]])
        for name, shape in pullback.shapes.items()
    }
