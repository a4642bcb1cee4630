"""The loss a user names: a string, a module, a callable, or none at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError

Loss = str | nn.Module | Callable[[Any, Any], Tensor] | None

NAMED: dict[str, Callable[[], nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss,
    "mse": nn.MSELoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
    "nll": nn.NLLLoss,
}


class _Callable(nn.Module):
    """A plain function `(output, target) -> loss` as a module."""

    def __init__(self, function: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, output: Any, target: Any) -> Tensor:
        return self.function(output, target)


def resolve(loss: Loss) -> nn.Module | None:
    """The loss as a module; `None` where the model returns the loss itself."""
    if loss is None or isinstance(loss, nn.Module):
        return loss
    if isinstance(loss, str):
        if loss not in NAMED:
            raise InputError(
                f"unknown loss '{loss}': choose one of {', '.join(sorted(NAMED))}, or pass a module."
            )
        return NAMED[loss]()
    if callable(loss):
        return _Callable(loss)
    raise InputError(f"loss must be a name, an nn.Module, a callable or None, not {type(loss).__name__}.")


def describe(loss: Loss) -> str:
    """How the loss is written in reports and metadata."""
    if loss is None or isinstance(loss, str):
        return str(loss) if loss else "model"
    if isinstance(loss, nn.Module):
        return repr(loss)
    return getattr(loss, "__qualname__", type(loss).__name__)


def check_target(loss: nn.Module | None, target: Any) -> None:
    """Say in one sentence what is wrong with the type of a target, where the loss is one of PyTorch's."""
    if not isinstance(target, Tensor):
        return
    if isinstance(loss, nn.NLLLoss) and target.dtype != torch.int64:
        raise InputError(f"the target must hold class indices of type int64, not {_type(target)}.")
    wrong_probabilities = not target.is_floating_point() or target.dim() < 2
    if isinstance(loss, nn.CrossEntropyLoss) and target.dtype != torch.int64 and wrong_probabilities:
        raise InputError(
            "the target must hold class indices of type int64 or probabilities of the output's shape, not "
            f"{_type(target)} of shape {list(target.shape)}."
        )
    if isinstance(loss, (nn.MSELoss, nn.BCEWithLogitsLoss)) and not target.is_floating_point():
        raise InputError(f"the target must hold floating-point numbers, not {_type(target)}.")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
