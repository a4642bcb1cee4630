"""Element by element: each element of the result depends on the elements of the operands in its place."""

from __future__ import annotations

import torch

from .spans import Call, Operand, Span, join, span_of, words


def pointwise(call: Call) -> list[Span]:
    """All operands broadcast against each other."""
    spans = [operand.span for operand in call.operands]
    return [join(*spans).expand(result.shape) for result in call.results]


def product(call: Call) -> list[Span]:
    """As any other, but where one factor is certain to be zero the other does not enter."""
    like = call.results[0]
    factors = [call["self"], call["other"]]
    spans = [span_of(factor, like).expand(call.shape) for factor in factors]
    for one, other in ((0, 1), (1, 0)):
        factor = factors[one]
        if isinstance(factor, Operand) and factor.certain:
            zero = (factor.value == 0).expand(call.shape)
            spans[other] = without(spans[other], zero)
    return [join(*spans)]


def chosen(call: Call) -> list[Span]:
    """`where`: with a condition that is certain, only the chosen side enters."""
    condition, yes, no = call["condition"], call["self"], call["other"]
    sides = [span_of(side, call.results[0]).expand(call.shape) for side in (yes, no)]
    if condition.certain:
        where = condition.value.expand(call.shape).bool()
        return [join(without(sides[0], ~where), without(sides[1], where))]
    return [join(condition.span, *sides)]


def filled(call: Call) -> list[Span]:
    """`masked_fill`: what a certain mask covers does not enter."""
    x, mask = call["self"].span.expand(call.shape), call["mask"]
    value = span_of(call["value"], call.results[0])
    if mask.certain:
        covered = mask.value.expand(call.shape).bool()
        return [join(without(x, covered), without(value.expand(call.shape), ~covered))]
    return [join(x, mask.span, value)]


def without(span: Span, where: torch.Tensor) -> Span:
    """`span`, but free `where`."""
    free = Span.free(span.low)
    return Span(torch.where(where, free.low, span.low), torch.where(where, free.high, span.high))


def copied(call: Call) -> list[Span]:
    """`copy`: the source in the shape of the destination."""
    return [span_of(call["src"], call.results[0]).expand(call.shape)]


def gated(call: Call) -> list[Span]:
    """`glu`: one half of an axis times a function of the other half."""
    halves = call["self"].owner.chunk(2, call["dim"])
    return [join(*map(Span.of, halves))]


RULES = {
    "mul": product,
    "where": chosen,
    "masked_fill": filled,
    "copy": copied,
    "glu": gated,
} | dict.fromkeys(
    words(
        "_to_copy bucketize dropout native_dropout floor_divide hardswish log_sigmoid lift_fresh_copy "
        "_prelu_kernel prelu rrelu rsub to contiguous isclose logical_and logical_or logical_not logical_xor "
        "nan_to_num clip type_as"
    ),
    pointwise,
)
"""Rules by the operation's name, beside the operations that PyTorch itself marks as pointwise."""
