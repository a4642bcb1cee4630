"""EfficientNet-B0.

Tan & Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", table 1: inverted
residuals (MBConv) with squeeze-and-excitation (Hu et al. 2018) and SiLU. Section 5.2: dropout 0.2 and
stochastic depth with survival probability 0.8, falling linearly with depth. BatchNorm as in the authors'
code: eps 1e-3, and 0.99 of the old running statistics kept at each step (momentum 0.01 as PyTorch counts).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import ConvBNAct, StochasticDepth, initialise

# Table 1, stages 2 to 8: expansion, kernel size, stride of the first block, output channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: nn.Module | None = None,
) -> ConvBNAct:
    return ConvBNAct(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        groups=groups,
        activation=activation,
        eps=1e-3,
        momentum=0.01,
    )


def silu() -> nn.Module:
    return nn.SiLU(inplace=True)


class SqueezeExcitation(nn.Module):
    """x * sigmoid(fc2(silu(fc1(mean of x over the pixels)))), channel by channel."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = silu()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(self.activation(self.fc1(self.avgpool(x)))))


class MBConv(nn.Module):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        kernel_size: int,
        stride: int,
        drop_probability: float,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_bn(in_channels, hidden, 1, activation=silu()))
        layers += [
            conv_bn(hidden, hidden, kernel_size, stride=stride, groups=hidden, activation=silu()),
            SqueezeExcitation(hidden, in_channels // 4),  # a quarter of the block's input, not of `hidden`
            conv_bn(hidden, out_channels, 1),
        ]
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(drop_probability)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return x + self.stochastic_depth(y) if self.has_shortcut else y


class EfficientNet(nn.Module):
    def __init__(self, num_classes: int, in_channels: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        depth = sum(blocks for *_, blocks in STAGES)
        stages: list[nn.Module] = [conv_bn(in_channels, 32, 3, stride=2, activation=silu())]
        channels, index = 32, 0
        for expansion, kernel_size, stride, out_channels, blocks in STAGES:
            stage = []
            for i in range(blocks):
                first = stride if i == 0 else 1
                p = drop_path * index / depth
                stage.append(MBConv(channels, out_channels, expansion, kernel_size, first, p))
                channels, index = out_channels, index + 1
            stages.append(nn.Sequential(*stage))
        stages.append(conv_bn(channels, 1280, 1, activation=silu()))
        self.features = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def efficientnet_b0(
    num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2, drop_path: float = 0.2
) -> EfficientNet:
    """EfficientNet-B0: (N, in_channels, H, W) -> logits (N, num_classes); the last stages have stride 32.

    In training mode block i (0 to 15), where it has a shortcut, is dropped with probability `drop_path` * i /
    16. torchvision's checkpoint fits by name and shape, but was made for an eps of 1e-5 in BatchNorm, not
    1e-3.
    """
    return EfficientNet(num_classes, in_channels, dropout, drop_path)
