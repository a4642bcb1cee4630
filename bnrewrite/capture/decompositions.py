"""What export is to write out in other operations: PyTorch's defaults, and a few that it leaves whole although their
derivative does not serve a symbolic batch, or does not exist."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions

aten = torch.ops.aten


def trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand_a: list[int],
    expand_b: list[int],
    expand_c: list[int],
    summed: list[int],
    unroll: int = 1,
) -> Tensor:
    """What `nn.Bilinear` becomes: the product of three tensors, each with new axes, summed over some of them."""

    def spread(x: Tensor, axes: list[int]) -> Tensor:
        for axis in axes:
            x = x.unsqueeze(axis)
        return x

    product = spread(a, expand_a) * spread(c, expand_c) * spread(b, expand_b)
    return product.sum(summed) if summed else product


def rrelu(
    x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Any:
    """Outside training the slope of a randomised leaky ReLU is the mean one."""
    return NotImplemented if training else aten.leaky_relu.default(x, (lower + upper) / 2)


WRITTEN_OUT: dict[Any, Callable[..., Any]] = {
    **get_decompositions([aten.grid_sampler_2d.default]),
    aten._trilinear.default: trilinear,
    aten.rrelu.default: rrelu,
    aten.det.default: aten.linalg_det.default,
    aten.inverse.default: aten.linalg_inv.default,
}


def decompositions(keep: Collection[torch._ops.OpOverload]) -> dict[Any, Callable[..., Any]]:
    """The table for `ExportedProgram.run_decompositions` that leaves the operations of `keep` whole."""
    table = torch.export.default_decompositions()
    for overload, written in WRITTEN_OUT.items():
        table[overload] = written
    for overload in keep:
        table.pop(overload, None)
    return table
