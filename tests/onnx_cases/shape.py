"""Views, permutations, joining, splitting, repeating."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from onnx_harness import IMAGE, Case, K, N, V, X, Y, into, normal

aten = torch.ops.aten
CASES: list[Case] = []
case = into(CASES)

case(
    "view",
    lambda x: (
        x.view(x.shape[0], -1),
        x.reshape(-1, 6),
        x.view(-1),
        x.view(x.shape[0] * 3, 4, 6),
        x.reshape(3, -1),
        x.flatten(1),
        x.view(x.shape[0], 1, 3, 24),
        x.unflatten(2, (2, 2)),
        x.reshape(x.shape),
    ),
    IMAGE,
)
case(
    "view with two symbolic sizes",
    lambda x: (
        (x @ x.t()).view(1, x.shape[0], x.shape[0]),
        (x @ x.t()).view(x.shape[0], 1, x.shape[0]),
        (x[:, None] + x[None]).reshape(x.shape[0], x.shape[0], 2, 2),
        (x @ x.t()).view(-1),
        (x @ x.t()).view(-1).view(x.shape[0], -1),
    ),
    X,
)
case(
    "permute",
    lambda x: (
        x.permute(1, 0, 2, 3),
        x.permute(0, 2, 3, 1),
        x.transpose(1, -1),
        x[0, 0].t(),
        x.mT,
        x.movedim(1, -1),
        x.permute(-1, 0, 1, 2),
    ),
    IMAGE,
)
case(
    "permute of ones", lambda x: (x[:, :1].permute(1, 0, 2, 3), x.sum(1, keepdim=True).transpose(0, 1)), IMAGE
)
case(
    "squeeze, unsqueeze",
    lambda x: (
        x.squeeze(),
        x.squeeze(1),
        x.squeeze(-1),
        x.squeeze([1, 3]),
        x.squeeze(0),
        x.unsqueeze(0),
        x.unsqueeze(-1),
        x[:, None],
    ),
    normal(N, 1, 4, 1),
)
case(
    "expand",
    lambda x, v, s: (
        x[:, None].expand(-1, 3, -1),
        v.expand(x.shape[0], 4),
        v.expand(2, 3, 4),
        s.expand(x.shape[0]),
        x.expand(2, -1, -1),
        v[None].expand(x.shape[0], -1),
        x.expand_as(x),
        v.broadcast_to(x.shape[0] * 2, 4),
        x[None, :, None].expand(2, -1, 3, 4),
    ),
    X,
    V,
    normal(),
)
case(
    "slice",
    lambda x: (
        x[1:],
        x[:-1],
        x[:, 1:3],
        x[..., ::2],
        x[1:4:2],
        x[:, -3:-1],
        x[:, 5:],
        x[: x.shape[0] // 2],
        x[x.shape[0] - 2 :],
        x[:100],
    ),
    normal(N, 4, 6),
)
case(
    "select",
    lambda x: (x[0], x[-1], x[:, 2], x[..., -2], x[1, 2, 3], x.select(0, x.shape[0] - 1)),
    normal(N, 4, 6),
)
case(
    "cat",
    lambda x, y, k: (
        torch.cat([x, y]),
        torch.cat([x, y], 1),
        torch.cat([x, y, x], -1),
        torch.cat([x, k]),
        torch.cat([x.new_zeros(0), x]),
        torch.cat([x]),
    ),
    X,
    Y,
    K,
)
case(
    "stack",
    lambda x, y, k: (torch.stack([x, y]), torch.stack([x, y], -1), torch.stack([x, k], 1), torch.stack([x])),
    X,
    Y,
    K,
)
case(
    "split",
    lambda x: (
        *x.split(2, 1),
        *x.split([1, 3], 1),
        *x.chunk(2, -1),
        *x.chunk(3, 1),
        *x.split(x.shape[0]),
        *x.split([1, x.shape[0] - 1]),
    ),
    normal(N, 4, 6),
)
case(
    "split by a size",
    lambda x: (
        *torch.cat([x, x]).split(x.shape[0]),
        *torch.cat([x, x, x]).split(2 * x.shape[0]),
        *torch.cat([x, x[1:], x[:1]]).split([x.shape[0] - 1, x.shape[0] + 1]),
    ),
    X,
)
case("unbind", lambda x: (*x.unbind(1), *x.unbind(-1)), normal(N, 2, 3))
case(
    "flip, roll",
    lambda x: (
        x.flip(0),
        x.flip([1, -1]),
        x.flip([]),
        x.roll(1, 0),
        x.roll(-2, 1),
        x.roll((2, 1), (0, 2)),
        x.roll(3),
        x.roll(-9, 0),
        x.roll(6, 2),
    ),
    normal(N, 4, 6),
)
case(
    "repeat",
    lambda x, v: (
        x.repeat(2, 1),
        x.repeat(1, 2, 3),
        v.repeat(x.shape[0], 1),
        v.tile(2),
        x.tile(2, 1),
        v.repeat(1),
        x.repeat_interleave(2, 1),
    ),
    X,
    V,
)
case(
    "unfold",
    lambda x: (x.unfold(1, 3, 2), x.unfold(-1, 2, 4), x.unfold(2, 9, 1), x.unfold(1, 2, 2).unfold(2, 4, 3)),
    normal(N, 8, 9),
)
case(
    "unfold, adjoint",
    lambda g, h: (
        aten.unfold_backward(g, (g.shape[0], 8, 9), 1, 4, 2),
        aten.unfold_backward(h, (h.shape[0], 3, 9), -1, 2, 4),
        aten.unfold_backward(h, (h.shape[0], 3, 5), 2, 2, 2),
    ),
    normal(N, 3, 9, 4),
    normal(N, 3, 2, 2),
)
case("pixel_shuffle", lambda x: (F.pixel_shuffle(x, 2), F.pixel_shuffle(x[:, None], 2)), normal(N, 8, 3, 2))
case("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), IMAGE)
case("channel_shuffle", lambda x: F.channel_shuffle(x, 2), normal(N, 6, 2, 2))
case("copies", lambda x: (x.clone() + 1, x.contiguous() + 1, x.detach() + 1, aten.copy(x, x[:1]) + 1), X)
case("as_strided", lambda x: x.as_strided((x.shape[0], 2, 2), (4, 2, 1)), X)
