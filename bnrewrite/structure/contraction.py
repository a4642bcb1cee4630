"""Products, convolutions, pooling, interpolation: operations that are run on marks."""

from __future__ import annotations

from .layout import pattern
from .marks import by_marks
from .spans import Call, Span, owned, words


def convolution(call: Call) -> list[Span]:
    """A batch in the first axis stays there. Anything else (a batch folded into channels, weights made from samples) is
    asked of the operation itself."""
    x = call["input"]
    found = None if owned(call["weight"], call["bias"]) else pattern(x.owner)
    if found is None or found[0] != 0:
        return by_marks(call)
    owner = found[1].view(-1, *[1] * (x.owner.dim() - 1)).expand(call.shape)
    return [Span.of(owner)]


RULES = {"convolution": convolution} | dict.fromkeys(
    words(
        "mm bmm matmul linear addmm addmv addbmm baddbmm addr mv dot vdot inner outer einsum conv1d conv2d conv3d "
        "conv_transpose1d conv_transpose2d conv_transpose3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
        "adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d max_pool1d max_pool2d "
        "max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d "
        "adaptive_max_pool2d adaptive_max_pool3d col2im upsample_nearest1d upsample_nearest2d upsample_nearest3d "
        "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d "
        "upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa "
        "_upsample_bicubic2d_aa _trilinear diff trapezoid"
    ),
    by_marks,
)
