"""Operations without a lowering of their own, which PyTorch's decompositions take apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from onnx_harness import IMAGE, Case, N, X, Y, integers, into

aten = torch.ops.aten
CASES: list[Case] = []
case = into(CASES)

case(
    "activation gradients, decomposed",
    lambda g, x: (
        aten.gelu_backward(g, x),
        aten.gelu_backward(g, x, approximate="tanh"),
        aten.silu_backward(g, x),
        aten.elu_backward(g, 1.0, 1.0, 1.0, False, x),
        aten.softplus_backward(g, x, 1.0, 20.0),
        aten.hardswish_backward(g, x),
        aten.glu_backward(g[:, :2], x, 1),
    ),
    X,
    Y,
)
case(
    "cross_entropy",
    lambda x, y: (
        F.cross_entropy(x, y),
        F.cross_entropy(x, y, ignore_index=2),
        F.cross_entropy(x, y, reduction="sum"),
        F.nll_loss(x, y),
    ),
    X,
    integers(N, high=4),
)
case(
    "losses",
    lambda x, y: (
        F.mse_loss(x, y),
        F.smooth_l1_loss(x, y),
        F.huber_loss(x, y, delta=0.7),
        F.l1_loss(x, y),
        F.binary_cross_entropy_with_logits(x, y.sigmoid()),
    ),
    X,
    Y,
)
case(
    "normalizations",
    lambda x: (
        F.layer_norm(x, (6,)),
        F.group_norm(x, 3),
        F.batch_norm(x, None, None, training=True),
        F.instance_norm(x),
    ),
    IMAGE,
    ulps=64,
)
case("norms", lambda x: (torch.linalg.vector_norm(x, 3, 1), x.norm(), x.norm(dim=1)), X)
case("attention", lambda x: F.scaled_dot_product_attention(x, x, x), IMAGE)
case("xlogy, frac, logit", lambda x: (torch.xlogy(x.abs(), x.abs()), x.frac(), x.sigmoid().logit(0.1)), X)
