"""Reading and writing at indices, with repeated indices where that is allowed."""

from __future__ import annotations

import torch
from rule_harness import Case, Draw
from torch import Tensor

aten = torch.ops.aten
END = 9223372036854775807


def distinct_rows(d: Draw) -> Tensor:
    """For each of N rows two different columns of four."""
    first = d.integers(0, 2, d.N, 1)
    return torch.cat([first, first + 2], 1)


CASES = [
    Case(aten.gather.default, lambda d: [d.normal(d.N, 5), 1, d.integers(0, 5, d.N, 3), False]),
    Case(aten.gather.default, lambda d: [d.normal(d.N, 5), -1, d.integers(0, 5, 4, 2), False], "fewer rows"),
    Case(aten.index.Tensor, lambda d: [d.normal(d.N, 5), [None, d.integers(0, 5, 7)]]),
    Case(
        aten.index.Tensor,
        lambda d: [d.normal(d.N, 5, 3), [None, d.integers(0, 5, 2, 1), d.integers(0, 3, 4)]],
        "two axes",
    ),
    Case(aten.index.Tensor, lambda d: [d.normal(5, 3), [d.integers(0, 5, d.N)]], "batch of indices"),
    Case(aten.index_select.default, lambda d: [d.normal(d.N, 5), 1, d.integers(0, 5, 7)]),
    Case(aten.index_select.default, lambda d: [d.normal(), 0, d.values([0], torch.int64)], "scalar"),
    Case(aten.embedding.default, lambda d: [d.normal(6, 4), d.integers(0, 6, d.N, 3), -1, False, False]),
    Case(
        aten.embedding.default, lambda d: [d.normal(6, 4), d.integers(0, 6, d.N), 2, False, False], "padding"
    ),
    Case(aten.scatter.src, lambda d: [d.normal(d.N, 4), 1, distinct_rows(d), d.normal(d.N, 2)]),
    Case(
        aten.scatter.src,
        lambda d: [d.normal(d.N, 4), 1, distinct_rows(d), d.normal(d.N, 3)],
        "longer source",
        reference=lambda x, dim, index, s: x.scatter(dim, index, s[:, :2]),
    ),  # PyTorch's gradient has the wrong shape
    Case(aten.scatter.value, lambda d: [d.normal(d.N, 4), 1, d.integers(0, 4, d.N, 2), 2.5]),
    Case(
        aten.scatter_add.default, lambda d: [d.normal(d.N, 4), 1, d.integers(0, 4, d.N, 6), d.normal(d.N, 6)]
    ),
    Case(
        aten.index_put.default,
        lambda d: [d.normal(d.N, 5), [None, d.values([3, 1], torch.int64)], d.normal(d.N, 2), False],
    ),
    Case(
        aten.index_put.default,
        lambda d: [d.normal(d.N, 5), [None, d.values([3, 1], torch.int64)], d.normal(1), False],
        "broadcast",
    ),
    Case(
        aten.index_put.default,
        lambda d: [d.normal(5, 3), [d.integers(0, 5, d.N)], d.normal(d.N, 3), True],
        "accumulate",
    ),
    Case(aten.index_add.default, lambda d: [d.normal(d.N, 3), 1, d.integers(0, 3, 7), d.normal(d.N, 7), 1]),
    Case(
        aten.index_add.default,
        lambda d: [d.normal(5, 3), 0, d.integers(0, 5, d.N), d.normal(d.N, 3), -2],
        "scaled",
    ),
    Case(aten.select_scatter.default, lambda d: [d.normal(d.N, 4), d.normal(d.N), 1, -1]),
    Case(aten.slice_scatter.default, lambda d: [d.normal(d.N, 6), d.normal(d.N, 2), 1, 1, 5, 2]),
    Case(aten.slice_scatter.default, lambda d: [d.normal(d.N, 6), d.normal(d.N, 3), 1, -3, END, 1], "tail"),
]
