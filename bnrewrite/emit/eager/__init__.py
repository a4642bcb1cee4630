"""What PyTorch runs faster one operation at a time: passes over a joint graph, with the same numbers up to rounding.

Element by element, an operation costs the memory that it reads and writes. So a product that is only summed is never
stored, a product that is only added becomes part of the addition, and a result takes the memory of an operand that
nothing reads again. BatchNorm's closed form is made of just these three (docs/performance.md).
"""

from __future__ import annotations

from fractions import Fraction

from ...passes.graph import JointGraph
from ...passes.pipeline import Pipeline
from ...passes.rematerialize import rematerialize
from ..convolutions import lower_convolutions
from ..fused import Kernel, fuse
from ..layout import is_compiled
from ..products import SumProducts
from ..winograd import TileConvolutions, is_tiled
from .channel_sums import FuseChannelSums
from .element_products import FuseProducts
from .matrix_products import AddBeforeViews, FuseMatrixProducts, ShareFactors
from .memory import ReuseMemory

__all__ = ["eager"]

REPEAT = Fraction(1, 64)
"""Bytes of the peak that a byte moved again on the way back is worth. MobileNetV2: a sixth of the peak less than with
nothing done again; where every chain is done again (1/1000) a third less, for 4 % of the time."""


def eager(joint: JointGraph, reordered: bool) -> tuple[JointGraph, dict[str, Kernel]]:
    """A copy of `joint` for execution operation by operation, and the kernels that it calls, by name (with `fuse`);
    `reordered`: images have their channels last."""
    batch: int = joint.meta["batch"]  # type: ignore[assignment]
    tiled = is_compiled(joint) and reordered
    joint = lower_convolutions(joint, reordered, is_tiled) if tiled else lower_convolutions(joint, reordered)
    if "loss" in joint.outputs:  # else there is no way forward
        joint = rematerialize(joint, batch, REPEAT)
    kernels: dict[str, Kernel] = {}
    if tiled:
        TileConvolutions()(joint.graph)
    if is_compiled(joint):
        # Before kernels take in the additions.
        Pipeline([AddBeforeViews(by_shape=True), SumProducts(batch)]).run(joint.graph, "products-")
        joint, kernels = fuse(joint, reordered)
    Pipeline(
        [
            FuseChannelSums(reordered),
            AddBeforeViews(),
            FuseMatrixProducts(batch),
            ShareFactors(batch),
            FuseProducts(),
            ReuseMemory(kernels),
        ]
    ).run(joint.graph, "eager-")
    return joint, kernels
