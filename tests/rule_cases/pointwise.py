"""Elementary functions, inside their domains, and the kinks of those that have one."""

from __future__ import annotations

import torch
from rule_harness import Case

aten = torch.ops.aten

EVERYWHERE = ("exp", "exp2", "expm1", "sin", "cos", "tan", "atan", "sinh", "cosh", "asinh", "erf", "erfc")
POSITIVE = ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal")
BELOW_ONE = ("asin", "acos", "atanh")
STEPS = ("sign", "sgn", "floor", "ceil", "trunc", "round", "frac", "abs", "neg", "square")

KINKS = [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]


def op(name: str) -> torch._ops.OpOverload:
    return getattr(aten, name).default


CASES = [
    *(Case(op(name), lambda d: [d.normal(d.N, 5)]) for name in (*EVERYWHERE, *STEPS)),
    *(Case(op(name), lambda d: [d.uniform(d.N, 5, low=0.2, high=3.0)]) for name in POSITIVE),
    *(Case(op(name), lambda d: [d.uniform(d.N, 5, low=-0.9, high=0.9)]) for name in BELOW_ONE),
    Case(aten.acosh.default, lambda d: [d.uniform(d.N, 5, low=1.1, high=3.0)]),
    Case(aten.abs.default, lambda d: [d.values(KINKS)], "kink"),
    Case(aten.round.decimals, lambda d: [d.normal(d.N, 5), 1]),
    Case(aten.reciprocal.default, lambda d: [d.uniform(d.N, low=-3, high=-0.2)], "negative"),
    *(
        Case(aten.pow.Tensor_Scalar, lambda d, p=p: [d.normal(d.N, 5, low_gap=0.1), p], f"to the {p}")
        for p in (0, 1, 2, 3, 4, -1, -2, 2.0)
    ),
    *(
        Case(aten.pow.Tensor_Scalar, lambda d, p=p: [d.uniform(d.N, 5, low=0.1, high=2), p], f"to the {p}")
        for p in (0.5, -0.5, 1.5, 2.7)
    ),
    *(
        Case(aten.pow.Tensor_Scalar, lambda d, p=p: [d.values(KINKS), p], f"zero to the {p}")
        for p in (1, 2, 3)
    ),
    Case(aten.clamp.default, lambda d: [d.normal(d.N, 5), -0.4, 0.7]),
    Case(aten.clamp.default, lambda d: [d.values(KINKS), -0.5, 1], "kinks"),
    Case(aten.clamp.default, lambda d: [d.values(KINKS), None, 1], "no lower end"),
    Case(aten.clamp.default, lambda d: [d.values(KINKS), -1, None], "no upper end"),
    Case(aten.clamp.default, lambda d: [d.values(KINKS), 1, -1], "ends crossed"),
    Case(aten.clamp_min.default, lambda d: [d.normal(d.N, 5), 0.5]),
    Case(aten.clamp_max.default, lambda d: [d.normal(d.N, 5), 0.5]),
    Case(aten.clamp_min.default, lambda d: [d.values(KINKS), 0.5], "kinks"),
    Case(aten.clamp_max.default, lambda d: [d.values(KINKS), 0.5], "kinks"),
    Case(aten.clamp.Tensor, lambda d: [d.normal(d.N, 5), d.uniform(5, low=-1, high=0), d.uniform(d.N, 1)]),
    Case(
        aten.clamp.Tensor,
        lambda d: [d.values(KINKS), d.values([-1.0, -1, 0, 0, 1, 1, 1]), d.values([1.0, 0, 1, 1, 0, 1, 2])],
        "kinks and crossed ends",
    ),
    Case(aten.clamp.Tensor, lambda d: [d.normal(d.N, 5), d.normal(5), None], "no upper end"),
    Case(aten.clamp.Tensor, lambda d: [d.normal(d.N, 5), None, d.normal(5)], "no lower end"),
    Case(aten.clamp_min.Tensor, lambda d: [d.normal(d.N, 5), d.normal(5)]),
    Case(aten.clamp_min.Tensor, lambda d: [d.values(KINKS), d.values(0.5)], "kinks"),
    Case(aten.clamp_max.Tensor, lambda d: [d.normal(d.N, 5), d.normal(d.N, 1)]),
    Case(aten.clamp_max.Tensor, lambda d: [d.values(KINKS), d.values(0.5)], "kinks"),
    Case(aten.exp.default, lambda d: [d.normal()], "scalar"),
]
