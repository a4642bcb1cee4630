"""Limits, comparisons, logic and choice."""

from __future__ import annotations

import math

import torch
from onnx_harness import B, Case, K, N, V, X, Y, grid, into, truths

CASES: list[Case] = []
case = into(CASES)

case(
    "clamp",
    lambda x: (x.clamp(-0.5, 0.7), x.clamp(min=0), x.clamp(max=0.1), x.clamp_min(0.2), x.clamp(0.5, -0.5)),
    X,
)
case(
    "clamp by tensors",
    lambda x, y, v: (
        x.clamp(min=y),
        x.clamp(max=v),
        x.clamp(y, y + 0.3),
        torch.clamp_min(x, y),
        torch.clamp_max(x, v),
    ),
    X,
    Y,
    V,
)
case("clamp of integers", lambda k: (k.clamp(-1, 2), k.clamp(min=0.5)), K)
case(
    "comparisons",
    lambda x, y, k: (
        x < y,
        x <= y,
        x > 0,
        x >= 0.5,
        x == y,
        x != y,
        x == x,
        k > 0,
        k == 2,
        k < 0.5,
        k != x,
        k >= k.max(),
    ),
    X,
    Y,
    K,
)
case("comparisons of truths", lambda b, c: (b == c, b != c, b > c, b <= c, b == True), B, truths(N, 4))  # noqa: E712
case(
    "logic",
    lambda b, c: (
        b & c,
        b | c,
        ~b,
        b ^ c,
        b.logical_and(c),
        b.logical_or(c),
        b.logical_xor(c),
        b.logical_not(),
        b * c,
        b + c,
    ),
    B,
    truths(N, 4),
)
case("logic of numbers", lambda x, k: (x.logical_and(k), k.logical_not(), k.logical_or(x)), X, K)
case(
    "where",
    lambda b, x, y, k: (
        torch.where(b, x, y),
        torch.where(b, x, 0.0),
        torch.where(b, 1.0, x),
        torch.where(b, k, x),
        torch.where(b, x, y.sum()),
        torch.where(x > 0, 1, 0),
        torch.where(b, b, x > 0),
    ),
    B,
    X,
    Y,
    K,
)
case(
    "masked_fill",
    lambda b, x: (x.masked_fill(b, 2.5), x.masked_fill(b, x.sum()), b.masked_fill(b, False)),
    B,
    X,
)
case(
    "isnan, isinf",
    lambda x, k: (x.isnan(), x.isinf(), x.isfinite(), k.isnan()),
    grid(1.0, math.inf, -math.inf, math.nan),
    K,
)
