"""Exponentials, logarithms, roots, trigonometric, hyperbolic and error functions."""

from __future__ import annotations

import math

import torch
from onnx_harness import Case, N, grid, integers, into, normal, uniform

CASES: list[Case] = []
case = into(CASES)

for name in (
    "exp",
    "exp2",
    "expm1",
    "sin",
    "cos",
    "tan",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "sigmoid",
    "erf",
    "erfc",
):
    f = getattr(torch, name)
    case(name, f, uniform(N, 40, low=-1.3, high=1.3))
    case(f"{name} small", f, normal(N, 40, scale=1e-4))
    if name != "tan":
        case(f"{name} large", f, normal(N, 40, scale=5))
for name in ("log", "log2", "log10", "sqrt", "rsqrt"):
    case(name, getattr(torch, name), uniform(N, 40, low=0.01))
case("log1p", torch.log1p, normal(N, 40, scale=0.1))
case("log1p small", torch.log1p, normal(N, 40, scale=1e-6))
case("log1p far", torch.log1p, grid(-0.999, -1.0, 0.0, 1e3, 1e20, math.inf))
for name in ("asin", "acos", "atanh"):
    case(name, getattr(torch, name), uniform(N, 40, low=-0.99, high=0.99))
    case(f"{name} small", getattr(torch, name), normal(N, 40, scale=1e-4))
case("acos beside 1", torch.acos, grid(1 - 1e-6, 1 - 1e-3, 1.0), ulps=16)
case("asin, acos at the ends", lambda x: (x.asin(), x.acos()), grid(-1.0, -0.999999, 0.0, 0.5, 0.999999, 1.0))
case("atan far", torch.atan, grid(-math.inf, -1e30, -1e5, 0.0, 1e5, 1e30, math.inf))
case("acosh", torch.acosh, uniform(N, 40, low=1.0, high=20))
case("acosh beside 1", torch.acosh, uniform(N, 40, low=1.0, high=1.001))
case("exp of integers", lambda k: (k.exp(), torch.sigmoid(k), k.erf(), k.sqrt()), integers(N, 4))
case("atan2", torch.atan2, normal(N, 40), normal(N, 40))
case(
    "atan2 on the axes",
    torch.atan2,
    grid(0.0, 0.0, 1.0, -1.0, 0.0, 2.0, 1e-9),
    grid(1.0, -1.0, 0.0, 0.0, 0.0, -1e-9, -2.0),
)
case("hypot", torch.hypot, normal(N, 40), normal(N, 40))
case("hypot far", torch.hypot, grid(0.0, 1e30, 3e-30, 0.0), grid(0.0, 1e30, 4e-30, 2.0))
