"""Operations along axes: reductions, and what a whole row has a share in (softmax, sort, normalisation, losses)."""

from __future__ import annotations

import math

from .spans import Call, Span, join, span_of, words


def reduced(call: Call) -> list[Span]:
    """Sum, mean, maximum, norm, ...: every element of the result depends on all that were reduced to it."""
    if "other" in call:  # maximum and minimum of two tensors
        return _all_joined(call)
    x = call.operands[0].span
    over = x.over(_dims(call, x.low.dim()))
    return [over.view(result.shape) for result in call.results]


def _all_joined(call: Call) -> list[Span]:
    return [join(*(operand.span for operand in call.operands))]


def _dims(call: Call, rank: int) -> list[int]:
    dim = call.named.get("dim")
    if isinstance(dim, int):
        return [dim]
    return list(dim) if dim else list(range(rank))


def along(call: Call) -> list[Span]:
    """Softmax, cumulative sums, sort, top k: the result keeps the axis, and each of its elements may depend on all of
    it."""
    x = call.operands[0].span
    over = x.over(_dims(call, x.low.dim()))
    return [over.expand(result.shape) for result in call.results]


def layer_norm(call: Call) -> list[Span]:
    """Statistics over the last axes; in the native form also mean and 1 / deviation are results."""
    x = call["input"].span
    over = x.over(range(-len(call["normalized_shape"]), 0))
    return _standardised(call, over, over)


def group_norm(call: Call) -> list[Span]:
    """Statistics over each group of channels of a sample."""
    groups = call["num_groups"] if "num_groups" in call else call["group"]
    x = call["input"].span
    shape = x.low.shape
    over = x.view((shape[0], groups, -1)).over([-1])
    each = over.expand((shape[0], groups, math.prod(shape[1:]) // groups)).view(shape)
    return _standardised(call, each, over, channel_axis=True)


def instance_norm(call: Call) -> list[Span]:
    """Statistics over each channel of a sample, or running ones."""
    x = call["input"].span
    over = x.over(range(2, x.low.dim())) if call["use_input_stats"] else _with_running_statistics(call)
    return _standardised(call, over, over, channel_axis=True)


def batch_norm(call: Call) -> list[Span]:
    """Statistics over all axes but the channels', or running ones."""
    x = call["input"].span
    others = [axis for axis in range(x.low.dim()) if axis != 1]
    over = x.over(others) if call["training"] else _with_running_statistics(call)
    return _standardised(call, over, over, channel_axis=True)


def _with_running_statistics(call: Call) -> Span:
    x = call["input"].span
    return join(x, *(_per_channel(call, name) for name in ("running_mean", "running_var")))


def _per_channel(call: Call, name: str) -> Span:
    span = span_of(call[name], call.results[0])
    return span.view((-1, *[1] * (call["input"].value.dim() - 2))) if span.low.dim() else span


def _standardised(call: Call, each: Span, over: Span, channel_axis: bool = False) -> list[Span]:
    """The result, which depends on the elements that its statistics are `over` (`each`: the same for every element) and
    on the affine part; further results are the statistics themselves."""
    names = [name for name in ("weight", "bias") if name in call]
    affine = [_per_channel(call, n) if channel_axis else span_of(call[n], call.results[0]) for n in names]
    first = join(each, *affine).expand(call.results[0].shape)
    return [first, *(over.view(result.shape) for result in call.results[1:])]


def loss(call: Call) -> list[Span]:
    """A loss of PyTorch's own: each of its parts, then `reduction`."""
    parts = parts_of_loss(call)
    whole = parts.over(range(parts.low.dim()))
    return [(whole if result.dim() == 0 else parts).view(result.shape) for result in call.results]


def parts_of_loss(call: Call) -> Span:
    """What each part of a loss depends on before it is reduced: each element, or, of a loss over classes, each row."""
    if call.name not in ROW_LOSSES:
        return join(*(operand.span for operand in call.operands))
    scores, target = call["self"].span, span_of(call["target"], call.results[0])
    classes = 1 if scores.low.dim() > 1 else 0
    if target.low.dim() == scores.low.dim():
        return join(scores, target).over([classes])
    return join(scores.over([classes]), target.map(lambda owner: owner.unsqueeze(classes)))


ELEMENT_LOSSES = frozenset(
    words(
        "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div "
        "soft_margin_loss"
    )
)
ROW_LOSSES = frozenset(
    words("cross_entropy_loss nll_loss nll_loss_nd nll_loss2d nll_loss_forward nll_loss2d_forward")
)
LOSSES = ELEMENT_LOSSES | ROW_LOSSES


def matrices(call: Call) -> list[Span]:
    """Determinants, inverses, factorisations: each matrix, in the last two axes, for itself."""
    spans = [operand.span.over([-2, -1]) for operand in call.operands]
    each = join(*spans)
    batch = each.low.shape[:-2]
    return [
        each.view((*batch, *[1] * (result.dim() - len(batch)))).expand(result.shape)
        for result in call.results
    ]


def attention(call: Call) -> list[Span]:
    """Row i of the result depends on row i of the queries and the mask, and on all keys and values of its batch."""
    q, k, v = (call[name].span for name in ("query", "key", "value"))
    keys = join(k.over([-1, -2]), v.over([-1, -2]))
    if keys.low.dim() > 2 and keys.low.shape[-3] != q.low.shape[-3]:  # several heads share keys
        keys = keys.over([-3])
    spans = [q.over([-1]), keys]
    if call["attn_mask"] is not None:
        spans.append(span_of(call["attn_mask"], call.results[0]).over([-1]))
    return [join(*spans).expand(call.shape)]


def distances(call: Call) -> list[Span]:
    """Distances of every row of one matrix to every row of another."""
    first, second = (call[name].span.over([-1]) for name in ("x1", "x2"))
    return [join(first, second.map(lambda owner: owner.mT)).expand(call.shape)]


REDUCTIONS = frozenset(
    words(
        "sum mean nansum nanmean amax amin max min argmax argmin any all prod var std var_mean std_mean "
        "logsumexp norm linalg_vector_norm median nanmedian mode kthvalue count_nonzero aminmax"
    )
)

RULES = {
    **dict.fromkeys(REDUCTIONS, reduced),
    **dict.fromkeys(
        words(
            "softmax _softmax log_softmax _log_softmax _safe_softmax cumsum cumprod cummax cummin logcumsumexp sort "
            "argsort topk msort"
        ),
        along,
    ),
    **dict.fromkeys(words("layer_norm native_layer_norm rms_norm _fused_rms_norm"), layer_norm),
    **dict.fromkeys(words("group_norm native_group_norm"), group_norm),
    "instance_norm": instance_norm,
    "batch_norm": batch_norm,
    **dict.fromkeys(LOSSES, loss),
    **dict.fromkeys(
        words(
            "det linalg_det linalg_inv inverse slogdet linalg_slogdet linalg_cholesky cholesky linalg_eigh linalg_svd "
            "linalg_qr matrix_exp linalg_pinv"
        ),
        matrices,
    ),
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(words("cdist _cdist_forward"), distances),
}
