"""Where tensors lie in memory, for functions in C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Real = Literal["float", "double"]

NAMES: dict[torch.dtype, Real] = {torch.float32: "float", torch.float64: "double"}


def are_numbers(tensors: Sequence[Tensor]) -> bool:
    """Whether these are plain tensors of one type of C on the CPU, which neither a compiler nor autograd watches."""
    dtype = tensors[0].dtype
    if dtype not in NAMES or torch.compiler.is_compiling():
        return False
    recorded = torch.is_grad_enabled()
    for t in tensors:
        if type(t) not in _PLAIN or t.dtype != dtype or not t.is_cpu or (recorded and t.requires_grad):
            return False
    return True


_PLAIN = (Tensor, nn.Parameter)


def addresses(tensors: Sequence[Tensor]) -> list[int] | None:
    """The address of each; None where one has no memory: torch.func is at work, or there is nothing in it."""
    try:
        found = [t.data_ptr() for t in tensors]
    except RuntimeError:
        return None
    return None if 0 in found else found
