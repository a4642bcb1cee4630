"""Padding, and parts that go back to where they came from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from onnx_harness import IMAGE, Case, N, X, into, normal, truths

aten = torch.ops.aten
CASES: list[Case] = []
case = into(CASES)

case(
    "pad",
    lambda x: (
        F.pad(x, (1, 2)),
        F.pad(x, (1, 0, 0, 2), value=1.5),
        F.pad(x, (-1, -2)),
        F.pad(x, (0, 0, 0, 0, 1, 1)),
        F.pad(x, (0, 0, 0, 0, 0, 0, 1, 2)),
        F.pad(x > 0, (1, 1)),
    ),
    IMAGE,
)
# The reference evaluator knows no negative pads.
case(
    "pad and crop", lambda x: (F.pad(x, (1, -1, -1, 2)), F.pad(x, (-2, 3), value=0.5)), IMAGE, reference=False
)
case(
    "reflection_pad",
    lambda x: (
        F.pad(x, (1, 2, 2, 1), "reflect"),
        F.pad(x[:, 0], (2, 1), "reflect"),
        F.pad(x[:, None], (1, 1, 0, 2, 2, 1), "reflect"),
    ),
    IMAGE,
)
case(
    "replication_pad",
    lambda x: (
        F.pad(x, (1, 2, 3, 0), "replicate"),
        F.pad(x[:, 0], (2, 1), "replicate"),
        F.pad(x[:, None], (1, 1, 0, 2, 2, 1), "replicate"),
    ),
    IMAGE,
)
case(
    "slice_backward",
    lambda g: (
        aten.slice_backward(g, [g.shape[0], 7], 1, 1, 5, 1),
        aten.slice_backward(g, [g.shape[0], 9], 1, 1, 8, 2),
        aten.slice_backward(g, [g.shape[0], 7], -1, -4, 9223372036854775807, 1),
        aten.slice_backward(g, [g.shape[0], 4], 1, 0, 4, 1),
        aten.slice_backward(g, [g.shape[0] + 3, 4], 0, 2, g.shape[0] + 2, 1),
        aten.slice_backward(g, [2 * g.shape[0], 4], 0, 1, 9223372036854775807, 2),
        aten.slice_backward(g, [g.shape[0], 8], 1, -8, 8, 2),
    ),
    X,
    reference=False,
)
case(
    "select_backward",
    lambda g: (
        aten.select_backward(g, [g.shape[0], 4, 3], 2, 1),
        aten.select_backward(g, [g.shape[0], 3, 4], 1, -1),
        aten.select_backward(g, [g.shape[0] + 1, g.shape[0], 4], 0, -1),
        aten.select_backward(g, [1, g.shape[0], 4], 0, 0),
    ),
    X,
)
case(
    "slice_scatter",
    lambda x, g: (
        torch.slice_scatter(x, g, 1, 1, 3),
        torch.slice_scatter(x, g, 1, 0, 2),
        torch.slice_scatter(x, g, 1, -2),
        torch.slice_scatter(x, x, 1),
        torch.slice_scatter(x, g, 1, 0, 4, 2),
        torch.slice_scatter(x, x[1:], 0, 1),
        torch.slice_scatter(x, x[:2], 0, 1, 3),
    ),
    X,
    normal(N, 2),
)
case(
    "select_scatter",
    lambda x, g: (
        torch.select_scatter(x, g, 1, 0),
        torch.select_scatter(x, g, 1, -1),
        torch.select_scatter(x, x[1], 0, 0),
        torch.select_scatter(x, x[1], 0, -2),
    ),
    X,
    normal(N),
)
case(
    "diagonal_scatter",
    lambda x, y: (
        torch.diagonal_scatter(x, y[:, :, :3], 0, 1, 2),
        torch.diagonal_scatter(x, y[:, :, :1], 2, 2, 1),
        torch.diagonal_scatter(x, y[:, :, 1:], -1, -2, 1),
    ),
    normal(N, 3, 4, 2),
    normal(N, 2, 4),
)
case(
    "diagonal",
    lambda x: (x.diagonal(0, 1, 2), x.diagonal(1, 1, 2), x.diagonal(-2, 1, 2), x.diagonal(0, 2, 1)),
    normal(N, 4, 6),
)
case("tril, triu", lambda x, b: (x.tril(), x.triu(1), x.tril(-1), b.triu()), normal(N, 4, 4), truths(N, 4))
