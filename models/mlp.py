"""A multilayer perceptron with BatchNorm1d: Linear, BatchNorm, ReLU, as often as there are hidden layers.

Ioffe & Szegedy 2015, "Batch normalization", section 3.2: BatchNorm stands before the nonlinearity, and the
linear layer before it needs no bias.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .layers import initialise


class MLP(nn.Module):
    def __init__(self, num_classes: int, in_features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [
                nn.Linear(in_features, width, bias=False),
                nn.BatchNorm1d(width),
                nn.ReLU(inplace=True),
            ]
            in_features = width
        layers.append(nn.Linear(in_features, num_classes))
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))


def mlp_bn(num_classes: int = 10, in_features: int = 64, hidden: Sequence[int] = (64, 32)) -> MLP:
    """MLP with BatchNorm1d: (N, ...) of `in_features` numbers a sample -> logits (N, num_classes).

    The default reads the 8x8 digits. `hidden` lists the widths of the hidden layers.
    """
    return MLP(num_classes, in_features, hidden)
