"""Gradients of single components of the output, and, where samples are kept apart, of single samples.

    per component n      J_n^T dl/dF_n        F_n(X, w): row n of the output, which may depend on the whole batch X

Their sum is the gradient (F. Dangel, "Structural implications of batch normalization", 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InputError
from ..losses import Loss
from ..sources import Model
from ..structure import analyze
from .pullback import Parts, Pullback, batch_options


def per_component_gradients(
    model: Model,
    data: tuple[Any, Any],
    *,
    loss: Loss = "cross_entropy",
    bn: Literal["batch", "running"] | None = None,
    wrt: Sequence[str] | str | None = None,
    random: Literal["off", "error"] = "off",
    block: int | None = None,
) -> Parts:
    """What each component of the output contributes to the gradient: {name: (N, *shape)}, summing to the gradient.

    Component n is row n of the model's output F(X, w); its gradient is J_n^T dl/dF_n, with the loss's reduction in it.
    With BatchNorm on batch statistics these are no per-sample gradients: F_n depends on all inputs, so the n-th entry
    is not what sample n causes, and the loss on the sample alone is another function. Their sum is exact; how to read
    their higher moments, such as a variance, is open. Where nothing mixes samples they are the per-sample gradients:
    see `per_sample_gradients`.

    Parameters
    ----------
    model, loss, bn, wrt, random : as for `bnrewrite.transform`.
    data : `(input, target)`: the batch, rather than an example.
    block : how many components are pulled back at a time; by default as many as fit into 256 MB. Each costs one pass
        back through the whole batch.

    Raises
    ------
    CaptureError, InputError, UnsupportedOp : as `transform`, and where the loss reads several tensors of the model.
    """
    return _components(Pullback(model, data, batch_options(loss, bn, wrt, random)), block)


def per_sample_gradients(
    model: Model,
    data: tuple[Any, Any],
    *,
    loss: Loss = "cross_entropy",
    bn: Literal["batch", "running"] | None = None,
    wrt: Sequence[str] | str | None = None,
    random: Literal["off", "error"] = "off",
    block: int | None = None,
) -> Parts:
    """The gradient that each sample causes, with its share of the loss's reduction: {name: (N, *shape)}.

    They exist where model and loss keep samples apart (`bnrewrite.analyze`). Raises `InputError` where they do not,
    which names what mixes them. Parameters as for `per_component_gradients`.
    """
    quantity = analyze(model, data, loss=loss, bn=bn, random=random).quantities["per_sample_gradients"]
    if not quantity.exists:
        raise InputError(
            f"per-sample gradients do not exist. {quantity.why} per_component_gradients gives the gradient of each row "
            "of the output, which sum to the gradient; with bn='running' BatchNorm keeps samples apart; "
            "bnrewrite.analyze says more."
        )
    return per_component_gradients(model, data, loss=loss, bn=bn, wrt=wrt, random=random, block=block)


def _components(pullback: Pullback, block: int | None) -> Parts:
    slope = pullback.slope
    if slope.dim() == 0:
        raise InputError("the model's output is a single number, which has no components.")
    found = {
        name: torch.empty(len(slope), *shape, dtype=pullback.dtypes[name], device=slope.device)
        for name, shape in pullback.shapes.items()
    }

    def rows(start: int, stop: int) -> Tensor:
        u = slope.new_zeros(stop - start, *slope.shape)
        u[range(stop - start), range(start, stop)] = slope[start:stop]
        return u

    for numbers, parts in pullback.blocks(rows, len(slope), block):
        for name, part in parts.items():
            found[name][numbers.start : numbers.stop] = part
    return found
