"""Arithmetic, what types do in it, and arithmetic on symbolic sizes."""

from __future__ import annotations

import math

import torch
from onnx_harness import B, Case, K, N, V, X, Y, grid, integers, into, normal, uniform

aten = torch.ops.aten
CASES: list[Case] = []
case = into(CASES)

case(
    "add",
    lambda x, y, v: (x + y, x + 1.5, 2 + x, x + v, torch.add(x, y, alpha=3), aten.add.Scalar(x, 2, 3)),
    X,
    Y,
    V,
)
case("sub", lambda x, y: (x - y, x - 1, 1 - x, torch.sub(x, y, alpha=0.5), torch.rsub(x, y, alpha=2)), X, Y)
case("mul", lambda x, y, v: (x * y, x * 0.1, x * v, x * x.sum(), x.sum() * x.mean()), X, Y, V)
case("div", lambda x, y: (x / y, x / 3, 1 / y, torch.div(x, y), x / x.abs().sum()), X, uniform(N, 4))
case(
    "div rounded",
    lambda x, y: tuple(
        torch.div(x, d, rounding_mode=m) for d in (y, 0.25, -0.25) for m in ("floor", "trunc")
    ),
    grid(-2.0, -0.5, 0.0, 0.7, 5.3),
    grid(0.3, -0.25, 0.5, -2.0, 0.1),
)
case(
    "div of integers",
    lambda k: (
        k / 3,
        torch.div(k, 3, rounding_mode="floor"),
        torch.div(k, -3, rounding_mode="trunc"),
        k // 2,
        k % 3,
        k % -3,
        torch.fmod(k, 3),
    ),
    integers(N, 4, low=-9, high=9),
)
case(
    "remainder",
    lambda x, y: (x % y, x % 0.7, x % -0.7, torch.fmod(x, y), torch.fmod(x, -0.5), 2 % y),
    X,
    uniform(N, 4),
)
case(
    "neg, reciprocal, square, abs, sign",
    lambda x: (-x, 1 / x, x.square(), x.abs(), x.sign()),
    uniform(N, 4, low=-3),
)
case("sign of zero", lambda x: (x.sign(), x.abs(), -x), grid(-1.0, 0.0, 2.0))
case(
    "pow",
    lambda x: (*(x**e for e in (0, 1, 2, 3, 0.5, -0.5, -1, -2, 1.7, 4, -3)), 2**x, torch.pow(x, x)),
    uniform(N, 4),
)
case("pow of integers", lambda k: (k**2, k**3, k**1, k**0, k**2.0), integers(N, 4, low=1))
case("pow of a negative", lambda x: (x**2, x**3, x**4.0), X)
case(
    "maximum, minimum",
    lambda x, y, k: (torch.maximum(x, y), torch.minimum(x, y), torch.maximum(k, -k)),
    X,
    Y,
    K,
)
case(
    "addcmul, addcdiv, lerp",
    lambda x, y, z: (
        torch.addcmul(x, y, z, value=0.3),
        torch.addcdiv(x, y, z, value=2),
        torch.lerp(x, y, 0.2),
        torch.lerp(x, y, z),
    ),
    X,
    Y,
    uniform(N, 4),
)
case(
    "floor, ceil, round, trunc",
    lambda x, k: (x.floor(), x.ceil(), x.round(), x.trunc(), k.floor(), k.round(), x.round(decimals=1)),
    grid(-2.5, -1.5, -0.5, -0.2, 0.0, 0.5, 1.5, 2.5, 2.6),
    K,
)
case(
    "sizes as numbers",
    lambda x: (
        x * x.shape[0],
        x / x.shape[0],
        x + x.numel(),
        x.sum() / x.shape[0],
        x * (1 / x.shape[0]),
        x - x.shape[0],
        x.shape[0] - x,
        x.sum() * (x.shape[0] / (x.shape[0] - 1)),
        x * x.shape[0] ** 0.5,
        x * torch.sym_sqrt(x.shape[0]),
        x.shape[0] / (x.abs() + 1),
    ),
    X,
)
case(
    "arithmetic of sizes",
    lambda x: tuple(
        torch.full((1,), n)
        for n in (
            x.shape[0] // 2,
            -(x.shape[0] // -2),
            x.shape[0] % 3,
            x.shape[0] * 2 - 1,
            -x.shape[0],
            x.shape[0] ** 2,
            torch.sym_max(x.shape[0], 6),
            torch.sym_min(x.shape[0], 6),
            x.numel() // 3,
            math.ceil(x.shape[0] / 2),
            math.floor(x.shape[0] / 2),
            torch.sym_int(x.shape[0] / 2),
            x.shape[0] * x.shape[0],
            20 - x.shape[0],
        )
    ),
    X,
)
case("comparison with a size", lambda x, k: (k < k.shape[0], k == x.shape[0] - 1), X, integers(N, 4, high=9))
case(
    "promotion",
    lambda x, k, b: (
        x + k,
        k * x,
        b * x,
        k + b,
        b + 1,
        k * 0.5,
        b * 2.0,
        k / 2,
        x + k.sum(),
        x * b.sum(),
        k + x.sum(),
        x + True,
    ),
    X,
    K,
    B,
)
case(
    "casts",
    lambda x, k, b: (
        x.to(torch.int64),
        k.to(x.dtype),
        b.to(x.dtype),
        x.bool(),
        k.to(torch.int32),
        x.to(torch.float32),
        b.long(),
        x.to(x.dtype),
    ),
    X,
    K,
    B,
)
case(
    "0-d",
    lambda s, x: (s + x, s * 2, s.sum(), s.reshape(1, 1), s.exp() + s, s.expand(2, 3), s.view(-1)),
    normal(),
    X,
)
