"""VGG with BatchNorm after every convolution.

Simonyan & Zisserman 2015, "Very deep convolutional networks for large-scale image recognition", table 1:
configurations A (11 layers) and D (16 layers). The convolutions keep the paper's biases, although BatchNorm
cancels them under batch statistics: such a bias has zero gradient and zero curvature. Average pooling to
7x7 lets the classifier read images of any size from 32x32 up; at the paper's 224x224 it is the identity.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .layers import initialise

# Channels of the convolutions, one tuple for each stage; a 2x2 max-pooling ends each stage.
A = ((64,), (128,), (256, 256), (512, 512), (512, 512))
D = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    def __init__(
        self, stages: Sequence[Sequence[int]], num_classes: int, in_channels: int, hidden: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for widths in stages:
            for width in widths:
                layers += [
                    nn.Conv2d(in_channels, width, 3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                in_channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(in_channels * 7 * 7, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, num_classes),
        )
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def vgg11_bn(num_classes: int = 1000, in_channels: int = 3, hidden: int = 4096) -> VGG:
    """VGG-11 (A) with BatchNorm: (N, in_channels, H, W), H and W at least 32 -> logits (N, num_classes).

    `hidden` is the width of the two fully connected layers, which hold nine tenths of the parameters.
    """
    return VGG(A, num_classes, in_channels, hidden)


def vgg16_bn(num_classes: int = 1000, in_channels: int = 3, hidden: int = 4096) -> VGG:
    """VGG-16 (D) with BatchNorm: (N, in_channels, H, W), H and W at least 32 -> logits (N, num_classes).

    `hidden` is the width of the two fully connected layers, which hold nine tenths of the parameters.
    """
    return VGG(D, num_classes, in_channels, hidden)
