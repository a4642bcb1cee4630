"""Dependence by running an operation itself: on marks where it is linear, by perturbing it where nothing is known.

Samples are told apart in *planes*: subsets of the samples, so that a set of samples is a single one exactly if the
planes that it meets say so. Up to eight samples each have a plane; more are numbered in binary, with two planes a digit
(the samples whose digit is 0, and those whose digit is 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .spans import NONE, Call, Operand, Span, join

ONE_EACH = 8
"""Up to so many samples have a plane each."""

TRIALS = 4
"""Random perturbations of an operation that has no rule. Where a result is flat, one of them may show nothing."""


def planes(samples: int) -> Iterator[tuple[int, int, Tensor]]:
    """Digit, its value there, and for every owner 0 .. N whether it is in the plane."""
    numbers = torch.arange(samples + 1)
    if samples <= ONE_EACH:
        for sample in range(1, samples + 1):
            yield 0, sample, numbers == sample
        return
    for digit in range(int(samples - 1).bit_length()):
        for value in (0, 1):
            yield digit, value, ((numbers - 1 >> digit & 1) == value) & (numbers > 0)


class Decoder:
    """Spans from the planes that each element of a result met."""

    def __init__(self, like: Tensor, samples: int) -> None:
        self.one_each = samples <= ONE_EACH
        digits = 1 if self.one_each else int(samples - 1).bit_length()
        self.low = [torch.full(like.shape, NONE, device=like.device) for _ in range(digits)]
        self.high = [torch.full(like.shape, -NONE, device=like.device) for _ in range(digits)]

    def see(self, digit: int, value: int, met: Tensor) -> None:
        """Note where the plane of `digit` and `value` was met."""
        self.low[digit] = torch.where(met & (self.low[digit] > value), float(value), self.low[digit])
        self.high[digit] = torch.where(met & (self.high[digit] < value), float(value), self.high[digit])

    def span(self) -> Span:
        """The span; of several samples the two ends differ, but need not be the true ones."""
        if self.one_each:
            return Span(self.low[0], self.high[0].clamp(min=0))
        none = torch.isinf(self.low[0])
        low = 1 + sum(2**digit * part.nan_to_num(posinf=0) for digit, part in enumerate(self.low))
        high = 1 + sum(2**digit * part.nan_to_num(neginf=0) for digit, part in enumerate(self.high))
        return Span(torch.where(none, NONE, low), torch.where(none, 0.0, high))


def by_marks(call: Call) -> list[Span]:
    """Of an operation that is linear in each of its operands, or increasing in its only one (a maximum).

    One operand after the other is replaced by marks, random numbers between 1 and 2 at the elements of a plane and zero
    elsewhere, the others by ones, or by zero where they are certain to be zero. What differs from the result for no
    marks depends on the plane. An index must be free.
    """
    spans = [Span.free(result) for result in call.results]
    for operand in call.operands:
        if operand.owned:
            found = [Decoder(result, call.samples) for result in call.results]
            nothing = call.run(_marked(operand, torch.zeros(call.samples + 1, dtype=torch.bool)))
            for digit, value, plane in planes(call.samples):
                marked = call.run(_marked(operand, plane))
                for decoder, result, without in zip(found, marked, nothing, strict=True):
                    decoder.see(digit, value, differs(result, without))
            spans = [join(span, decoder.span()) for span, decoder in zip(spans, found, strict=True)]
    return spans


def _marked(chosen: Operand, plane: Tensor) -> Callable[[Operand], Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = 1 + torch.rand(chosen.value.shape, generator=generator, dtype=torch.float64)

    def stand_in(operand: Operand) -> Tensor:
        if operand is chosen:
            return weight.to(operand.owner.device) * _in_plane(operand, plane)
        if not operand.value.is_floating_point():
            return operand.value
        return (operand.value != 0).double() if operand.certain else torch.ones_like(operand.value).double()

    return stand_in


def _in_plane(operand: Operand, plane: Tensor) -> Tensor:
    return plane.to(operand.owner.device)[operand.owner.long()]


def by_perturbation(call: Call) -> list[Span] | None:
    """Of any operation: the samples of one plane are moved at random, and what changes depends on them.

    This is the pattern of the operation's Jacobian, seen over finite steps. `None` where the operation cannot be run on
    other values than its own, or gives results of another shape then: nothing is known.
    """
    generator = torch.Generator().manual_seed(0)
    found = [Decoder(result, call.samples) for result in call.results]
    try:
        for trial in range(TRIALS):
            everywhere = torch.ones(call.samples + 1, dtype=torch.bool) if trial else None
            base = {
                operand: operand.value if everywhere is None else _moved(operand, everywhere, generator)
                for operand in call.operands
            }
            before = call.run(base.__getitem__)
            for digit, number, plane in planes(call.samples):
                moved = {o: _moved(o, plane, generator, value) for o, value in base.items()}
                after = call.run(moved.__getitem__)
                for decoder, old, new in zip(found, before, after, strict=True):
                    decoder.see(digit, number, differs(new, old))
    except Exception:  # noqa: BLE001  # whatever an unknown operation says to values that it was not made for
        return None
    spans = [decoder.span() for decoder in found]
    return [_filled(call, span) for span in spans]


def _moved(operand: Operand, plane: Tensor, generator: torch.Generator, base: Tensor | None = None) -> Tensor:
    """Another value at the elements in the plane: with noise as large as the tensor's own spread; of whole numbers
    another one of the tensor's own."""
    value = operand.value if base is None else base
    if not operand.owned:
        return value
    if value.is_floating_point() or value.is_complex():
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        size = torch.nan_to_num((operand.value - operand.value.mean()).abs().max()) + 0.1
        other = value + size * noise
    else:
        picked = torch.randint(max(value.numel(), 1), value.shape, generator=generator).to(value.device)
        other = value.reshape(-1)[picked]
    return torch.where(_in_plane(operand, plane), other, value)


def _filled(call: Call, span: Span) -> Span:
    """Elements that no perturbation moved get the owner of the operand's element in the same place, if there is one."""
    for operand in call.operands:
        if operand.owned and operand.owner.shape == span.low.shape:
            own = operand.span
            unmoved = torch.isinf(span.low)
            return Span(torch.where(unmoved, own.low, span.low), torch.where(unmoved, own.high, span.high))
    return span


def differs(a: Tensor, b: Tensor) -> Tensor:
    """Where two results differ by more than rounding."""
    if not (a.is_floating_point() or a.is_complex()):
        return a != b
    equal = torch.isclose(a, b, rtol=1e-10, atol=1e-12, equal_nan=True)
    return ~equal
