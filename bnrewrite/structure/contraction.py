"""Products, convolutions, pooling, interpolation: operations that are run on marks."""

from __future__ import annotations

from .layout import pattern
from .marks import by_marks
from .spans import Call, Span, join, owned, span_of, words


def convolution(call: Call) -> list[Span]:
    """A batch in the first axis stays there. Anything else (a batch folded into channels, weights made from samples) is
    asked of the operation itself."""
    x = call["input"]
    found = None if owned(call["weight"], call["bias"]) else pattern(x.owner)
    if found is None or found[0] != 0:
        return by_marks(call)
    owner = found[1].view(-1, *[1] * (x.owner.dim() - 1)).expand(call.shape)
    return [Span.of(owner)]


def rows_by_columns(call: Call) -> list[Span]:
    """Matrix products: element (i, j) depends on row i of the first factor and on column j of the second, and on what
    is added. Where a factor is certain to be zero here and there, the operation itself is asked."""
    if any(operand.certain for operand in call.operands):
        return by_marks(call)
    left, right, added = FACTORS[call.name]
    rows, columns = call[left].span.over([-1]), call[right].span
    if call.name == "linear":  # the weight is transposed
        columns = columns.map(lambda owner: owner.mT)
    columns = columns.over([-2]) if columns.low.dim() > 1 else columns.over([-1])
    terms = [rows, columns, *([span_of(call[added], call.results[0])] if added else [])]
    return [join(*terms).expand(call.shape)]


FACTORS = {
    "mm": ("self", "mat2", ""),
    "bmm": ("self", "mat2", ""),
    "addmm": ("mat1", "mat2", "self"),
    "baddbmm": ("batch1", "batch2", "self"),
    "linear": ("input", "weight", "bias"),
}
"""The two factors and the summand of each matrix product, by the names of their arguments."""

RULES = (
    {"convolution": convolution}
    | dict.fromkeys(FACTORS, rows_by_columns)
    | dict.fromkeys(
        words(
            "matmul addmv addbmm addr mv dot vdot inner outer einsum conv1d conv2d conv3d "
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
)
