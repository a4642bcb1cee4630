"""The diagonal of the Gauss-Newton matrix, exactly or by Monte Carlo.

    H_L = S diag(signs) S^T        diag G = sum over the columns s of S:  sign (J^T s)^2

Each column is pulled back through the whole batch, so this holds with BatchNorm: the trick of DiagGGNExact that pulls
back the columns of all samples at once needs samples that are kept apart (F. Dangel, "Structural implications of batch
normalization", 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch

from ..errors import InputError
from ..losses import Loss
from ..sources import Model
from .loss_factor import loss_factor
from .pullback import Parts, Pullback, batch_options
from .sampling import sampler


@overload
def ggn_diagonal(
    model: Model, data: tuple[Any, Any], *, loss: Loss = ..., bn: Literal["batch", "running"] | None = ...,
    wrt: Sequence[str] | str | None = ..., random: Literal["off", "error"] = ..., samples: None = ...,
    seed: int = ..., block: int | None = ...,
) -> Parts: ...  # fmt: skip
@overload
def ggn_diagonal(
    model: Model, data: tuple[Any, Any], *, loss: Loss = ..., bn: Literal["batch", "running"] | None = ...,
    wrt: Sequence[str] | str | None = ..., random: Literal["off", "error"] = ..., samples: int,
    seed: int = ..., block: int | None = ...,
) -> tuple[Parts, Parts]: ...  # fmt: skip
def ggn_diagonal(
    model: Model,
    data: tuple[Any, Any],
    *,
    loss: Loss = "cross_entropy",
    bn: Literal["batch", "running"] | None = None,
    wrt: Sequence[str] | str | None = None,
    random: Literal["off", "error"] = "off",
    samples: int | None = None,
    seed: int = 0,
    block: int | None = None,
) -> Parts | tuple[Parts, Parts]:
    """The diagonal of the Gauss-Newton matrix G of a batch, by parameter, in the parameters' shapes.

    Exactly, it takes one pass back through the batch for every column of the loss's factor: N (C - 1) for cross
    entropy on (N, C), and N C for mean squared error. A loss whose Hessian has negative eigenvalues is served too:
    their columns count negatively.

    Parameters
    ----------
    model, loss, bn, wrt, random : as for `bnrewrite.transform`.
    data : `(input, target)`: the batch, rather than an example.
    samples : `None` for the exact diagonal; M for the mean of M unbiased random estimates of one pass each, as a pair
        `(diagonal, standard_error)`, the error being that of each entry. Targets are drawn from the model's own
        predictions (cross entropy, BCE, MSE), random signs for other losses.
    seed : of the samples.
    block : how many cotangents are pulled back at a time; by default as many as fit into 256 MB.

    Raises
    ------
    InputError : the loss's Hessian falls into no small blocks, or its factor has more than 262,144 columns.
    CaptureError, UnsupportedOp : as `transform`, and where the loss reads several tensors of the model.
    """
    if samples is not None and (type(samples) is not int or samples < 2):
        raise InputError(f"samples must be None or a whole number of at least 2, not {samples!r}.")
    pullback = Pullback(model, data, batch_options(loss, bn, wrt, random))
    if samples is None:
        return _exact(pullback, block)
    return _estimated(pullback, samples, seed, block)


def _exact(pullback: Pullback, block: int | None) -> Parts:
    factor = loss_factor(pullback)
    used = factor.used
    signs = factor.signs[used[:, 0], used[:, 1]]
    total = _zeros(pullback)
    for numbers, parts in pullback.blocks(lambda i, j: factor.cotangents(used[i:j]), len(used), block):
        sign = signs[numbers.start : numbers.stop]
        for name, part in parts.items():
            total[name] += torch.tensordot(sign, part.double().square(), dims=1)
    return {name: part.to(pullback.dtypes[name]) for name, part in total.items()}


def _estimated(pullback: Pullback, samples: int, seed: int, block: int | None) -> tuple[Parts, Parts]:
    draw = sampler(pullback, seed)
    first, second = _zeros(pullback), _zeros(pullback)
    for _, parts in pullback.blocks(lambda i, j: draw(j - i), samples, block):
        for name, part in parts.items():
            squares = part.double().square()
            first[name] += squares.sum(0)
            second[name] += squares.square().sum(0)
    values = {name: part / samples for name, part in first.items()}
    errors = {
        name: ((second[name] / samples - mean.square()).clamp(min=0) / (samples - 1)).sqrt()
        for name, mean in values.items()
    }
    return tuple(
        {name: part.to(pullback.dtypes[name]) for name, part in parts.items()} for parts in (values, errors)
    )  # type: ignore[return-value]


def _zeros(pullback: Pullback) -> Parts:
    device = pullback.output.device
    return {
        name: torch.zeros(shape, dtype=torch.float64, device=device)
        for name, shape in pullback.shapes.items()
    }
