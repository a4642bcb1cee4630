"""Pooling, interpolation, unfolding: strides, paddings, dilations, ragged windows."""

from __future__ import annotations

import torch
from rule_harness import Case, Draw
from torch import Tensor

aten = torch.ops.aten


def image(d: Draw, *sizes: int) -> Tensor:
    return d.distinct(d.N, 2, *sizes)


def max_pool(op: torch._ops.OpOverload, n: int) -> list[Case]:
    size = (7, 6, 5)[:n]
    return [
        Case(op, lambda d: [image(d, *size), [2] * n, [], [0] * n, [1] * n, False]),
        Case(op, lambda d: [image(d, *size), [3] * n, [2] * n, [1] * n, [1] * n, True], "overlapping"),
        Case(op, lambda d: [image(d, *size), [2] * n, [1] * n, [0] * n, [2] * n, False], "dilated"),
        Case(
            op, lambda d: [d.distinct(3, *size), [2] * n, [2] * n, [0] * n, [1] * n, False], "without a batch"
        ),
    ]


def average_pool(op: torch._ops.OpOverload, n: int) -> list[Case]:
    size, divisor = (7, 6, 5)[:n], (None,) * (n > 1)
    return [
        Case(op, lambda d: [image(d, *size), [2] * n, [], [0] * n, False, True, *divisor]),
        Case(
            op, lambda d: [image(d, *size), [3] * n, [2] * n, [1] * n, True, True, *divisor], "padding counts"
        ),
        Case(
            op,
            lambda d: [image(d, *size), [3] * n, [2] * n, [1] * n, True, False, *divisor],
            "padding does not",
        ),
    ]


def interpolation(op: torch._ops.OpOverloadPacket, n: int, align: bool) -> list[Case]:
    size, bigger, smaller, double = (4, 3, 5)[:n], (7, 5, 6)[:n], (2, 2, 3)[:n], (8, 6, 10)[:n]
    choices = (False, True) if align else (None,)
    scales = (1.6, 2.0, 1.5)[:n]
    rows = []
    for choice in choices:
        flag = () if choice is None else (choice,)
        note = "" if choice is None else " aligned" if choice else " free"
        none = (None,) * n
        rows += [
            Case(
                op.default,
                lambda d, f=flag, n0=none: [d.normal(d.N, 2, *size), list(bigger), *f, *n0],
                "up" + note,
            ),
            Case(
                op.default,
                lambda d, f=flag, n0=none: [d.normal(d.N, 2, *size), list(smaller), *f, *n0],
                "down" + note,
                traced=False,
            ),
            Case(
                op.vec,
                lambda d, f=flag: [d.normal(d.N, 2, *size), list(double), *f, None],
                "double" + note,
                traced=not align,
            ),
            Case(op.vec, lambda d, f=flag: [d.normal(d.N, 2, *size), None, *f, list(scales)], "scale" + note),
            Case(
                op.vec,
                lambda d, f=flag: [d.normal(d.N, 2, *size), None, *f, [2.0] * n],
                "scale 2" + note,
                traced=False,
            ),
        ]
    return rows


CASES = [
    *max_pool(aten.max_pool1d.default, 1),
    *max_pool(aten.max_pool2d.default, 2),
    *max_pool(aten.max_pool3d.default, 3),
    *max_pool(aten.max_pool1d_with_indices.default, 1),
    *max_pool(aten.max_pool2d_with_indices.default, 2),
    *max_pool(aten.max_pool3d_with_indices.default, 3),
    Case(
        aten.max_pool2d.default,
        lambda d: [d.values([[[[1.0, 1.0], [1.0, 0.0]]]]), [2, 2], [], [0, 0], [1, 1], False],
        "ties",
    ),
    Case(aten.adaptive_max_pool1d.default, lambda d: [image(d, 7), [3]]),
    Case(aten.adaptive_max_pool2d.default, lambda d: [image(d, 7, 5), [3, 2]]),
    Case(aten.adaptive_max_pool3d.default, lambda d: [image(d, 4, 5, 3), [3, 2, 1]]),
    *average_pool(aten.avg_pool1d.default, 1),
    *average_pool(aten.avg_pool2d.default, 2),
    *average_pool(aten.avg_pool3d.default, 3),
    Case(
        aten.avg_pool2d.default, lambda d: [image(d, 5, 5), [3, 2], [2, 1], [1, 0], False, True, 4], "divisor"
    ),
    Case(aten.adaptive_avg_pool1d.default, lambda d: [image(d, 7), [3]]),
    Case(aten.adaptive_avg_pool1d.default, lambda d: [image(d, 7), [1]], "global"),
    Case(aten.adaptive_avg_pool2d.default, lambda d: [image(d, 7, 5), [3, 2]]),
    Case(aten.adaptive_avg_pool2d.default, lambda d: [image(d, 2, 2), [7, 7]], "enlarging"),
    Case(aten.adaptive_avg_pool2d.default, lambda d: [image(d, 7, 5), [1, 1]], "global"),
    Case(aten._adaptive_avg_pool2d.default, lambda d: [image(d, 7, 5), [3, 2]]),
    Case(aten.adaptive_avg_pool3d.default, lambda d: [image(d, 4, 5, 3), [3, 2, 1]]),
    Case(aten.adaptive_avg_pool3d.default, lambda d: [image(d, 4, 5, 3), [1, 1, 1]], "global"),
    Case(aten._adaptive_avg_pool3d.default, lambda d: [image(d, 4, 5, 3), [3, 2, 1]]),
    *interpolation(aten.upsample_nearest1d, 1, False),
    *interpolation(aten.upsample_nearest2d, 2, False),
    *interpolation(aten.upsample_nearest3d, 3, False),
    *interpolation(aten._upsample_nearest_exact1d, 1, False),
    *interpolation(aten._upsample_nearest_exact2d, 2, False),
    *interpolation(aten._upsample_nearest_exact3d, 3, False),
    *interpolation(aten.upsample_linear1d, 1, True),
    *interpolation(aten.upsample_bilinear2d, 2, True),
    *interpolation(aten.upsample_trilinear3d, 3, True),
    *interpolation(aten.upsample_bicubic2d, 2, True),
    *interpolation(aten._upsample_bilinear2d_aa, 2, True),
    *interpolation(aten._upsample_bicubic2d_aa, 2, True),
    Case(aten.im2col.default, lambda d: [d.normal(d.N, 2, 5, 6), [2, 3], [1, 2], [1, 0], [2, 1]]),
    Case(aten.col2im.default, lambda d: [d.normal(d.N, 8, 12), [4, 5], [2, 2], [1, 1], [0, 0], [1, 1]]),
]
