"""Activation functions, away from their kinks and exactly on them."""

from __future__ import annotations

import torch
from rule_harness import Case
from torch import Tensor

aten = torch.ops.aten

KINKS = [-7.0, -6.0, -3.0, -2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 6.0, 7.0]


def hardsigmoid(x: Tensor) -> Tensor:
    """From primitives: PyTorch's own has no second derivative."""
    return torch.where((x > -3) & (x < 3), x / 6 + 0.5, (x >= 3).to(x.dtype))


WITHOUT_ARGUMENTS = (
    aten.relu, aten.relu6, aten.sigmoid, aten.tanh, aten.silu, aten.mish, aten.log_sigmoid, aten.selu, aten.hardswish,
)  # fmt: skip

WITH_ARGUMENTS = [
    (aten.hardtanh, (-1, 1)),
    (aten.hardtanh, (-0.5, 2.0)),
    (aten.leaky_relu, (0.1,)),
    (aten.elu, (1, 1, 1)),
    (aten.elu, (0.7, 1.3, 0.5)),
    (aten.celu, (1.0,)),
    (aten.celu, (0.6,)),
    (aten.gelu, ("none",)),
    (aten.gelu, ("tanh",)),
    (aten.softplus, (1, 20)),
    (aten.softplus, (2.0, 2.5)),
    (aten.threshold, (0.5, -3.0)),
]


def note(static: tuple) -> str:
    return " ".join(str(s) for s in static)


CASES = [
    *(Case(op.default, lambda d: [d.normal(d.N, 5)]) for op in WITHOUT_ARGUMENTS),
    *(Case(op.default, lambda d: [d.values(KINKS)], "kinks") for op in WITHOUT_ARGUMENTS),
    *(Case(op.default, lambda d, s=s: [d.normal(d.N, 5), *s], note(s)) for op, s in WITH_ARGUMENTS),
    *(Case(op.default, lambda d, s=s: [d.values(KINKS), *s], note(s) + " kinks") for op, s in WITH_ARGUMENTS),
    Case(aten.hardsigmoid.default, lambda d: [3 * d.normal(d.N, 5)], reference=hardsigmoid),
    Case(aten.hardsigmoid.default, lambda d: [d.values(KINKS)], "kinks", reference=hardsigmoid),
    Case(aten._prelu_kernel.default, lambda d: [d.normal(d.N, 3, 4), d.normal(1, 3, 1)]),
    Case(
        aten._prelu_kernel.default, lambda d: [d.values(KINKS), d.values([0.25])], "kink", second_order=False
    ),
    Case(aten.glu.default, lambda d: [d.normal(d.N, 6, 4), 1]),
    Case(aten.glu.default, lambda d: [d.normal(d.N, 3, 4), -1], "last axis"),
    Case(aten.native_dropout.default, lambda d: [d.normal(d.N, 5), 0.5, False]),
    Case(aten.native_dropout.default, lambda d: [d.normal(d.N, 5), 0.0, True], "nothing dropped"),
]
