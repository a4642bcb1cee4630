"""What a rule is compared with: PyTorch's reverse mode twice, in float64.

It runs on the plain operation, or on the `reference` of a case where PyTorch has no second derivative. With w an
adjoint of y that is differentiated in turn:

    A_i(w)      = (J^T w)_i                       one backward pass
    J x_dot     = d/dw   <A(w), x_dot>            A is linear in w
    C_ij(w)     = d/dx_i <A_j(w), x_dot_j>        the Hessian of <w, f(x)> is symmetric
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from rule_harness import Case, Leaf, call, outputs_of, pick
from torch import Tensor


class Oracle:
    """A_i, J and C_ij of one case at one point, for one choice of x_dot, y_bar and y_bar_dot."""

    def __init__(self, case: Case, args: list[Any], leaves: list[Leaf], dots: dict[Leaf, Tensor]) -> None:
        self.leaves, self.dots = leaves, dots
        self.x = {leaf: pick(args, leaf).detach().clone().requires_grad_() for leaf in leaves}
        full = [list(a) if isinstance(a, (list, tuple)) else a for a in args]
        for (i, k), x in self.x.items():
            if k is None:
                full[i] = x
            else:
                full[i][k] = x
        y = case.reference(*full) if case.reference is not None else call(case.op, full)
        self.y = outputs_of(case, y)

    def adjoint(self, bars: list[Tensor | None], create_graph: bool = False) -> dict[Leaf, Tensor]:
        pairs = [
            (y, b)
            for y, b in zip(self.y, bars, strict=True)
            if y is not None and b is not None and y.requires_grad
        ]
        found: Sequence[Tensor | None] = [None] * len(self.leaves)
        if pairs:
            found = torch.autograd.grad(
                [y for y, _ in pairs],
                list(self.x.values()),
                [b for _, b in pairs],
                create_graph=create_graph,
                retain_graph=True,
                allow_unused=True,
            )
        return {
            leaf: torch.zeros_like(x) if g is None else g
            for (leaf, x), g in zip(self.x.items(), found, strict=True)
        }

    def tangents(self) -> dict[Leaf, list[Tensor | None]]:
        """J_j x_dot_j of every output, one entry a leaf j."""
        w = [None if y is None else torch.zeros_like(y).requires_grad_() for y in self.y]
        bars = self.adjoint(w, create_graph=True)
        wanted = [t for t in w if t is not None]
        result = {}
        for leaf in self.leaves:
            pairing = (bars[leaf] * self.dots[leaf]).sum()
            found: Sequence[Tensor | None] = [None] * len(wanted)
            if pairing.requires_grad:
                found = torch.autograd.grad(pairing, wanted, retain_graph=True, allow_unused=True)
            numbers = iter(found)
            result[leaf] = [None if t is None else _filled(next(numbers), t) for t in w]
        return result

    def curvatures(self, bars: list[Tensor | None]) -> dict[Leaf, dict[Leaf, Tensor]]:
        """C_ij of sum over outputs, indexed [j][i]."""
        adjoints = self.adjoint(bars, create_graph=True)
        result = {}
        for j in self.leaves:
            pairing = (adjoints[j] * self.dots[j]).sum()
            found: Sequence[Tensor | None] = [None] * len(self.leaves)
            if pairing.requires_grad:
                found = torch.autograd.grad(
                    pairing, list(self.x.values()), retain_graph=True, allow_unused=True
                )
            result[j] = {i: _filled(g, x) for (i, x), g in zip(self.x.items(), found, strict=True)}
        return result


def _filled(t: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if t is None else t.detach()
