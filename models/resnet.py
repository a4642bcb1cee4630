"""Residual networks.

He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition": ResNet-18 and -50 of table 1, and
the CIFAR networks of 6n + 2 layers of section 4.2. A block computes relu(F(x) + shortcut(x)); where the shape
changes, the shortcut is

- ImageNet: a 1x1 convolution and BatchNorm (option B, eq. 2);
- CIFAR: every second pixel, and zeros for the new channels (option A, no parameters), as in the paper's own
  runs.

The bottleneck puts its stride into the 3x3 convolution ("v1.5"), not into the first 1x1 convolution as
printed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn.functional import pad

from .layers import initialise


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (figure 5, left)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += shortcut
        return self.relu(y)


class Bottleneck(nn.Module):
    """1x1 down to `width`, 3x3, 1x1 up to 4 * `width` (figure 5, right)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += shortcut
        return self.relu(y)


Block = type[BasicBlock] | type[Bottleneck]


class SubsampleAndPad(nn.Module):
    """Option A: keep every `stride`-th pixel, append `extra_channels` channels of zeros."""

    def __init__(self, stride: int, extra_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra_channels = extra_channels

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return pad(x, [0, 0, 0, 0, 0, self.extra_channels])


def option_a(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return SubsampleAndPad(stride, out_channels - in_channels)


def option_b(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(out_channels))


def stage(
    block: Block,
    shortcut: Callable[[int, int, int], nn.Module],
    in_channels: int,
    width: int,
    stride: int,
    blocks: int,
) -> nn.Sequential:
    """`blocks` residual blocks of `width`; the first one changes resolution and channels."""
    out_channels = width * block.expansion
    changes = stride != 1 or in_channels != out_channels
    first = block(
        in_channels, width, stride, shortcut(in_channels, out_channels, stride) if changes else None
    )
    return nn.Sequential(first, *(block(out_channels, width, 1, None) for _ in range(blocks - 1)))


class ResNet(nn.Module):
    """The ImageNet networks: stem of stride 4, then four stages."""

    def __init__(self, block: Block, blocks: Sequence[int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        e = block.expansion
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(block, option_b, 64, 64, 1, blocks[0])
        self.layer2 = stage(block, option_b, 64 * e, 128, 2, blocks[1])
        self.layer3 = stage(block, option_b, 128 * e, 256, 2, blocks[2])
        self.layer4 = stage(block, option_b, 256 * e, 512, 2, blocks[3])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * e, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


class CifarResNet(nn.Module):
    """6n + 2 layers: a 3x3 convolution, three stages of n blocks (16, 32, 64 channels), a linear layer."""

    def __init__(self, n: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = stage(BasicBlock, option_a, 16, 16, 1, n)
        self.layer2 = stage(BasicBlock, option_a, 16, 32, 2, n)
        self.layer3 = stage(BasicBlock, option_a, 32, 64, 2, n)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def resnet8(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """CIFAR ResNet-8 (n = 1): (N, in_channels, H, W) -> logits (N, num_classes), H and W from 4 up."""
    return CifarResNet(1, num_classes, in_channels)


def resnet8_digits() -> CifarResNet:
    """`resnet8` for `bnrewrite.models.digits`: (N, 1, 8, 8) -> logits (N, 10)."""
    return resnet8(num_classes=10, in_channels=1)


def resnet20(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """CIFAR ResNet-20 (n = 3): (N, in_channels, H, W) -> logits (N, num_classes), H and W from 4 up."""
    return CifarResNet(3, num_classes, in_channels)


def resnet18(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet-18: (N, in_channels, H, W) -> logits (N, num_classes); the last stage has stride 32."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels)


def resnet50(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet-50 (v1.5): (N, in_channels, H, W) -> logits (N, num_classes); the last stage has stride 32."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels)
