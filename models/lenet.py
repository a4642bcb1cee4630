"""LeNet-5 with BatchNorm.

LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition", section II.B:
C1 (6 maps, 5x5), S2, C3 (16 maps, 5x5), S4, C5 (120), F6 (84), output. Kept from the paper: tanh and average
pooling, which make this the smooth network of the collection. Changed, as is usual today: BatchNorm before
each tanh, C3 sees all maps of S2, pooling has no weights of its own, the output layer is linear.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import InputError
from .layers import initialise


class LeNet5(nn.Module):
    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        if image_size not in (28, 32):
            raise InputError(f"LeNet-5 takes images of 28x28 or 32x32 pixels, not {image_size}x{image_size}")
        border = (32 - image_size) // 2  # the paper centres the 28x28 digits in a 32x32 field
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=border, bias=False),
            nn.BatchNorm2d(6),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5, bias=False),
            nn.BatchNorm2d(16),
            nn.Tanh(),
            nn.AvgPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * 5 * 5, 120, bias=False),
            nn.BatchNorm1d(120),
            nn.Tanh(),
            nn.Linear(120, 84, bias=False),
            nn.BatchNorm1d(84),
            nn.Tanh(),
            nn.Linear(84, num_classes),
        )
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def lenet5(num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> LeNet5:
    """LeNet-5 with BatchNorm: (N, in_channels, image_size, image_size) -> logits (N, num_classes).

    `image_size` is 28 or 32; another size is an InputError.
    """
    return LeNet5(num_classes, in_channels, image_size)
