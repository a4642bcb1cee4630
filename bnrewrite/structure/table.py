"""What an operation's result depends on: a rule by the operation's name, or the operation itself is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from . import axes, contraction, indexing, moves, pointwise
from .marks import by_perturbation
from .spans import Call, Span, words

Rule = Callable[[Call], list[Span] | None]
"""The span of every result of a call; None where the operation itself has to be asked."""

Decided = Literal["rule", "perturbation", "assumed"]

RULES: dict[str, Rule] = {
    **pointwise.RULES,
    **moves.RULES,
    **axes.RULES,
    **indexing.RULES,
    **contraction.RULES,
}

CREATE = frozenset(
    words(
        "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty "
        "new_empty_strided"
    )
)
"""Operations that ask a tensor for its shape and type alone."""


def depends(call: Call) -> tuple[list[Span], Decided]:
    """The span of every result, and how it was found.

    `"rule"`: from the operation's rule, exact. `"perturbation"`: samples were moved at random in this operation alone,
    and what changed was seen. `"assumed"`: it could not be asked, so every element is taken to depend on all samples.
    """
    rule = _rule_of(call)
    try:
        found = None if rule is None else rule(call)
    except Exception:  # noqa: BLE001  # an overload that the rule did not foresee; the report says that it was asked
        found = None
    if found is not None:
        return found, "rule"
    found = by_perturbation(call)
    if found is not None:
        return found, "perturbation"
    return [_everything(call, result) for result in call.results], "assumed"


def _everything(call: Call, result: Tensor) -> Span:
    all_samples = torch.full(result.shape, float(call.samples), device=result.device)
    return Span(torch.ones_like(all_samples), all_samples)


def _rule_of(call: Call) -> Rule | None:
    op: Any = call.op
    if not isinstance(op, torch._ops.OpOverload) or op.namespace != "aten":
        return None
    if call.name in CREATE:
        return lambda call: [Span.free(result) for result in call.results]
    if call.name in RULES:
        return RULES[call.name]
    return pointwise.pointwise if torch.Tag.pointwise in op.tags else None
