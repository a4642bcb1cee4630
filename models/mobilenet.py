"""MobileNetV2.

Sandler, Howard, Zhu, Zhmoginov, Chen 2018, "MobileNetV2: inverted residuals and linear bottlenecks", tables 1
and 2: expand with 1x1, filter depthwise with 3x3, project with 1x1 and no nonlinearity; a shortcut where the
shape stays.
"""

from __future__ import annotations

from torch import Tensor, nn

from .layers import ConvBNAct, initialise

# Table 2: expansion t, output channels c, repetitions n, stride s of the first one.
BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def relu6() -> nn.Module:
    return nn.ReLU6(inplace=True)


class InvertedResidual(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvBNAct(in_channels, hidden, 1, activation=relu6()))
        layers.append(ConvBNAct(hidden, hidden, 3, stride=stride, groups=hidden, activation=relu6()))
        # Written out flat: published checkpoints call the projection's two layers conv.2 and conv.3.
        layers += [nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    def __init__(self, num_classes: int, in_channels: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvBNAct(in_channels, 32, 3, stride=2, activation=relu6())]
        channels = 32
        for t, c, n, s in BOTTLENECKS:
            for i in range(n):
                layers.append(InvertedResidual(channels, c, t, stride=s if i == 0 else 1))
                channels = c
        layers.append(ConvBNAct(channels, 1280, 1, activation=relu6()))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def mobilenet_v2(num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2) -> MobileNetV2:
    """MobileNetV2 of width 1: (N, in_channels, H, W) -> logits (N, num_classes); stride 32 at the end."""
    return MobileNetV2(num_classes, in_channels, dropout)
