"""Sums, means, extrema, moments, softmax, sorting."""

from __future__ import annotations

import math

import torch
from onnx_harness import IMAGE, B, Case, K, N, X, Y, grid, into, normal, uniform

aten = torch.ops.aten
CASES: list[Case] = []
case = into(CASES)

case(
    "sum",
    lambda x: (
        x.sum(),
        x.sum(0),
        x.sum(-1),
        x.sum([0, 2, 3]),
        x.sum((1, -1), keepdim=True),
        x.sum([]),
        x.sum(0, keepdim=True),
    ),
    IMAGE,
)
case(
    "sum of integers",
    lambda k, b: (k.sum(), b.sum(), b.sum(0), k.sum(1, dtype=torch.int32), k.sum(dtype=torch.float32)),
    K,
    B,
)
case(
    "mean", lambda x: (x.mean(), x.mean(0), x.mean([0, 2, 3], keepdim=True), x.mean((-1,)), x.mean([])), IMAGE
)
case("mean of integers", lambda k, b: (k.mean(dtype=torch.float32), b.double().mean(0)), K, B)
case(
    "prod",
    lambda x, k: (x.prod(), x.prod(1), x.prod(-1, keepdim=True), k.prod(0)),
    uniform(N, 4, low=0.7, high=1.4),
    K,
)
case(
    "amax, amin",
    lambda x, k: (
        x.amax(),
        x.amax(1),
        x.amin([0, 2], keepdim=True),
        x.max(),
        x.min(),
        k.amax(-1),
        (k > 0).amax(0),
    ),
    IMAGE,
    K,
)
case("max, min along an axis", lambda x: (*x.max(1), *x.min(-1, keepdim=True), *x.max(0)), IMAGE)
case(
    "argmax, argmin",
    lambda x, k: (
        x.argmax(),
        x.argmax(1),
        x.argmin(-1, keepdim=True),
        k.argmax(1),
        x.argmin(),
        x.argmax(keepdim=True),
    ),
    IMAGE,
    K,
)
case(
    "any, all",
    lambda b, x: (b.any(), b.all(), b.any(1), b.all(0, keepdim=True), (x > 0).any(-1), x.any(), x.all(1)),
    B,
    X,
)
case(
    "var, std",
    lambda x: (
        x.var(),
        x.var(0),
        x.var([0, 2, 3], unbiased=False),
        x.var([2, 3], keepdim=True),
        x.std(1),
        x.std([0, 2, 3], correction=0),
        torch.var(x, dim=[0], correction=2),
    ),
    IMAGE,
    ulps=32,
)
case(
    "var_mean",
    lambda x: (*torch.var_mean(x, [0, 2, 3]), *torch.var_mean(x, 1, keepdim=True), *torch.std_mean(x, 0)),
    IMAGE,
)
case("logsumexp", lambda x: (x.logsumexp(1), x.logsumexp([0, 1], keepdim=True), (100 * x).logsumexp(-1)), X)
case("logsumexp of -inf", lambda x: x.logsumexp(0), grid(-math.inf, -math.inf))
case(
    "cumsum",
    lambda x, k, b: (x.cumsum(0), x.cumsum(-1), k.cumsum(1), b.cumsum(0), k.cumsum(0, dtype=torch.float32)),
    X,
    K,
    B,
)
case(
    "norm",
    lambda x: (
        x.norm(),
        x.norm(dim=1),
        x.norm(1, dim=(2, 3), keepdim=True),
        x.norm(3, dim=0),
        x.norm(math.inf, dim=-1),
        x.norm(-math.inf),
        x.relu().norm(0, dim=1),
        torch.linalg.vector_norm(x, 0.5, dim=1, keepdim=True),
    ),
    IMAGE,
    ulps=32,
)
case("softmax", lambda x: (x.softmax(1), x.softmax(-1), x.softmax(0), (50 * x).softmax(1)), IMAGE)
case("log_softmax", lambda x: (x.log_softmax(1), x.log_softmax(-1), x.log_softmax(0)), IMAGE)
# The reference evaluator takes the logarithm of a softmax that underflows.
case("log_softmax far", lambda x: (50 * x).log_softmax(1), IMAGE, reference=False)
case(
    "softmax gradients",
    lambda g, x: (
        aten._softmax_backward_data(g, x.softmax(1), 1, x.dtype),
        aten._log_softmax_backward_data(g, x.log_softmax(1), 1, x.dtype),
    ),
    X,
    Y,
)
case(
    "kthvalue, median",
    lambda x, y: (
        *x.kthvalue(2, 1),
        *x.kthvalue(4, -1, True),
        *x.median(1),
        *y.median(1, keepdim=True),
        *x[0, 0].median(0),
    ),
    X,
    normal(N, 5, 2),
)
case("topk", lambda x: (*x.topk(2), *x.topk(3, 1, largest=False)), X)
case(
    "sort",
    lambda x, k: (*x.sort(1), *x.sort(0, descending=True), *k.sort(dim=1, stable=True), *torch.sort(x[0, 0])),
    X,
    K,
)
