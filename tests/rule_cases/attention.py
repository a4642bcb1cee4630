"""Scaled dot-product attention: masks of every kind, groups of heads, broadcast heads."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from rule_harness import Case, Draw
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

aten = torch.ops.aten


def math_form(
    q: Tensor, k: Tensor, v: Tensor, mask: Any, p: float, causal: bool, scale: Any, gqa: bool
) -> Tensor:
    """The fused kernels of PyTorch have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, mask, p, causal, scale=scale, enable_gqa=gqa)


def attention(
    note: str, *, mask: Any = None, heads: int = 2, causal: bool = False, scale: float | None = None
) -> Case:
    def args(d: Draw) -> list[Any]:
        q, k, v = d.normal(d.N, 2, 4, 3), d.normal(d.N, heads, 5, 3), d.normal(d.N, heads, 5, 6)
        given = None if mask is None else mask(d)
        return [q, k, v, given, 0.0, causal, scale, note == "groups of heads"]

    return Case(aten.scaled_dot_product_attention.default, args, note, reference=math_form)


def one_empty_row(d: Draw) -> Tensor:
    rows = [[True] * 5, [False] * 5, [True, False, True, False, False], [False, True, False, False, True]]
    return d.values(rows, torch.bool)


CASES = [
    attention(""),
    attention("scale", scale=0.3),
    attention("causal", causal=True),
    attention("bias", mask=lambda d: d.normal(1, 2, 4, 5)),
    attention("bias of samples", mask=lambda d: d.normal(d.N, 1, 4, 5)),
    attention("mask with an empty row", mask=one_empty_row),
    attention("one head of keys", heads=1),
    attention("groups of heads", heads=1),
    Case(
        aten.scaled_dot_product_attention.default,
        lambda d: [
            d.normal(d.N, 4, 3),
            d.normal(d.N, 5, 3),
            d.normal(d.N, 5, 3),
            None,
            0.0,
            False,
            None,
            False,
        ],
        "three axes",
        reference=math_form,
    ),
]
