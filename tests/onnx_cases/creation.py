"""Tensors made from sizes and numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from onnx_harness import Case, K, N, X, integers, into

aten = torch.ops.aten
CASES: list[Case] = []
case = into(CASES)

case(
    "like",
    lambda x, k: (
        torch.zeros_like(x),
        torch.ones_like(x),
        torch.full_like(x, 2.5),
        torch.zeros_like(k),
        torch.ones_like(k, dtype=x.dtype),
        torch.zeros_like(x[0]),
        torch.full_like(x.sum(), 0.1),
        aten.fill(torch.empty_like(x), 2),
    ),
    X,
    K,
)
case(
    "new",
    lambda x: (
        x.new_zeros(3),
        x.new_ones(x.shape[0], 2),
        x.new_full((2, 2), 0.1),
        x.new_zeros(100, 7),
        aten.fill(x.new_empty(2, 2), 1.5),
        x.new_full((x.shape[0],), 7),
    ),
    X,
)
case(
    "full",
    lambda x: (
        torch.zeros(2, x.shape[0]),
        torch.ones(3, dtype=torch.int64),
        torch.full((2, 3), 1.5, dtype=x.dtype),
        torch.full((), 2.0, dtype=x.dtype),
        torch.full((x.shape[0],), True),
        torch.scalar_tensor(3.25, dtype=x.dtype),
        torch.full((2,), x.shape[0]),
        aten.fill(torch.empty(3, x.shape[0]), 3),
    ),
    X,
)
case(
    "arange, eye, linspace",
    lambda x: (
        torch.arange(5),
        torch.arange(1, 9, 3),
        torch.arange(0.5, 3),
        torch.arange(x.shape[0]),
        torch.arange(2, 2 * x.shape[0], 2),
        torch.arange(x.shape[0], dtype=x.dtype),
        torch.eye(3, dtype=x.dtype),
        torch.eye(2, 4),
        torch.eye(x.shape[0], dtype=x.dtype),
        torch.linspace(0, 1, 5, dtype=x.dtype),
    ),
    X,
)
case("one_hot", lambda k: (F.one_hot(k, 5), F.one_hot(k[:, 0], 7)), integers(N, 4))
