"""Small random networks as data: what may be drawn, how a drawing becomes a model with a loss, and the strategy.

A network is written in words, so that a failure that hypothesis has shrunk can be read, and becomes a row of a table as
it stands. A piece that does not fit where it stands (a stride on one pixel, a branch that changes the shape) is left
out, so that every sequence of words is a network.

Drawn to be well-conditioned, so that the bar can be the contract's: affine parts of norms are near one, every epsilon
is at least 1e-3 (a channel that a ReLU has killed has variance zero, and is scaled by up to 1/sqrt(epsilon)), and each
network ends in an affine layer, whose gradient does not vanish.

Capture costs half a second whatever the network, so several of them go into one graph: they share the input, have their
own targets, and the loss is the sum. Their parameters are apart, and so are their gradients and products.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

Piece = str | tuple[str, ...]
Make = Callable[[int, tuple[int, ...]], nn.Module | None]
"""Channels and sizes to a module; `None` where it does not fit."""

EPS = 1e-3
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def by_rank(
    name: str, *args: Any, least: int = 1, ranks: tuple[int, ...] = (1, 2, 3), **options: Any
) -> Make:
    """The module of `torch.nn` whose name has the number of spatial axes in it."""

    def make(channels: int, sizes: tuple[int, ...]) -> nn.Module | None:
        rank = len(sizes)
        if rank not in ranks or min(sizes) < least:
            return None
        return getattr(nn, name.format(rank))(*args, **options)  # type: ignore[no-any-return]

    return make


def conv(
    kernel: int = 3, out: int = 0, groups: int = 1, least: int = 1, transposed: bool = False, **options: Any
) -> Make:
    """`out=0`: as many channels as come in; `groups=0`: one group a channel."""

    def make(channels: int, sizes: tuple[int, ...]) -> nn.Module | None:
        many = groups or channels
        if not sizes or min(sizes) < least or channels % many or (out or channels) % many:
            return None
        kinds: dict[int, Any] = TRANSPOSED if transposed else CONV
        return kinds[len(sizes)](channels, out or channels, kernel, groups=many, **options)  # type: ignore[no-any-return]

    return make


def batch_norm(training: bool = True, **options: Any) -> Make:
    return lambda c, s: NORM[len(s)](c, **{"eps": EPS, **options}).train(training)


def anywhere(make: Callable[..., nn.Module], **options: Any) -> Make:
    return lambda c, s: make(**options)


def on_images(make: Callable[[int], nn.Module]) -> Make:
    return lambda c, s: make(c) if s else None


class ChannelsLast(nn.Module):
    """A module over the last axis, where the channels are the second."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, 2), nn.Linear(2, channels)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.up(F.silu(self.down(x.flatten(2).mean(2)))))
        return x * scale.reshape(*scale.shape, *[1] * (x.dim() - 2))


class Attention(nn.Module):
    """Self-attention of the pixels, two heads where the channels allow."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = 2 if channels % 2 == 0 else 1
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        n, length, channels = tokens.shape
        q, k, v = self.qkv(tokens).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, channels)
        return self.out(mixed).transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


class FunctionalBatchNorm(nn.Module):
    """Batch normalization by hand, gamma computed and no beta."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_gamma = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.log_gamma.exp(), None, training=True, eps=EPS)


class Tied(nn.Module):
    """Two layers with one weight and biases of their own."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        make = (
            (lambda: CONV[rank](channels, channels, 3, padding=1))
            if rank
            else (lambda: nn.Linear(channels, channels))
        )
        self.a, self.b = make(), make()
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))  # type: ignore[no-any-return]


class Hardsigmoid(nn.Module):
    """From primitives: PyTorch has no second derivative of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3) / 6


class Hardswish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * F.relu6(x + 3) / 6


DIFFERENTIABLE_TWICE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Hardsigmoid: Hardsigmoid,
    nn.Hardswish: Hardswish,
}
"""What the truth computes with instead."""

PIECES: dict[str, Make] = {
    "linear": lambda c, s: nn.Linear(c, 4) if not s else ChannelsLast(nn.Linear(c, 4)),
    "conv": conv(padding=1),
    "conv wide": conv(out=6, padding=1, bias=False),
    "conv 1x1": conv(1, out=3),
    "conv strided": conv(out=4, stride=2, padding=1, least=3),
    "conv grouped": conv(groups=2, padding=1),
    "conv depthwise": conv(groups=0, padding=1),
    "conv depthwise strided": conv(groups=0, stride=2, padding=1, least=3),
    "conv dilated": conv(dilation=2, padding=2, least=3),
    "conv same": conv(2, padding="same"),
    "conv reflect": conv(padding=1, padding_mode="reflect", least=2),
    "conv replicate": conv(padding=1, padding_mode="replicate"),
    "conv circular": conv(padding=1, padding_mode="circular"),
    "conv transposed": conv(2, out=4, transposed=True, stride=2),
    "conv transposed grouped": conv(groups=2, transposed=True, padding=1, stride=2, output_padding=1),
    "batch_norm": batch_norm(),
    "batch_norm frozen": batch_norm(False),
    "batch_norm plain": batch_norm(affine=False),
    "batch_norm frozen plain": batch_norm(False, affine=False),
    "batch_norm untracked": batch_norm(track_running_stats=False, eps=0.1),
    "batch_norm cumulative": batch_norm(momentum=None),
    "batch_norm functional": lambda c, s: FunctionalBatchNorm(c),
    "layer_norm": lambda c, s: nn.LayerNorm((c, *s), eps=EPS),
    "layer_norm channels": lambda c, s: ChannelsLast(nn.LayerNorm(c, eps=EPS)),
    "rms_norm channels": lambda c, s: ChannelsLast(nn.RMSNorm(c, eps=EPS)),
    "group_norm": lambda c, s: nn.GroupNorm(2, c, eps=EPS) if c % 2 == 0 and c * len(s) > 2 else None,
    "instance_norm": lambda c, s: (
        getattr(nn, f"InstanceNorm{len(s)}d")(c, eps=EPS, affine=True) if s and min(s) > 1 else None
    ),
    "instance_norm frozen": lambda c, s: (
        getattr(nn, f"InstanceNorm{len(s)}d")(c, eps=EPS, track_running_stats=True).eval() if s else None
    ),
    "local_response_norm": lambda c, s: nn.LocalResponseNorm(2, alpha=0.1) if s else None,
    "relu": anywhere(nn.ReLU),
    "batch_norm relu inplace": lambda c, s: nn.Sequential(NORM[len(s)](c), nn.ReLU(inplace=True)),
    "relu6": anywhere(nn.ReLU6),
    "leaky": anywhere(nn.LeakyReLU, negative_slope=0.2),
    "prelu": lambda c, s: nn.PReLU(c),
    "elu": anywhere(nn.ELU),
    "selu": anywhere(nn.SELU),
    "gelu": anywhere(nn.GELU),
    "gelu tanh": anywhere(nn.GELU, approximate="tanh"),
    "silu": anywhere(nn.SiLU),
    "mish": anywhere(nn.Mish),
    "softplus": anywhere(nn.Softplus, beta=2.0),
    "softsign": anywhere(nn.Softsign),
    "tanh": anywhere(nn.Tanh),
    "sigmoid": anywhere(nn.Sigmoid),
    "logsigmoid": anywhere(nn.LogSigmoid),
    "hardswish": anywhere(nn.Hardswish),
    "hardsigmoid": anywhere(nn.Hardsigmoid),
    "hardtanh": anywhere(nn.Hardtanh),
    "softmax": anywhere(nn.Softmax, dim=1),
    "glu": lambda c, s: nn.GLU(1) if c % 2 == 0 else None,
    "dropout": anywhere(nn.Dropout),
    "max_pool": by_rank("MaxPool{}d", 2, least=2),
    "max_pool overlapping": by_rank("MaxPool{}d", 3, stride=1, padding=1),
    "avg_pool": by_rank("AvgPool{}d", 2, least=2),
    "avg_pool overlapping": by_rank("AvgPool{}d", 3, stride=1, padding=1, least=3),
    "avg_pool inside": by_rank("AvgPool{}d", 3, stride=1, padding=1, count_include_pad=False, least=3, ranks=(2, 3)),
    "adaptive_avg": by_rank("AdaptiveAvgPool{}d", 3),
    "adaptive_max": by_rank("AdaptiveMaxPool{}d", 2, least=2),
    "lp_pool": by_rank("LPPool{}d", 2, 2, least=2),
    "nearest": lambda c, s: nn.Upsample(scale_factor=2) if s else None,
    "linear resize": lambda c, s: (
        nn.Upsample(size=5, mode={1: "linear", 2: "bilinear", 3: "trilinear"}[len(s)]) if s else None
    ),
    "bicubic": lambda c, s: nn.Upsample(size=5, mode="bicubic", align_corners=True) if len(s) == 2 else None,
    "pixel_shuffle": lambda c, s: nn.PixelShuffle(2) if len(s) == 2 and c % 4 == 0 else None,
    "pixel_unshuffle": lambda c, s: nn.PixelUnshuffle(2) if len(s) == 2 and not any(i % 2 for i in s) else None,
    "channel_shuffle": lambda c, s: nn.ChannelShuffle(2) if c % 2 == 0 and s else None,
    "pad zero": by_rank("ZeroPad{}d", 1),
    "pad reflect": by_rank("ReflectionPad{}d", 1, least=2),
    "pad circular": by_rank("CircularPad{}d", 1),
    "squeeze_excite": on_images(SqueezeExcite),
    "attention": on_images(Attention),
    "tied": lambda c, s: Tied(c, len(s)),
}  # fmt: skip

JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda x, z: x + z,
    "mul": lambda x, z: x * z,
    "cat": lambda x, z: torch.cat([x, z], 1),
    "add inplace": lambda x, z: z.add_(x),
}
GROUPS = (*JOINS, "twice")
"""A group ("add", "conv", "relu") joins its pieces with the identity; ("twice", "conv") calls one module twice."""


class Branch(nn.Module):
    def __init__(self, inner: nn.Module, join: str) -> None:
        super().__init__()
        self.inner, self.join = inner, join

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x)) if self.join == "twice" else JOINS[self.join](x, self.inner(x))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2) if x.dim() > 2 else x


CLASSES = 3
HEADS: dict[str, Make] = {
    "mean": lambda c, s: nn.Sequential(Mean(), nn.Linear(c, CLASSES)),
    "flatten": lambda c, s: nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES)),
    "pixels": lambda c, s: CONV[len(s)](c, CLASSES, 1) if s else nn.Linear(c, CLASSES),
}
Targets = Callable[[tuple[int, ...], torch.Generator], Tensor]


def classes(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return torch.randint(CLASSES, (shape[0], *shape[2:]), generator=g)


def numbers(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=g, dtype=torch.float64)


def probabilities(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return numbers(shape, g).softmax(1)


class LogLikelihood(nn.Module):
    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(F.log_softmax(z, 1), y)


WEIGHT = torch.tensor([0.5, 1.0, 2.0])
LOSSES: dict[str, tuple[nn.Module, Targets]] = {
    "cross_entropy": (nn.CrossEntropyLoss(), classes),
    "cross_entropy sum": (nn.CrossEntropyLoss(reduction="sum"), classes),
    "cross_entropy smooth": (nn.CrossEntropyLoss(label_smoothing=0.1), classes),
    "cross_entropy weighted": (nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.2, ignore_index=1), classes),
    "cross_entropy soft": (nn.CrossEntropyLoss(WEIGHT), probabilities),
    "nll": (LogLikelihood(), classes),
    "mse": (nn.MSELoss(), numbers),
    "mse sum": (nn.MSELoss(reduction="sum"), numbers),
    "bce_with_logits": (nn.BCEWithLogitsLoss(), numbers),
    "smooth_l1": (nn.SmoothL1Loss(beta=0.5), numbers),
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """`seed` of all the numbers."""

    pieces: tuple[Piece, ...]
    head: str = "mean"
    loss: str = "cross_entropy"
    seed: int = 0


@dataclass(frozen=True)
class Fleet:
    """Networks in one graph; `rank` spatial axes, `vectors` and `products` as in `transform`."""

    networks: tuple[Network, ...]
    rank: int = 2
    products: tuple[str, ...] = ("hvp",)
    vectors: int | None = None
    onnx: bool = False


CHANNELS = 4
SIZES = {0: (), 1: (6,), 2: (4, 6), 3: (3, 4, 2)}
MOST = 400  # numbers of a sample: beyond, a piece is left out


class Model(nn.Module):
    """The outputs of all networks of a fleet for one input."""

    def __init__(self, nets: list[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(net(x) for net in self.nets)


def build(fleet: Fleet) -> tuple[Model, set[str]]:
    """The model in float64, in training mode but for what is frozen, and the words that fitted."""
    nets, fitted = [], set()
    for network in fleet.networks:
        net, words = _build(network, fleet.rank)
        nets.append(net)
        fitted |= words
    return Model(nets).double(), fitted


def _build(network: Network, rank: int) -> tuple[nn.Module, set[str]]:
    torch.manual_seed(network.seed)
    x = torch.randn(2, CHANNELS, *SIZES[rank])
    layers, fitted = [], {network.head, network.loss}
    for piece in network.pieces:
        layer, words = _group(piece, x) if isinstance(piece, tuple) else _piece(piece, x)
        if layer is not None:
            x, fitted = layer(x).detach(), fitted | words
            layers.append(layer)
    head = HEADS[network.head](x.shape[1], tuple(x.shape[2:]))
    assert head is not None
    head(x)  # lazy parts
    net = nn.Sequential(*layers, head)
    _randomise(net)
    return net, fitted


def _piece(word: str, x: Tensor) -> tuple[nn.Module | None, set[str]]:
    layer = PIECES[word](x.shape[1], tuple(x.shape[2:]))
    if layer is None or layer(x).numel() > len(x) * MOST:
        return None, set()
    return layer, {word}


def _group(group: tuple[str, ...], x: Tensor) -> tuple[nn.Module | None, set[str]]:
    kind, *words = group
    layers, fitted = [], {kind}
    for word in words:
        layer, found = _piece(word, x)
        if layer is not None and layer(x).shape == x.shape:
            layers.append(layer)
            fitted |= found
    if not layers or (kind == "cat" and x.numel() > MOST):
        return None, set()
    if kind == "add inplace":  # as in a residual block: into an output that autograd has not kept
        layers.append(NORM[x.dim() - 2](x.shape[1], eps=EPS))
    return Branch(nn.Sequential(*layers), kind), fitted


def _randomise(net: nn.Module) -> None:
    """Nothing stays at the zeros and ones of a fresh norm, which would hide terms."""
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() < 2:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in net.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + (0.5 if name.endswith("var") else 0))


def example(fleet: Fleet, model: Model, batch: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Input and targets in float64."""
    g = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, CHANNELS, *SIZES[fleet.rank], generator=g, dtype=torch.float64)
    with torch.no_grad():
        outputs = copy.deepcopy(model)(x)  # the running statistics of the model itself stay
    targets = [LOSSES[n.loss][1](z.shape, g) for n, z in zip(fleet.networks, outputs, strict=True)]
    return x, tuple(targets)


class Criterion(nn.Module):
    """The sum of the losses of all networks."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__()
        self.parts = nn.ModuleList([copy.deepcopy(LOSSES[network.loss][0]) for network in fleet.networks])

    def forward(self, outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> Tensor:
        losses = [part(z, y) for part, z, y in zip(self.parts, outputs, targets, strict=True)]
        return sum(losses[1:], losses[0])


def fleets() -> st.SearchStrategy[Fleet]:
    """Seven networks of one to three pieces; a third with two vectors, a tenth through ONNX. Shrinks to one network."""
    word = st.sampled_from(list(PIECES))
    group = st.tuples(st.sampled_from(GROUPS), word) | st.tuples(st.sampled_from(GROUPS), word, word)
    network = st.builds(
        Network,
        pieces=st.lists(st.one_of(word, word, word, group), min_size=1, max_size=3).map(tuple),
        head=st.sampled_from(list(HEADS)),
        loss=st.sampled_from(list(LOSSES)),
        seed=st.integers(0, 999),
    )
    return st.builds(
        Fleet,
        networks=st.sampled_from([1, *[7] * 19]).flatmap(
            lambda count: st.lists(network, min_size=count, max_size=count).map(tuple)
        ),
        rank=st.sampled_from([2, 2, 2, 1, 0, 3]),
        products=st.sampled_from([("hvp",), ("hvp",), ("ggn", "residual")]),
        vectors=st.sampled_from([None, None, 2]),
        onnx=st.sampled_from([False] * 9 + [True]),
    )
