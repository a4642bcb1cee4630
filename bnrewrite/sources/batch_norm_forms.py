"""Every operation that export may leave for a BatchNorm, in the terms of the one that a user knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten

Canonical = tuple[Any, Any, Any, Any, Any, bool, float, float]
"""x, gamma, beta, running_mean, running_var, training, momentum, eps."""


def _as_given(*canonical: Any) -> Canonical:
    return canonical


def _training(x: Any, g: Any, b: Any, m: Any, v: Any, mom: float, e: float) -> Canonical:
    return x, g, b, m, v, True, mom, e


def _evaluating(x: Any, g: Any, b: Any, m: Any, v: Any, mom: float, e: float) -> Canonical:
    return x, g, b, m, v, False, mom, e


FORMS: dict[torch._ops.OpOverload, Callable[..., Canonical]] = {
    aten._native_batch_norm_legit_functional.default: _as_given,
    aten._native_batch_norm_legit.default: _as_given,
    aten._native_batch_norm_legit.no_stats: lambda x, g, b, t, mom, e: (x, g, b, None, None, t, mom, e),
    aten._native_batch_norm_legit_no_training.default: _evaluating,
    aten.native_batch_norm.default: _as_given,
    aten.cudnn_batch_norm.default: _as_given,
    aten.miopen_batch_norm.default: _as_given,
    aten._batch_norm_with_update.default: _training,
    aten._batch_norm_with_update_functional.default: _training,
    aten._batch_norm_no_update.default: _evaluating,
}
"""Output 0 of each is y."""
