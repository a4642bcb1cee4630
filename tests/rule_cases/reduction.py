"""Reductions over some axes, all axes and the batch axis; ties, zeros, softmax."""

from __future__ import annotations

import torch
from rule_harness import Case

aten = torch.ops.aten

TIES = [[1.0, 3.0, 3.0, 2.0], [2.0, 2.0, 2.0, 2.0], [-1.0, 0.0, 0.0, -1.0]]
ZEROS = [[1.0, 2.0, 3.0], [0.0, 2.0, 3.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0], [-1.0, 0.5, 2.0]]

AXES = {
    "axis": ([1], False),
    "kept": ([-1], True),
    "batch": ([0], False),
    "several": ([0, 2], True),
    "all": (None, False),
}


def over_axes(op: torch._ops.OpOverload, after: tuple = (), none: object = None) -> list[Case]:
    return [
        Case(
            op,
            lambda d, dim=dim, keep=keep: [d.distinct(d.N, 3, 4), none if dim is None else dim, keep, *after],
            note,
            traced=note in ("axis", "batch"),
        )
        for note, (dim, keep) in AXES.items()
    ]


def moment(op: torch._ops.OpOverload) -> list[Case]:
    return [
        *(
            Case(
                op,
                lambda d, dim=dim, keep=keep: [d.normal(d.N, 3, 4), dim, 1, keep],
                note,
                traced=note in ("axis", "batch"),
            )
            for note, (dim, keep) in AXES.items()
        ),
        Case(op, lambda d: [d.normal(d.N, 3, 4), [1, 2], 0, False], "biased", traced=False),
        Case(op, lambda d: [d.normal(d.N, 3, 4), [1, 2], None, False], "default correction", traced=False),
        Case(op, lambda d: [d.normal(d.N, 3, 4), [2], 0.5, True], "half a correction", traced=False),
    ]


def norm(p: object) -> list[Case]:
    return [
        Case(
            aten.linalg_vector_norm.default,
            lambda d: [d.normal(d.N, 3, 4, low_gap=0.1), p, [1, 2], False, None],
            f"p {p}",
            traced=p in (2, 3),
        ),
        Case(
            aten.linalg_vector_norm.default,
            lambda d: [d.normal(d.N, 4, low_gap=0.1), p, None, False, None],
            f"p {p} all",
        ),
    ]


CASES = [
    Case(aten.sum.default, lambda d: [d.normal(d.N, 3), None]),
    *over_axes(aten.sum.dim_IntList, (None,)),
    Case(aten.mean.default, lambda d: [d.normal(d.N, 3), None]),
    *over_axes(aten.mean.dim, (None,)),
    Case(
        aten.sum.dim_IntList,
        lambda d: [d.values([[1.0, 2.0]], torch.float32), [1], False, torch.float64],
        "wider type",
        tolerance=1e-6,
    ),  # the adjoint is rounded to float32
    Case(aten.sum.dim_IntList, lambda d: [d.normal(), [0], False, None], "scalar"),
    Case(aten.cumsum.default, lambda d: [d.normal(d.N, 3), 1, None]),
    Case(aten.cumsum.default, lambda d: [d.normal(d.N, 3), 0, None], "of the batch"),
    *moment(aten.var.correction),
    *moment(aten.std.correction),
    *moment(aten.var_mean.correction),
    *moment(aten.std_mean.correction),
    Case(aten.std.correction, lambda d: [d.values(TIES), [1], 1, False], "constant row", second_order=False),
    *over_axes(aten.amax.default, none=[]),
    *over_axes(aten.amin.default, none=[]),
    Case(aten.amax.default, lambda d: [d.values(TIES), [1], False], "ties"),
    Case(aten.amin.default, lambda d: [d.values(TIES), [1], True], "ties"),
    Case(aten.max.default, lambda d: [d.distinct(d.N, 3)]),
    Case(aten.min.default, lambda d: [d.distinct(d.N, 3)]),
    Case(aten.max.default, lambda d: [d.values(TIES)], "ties"),
    Case(aten.min.default, lambda d: [d.values(TIES)], "ties"),
    Case(aten.max.dim, lambda d: [d.distinct(d.N, 3), 1, False]),
    Case(aten.max.dim, lambda d: [d.distinct(d.N, 3), 0, True], "of the batch"),
    Case(aten.max.dim, lambda d: [d.values(TIES), 1, False], "ties"),
    Case(aten.min.dim, lambda d: [d.distinct(d.N, 3), -1, True]),
    Case(aten.topk.default, lambda d: [d.distinct(d.N, 6), 3, 1, True, True]),
    Case(aten.sort.default, lambda d: [d.distinct(d.N, 6), -1, True]),
    Case(aten.prod.default, lambda d: [d.uniform(d.N, 2, low=0.5, high=1.5), None]),
    Case(aten.prod.dim_int, lambda d: [d.normal(d.N, 4), 1, False, None]),
    Case(aten.prod.dim_int, lambda d: [d.values(ZEROS), 1, True, None], "zeros"),
    Case(aten.prod.default, lambda d: [d.values(ZEROS[1]), None], "zero"),
    Case(aten.prod.dim_int, lambda d: [d.uniform(d.N, 3, low=0.5, high=1.5), 0, False, None], "of the batch"),
    *over_axes(aten.logsumexp.default, none=[0, 1, 2]),
    *(case for p in (2, 1, 0, 3, 1.5, 4, float("inf"), -float("inf")) for case in norm(p)),
    Case(aten.linalg_vector_norm.default, lambda d: [d.values(TIES), float("inf"), [1], True, None], "ties"),
    Case(
        aten.linalg_vector_norm.default,
        lambda d: [d.values([[0.0, 0.0], [3.0, 4.0]]), 2, [1], False, None],
        "zero",
        second_order=False,
    ),
    Case(aten.norm.Scalar, lambda d: [d.normal(d.N, 4), 2]),
    Case(aten.norm.ScalarOpt_dim, lambda d: [d.normal(d.N, 4), 2, [1], True]),
    Case(aten.norm.ScalarOpt_dim, lambda d: [d.normal(d.N, 4), None, [0], False], "default"),
    Case(aten._softmax.default, lambda d: [d.normal(d.N, 5), 1, False]),
    Case(aten._softmax.default, lambda d: [d.normal(d.N, 5, 2), -2, False], "inner axis"),
    Case(aten._softmax.default, lambda d: [d.normal(d.N, 2), 0, False], "of the batch"),
    Case(aten._log_softmax.default, lambda d: [d.normal(d.N, 5), 1, False]),
    Case(aten._log_softmax.default, lambda d: [d.normal(d.N, 5, 2), -2, False], "inner axis"),
]
