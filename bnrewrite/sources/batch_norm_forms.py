"""Every operation that export may leave for a BatchNorm, in the terms of the one that a user knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten

Canonical = tuple[Any, Any, Any, Any, Any, bool, float, float]
"""x, gamma, beta, running_mean, running_var, training, momentum, eps."""

FORMS: dict[torch._ops.OpOverload, Callable[..., Canonical]] = {
    aten._native_batch_norm_legit_functional.default: lambda x, g, b, m, v, t, mom, e: (
        x,
        g,
        b,
        m,
        v,
        t,
        mom,
        e,
    ),
    aten._native_batch_norm_legit.default: lambda x, g, b, m, v, t, mom, e: (x, g, b, m, v, t, mom, e),
    aten._native_batch_norm_legit.no_stats: lambda x, g, b, t, mom, e: (x, g, b, None, None, t, mom, e),
    aten._native_batch_norm_legit_no_training.default: lambda x, g, b, m, v, mom, e: (
        x,
        g,
        b,
        m,
        v,
        False,
        mom,
        e,
    ),
    aten.native_batch_norm.default: lambda x, g, b, m, v, t, mom, e: (x, g, b, m, v, t, mom, e),
    aten.cudnn_batch_norm.default: lambda x, g, b, m, v, t, mom, e: (x, g, b, m, v, t, mom, e),
    aten.miopen_batch_norm.default: lambda x, g, b, m, v, t, mom, e: (x, g, b, m, v, t, mom, e),
    aten._batch_norm_with_update.default: lambda x, g, b, m, v, mom, e: (x, g, b, m, v, True, mom, e),
    aten._batch_norm_with_update_functional.default: lambda x, g, b, m, v, mom, e: (
        x,
        g,
        b,
        m,
        v,
        True,
        mom,
        e,
    ),
    aten._batch_norm_no_update.default: lambda x, g, b, m, v, mom, e: (x, g, b, m, v, False, mom, e),
}
"""Output 0 of each is y."""
