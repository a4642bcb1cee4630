"""Arithmetic: broadcasting in both directions, numbers in place of tensors, mixed types, ties."""

from __future__ import annotations

import torch
from rule_harness import Case, Draw
from torch import Tensor

aten = torch.ops.aten

TIES_A = [1.0, 2.0, 3.0, -1.0, 0.0]
TIES_B = [1.0, 3.0, 2.0, -1.0, -0.0]

SHAPES = {
    "same": ("N5", "N5"),
    "row": ("N5", "5"),
    "column": ("N1", "N5"),
    "scalar": ("", "N5"),
    "outer": ("N1", "15"),
    "deeper": ("3", "N53"),
}


def shaped(d: Draw, code: str, low_gap: float = 0.0) -> Tensor:
    return d.normal(*(d.N if c == "N" else int(c) for c in code), low_gap=low_gap)


def floor_divide(a: Tensor, b: Tensor | float) -> Tensor:
    """PyTorch's own has no derivative, though its value is piecewise constant like that of `floor`."""
    return torch.floor(a / b)


BINARY = [
    (aten.add.Tensor, (1,)),
    (aten.add.Tensor, (2.5,)),
    (aten.sub.Tensor, (1,)),
    (aten.sub.Tensor, (0.5,)),
    (aten.rsub.Tensor, (3,)),
    (aten.mul.Tensor, ()),
    (aten.div.Tensor, ()),
    (aten.maximum.default, ()),
    (aten.minimum.default, ()),
    (aten.fmod.Tensor, ()),
    (aten.remainder.Tensor, ()),
]

CASES = [
    *(
        Case(
            op,
            lambda d, a=a, b=b, s=s: [shaped(d, a), shaped(d, b, low_gap=0.2), *s],
            " ".join([shape, *(str(x) for x in s)]),
            traced=shape in ("row", "deeper"),
        )
        for op, s in BINARY
        for shape, (a, b) in SHAPES.items()
    ),
    Case(aten.add.Tensor, lambda d: [d.normal(d.N, 5), 2, 1], "number"),
    Case(aten.add.Tensor, lambda d: [d.normal(d.N, 5), d.integers(0, 9, 5), 2], "integers"),
    Case(aten.add.Tensor, lambda d: [d.normal(d.N, 5), d.N, 1], "batch size"),
    Case(aten.add.Scalar, lambda d: [d.normal(d.N, 5), 2.5, 2]),
    Case(aten.sub.Tensor, lambda d: [d.integers(0, 9, d.N, 5), d.normal(5), 1], "integers minus"),
    Case(aten.sub.Scalar, lambda d: [d.normal(d.N, 5), 2.5, 2]),
    Case(aten.rsub.Scalar, lambda d: [d.normal(d.N, 5), 2.5, 2]),
    Case(aten.rsub.Scalar, lambda d: [d.normal(d.N, 5), 1, 1], "one minus"),
    Case(aten.mul.Tensor, lambda d: [d.normal(d.N, 5), 2.5], "number"),
    Case(aten.mul.Tensor, lambda d: [d.normal(d.N, 5), d.coin(d.N, 1)], "mask"),
    Case(
        aten.mul.Tensor,
        lambda d: [d.normal(d.N, 5), d.values(1.5, torch.float32)],
        "mixed types, scalar",
        tolerance=1e-6,
    ),  # the adjoint of a single-precision argument is rounded to single precision
    Case(
        aten.mul.Tensor,
        lambda d: [d.normal(d.N, 2), d.values([1.5, -0.25], torch.float16)],
        "mixed types",
        tolerance=1e-3,  # the adjoint of a half-precision argument is rounded to half precision
    ),
    Case(
        aten.add.Tensor,
        lambda d: [d.values([1.5, -0.25], torch.float16), d.normal(2), 1],
        "mixed types",
        tolerance=1e-3,
    ),
    Case(aten.mul.Scalar, lambda d: [d.normal(d.N, 5), -1.5]),
    Case(aten.div.Tensor, lambda d: [d.normal(d.N, 5), d.N], "by the batch size"),
    Case(aten.div.Tensor, lambda d: [d.integers(1, 9, d.N, 5), d.normal(5, low_gap=0.3)], "integers over"),
    Case(aten.div.Scalar, lambda d: [d.normal(d.N, 5), 3]),
    Case(aten.div.Tensor_mode, lambda d: [d.normal(d.N, 5), d.normal(5, low_gap=0.3), None]),
    Case(aten.div.Tensor_mode, lambda d: [d.normal(d.N, 5), d.normal(5, low_gap=0.3), "floor"], "floor"),
    Case(aten.div.Tensor_mode, lambda d: [d.normal(d.N, 5), d.normal(5, low_gap=0.3), "trunc"], "trunc"),
    Case(aten.div.Scalar_mode, lambda d: [d.normal(d.N, 5), 0.7, None]),
    Case(aten.div.Scalar_mode, lambda d: [d.normal(d.N, 5), 0.7, "floor"], "floor"),
    Case(
        aten.floor_divide.default,
        lambda d: [d.normal(d.N, 5), d.normal(5, low_gap=0.3)],
        reference=floor_divide,
    ),
    Case(aten.floor_divide.Scalar, lambda d: [d.normal(d.N, 5), 0.7], reference=floor_divide),
    Case(aten.addcmul.default, lambda d: [d.normal(5), d.normal(d.N, 5), d.normal(d.N, 1), 1]),
    Case(aten.addcmul.default, lambda d: [d.normal(d.N, 5), d.normal(5), d.normal(d.N, 1), -0.5], "scaled"),
    Case(aten.addcdiv.default, lambda d: [d.normal(5), d.normal(d.N, 5), d.normal(d.N, 1, low_gap=0.3), 1]),
    Case(
        aten.addcdiv.default,
        lambda d: [d.normal(d.N, 5), d.normal(5), d.normal(5, low_gap=0.3), -0.5],
        "scaled",
    ),
    Case(aten.pow.Tensor_Tensor, lambda d: [d.uniform(d.N, 5, low=0.2, high=2), d.normal(5)]),
    Case(aten.pow.Tensor_Tensor, lambda d: [d.uniform(low=0.2, high=2), d.normal(d.N, 5)], "scalar base"),
    Case(
        aten.pow.Tensor_Tensor,
        lambda d: [d.values([0.0, 0, 0, 2]), d.values([0.0, 1, 2, 0])],
        "zeros",
        second_order=False,
    ),
    Case(aten.pow.Tensor_Tensor, lambda d: [d.normal(d.N, 5), d.integers(0, 4, d.N, 5)], "integer exponents"),
    Case(aten.pow.Scalar, lambda d: [2.5, d.normal(d.N, 5)]),
    Case(aten.pow.Scalar, lambda d: [0, d.values([0.0, 1.0, 2.0])], "base zero", second_order=False),
    Case(aten.maximum.default, lambda d: [d.values(TIES_A), d.values(TIES_B)], "ties"),
    Case(aten.minimum.default, lambda d: [d.values(TIES_A), d.values(TIES_B)], "ties"),
    Case(aten.where.self, lambda d: [d.coin(d.N, 5), d.normal(d.N, 5), d.normal(d.N, 5)]),
    Case(aten.where.self, lambda d: [d.coin(d.N, 5), d.normal(5), d.normal(d.N, 1)], "broadcast"),
    Case(aten.where.self, lambda d: [d.coin(d.N, 1), d.normal(5), d.normal()], "stretched by the condition"),
    Case(aten.where.self, lambda d: [d.coin(d.N, 5), d.normal(d.N, 5), d.integers(0, 3)], "integer"),
    Case(aten.lerp.Scalar, lambda d: [d.normal(d.N, 5), d.normal(5), 0.3]),
    Case(aten.lerp.Tensor, lambda d: [d.normal(d.N, 5), d.normal(5), d.uniform(d.N, 1)]),
    Case(aten.fmod.Scalar, lambda d: [d.normal(d.N, 5), 0.3]),
    Case(aten.remainder.Scalar, lambda d: [d.normal(d.N, 5), 0.3]),
    Case(aten.masked_fill.Scalar, lambda d: [d.normal(d.N, 5), d.coin(d.N, 1), -1e9]),
    Case(
        aten.masked_fill.Scalar,
        lambda d: [d.normal(5), d.coin(d.N, 5), float("-inf")],
        "stretched by the mask",
    ),
    Case(aten.masked_fill.Tensor, lambda d: [d.normal(d.N, 5), d.coin(d.N, 5), d.normal()]),
]
