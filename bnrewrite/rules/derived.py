"""A rule for any operation that has none by hand, derived from PyTorch's own derivative of that one operation.

With S(args, y_bar) = sum_j <(J^T y_bar)_j, arg_j_dot> = <y_bar, J args_dot>:

    y_dot     = dS / dy_bar
    curvature = dS / dargs                 (the Hessian of <y_bar, f> is symmetric)

so two reverse passes over the single operation are enough; no forward-mode formula is needed, and reverse-mode
formulas accept symbolic sizes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import UnsupportedOp
from ..passes.rule import Context, Needs, PerArgument, Rule, call
from ..passes.zero import add


def _differentiable(entry: Any) -> bool:
    return isinstance(entry, Tensor) and entry.is_floating_point()


class Derived(Rule):
    """Second-order rule of `op` through PyTorch's double backward of `op` alone."""

    def __init__(self, op: torch._ops.OpOverload, where: str = "") -> None:
        self.op, self.where = op, where
        self.names = tuple(argument.name for argument in op._schema.arguments)

    @property
    def key(self) -> Any:
        return self.op

    def value(self, ctx: Context, *args: Any) -> Any:
        return call(self.op, args)

    def _rerun(self, ctx: Context) -> tuple[list[Any], list[Tensor]]:
        """Flat arguments as leaves of a fresh autograd graph, and the floating-point outputs."""
        flat, spec = pytree.tree_flatten(list(ctx.args))
        leaves = [entry.detach().requires_grad_() if _differentiable(entry) else None for entry in flat]
        inputs = [entry if leaf is None else leaf for entry, leaf in zip(flat, leaves, strict=True)]
        outputs = call(self.op, pytree.tree_unflatten(inputs, spec))
        flat_outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        return flat_outputs, [leaf for leaf in leaves if leaf is not None]

    def _restore(self, ctx: Context, values: list[Tensor | None]) -> PerArgument:
        """One entry a flat leaf, back in the structure of the arguments."""
        flat, spec = pytree.tree_flatten(list(ctx.args))
        numbers = iter(values)
        restored = [next(numbers) if _differentiable(entry) else None for entry in flat]
        return pytree.tree_unflatten(restored, spec)

    def _flat(self, ctx: Context, per_argument: PerArgument) -> list[Tensor | None]:
        """The entries of `per_argument` that stand at differentiable leaves."""
        flat: list[Tensor | None] = []
        for argument, entry in zip(ctx.args, per_argument, strict=False):
            if isinstance(argument, (list, tuple)):
                entries = entry if entry is not None else [None] * len(argument)
                flat += [e for a, e in zip(argument, entries, strict=True) if _differentiable(a)]
            elif _differentiable(argument):
                flat.append(entry)
        return flat

    def _pull_back(
        self, outputs: list[Tensor], bars: list[Tensor | None], leaves: list[Tensor]
    ) -> list[Tensor | None]:
        pairs = [
            (y, bar) for y, bar in zip(outputs, bars, strict=True) if bar is not None and y.requires_grad
        ]
        if not pairs:
            return [None] * len(leaves)
        ys, y_bars = zip(*pairs, strict=True)
        return self._grad(ys, leaves, y_bars, create_graph=True)

    def _grad(self, ys: Any, leaves: list[Tensor], y_bars: Any = None, create_graph: bool = False) -> Any:
        try:
            return list(torch.autograd.grad(ys, leaves, y_bars, create_graph=create_graph, allow_unused=True))
        except RuntimeError as error:
            raise UnsupportedOp(
                self.op, self.where, f"It has no rule here, and PyTorch's own derivative of it says: {error}"
            ) from error

    @staticmethod
    def _pairing(bars: list[Tensor | None], dots: list[Tensor | None]) -> Tensor | None:
        return add(
            *(
                (bar * dot).sum()
                for bar, dot in zip(bars, dots, strict=True)
                if bar is not None and dot is not None
            )
        )

    def _bars(self, ctx: Context, y_bar: Any) -> list[Tensor | None]:
        return list(y_bar) if isinstance(ctx.y, (list, tuple)) else [y_bar]

    def tangent(self, ctx: Context, dots: PerArgument) -> Any:
        with torch.enable_grad():
            outputs, leaves = self._rerun(ctx)
            y_bars = [
                torch.ones_like(y).requires_grad_() if _differentiable(y) and y.requires_grad else None
                for y in outputs
            ]
            s = self._pairing(self._pull_back(outputs, y_bars, leaves), self._flat(ctx, dots))
            y_dots: list[Tensor | None] = [None] * len(outputs)
            wanted = [bar for bar in y_bars if bar is not None]
            if s is not None and s.requires_grad and wanted:
                found = iter(self._grad(s, wanted))
                y_dots = [None if bar is None else next(found) for bar in y_bars]
        return y_dots if isinstance(ctx.y, (list, tuple)) else y_dots[0]

    def adjoint(self, ctx: Context, y_bar: Any, needs: Needs) -> PerArgument:
        with torch.enable_grad():
            outputs, leaves = self._rerun(ctx)
            bars = self._pull_back(outputs, self._bars(ctx, y_bar), leaves)
        return self._restore(ctx, [None if bar is None else bar.detach() for bar in bars])

    def curvature(self, ctx: Context, dots: PerArgument, y_bar: Any, needs: Needs) -> PerArgument:
        with torch.enable_grad():
            outputs, leaves = self._rerun(ctx)
            bars = self._pull_back(outputs, self._bars(ctx, y_bar), leaves)
            s = self._pairing(bars, self._flat(ctx, dots))
            if s is None or not s.requires_grad:
                return [None] * len(ctx.args)
            found = self._grad(s, leaves)
        return self._restore(ctx, list(found))
