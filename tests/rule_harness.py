"""One row per case, four oracles per row: how a rule is checked.

A `Case` names an overload and builds its arguments from a `Draw`; batch sizes are written `d.N`, so that the same row
gives an example at one batch size, another at a second one, and symbolic arguments while tracing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BATCH = 13
"""A prime that no other size in a case equals: an axis of this length is a batch axis."""

OTHER_BATCH = 7


class Draw:
    """Source of example tensors. While tracing it hands out the traced tensors instead, in the same order."""

    def __init__(
        self,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        batch: int = BATCH,
        carrier: Tensor | None = None,
        given: list[Tensor] | None = None,
    ) -> None:
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype
        self.carrier = torch.zeros(batch) if carrier is None else carrier
        """Has the batch size as its length, for arguments that have no batch axis themselves."""
        self.asked_for_batch = False
        self.made: list[Tensor] = []
        self.given = given

    @property
    def N(self) -> Any:
        """The batch size; symbolic while tracing."""
        self.asked_for_batch = True
        return self.carrier.shape[0]

    def _hand_out(self, make: Callable[[], Tensor]) -> Tensor:
        if self.given is not None:
            self.made.append(self.given[len(self.made)])
        else:
            self.made.append(make())
        return self.made[-1]

    def normal(self, *shape: int, low_gap: float = 0.0) -> Tensor:
        """Standard normal; `low_gap` moves every value that far away from zero."""

        def make() -> Tensor:
            t = torch.randn(shape, generator=self.generator, dtype=torch.float64)
            return (t + low_gap * t.sign()).to(self.dtype)

        return self._hand_out(make)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        def make() -> Tensor:
            t = torch.rand(shape, generator=self.generator, dtype=torch.float64)
            return (low + (high - low) * t).to(self.dtype)

        return self._hand_out(make)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return self._hand_out(lambda: torch.randint(low, high, shape, generator=self.generator))

    def coin(self, *shape: int) -> Tensor:
        return self._hand_out(lambda: torch.rand(shape, generator=self.generator) < 0.5)

    def values(self, data: Any, dtype: torch.dtype | None = None) -> Tensor:
        """Exactly these numbers (kinks, ties, indices)."""
        return self._hand_out(lambda: torch.tensor(data, dtype=dtype or self.dtype))

    def distinct(self, *shape: int) -> Tensor:
        """No two elements closer than 0.01: the choice of a maximum is not a matter of rounding."""

        def make() -> Tensor:
            count = torch.Size(shape).numel()
            order = torch.randperm(count, generator=self.generator).to(torch.float64)
            return (0.01 * (order - count / 2) + 0.003).reshape(shape).to(self.dtype)

        return self._hand_out(make)


Arguments = Callable[[Draw], list[Any]]


@dataclass(frozen=True)
class Case:
    """One row: an overload at one kind of arguments.

    `args(d)`: all arguments in schema order, keyword-only ones too, as the driver passes them.
    `constant`: positions of floating-point arguments that no rule differentiates (class weights, running statistics).
    `reference`: the operation from primitives, same arguments, where PyTorch has no second derivative of its own.
    `outputs`: which of several outputs carry derivatives; the others must not be asked for.
    `traced`: False where another row is traced to the same operations (tracing takes most of the time).
    `second_order`: False at a kink where PyTorch's second reverse pass disagrees with its first (0 times
    infinity, other conventions): value and adjoint are compared, the tangent follows from the adjointness test.
    """

    op: torch._ops.OpOverload
    args: Arguments
    note: str = ""
    constant: tuple[int, ...] = ()
    reference: Callable[..., Any] | None = None
    second_order: bool = True
    tolerance: float = 1e-12
    outputs: tuple[int, ...] | None = None
    traced: bool = True

    @property
    def name(self) -> str:
        return f"{self.op.__name__}{'-' + self.note if self.note else ''}".replace(" ", "_")


def call(op: torch._ops.OpOverload, args: Sequence[Any]) -> Any:
    """`op` with its arguments in schema order."""
    schema = op._schema.arguments
    positional = [a for s, a in zip(schema, args, strict=True) if not s.kwarg_only]
    return op(*positional, **{s.name: a for s, a in zip(schema, args, strict=True) if s.kwarg_only})


# Leaves: floating-point tensors among the arguments, by position; a list argument has one leaf an entry.

Leaf = tuple[int, int | None]


def leaves_of(case: Case, args: Sequence[Any]) -> list[Leaf]:
    found: list[Leaf] = []
    for i, arg in enumerate(args):
        if i in case.constant:
            continue
        if isinstance(arg, Tensor) and arg.is_floating_point():
            found.append((i, None))
        elif isinstance(arg, (list, tuple)):
            found += [(i, k) for k, e in enumerate(arg) if isinstance(e, Tensor) and e.is_floating_point()]
    return found


def pick(entries: Sequence[Any], leaf: Leaf) -> Any:
    i, k = leaf
    if k is None:
        return entries[i]
    return None if entries[i] is None else entries[i][k]


def place(args: Sequence[Any], values: dict[Leaf, Any], missing: Any) -> list[Any]:
    """One entry an argument, with `values` at their leaves: the form of dots and of needs."""
    result: list[Any] = []
    for i, arg in enumerate(args):
        if isinstance(arg, (list, tuple)) and any(isinstance(e, Tensor) for e in arg):
            result.append([values.get((i, k), missing) for k in range(len(arg))])
        else:
            result.append(values.get((i, None), missing))
    return result


def outputs_of(case: Case, y: Any) -> list[Tensor | None]:
    """Outputs that carry derivatives; `None` stands for the others."""
    ys = list(y) if isinstance(y, (list, tuple)) else [y]
    active = range(len(ys)) if case.outputs is None else case.outputs
    return [t if t.is_floating_point() and o in active else None for o, t in enumerate(ys)]


def wrap(y: Any, bars: list[Tensor | None]) -> Any:
    """Adjoints in the form of y; all of them zero is a plain `None`."""
    if all(b is None for b in bars):
        return None
    return list(bars) if isinstance(y, (list, tuple)) else bars[0]


def difference(found: Tensor | None, expected: Tensor, tolerance: float, what: str) -> None:
    """Raise unless `found` (`None` = zero) is `expected`, relative to the largest element of `expected`."""
    if found is None:
        assert not expected.any(), (
            f"{what}: structurally zero, but the oracle is not ({expected.abs().max():.2e})"
        )
        return
    assert found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    assert found.dtype == expected.dtype, f"{what}: {found.dtype}, not {expected.dtype}"
    if expected.numel() == 0 or not expected.is_floating_point():
        assert torch.equal(found, expected), f"{what}: other values"
        return
    assert torch.equal(found.isnan(), expected.isnan()), f"{what}: NaN in other places"
    found, expected = found.nan_to_num(), expected.nan_to_num()
    # An oracle of exact zeros is met to a rounding of numbers of order one.
    scale = expected.abs().max().item() or 1e-2
    error = (found - expected).abs().max().item() / scale
    assert error <= tolerance, f"{what}: relative error {error:.2e}"
