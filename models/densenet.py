"""DenseNet-BC.

Huang, Liu, van der Maaten, Weinberger 2017, "Densely connected convolutional networks": every layer reads the
concatenation of all feature maps before it in its block and adds `growth_rate` of its own. "B": a 1x1
convolution to 4 * growth_rate channels stands before each 3x3 convolution; "C": a transition halves the
channels. Table 1 (ImageNet), section 3 (CIFAR: three equal blocks). Here BatchNorm comes first: BN, ReLU,
convolution.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
from .layers import initialise


class DenseLayer(nn.Module):
    def __init__(self, in_channels: int, growth_rate: int) -> None:
        super().__init__()
        bottleneck = 4 * growth_rate
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, bottleneck, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck)
        self.conv2 = nn.Conv2d(bottleneck, growth_rate, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu(self.norm1(x)))
        y = self.conv2(self.relu(self.norm2(y)))
        return torch.cat([x, y], 1)


def dense_block(in_channels: int, layers: int, growth_rate: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            (f"denselayer{i + 1}", DenseLayer(in_channels + i * growth_rate, growth_rate))
            for i in range(layers)
        )
    )


def transition(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(in_channels),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(in_channels, out_channels, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )


class DenseNet(nn.Module):
    """`stem`, which ends in `channels` channels, then dense blocks with transitions between them."""

    def __init__(
        self,
        stem: OrderedDict[str, nn.Module],
        channels: int,
        blocks: Sequence[int],
        growth_rate: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(stem)
        for i, layers in enumerate(blocks, start=1):
            self.features.add_module(f"denseblock{i}", dense_block(channels, layers, growth_rate))
            channels += layers * growth_rate
            if i < len(blocks):
                self.features.add_module(f"transition{i}", transition(channels, channels // 2))
                channels //= 2
        self.features.add_module(f"norm{len(blocks) + 1}", nn.BatchNorm2d(channels))
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.relu(self.features(x))).flatten(1))


def densenet121(num_classes: int = 1000, in_channels: int = 3) -> DenseNet:
    """DenseNet-121: (N, in_channels, H, W) -> logits (N, num_classes); the last block has stride 32."""
    stem = OrderedDict[str, nn.Module](
        conv0=nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False),
        norm0=nn.BatchNorm2d(64),
        relu0=nn.ReLU(inplace=True),
        pool0=nn.MaxPool2d(3, stride=2, padding=1),
    )
    return DenseNet(stem, 64, (6, 12, 24, 16), 32, num_classes)


def densenet_bc_cifar(
    num_classes: int = 10, in_channels: int = 3, depth: int = 40, growth_rate: int = 12
) -> DenseNet:
    """CIFAR DenseNet-BC: (N, in_channels, H, W) -> logits (N, num_classes), any H and W from 4x4 up.

    `depth` is 6 n + 4 for n layers in each of the three blocks (40: n = 6); anything else is an InputError.
    """
    n, remainder = divmod(depth - 4, 6)
    if n < 1 or remainder:
        raise InputError(
            f"a CIFAR DenseNet-BC has 6 n + 4 layers, so depth is one of 10, 16, ..., 40, ..., not {depth}"
        )
    channels = 2 * growth_rate
    stem = OrderedDict[str, nn.Module](conv0=nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))
    return DenseNet(stem, channels, (n, n, n), growth_rate, num_classes)
