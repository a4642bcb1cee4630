"""Networks and losses of known structure, small and smooth, for tests/test_structure.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

D, C = 4, 3


def lines(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


class Of(nn.Module):
    """A linear layer, a function of its result, another linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int = D) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(D, D), nn.Linear(width, C), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


class Attention(nn.Module):
    """Heads folded with the batch, (N heads, T, d), as nn.MultiheadAttention does it."""

    def __init__(self, over_samples: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(D, 2, batch_first=not over_samples)
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, C)

    def forward(self, x: Tensor) -> Tensor:  # (N, T, D); with `over_samples` T is taken for the batch
        return self.head(self.norm(x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


class Video(nn.Module):
    """Frames folded with the batch, (N T, C, L), through convolutions, and back."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.body = lines(nn.Conv1d(2, 4, 3, padding=1), norm, nn.Tanh())
        self.head = nn.Linear(4, C)

    def forward(self, x: Tensor) -> Tensor:  # (N, T, 2, L)
        frames = self.body(x.flatten(0, 1)).mean(-1)
        return self.head(frames.unflatten(0, (x.shape[0], x.shape[1])).mean(1))


class OwnFilters(nn.Module):
    """A convolution with filters that each sample makes for itself: the batch is folded into groups of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.filters, self.head = nn.Linear(2, 4 * 2 * 3), nn.Linear(4, C)

    def forward(self, x: Tensor) -> Tensor:  # (N, 2, L)
        n = x.shape[0]
        filters = self.filters(x.mean(-1)).reshape(n * 4, 2, 3)
        y = F.conv1d(x.reshape(1, n * 2, -1), filters, groups=n, padding=1)
        return self.head(y.reshape(n, 4, -1).mean(-1))


class WrittenOut(nn.Module):
    """BatchNorm by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(D, D), nn.Linear(D, C)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last((y - y.mean(0)) / torch.sqrt(y.var(0, unbiased=False) + 1e-3))


def own_batch_norm(width: int) -> nn.Module:
    """Keeps no running statistics, so that torch.func can look through it in training mode."""
    return nn.BatchNorm1d(width, track_running_stats=False)


def images(norm: nn.Module) -> nn.Module:
    return lines(nn.Conv2d(2, 4, 3), norm, nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, C))


def fixed_batch(x: Tensor) -> Tensor:
    return x.view(12, 2, 2).flatten(1)


def halves(x: Tensor) -> Tensor:
    return torch.cat([x.unsqueeze(0), x.sin().unsqueeze(0)]).flatten(0, 1).unflatten(0, (2, -1)).sum(0)


SHAPES = {"vectors": (D,), "images": (2, 4, 4), "frames": (3, 2, 5), "signals": (2, 5), "tokens": (5, D)}
"""Of one sample of each input."""

VECTORS, IMAGES, FRAMES, SIGNALS, TOKENS = SHAPES


@dataclass(frozen=True)
class Network:
    """How to build it, the name of its input, and what mixes: (module, how) in order of the graph."""

    build: Callable[[], nn.Module]
    input: str
    mixing: tuple[tuple[str, str], ...] = ()


STATISTICS = "batch statistics"

NETWORKS: dict[str, Network] = {
    "mlp": Network(lambda: lines(nn.Linear(D, 5), nn.Tanh(), nn.Linear(5, C)), VECTORS),
    "mlp, batch norm": Network(
        lambda: lines(nn.Linear(D, 5), own_batch_norm(5), nn.Tanh(), nn.Linear(5, C), own_batch_norm(C)), VECTORS,
        (("1", STATISTICS), ("4", STATISTICS)),
    ),
    "cnn, batch statistics": Network(lambda: images(nn.BatchNorm2d(4)), IMAGES, (("1", STATISTICS),)),
    "cnn, running statistics": Network(lambda: images(nn.BatchNorm2d(4)).eval(), IMAGES),
    "cnn, group norm": Network(lambda: images(nn.GroupNorm(2, 4)), IMAGES),
    "cnn, instance norm": Network(lambda: images(nn.InstanceNorm2d(4)), IMAGES),
    "attention": Network(Attention, TOKENS),
    "attention over samples": Network(
        lambda: Attention(over_samples=True), TOKENS, (("attention", "samples"),)
    ),
    "video": Network(lambda: Video(nn.GroupNorm(2, 4)), FRAMES),
    "video, batch norm": Network(lambda: Video(nn.BatchNorm1d(4)), FRAMES, (("body.1", STATISTICS),)),
    "own filters": Network(OwnFilters, SIGNALS),
    "two views of a batch": Network(lambda: Of(halves), VECTORS),
    "transposed": Network(lambda: Of(lambda x: x.T.sin().flip(0).T), VECTORS),
    "batch norm written out": Network(WrittenOut, VECTORS, (("", "reduction"), ("", "reduction"))),
    "softmax over samples": Network(lambda: Of(lambda x: x.softmax(0)), VECTORS, (("", "samples"),)),
    "cumulative": Network(lambda: Of(lambda x: x.cumsum(0)), VECTORS, (("", "samples"),)),
    "sorted over samples": Network(lambda: Of(lambda x: x.sort(0).values), VECTORS, (("", "samples"),)),
    "mean shared": Network(
        lambda: Of(lambda x: torch.cat([x, x.mean(0, keepdim=True).expand_as(x)], 1), 2 * D), VECTORS,
        (("", "reduction"),),
    ),
    "rolled": Network(lambda: Of(lambda x: x.roll(1, 0)), VECTORS, (("", "order"),)),
    "rolled and added": Network(
        lambda: Of(lambda x: x + x.roll(1, 0)), VECTORS, (("", "order"), ("", "samples"))
    ),
    "rolled and rolled back": Network(lambda: Of(lambda x: x.roll(1, 0).sin().roll(-1, 0)), VECTORS),
    "neighbours by slices": Network(
        lambda: Of(lambda x: torch.cat([x[:1], x[1:] - x[:-1]])), VECTORS, (("", "samples"),)
    ),
    "by place": Network(
        lambda: Of(lambda x: x + torch.arange(x.shape[0], dtype=x.dtype)[:, None]), VECTORS
    ),
}  # fmt: skip


class Everything(nn.Module):
    """All of the networks side by side: capturing once takes less time than capturing each."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(network.build() for network in NETWORKS.values())

    def forward(self, **inputs: Tensor) -> list[Tensor]:
        return [
            part(inputs[network.input]) for part, network in zip(self.parts, NETWORKS.values(), strict=True)
        ]


def of_all(outputs: list[Tensor], target: Tensor) -> Tensor:
    return sum((F.cross_entropy(output, target) for output in outputs), torch.zeros(()))


def contrastive(output: Tensor, target: Tensor) -> Tensor:
    """NT-Xent of neighbours."""
    z = F.normalize(output, dim=1)
    scores = (z @ z.T).masked_fill(torch.eye(z.shape[0], dtype=torch.bool), -1e9)
    return F.cross_entropy(scores / 0.5, torch.arange(z.shape[0]).roll(1))


def both_ways(output: Tensor, target: Tensor) -> Tensor:
    """CLIP: rows and columns of one table of scores."""
    scores, places = output @ output.T, torch.arange(output.shape[0])
    return F.cross_entropy(scores, places) + F.cross_entropy(scores.T, places)


def weighted_mean(output: Tensor, target: Tensor) -> Tensor:
    weight = torch.tensor([1.0, 2.0, 3.0])[target]
    return (F.cross_entropy(output, target, reduction="none") * weight).sum() / weight.sum()


def balanced(output: Tensor, target: Tensor) -> Tensor:
    """Each class counts alike: weights from how often it occurs among all targets."""
    counts = (target[:, None] == target[None]).sum(1)
    return (F.cross_entropy(output, target, reduction="none") / counts).mean()


def several(output: Tensor, target: Tensor) -> Tensor:
    """A sum of losses that are all sums over samples."""
    smoothed = F.cross_entropy(output, target, reduction="sum", label_smoothing=0.1)
    products = output[:, 0].sin() @ output[:, 1].square()
    return smoothed + balanced(output, target) + 0.1 * output.square().sum(1).mean() - products / 3


def decorrelated(output: Tensor, target: Tensor) -> Tensor:
    """Barlow Twins: squares of the entries of a matrix that is a sum over samples."""
    return ((output.T @ output.sin() / output.shape[0]).square()).sum()


def rows(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="none")


@dataclass(frozen=True)
class Criterion:
    """A loss of (N, C) outputs, its structure, and what breaks it: (operation, how)."""

    loss: Any
    structure: str
    breaks: tuple[tuple[str, str], ...] = ()
    target_factor: bool = False
    floating: bool = False


NO_SUM = "nonlinear"
SIMD = "simd+reduction"

LOSSES: dict[str, Criterion] = {
    "cross entropy": Criterion("cross_entropy", SIMD),
    "class weights": Criterion(nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0])), SIMD, target_factor=True),
    "mse": Criterion("mse", SIMD, floating=True),
    "weighted mean": Criterion(weighted_mean, SIMD, target_factor=True),
    "several": Criterion(several, SIMD),
    "contrastive": Criterion(contrastive, "reduction", (("mm", "samples"),)),
    "both ways": Criterion(
        both_ways, "reduction", (("mm", "samples"), ("cross_entropy_loss", "samples"))
    ),
    "softmax over samples": Criterion(
        lambda o, t: (o.softmax(0) * t).sum(), "reduction", (("_softmax", "samples"),), floating=True
    ),
    "centred": Criterion(
        lambda o, t: (o - o.mean(0)).square().mean(), "reduction", (("mean", "reduction"),)
    ),
    "root": Criterion(lambda o, t: F.mse_loss(o, t).sqrt(), "none", (("sqrt", NO_SUM),), floating=True),
    "norm": Criterion(lambda o, t: (o - t).norm(), "none", (("linalg_vector_norm", "reduction"),), floating=True),
    "product of means": Criterion(lambda o, t: rows(o, t).mean() * o.square().mean(), "none", (("mul", NO_SUM),)),
    "decorrelated": Criterion(decorrelated, "none", (("square", NO_SUM),)),
    "own weights": Criterion(
        lambda o, t: (rows(o, t) * o[:, 0].exp()).sum() / o[:, 0].exp().sum(), "none", (("div", NO_SUM),)
    ),
}  # fmt: skip


def columns(value: Tensor, layout: str, samples: int) -> Tensor:
    """The sample that each element belongs to, read from the report's words; -1 where it belongs to none."""
    if not layout or layout == "spread":
        return torch.full(value.shape, -1)
    _, axis, *fold = layout.split(" ")
    size = value.shape[int(axis)]
    along = (
        torch.arange(size) % samples
        if fold[1:] and fold[-1] == "N"
        else torch.arange(size) // (size // samples)
    )
    return along.view(-1, *[1] * (value.dim() - int(axis) - 1)).expand(value.shape)
