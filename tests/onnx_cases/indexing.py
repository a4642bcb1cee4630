"""Gathering and scattering."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from onnx_harness import B, Case, N, Spec, X, Y, integers, into, normal

aten = torch.ops.aten
CASES: list[Case] = []
case = into(CASES)


ROWS = integers(3, high=4)
case(
    "index",
    lambda x, k, i: (x[:, i], x[i], x[k[:3]], x[:, k[:2]], x[..., i], x[:, -1 - i]),
    normal(N, 4, 6),
    integers(N, 2, high=4),
    ROWS,
)
case(
    "index by several",
    lambda x, i, j: (
        x[i, j],
        x[:, i, j],
        x[i, :, j],
        x[i[:, None], j],
        x[:, i[:, None], j[None]],
        x[torch.arange(x.shape[0]), torch.arange(x.shape[0]) % 4],
    ),
    normal(N, 4, 6),
    ROWS,
    integers(3),
)
case(
    "index_put",
    lambda x, i, j, y: (
        aten.index_put(x, [i], y[:3]),
        aten.index_put(x, [i, j], y[:3, 0]),
        aten.index_put(x, [None, j], y[:, :3]),
        aten.index_put(x, [i, None, j], y[:3, :, 0]),
        aten.index_put(x, [i], y[0, 0, 0]),
    ),
    normal(N, 4, 6),
    Spec(lambda g, s: torch.tensor([2, 0, 1]), ()),
    Spec(lambda g, s: torch.tensor([3, 1, 0]), ()),
    normal(N, 4, 6),
)
case(
    "index_put accumulate",
    lambda x, i, j, y: (
        aten.index_put(x, [i], y[:3], accumulate=True),
        aten.index_put(x, [None, i, j], y[:, 0, :3], accumulate=True),
        aten.index_put(x, [i[:, None], j], y[:3, 0, :3, None], accumulate=True),
    ),
    normal(N, 4, 6),
    ROWS,
    integers(3, high=4),
    normal(N, 4, 6),
)
case(
    "index_put by a mask",
    lambda x, b, s: (
        aten.index_put(x, [b], s),
        aten.index_put(x, [b[:, 0]], s),
        aten.index_put(x, [None, b[0]], s, accumulate=True),
    ),
    X,
    B,
    normal(),
)
case(
    "index_select, index_add, index_copy",
    lambda x, i, y: (
        x.index_select(0, i),
        x.index_select(-1, i),
        x.index_add(0, i, y[:3]),
        x.index_add(1, i, y[:, :3], alpha=0.3),
        x.index_copy(1, torch.tensor([2, 0]), y[:, :2]),
    ),
    X,
    ROWS,
    Y,
)
case("gather", lambda x, k: (x.gather(1, k), x.gather(0, k % 2), x.gather(-1, k)), X, integers(N, 4, high=4))
# The reference evaluator wants an index as large as the tensor.
case(
    "gather less",
    lambda x, k: (x.gather(1, k[:, :2]), x.gather(-1, k[:2])),
    X,
    integers(N, 4, high=4),
    reference=False,
)
case(
    "scatter",
    lambda x, k, y: (
        x.scatter(1, k, y),
        x.scatter(1, k[:, :1], y),
        x.scatter(1, k[:, :1], 2.5),
        x.scatter(0, k[:1], y),
        (x > 0).scatter(1, k[:, :1], True),
    ),
    X,
    Spec(lambda g, s: torch.stack([torch.randperm(4, generator=g) for _ in range(s[0])]), (N, 4)),
    Y,
)
case(
    "scatter_add",
    lambda x, k, y: (
        x.scatter_add(1, k, y),
        x.scatter_add(1, k[:, :2], y),
        x.scatter_add(0, k, y),
        x.scatter_reduce(1, k, y, "sum"),
    ),
    X,
    integers(N, 4, high=4),
    Y,
)
case(
    "embedding",
    lambda w, k: (F.embedding(k, w), F.embedding(k[:, 0], w, padding_idx=2)),
    normal(5, 3),
    integers(N, 4),
)
case(
    "embedding_dense_backward",
    lambda g, k: (
        aten.embedding_dense_backward(g, k, 6, -1, False),
        aten.embedding_dense_backward(g, k, 6, 2, False),
    ),
    normal(N, 4, 3),
    integers(N, 4),
)
case("take", lambda x, i: torch.take(x, i), X, ROWS)
