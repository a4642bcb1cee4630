"""Normalizations over other groups of elements than BatchNorm's, with and without their affine part."""

from __future__ import annotations

import torch
from rule_harness import Case, Draw

aten = torch.ops.aten
EPS = 1e-5


def layer(d: Draw, sizes: tuple[int, ...], affine: bool, *last: object) -> list:
    x = d.normal(d.N, 3, *sizes)
    parameters = [d.normal(*sizes), d.normal(*sizes)] if affine else [None, None]
    return [x, list(sizes), *parameters, EPS, *last]


def channels(d: Draw, affine: bool) -> list:
    return [d.normal(6), d.normal(6)] if affine else [None, None]


def native_group(d: Draw, affine: bool) -> list:
    return [d.normal(d.N, 6, 2, 4), *channels(d, affine), d.N, 6, 8, 3, EPS]


def instance(d: Draw, affine: bool, own: bool) -> list:
    x, parameters = d.normal(d.N, 6, 5), channels(d, affine)
    running = [d.normal(6), d.uniform(6, low=0.5, high=2)] if not own else [None, None]
    return [x, *parameters, *running, own, 0.1, EPS, False]


def rms(d: Draw, affine: bool, eps: float | None) -> list:
    return [d.normal(d.N, 3, 5), [5], d.normal(5) if affine else None, eps]


NOTES = {True: "affine", False: "plain"}

CASES = [
    case
    for affine, note in NOTES.items()
    for case in (
        Case(aten.layer_norm.default, lambda d, a=affine: layer(d, (5,), a, True), note),
        Case(aten.layer_norm.default, lambda d, a=affine: layer(d, (4, 2), a, True), f"two axes {note}"),
        Case(aten.native_layer_norm.default, lambda d, a=affine: layer(d, (5,), a), note, outputs=(0,)),
        Case(
            aten.group_norm.default,
            lambda d, a=affine: [d.normal(d.N, 6, 2, 4), 3, *channels(d, a), EPS, True],
            note,
        ),
        Case(
            aten.group_norm.default,
            lambda d, a=affine: [d.normal(d.N, 6), 2, *channels(d, a), EPS, True],
            f"flat {note}",
        ),
        Case(aten.native_group_norm.default, lambda d, a=affine: native_group(d, a), note, outputs=(0,)),
        Case(aten.instance_norm.default, lambda d, a=affine: instance(d, a, True), note),
        Case(
            aten.instance_norm.default,
            lambda d, a=affine: instance(d, a, False),
            f"running {note}",
            constant=(3, 4),
        ),
        Case(aten.rms_norm.default, lambda d, a=affine: rms(d, a, None), note),
        Case(aten.rms_norm.default, lambda d, a=affine: rms(d, a, 0.3), f"large eps {note}"),
        Case(aten._fused_rms_norm.default, lambda d, a=affine: rms(d, a, EPS), note, outputs=(0,)),
    )
] + [
    Case(
        aten.layer_norm.default,
        lambda d: [d.normal(d.N, 5), [5], d.normal(5), None, EPS, True],
        "without beta",
    ),
    Case(
        aten.group_norm.default,
        lambda d: [d.normal(d.N, 6, 4), 1, *channels(d, True), EPS, True],
        "one group",
    ),
    Case(
        aten.group_norm.default, lambda d: [d.normal(d.N, 6, 4), 6, *channels(d, True), EPS, True], "instance"
    ),
]
