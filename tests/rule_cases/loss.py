"""Losses: reductions, weights, ignored rows, smoothing, probability targets, spatial axes, kinks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from rule_harness import Case, Draw
from torch import Tensor

aten = torch.ops.aten

NONE, MEAN, SUM = 0, 1, 2
REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": SUM}
KINKS = [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]


def cross_entropy_cases() -> list[Case]:
    op, cases = aten.cross_entropy_loss.default, []
    for (name, kind), weighted, ls in product(REDUCTIONS.items(), (False, True), (0.0, 0.1)):
        note = f"{name}{' weighted' if weighted else ''}{' smoothed' if ls else ''}"

        def classes(d: Draw, kind: int = kind, weighted: bool = weighted, ls: float = ls) -> list:
            w = d.uniform(5, low=0.5, high=2) if weighted else None
            return [d.normal(d.N, 5), d.integers(0, 5, d.N), w, kind, 2, ls]

        def probabilities(d: Draw, kind: int = kind, weighted: bool = weighted, ls: float = ls) -> list:
            w = d.uniform(5, low=0.5, high=2) if weighted else None
            return [d.normal(d.N, 5), d.uniform(d.N, 5), w, kind, -100, ls]

        cases += [
            Case(op, classes, note, constant=(2,), traced=kind != SUM),
            Case(op, probabilities, f"{note} probabilities", constant=(2,), traced=kind == MEAN),
        ]
    return [
        *cases,
        Case(
            op,
            lambda d: [d.normal(d.N, 5, 3, 2), d.integers(0, 5, d.N, 3, 2), None, MEAN, -100, 0.0],
            "spatial",
        ),
        Case(
            op,
            lambda d: [d.normal(d.N, 5, 3), d.integers(0, 5, d.N, 3), d.uniform(5), NONE, 1, 0.2],
            "spatial weighted smoothed",
            constant=(2,),
        ),
        Case(
            op,
            lambda d: [d.normal(d.N, 5, 3), d.uniform(d.N, 5, 3), d.uniform(5), MEAN, -100, 0.2],
            "spatial probabilities",
            constant=(2,),
        ),
        Case(op, lambda d: [d.normal(5), d.integers(0, 5), None, MEAN, -100, 0.0], "one sample"),
        Case(op, lambda d: [d.normal(5), d.uniform(5), None, SUM, -100, 0.1], "one sample probabilities"),
        Case(
            op,
            lambda d: [d.normal(2, 3), d.values([-100, -100], torch.int64), None, MEAN, -100, 0.0],
            "all ignored",
            second_order=False,
        ),
        Case(
            op,
            lambda d: [d.normal(3, 3), d.values([-100, 1, 2], torch.int64), None, MEAN, -100, 0.0],
            "default ignored",
        ),
    ]


def nll_cases(op: torch._ops.OpOverload, *spatial: int) -> list[Case]:
    return [
        Case(
            op,
            lambda d, kind=kind: [
                d.normal(d.N, 5, *spatial), d.integers(0, 5, d.N, *spatial), d.uniform(5, low=0.5, high=2), kind, 2,
            ],
            f"{name} weighted {len(spatial)}",
            constant=(2,),
        )
        for name, kind in REDUCTIONS.items()
    ] + [
        Case(
            op,
            lambda d: [d.normal(d.N, 5, *spatial), d.integers(0, 5, d.N, *spatial), None, MEAN, -100],
            f"{len(spatial)}",
        )
    ]  # fmt: skip


def expanded(op: torch._ops.OpOverload) -> Callable[..., Tensor]:
    """PyTorch's second reverse pass loses the shape of an operand that the loss itself broadcasts."""
    return lambda x, t, *static: op(*torch.broadcast_tensors(x, t), *static)


def binary_cross_entropy(x: Tensor, t: Tensor, w: Tensor | None, kind: int) -> Tensor:
    """From primitives: PyTorch's second reverse pass adds 1e-12 to denominators that its first one does not."""
    losses = -(t * x.log() + (1 - t) * (1 - x).log()) * (1 if w is None else w)
    return losses if kind == NONE else losses.mean() if kind == MEAN else losses.sum()


def elementwise(op: torch._ops.OpOverload, static: tuple = (), note: str = "") -> list[Case]:
    return [
        *(
            Case(
                op,
                lambda d, k=k: [d.normal(d.N, 3), d.normal(d.N, 3), k, *static],
                f"{name}{note}",
                traced=not note,
            )
            for name, k in REDUCTIONS.items()
        ),
        Case(
            op,
            lambda d: [d.normal(d.N, 3), d.normal(3), MEAN, *static],
            f"broadcast{note}",
            reference=expanded(op),
        ),
        # beta = 0 is l1_loss by way of torch.nn.functional; the overload itself is not symmetric at its kink.
        *(
            [Case(op, lambda d: [d.values(KINKS), d.values([0.0] * 7), SUM, *static], f"kinks{note}")]
            if static != (0.0,)
            else []
        ),
    ]


def logits(*weights: str) -> list[Case]:
    def args(d: Draw, kind: int) -> list:
        x, t = d.normal(d.N, 3), d.uniform(d.N, 3)
        w = d.uniform(d.N, 1, low=0.5, high=2) if "weight" in weights else None
        v = d.uniform(3, low=0.5, high=2) if "pos_weight" in weights else None
        return [x, t, w, v, kind]

    op = aten.binary_cross_entropy_with_logits.default
    return [
        Case(op, lambda d, k=k: args(d, k), " ".join([name, *weights]), constant=(2, 3))
        for name, k in REDUCTIONS.items()
    ]


CASES = [
    *cross_entropy_cases(),
    *nll_cases(aten.nll_loss_nd.default),
    *nll_cases(aten.nll_loss_nd.default, 3),
    *nll_cases(aten.nll_loss_nd.default, 3, 2),
    *nll_cases(aten.nll_loss.default),
    *nll_cases(aten.nll_loss2d.default, 3, 2),
    *nll_cases(aten.nll_loss_forward.default),
    *nll_cases(aten.nll_loss2d_forward.default, 3, 2),
    *elementwise(aten.mse_loss.default),
    *elementwise(aten.l1_loss.default),
    *elementwise(aten.smooth_l1_loss.default, (1.0,)),
    *elementwise(aten.smooth_l1_loss.default, (0.5,), " half"),
    *elementwise(aten.smooth_l1_loss.default, (0.0,), " sharp"),
    *elementwise(aten.huber_loss.default, (1.0,)),
    *elementwise(aten.huber_loss.default, (0.5,), " half"),
    *logits(),
    *logits("weight"),
    *logits("pos_weight"),
    *logits("weight", "pos_weight"),
    *(
        Case(
            aten.binary_cross_entropy.default,
            lambda d, k=k: [d.uniform(d.N, 3, low=0.05, high=0.95), d.uniform(d.N, 3), d.uniform(d.N, 1), k],
            name,
            constant=(2,),
            reference=binary_cross_entropy,
        )
        for name, k in REDUCTIONS.items()
    ),
    Case(
        aten.binary_cross_entropy.default,
        lambda d: [d.uniform(d.N, 3, low=0.05, high=0.95), d.uniform(d.N, 3), None, MEAN],
        "unweighted",
        reference=binary_cross_entropy,
    ),
    *(
        Case(
            aten.kl_div.default,
            lambda d, k=k: [d.normal(d.N, 3), d.uniform(d.N, 3, low=0.1), k, False],
            name,
        )
        for name, k in REDUCTIONS.items()
    ),
    Case(aten.kl_div.default, lambda d: [d.normal(d.N, 3), d.normal(d.N, 3), MEAN, True], "log target"),
    *(
        Case(
            aten.soft_margin_loss.default,
            lambda d, k=k: [d.normal(d.N, 3), d.integers(0, 2, d.N, 3) * 2 - 1, k],
            name,
        )
        for name, k in REDUCTIONS.items()
    ),
]
