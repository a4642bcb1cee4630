"""Matrix products, convolutions and BatchNorm: every product, every geometry, both kinds of statistics."""

from __future__ import annotations

from typing import Any

import torch
from rule_harness import Case, Draw
from torch import Tensor

aten = torch.ops.aten
EPS = 1e-5


def convolution(
    axes: int, *, note: str = "", bias: bool = True, transposed: bool = False, **geometry: int
) -> Case:
    stride, padding, dilation = (geometry.get(name, default) for name, default in GEOMETRY.items())
    output_padding, groups = geometry.get("output_padding", 0), geometry.get("groups", 1)
    ins, outs = 4, 6
    size = (7, 6, 5)[:axes]
    kernel = (3, 2, 2)[:axes]

    def args(d: Draw) -> list:
        shape = (ins, outs // groups) if transposed else (outs, ins // groups)
        x, w = d.normal(d.N, ins, *size), d.normal(*shape, *kernel)
        b = d.normal(outs) if bias else None
        numbers = ([n] * axes for n in (stride, padding, dilation))
        return [x, w, b, *numbers, transposed, [output_padding] * axes, groups]

    words = [
        f"{axes}d",
        "transposed" if transposed else "",
        note or " ".join(f"{k} {v}" for k, v in geometry.items()),
    ]
    return Case(aten.convolution.default, args, " ".join(word for word in words if word))


GEOMETRY = {"stride": 1, "padding": 0, "dilation": 1}


def with_weight(x: Tensor, gamma: Tensor | None, beta: Tensor, *rest: Any) -> Tensor:
    """PyTorch's second reverse pass loses beta where gamma is absent: a gamma of ones says the same."""
    return aten.batch_norm.default(x, torch.ones_like(beta), beta, *rest)


def batch_norm(d: Draw, training: bool, gamma: bool, beta: bool, *size: int) -> list:
    x = d.normal(d.N, 4, *size)
    parameters = [d.normal(4) if gamma else None, d.normal(4) if beta else None]
    return [x, *parameters, d.normal(4), d.uniform(4, low=0.5, high=2), training, 0.1, EPS, False]


CASES = [
    *(
        Case(
            aten.batch_norm.default,
            lambda d, t=training, g=gamma, b=beta, s=size: batch_norm(d, t, g, b, *s),
            f"{'batch' if training else 'running'} {len(size)}d{' gamma' * gamma}{' beta' * beta}",
            constant=(3, 4),
            reference=with_weight if beta and not gamma else None,
        )
        for training in (True, False)
        for size, gamma, beta in (
            ((), True, True),
            ((3,), True, True),
            ((3, 2), True, True),
            ((3, 2), True, False),
            ((3, 2), False, True),
            ((3, 2), False, False),
        )
    ),
    convolution(1),
    convolution(2),
    convolution(3),
    convolution(2, bias=False, note="without bias"),
    convolution(2, stride=2, padding=1),
    convolution(2, dilation=2, padding=2),
    convolution(2, groups=2),
    convolution(1, stride=3, padding=2, groups=2),
    convolution(2, transposed=True),
    convolution(2, transposed=True, stride=2, padding=1, output_padding=1),
    convolution(2, transposed=True, stride=2, groups=2),
    Case(aten.linear.default, lambda d: [d.normal(d.N, 4), d.normal(3, 4), d.normal(3)]),
    Case(aten.linear.default, lambda d: [d.normal(d.N, 4), d.normal(3, 4), None], "without bias"),
    Case(aten.linear.default, lambda d: [d.normal(d.N, 2, 4), d.normal(3, 4), d.normal(3)], "more axes"),
    Case(aten.linear.default, lambda d: [d.normal(4), d.normal(3, 4), d.normal(3)], "one sample"),
    Case(aten.mm.default, lambda d: [d.normal(d.N, 4), d.normal(4, 3)]),
    Case(aten.bmm.default, lambda d: [d.normal(d.N, 2, 4), d.normal(d.N, 4, 3)]),
    Case(aten.mv.default, lambda d: [d.normal(d.N, 4), d.normal(4)]),
    Case(aten.dot.default, lambda d: [d.normal(d.N), d.normal(d.N)]),
    Case(aten.addmm.default, lambda d: [d.normal(3), d.normal(d.N, 4), d.normal(4, 3), 1, 1]),
    Case(
        aten.addmm.default, lambda d: [d.normal(d.N, 3), d.normal(d.N, 4), d.normal(4, 3), 0.5, -2], "scaled"
    ),
    Case(
        aten.baddbmm.default, lambda d: [d.normal(d.N, 1, 3), d.normal(d.N, 2, 4), d.normal(d.N, 4, 3), 1, 1]
    ),
    Case(
        aten.baddbmm.default,
        lambda d: [d.normal(2, 3), d.normal(d.N, 2, 4), d.normal(d.N, 4, 3), 0.5, -2],
        "scaled",
    ),
    Case(aten.addmv.default, lambda d: [d.normal(d.N), d.normal(d.N, 4), d.normal(4), 1, 1]),
    Case(aten.addmv.default, lambda d: [d.normal(), d.normal(d.N, 4), d.normal(4), 0.5, -2], "scaled"),
]
