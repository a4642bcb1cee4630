"""Views, copies, joins, splits, paddings; several of them along the batch axis itself."""

from __future__ import annotations

import torch
from rule_harness import Case

aten = torch.ops.aten
END = 9223372036854775807  # an open end, as captured graphs write it


def written(x: torch.Tensor, source: torch.Tensor, non_blocking: bool) -> torch.Tensor:
    """`copy` has no derivative in PyTorch."""
    return source + torch.zeros_like(x)


CASES = [
    Case(aten.view.default, lambda d: [d.normal(d.N, 3, 4), [d.N, 12]]),
    Case(aten.view.default, lambda d: [d.normal(d.N, 3, 4), [-1, 4]], "inferred"),
    Case(aten._unsafe_view.default, lambda d: [d.normal(d.N, 6), [d.N, 2, 3]]),
    Case(aten.permute.default, lambda d: [d.normal(d.N, 3, 4), [2, 0, 1]]),
    Case(aten.permute.default, lambda d: [d.normal(d.N, 3, 4), [0, -1, -2]], "from the end"),
    Case(aten.transpose.int, lambda d: [d.normal(d.N, 3, 4), 0, -1]),
    Case(aten.t.default, lambda d: [d.normal(d.N, 4)]),
    Case(aten.t.default, lambda d: [d.normal(d.N)], "vector"),
    Case(aten.expand.default, lambda d: [d.normal(d.N, 1, 4), [d.N, 3, 4], False]),
    Case(aten.expand.default, lambda d: [d.normal(1, 1, 4), [d.N, -1, -1], False], "to the batch"),
    Case(aten.expand.default, lambda d: [d.normal(4), [d.N, 3, 4], False], "new axes"),
    Case(aten.squeeze.default, lambda d: [d.normal(d.N, 1, 4, 1)]),
    Case(aten.squeeze.dim, lambda d: [d.normal(d.N, 1, 4), 1]),
    Case(aten.squeeze.dim, lambda d: [d.normal(d.N, 3, 4), 1], "nothing to do"),
    Case(aten.squeeze.dims, lambda d: [d.normal(d.N, 1, 4, 1), [1, -1]]),
    Case(aten.unsqueeze.default, lambda d: [d.normal(d.N, 4), 1]),
    Case(aten.unsqueeze.default, lambda d: [d.normal(d.N, 4), -1], "at the end"),
    Case(aten.slice.Tensor, lambda d: [d.normal(d.N, 9), 1, 2, 7, 1]),
    Case(aten.slice.Tensor, lambda d: [d.normal(d.N, 9), -1, -4, END, 1], "from the end"),
    Case(aten.slice.Tensor, lambda d: [d.normal(d.N, 9), 1, None, -2, 1], "to before the end"),
    Case(aten.slice.Tensor, lambda d: [d.normal(d.N, 9), 1, 1, END, 3], "stepped"),
    Case(aten.slice.Tensor, lambda d: [d.normal(d.N, 9), 1, 0, END, 1], "whole"),
    Case(aten.slice.Tensor, lambda d: [d.normal(d.N, 9), 1, -20, 4, 1], "before the start"),
    Case(aten.slice.Tensor, lambda d: [d.normal(d.N, 4), 0, 1, END, 1], "of the batch"),
    Case(aten.slice.Tensor, lambda d: [d.normal(d.N, 4), 0, 0, -1, 1], "of the batch, up to the last"),
    Case(aten.slice.Tensor, lambda d: [d.normal(d.N, 4), 0, -2, END, 1], "end of the batch"),
    Case(aten.slice.Tensor, lambda d: [d.normal(d.N, 4), 0, d.N // 2, END, 1], "half of the batch"),
    Case(aten.select.int, lambda d: [d.normal(d.N, 9), 1, 3]),
    Case(aten.select.int, lambda d: [d.normal(d.N, 9, 2), -2, -1], "from the end"),
    Case(aten.select.int, lambda d: [d.normal(d.N, 4), 0, 0], "of the batch"),
    Case(aten.select.int, lambda d: [d.normal(d.N, 4), 0, -1], "last of the batch"),
    Case(aten.diagonal.default, lambda d: [d.normal(d.N, 4, 5), 1, 1, 2]),
    Case(aten.tril.default, lambda d: [d.normal(d.N, 4, 4), -1]),
    Case(aten.triu.default, lambda d: [d.normal(d.N, 4, 5), 0]),
    Case(aten.flip.default, lambda d: [d.normal(d.N, 4, 5), [0, -1]]),
    Case(aten.roll.default, lambda d: [d.normal(d.N, 4, 5), [1, -2], [0, 2]]),
    Case(aten.roll.default, lambda d: [d.normal(d.N, 4), [3], []], "flat"),
    Case(aten.repeat.default, lambda d: [d.normal(d.N, 4), [1, 3]]),
    Case(aten.repeat.default, lambda d: [d.normal(d.N, 4), [2, 1, 3]], "new axis"),
    Case(aten.repeat.default, lambda d: [d.normal(d.N, 4), [1, 1]], "once"),
    Case(aten.repeat.default, lambda d: [d.normal(d.N, 4), [1, 1, 1]], "once, new axis"),
    Case(aten.repeat.default, lambda d: [d.normal(1, 4), [2, 3]], "without a batch"),
    Case(aten.unfold.default, lambda d: [d.normal(d.N, 7, 3), 1, 3, 2]),
    Case(aten.unfold.default, lambda d: [d.normal(d.N, 2, 9), -1, 2, 4], "with gaps"),
    Case(aten.pixel_shuffle.default, lambda d: [d.normal(d.N, 8, 2, 3), 2]),
    Case(aten.pixel_unshuffle.default, lambda d: [d.normal(d.N, 2, 4, 6), 2]),
    Case(aten.channel_shuffle.default, lambda d: [d.normal(d.N, 6, 2, 2), 2]),
    Case(aten.channel_shuffle.default, lambda d: [d.normal(d.N, 6, 4), 3], "of a signal"),
    Case(aten.cat.default, lambda d: [[d.normal(d.N, 2), d.normal(d.N, 3), d.normal(d.N, 1)], 1]),
    Case(aten.cat.default, lambda d: [[d.normal(d.N, 2), d.normal(4, 2)], 0], "of the batch"),
    Case(aten.cat.default, lambda d: [[d.normal(d.N, 2), d.integers(0, 5, d.N, 2)], -1], "integers"),
    Case(aten.cat.default, lambda d: [[d.normal(0), d.normal(d.N, 2)], 1], "empty"),
    Case(
        aten.cat.default,
        lambda d: [[d.normal(2), d.values([1.0], torch.float16)], 0],
        "mixed types",
        tolerance=1e-3,  # the adjoint of a half-precision argument is rounded to half precision
    ),
    Case(aten.stack.default, lambda d: [[d.normal(d.N, 2), d.normal(d.N, 2), d.normal(d.N, 2)], 1]),
    Case(aten.stack.default, lambda d: [[d.normal(d.N, 2), d.normal(d.N, 2)], -1], "last"),
    Case(aten.split.Tensor, lambda d: [d.normal(d.N, 5), 2, 1]),
    Case(aten.split_with_sizes.default, lambda d: [d.normal(d.N, 6), [1, 2, 3], -1]),
    Case(aten.unbind.int, lambda d: [d.normal(d.N, 3), 1]),
    Case(aten.clone.default, lambda d: [d.normal(d.N, 3), None]),
    Case(aten.clone.default, lambda d: [d.normal(d.N, 3, 2, 2), torch.channels_last], "channels last"),
    Case(aten.alias.default, lambda d: [d.normal(d.N, 3)]),
    Case(aten.detach.default, lambda d: [d.normal(d.N, 3)]),
    Case(
        aten._to_copy.default,
        lambda d: [d.values([1.0, 2.0], torch.float32), torch.float64, None, None, None, False, None],
        tolerance=1e-6,  # the adjoint is rounded to float32
    ),
    Case(
        aten._to_copy.default,
        lambda d: [d.normal(d.N), None, None, torch.device("cpu"), None, False, None],
        "device",
    ),
    Case(
        aten._to_copy.default,
        lambda d: [d.normal(d.N), torch.int64, None, None, None, False, None],
        "to integers",
    ),
    Case(aten.copy.default, lambda d: [d.normal(d.N, 3), d.normal(d.N, 3), False], reference=written),
    Case(
        aten.copy.default,
        lambda d: [d.normal(d.N, 3, 4), d.normal(3, 1), False],
        "broadcast",
        reference=written,
    ),
    Case(aten.constant_pad_nd.default, lambda d: [d.normal(d.N, 3, 4), [1, 2, 0, 3], 0.0]),
    Case(aten.constant_pad_nd.default, lambda d: [d.normal(d.N, 3, 4), [1, -1, -1, 2], 5.0], "cropping"),
    Case(aten.reflection_pad1d.default, lambda d: [d.normal(d.N, 2, 5), [2, 3]]),
    Case(aten.reflection_pad2d.default, lambda d: [d.normal(d.N, 2, 5, 4), [1, 2, 3, 0]]),
    Case(aten.reflection_pad3d.default, lambda d: [d.normal(d.N, 1, 3, 4, 5), [1, 2, 0, 3, 2, 1]]),
    Case(aten.replication_pad1d.default, lambda d: [d.normal(d.N, 2, 5), [2, 3]]),
    Case(aten.replication_pad2d.default, lambda d: [d.normal(d.N, 2, 5, 4), [1, 2, 3, -1]]),
    Case(aten.replication_pad3d.default, lambda d: [d.normal(d.N, 1, 3, 4, 5), [1, 2, 0, 3, 2, 1]]),
    Case(aten._pad_circular.default, lambda d: [d.normal(d.N, 2, 5, 4), [1, 2, 3, 0]]),
    Case(aten._pad_circular.default, lambda d: [d.normal(d.N, 2, 5, 4), [1, -1, 0, 2]], "cropping"),
]
