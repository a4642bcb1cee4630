"""What the walk knows of one tensor, and what it finds of one operation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor, fx

from .aggregates import Aggregate
from .table import Decided

Kind = Literal["free", "target", "apart", "permutes", "mixes", "reduces", "aggregate"]
"""The classes of an operation, as `NodeStructure` explains them."""


@dataclass(frozen=True)
class Seen:
    """What is known of one tensor of the graph."""

    value: Tensor
    reordered: Tensor
    """The value with the samples in the other order."""
    owner: Tensor
    certain: bool = False
    from_target: bool = False
    """Depends on targets, and on no output of the model: a constant for every derivative."""
    aggregate: Aggregate | None = None
    sources: frozenset[fx.Node] = frozenset()
    """Reductions over samples that enter."""
    breaks: frozenset[fx.Node] = frozenset()
    """Operations after which it is no sum over samples any more."""
    moved: frozenset[fx.Node] = frozenset()
    """Operations that moved its samples to other places; none where they are back in order."""
    target_factor: bool = False
    """Whether a number that depends on all targets scales it, such as the sum of the class weights."""
    alike: bool = True

    @cached_property
    def owned(self) -> bool:
        return bool(self.owner.any())

    @property
    def live(self) -> bool:
        """Whether it depends on the model's input (in the loss: its outputs)."""
        return self.aggregate is not None or self.owned


@dataclass(frozen=True)
class Judged:
    """One node of the graph and what was found of it."""

    node: fx.Node
    kind: Kind
    layout: str
    decided: Decided
    unlike: bool = False
