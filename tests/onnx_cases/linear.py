"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from onnx_harness import Case, K, N, V, X, into, normal

aten = torch.ops.aten
CASES: list[Case] = []
case = into(CASES)

A, W = normal(5, 4), normal(4, 6)
case(
    "mm",
    lambda x, a, w: (x @ w, x @ a.t(), x.t() @ x, a @ x.t(), x @ x.t(), a.t().contiguous().t() @ w),
    X,
    A,
    W,
)
case("mm of integers", lambda k: k @ k.t(), K)
case(
    "addmm",
    lambda x, a, w, c: (
        torch.addmm(c, x, w),
        torch.addmm(c, x, w, beta=0.3, alpha=0.7),
        torch.addmm(c, x, w, beta=0),
        torch.addmm(c, x, w, beta=2, alpha=0.5),
        torch.addmm(a.sum(), x, a.t()),
    ),
    X,
    A,
    W,
    normal(6),
)
BATCHED = normal(N, 3, 4)
case(
    "bmm",
    lambda x, y: (x @ y, torch.bmm(x, x.transpose(1, 2)), torch.bmm(y.mT, x.mT)),
    BATCHED,
    normal(N, 4, 2),
)
case(
    "baddbmm",
    lambda c, x, y: (
        torch.baddbmm(c, x, y),
        torch.baddbmm(c, x, y, beta=0.1, alpha=2),
        torch.addbmm(c[0], x, y),
    ),
    normal(N, 3, 2),
    BATCHED,
    normal(N, 4, 2),
)
case("matmul", lambda x, w, v: (x @ w, x @ v, v @ w, v @ v, x @ w[None]), BATCHED, W, V)
case(
    "mv, dot, addmv, outer",
    lambda x, v, u: (
        torch.mv(x, v),
        torch.mv(x.t(), u),  # onnxruntime fuses the transposition
        torch.dot(v, v),
        torch.addmv(u, x, v),
        torch.outer(v, v),
        torch.addr(torch.outer(v, v), v, v, alpha=0.3),
    ),
    X,
    V,
    normal(N),
)
case(
    "linear",
    lambda x, y, w, c: (F.linear(x, w, c), F.linear(x, w), F.linear(y, w, c), F.linear(y[0, 0], w, c)),
    X,
    BATCHED,
    A,
    normal(5),
)
case(
    "einsum",
    lambda x, y: (torch.einsum("nij,njk->nik", x, y), torch.einsum("nij,nij->n", x, x)),
    BATCHED,
    normal(N, 4, 2),
)
# onnxruntime would move these factors into the product, as float32.
case(
    "factor beside a product",
    lambda x, y: (
        x @ (y * 0.3),
        (x * 0.3) @ y,
        (x @ y) / 0.7,
        (x @ y) / 10,
        torch.bmm(x, y) * 0.1,
        F.gelu(x @ y),
        torch.sigmoid(1.702 * (x @ y)) * (x @ y),
        (x @ y) - 0.3 * (x @ y) + (y * 0.3).sum(),
    ),
    BATCHED,
    normal(N, 4, 5),
    ulps=32,
)
