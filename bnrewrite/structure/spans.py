"""Which samples each element of a tensor depends on: the values that the analysis computes with.

Every element of an operand has an *owner*: the one sample n = 1 .. N that it belongs to, or 0 if no sample enters it
(parameters, constants). Owners are a tensor of the operand's own shape. So nothing has to be said about axes: a batch
that a view folds into another axis is still there, element by element.

Of one operation's result a rule finds the *span*: the lowest and the highest owner that an element depends on. They
are equal where it depends on one sample, which then owns it; where they differ the operation mixes samples there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

NONE = float("inf")
"""Lowest owner where no sample enters; the highest one is 0 there."""


@dataclass(frozen=True)
class Span:
    """Lowest and highest owner that each element of a tensor depends on."""

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, owner: Tensor) -> Span:
        """The span of a tensor whose owners are known."""
        return cls(torch.where(owner == 0, NONE, owner), owner)

    @classmethod
    def free(cls, like: Tensor) -> Span:
        """The span of a tensor of the shape of `like` into which no sample enters."""
        return cls.of(torch.zeros(like.shape, device=like.device))

    @property
    def mixed(self) -> Tensor:
        """Where more than one sample enters."""
        return self.high > self.low

    @property
    def owner(self) -> Tensor:
        """The owner of every element; 0 where no sample enters, or several."""
        return torch.where(self.high == self.low, self.high, 0.0)

    def map(self, move: Callable[[Tensor], Tensor]) -> Span:
        """The same after elements were moved, repeated or dropped; `move` must not fill in new ones."""
        return Span(move(self.low), move(self.high))

    def over(self, dims: Sequence[int]) -> Span:
        """Reduced over `dims`, which stay with size one."""
        dims = sorted({dim % self.low.dim() for dim in dims}) if self.low.dim() else []
        return Span(self.low.amin(dims, True), self.high.amax(dims, True)) if dims else self

    def expand(self, shape: Sequence[int]) -> Span:
        """Repeated along axes of size one, as broadcasting does."""
        return self.map(lambda owner: owner.expand(tuple(shape)))

    def view(self, shape: Sequence[int]) -> Span:
        """The same elements in another shape."""
        return self.map(lambda owner: owner.reshape(tuple(shape)))


def join(*spans: Span) -> Span:
    """The span of a value that depends on all of these, which are broadcast against each other."""
    low, high = spans[0].low, spans[0].high
    for span in spans[1:]:
        low, high = torch.minimum(low, span.low), torch.maximum(high, span.high)
    return Span(low, high)


@dataclass(frozen=True, eq=False)
class Operand:
    """A tensor that an operation reads: its value in this run and the owner of each of its elements."""

    value: Tensor
    owner: Tensor
    certain: bool = False
    """Whether the value is the same for all inputs and parameters, so that a zero in it is always a zero."""

    @cached_property
    def owned(self) -> bool:
        """Whether any sample enters."""
        return bool(self.owner.any())

    @property
    def span(self) -> Span:
        return Span.of(self.owner)


@dataclass(frozen=True)
class Call:
    """One operation of the graph with its operands.

    `args` and `kwargs` hold an `Operand` for every tensor; `result` is what came out in this run: a tensor, or a tuple
    or list of tensors. `samples`: N.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    samples: int
    named: dict[str, Any] = field(init=False)
    """All arguments by the names of the operation's schema, defaults filled in; empty for a Python function."""

    def __post_init__(self) -> None:
        schema = self.op._schema.arguments if isinstance(self.op, torch._ops.OpOverload) else ()
        given = {argument.name: value for argument, value in zip(schema, self.args, strict=False)}
        defaults = {argument.name: argument.default_value for argument in schema}
        object.__setattr__(self, "named", defaults | given | self.kwargs)

    def __getitem__(self, name: str) -> Any:
        return self.named[name]

    def __contains__(self, name: str) -> bool:
        return name in self.named

    @property
    def name(self) -> str:
        """The operation's name without namespace and overload, such as `batch_norm`."""
        return name_of(self.op)

    @property
    def operands(self) -> list[Operand]:
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Operand)]

    @property
    def shape(self) -> torch.Size:
        """Shape of the only result, or of the first."""
        return torch.Size(self.results[0].shape)

    @property
    def results(self) -> list[Tensor]:
        return [leaf for leaf in pytree.tree_leaves(self.result) if isinstance(leaf, Tensor)]

    def run(self, stand_in: Callable[[Operand], Any], **changed: Any) -> list[Tensor]:
        """Results of the operation with other tensors in place of its operands; `changed`: arguments by name."""
        args, kwargs = pytree.tree_map_only(Operand, stand_in, (self.args, self.kwargs))
        if changed:
            names = [argument.name for argument in self.op._schema.arguments]
            args = tuple(changed.get(name, value) for name, value in zip(names, args, strict=False))
            kwargs = {name: changed.get(name, value) for name, value in kwargs.items()}
        leaves = pytree.tree_leaves(self.op(*args, **kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def words(text: str) -> list[str]:
    """The words of a text: names of operations, in fewer lines."""
    return text.split()


def name_of(op: Any) -> str:
    """The name of an operation without namespace and overload."""
    if isinstance(op, torch._ops.OpOverload):
        return op._schema.name.split("::")[-1]
    return getattr(op, "__name__", str(op))


def span_of(entry: Any, like: Tensor) -> Span:
    """The span of an argument that may be no tensor at all (a number, None)."""
    if isinstance(entry, Operand):
        return entry.span
    return Span.of(torch.zeros((), device=like.device))


def owned(*entries: Any) -> bool:
    """Whether any sample enters any of these arguments."""
    return any(isinstance(leaf, Operand) and leaf.owned for leaf in pytree.tree_leaves(entries))
