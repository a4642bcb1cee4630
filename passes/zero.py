"""Structural zeros: `None` stands for a tensor of zeros that is never materialised."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # the closed forms of `bnrewrite.formulas` add NumPy arrays where there is no torch
    from torch import Tensor

MaybeZero: TypeAlias = "Tensor | None"


def add(*terms: MaybeZero) -> MaybeZero:
    """Sum of the terms that are there; `None` if there is none."""
    total: MaybeZero = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term
    return total


def sub(x: MaybeZero, *terms: MaybeZero) -> MaybeZero:
    """`x` less the terms that are there."""
    for term in terms:
        if term is not None:
            x = -term if x is None else x - term
    return x


def mul(*factors: MaybeZero) -> MaybeZero:
    """Product, zero as soon as one factor is."""
    product: MaybeZero = None
    for factor in factors:
        if factor is None:
            return None
        product = factor if product is None else product * factor
    return product


def apply(linear_map: Callable[[Tensor], Tensor], x: MaybeZero) -> MaybeZero:
    """`linear_map(x)`, zero at zero."""
    return None if x is None else linear_map(x)
