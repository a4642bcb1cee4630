"""What several of the networks share: initialisation, Conv-BatchNorm-activation, stochastic depth."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import InputError


def initialise(model: nn.Module) -> None:
    """Draw the weights of `model` afresh, in place.

    Convolutions: normal, variance 2 / fan_out (He et al. 2015, "Delving deep into rectifiers", eq. 14), where
    fan_out = kernel area * out_channels / groups counts the connections that exist, so that a depthwise
    convolution keeps the scale of its signal. BatchNorm: gamma 1, beta 0. Linear: normal, standard deviation
    0.01 (Krizhevsky, Sutskever, Hinton 2012, section 5). All other biases: 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)


class ConvBNAct(nn.Sequential):
    """Convolution ("same" padding, no bias), BatchNorm, and `activation` unless it is None."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: nn.Module | None = None,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        padding = kernel_size // 2
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels, eps=eps, momentum=momentum),
        ]
        if activation is not None:
            layers.append(activation)
        super().__init__(*layers)


class StochasticDepth(nn.Module):
    """Drop a whole residual branch, sample by sample, with `probability`; survivors are scaled by 1 / keep.

    In evaluation mode the identity. Huang et al. 2016, "Deep networks with stochastic depth", section 3,
    which draws once for the whole mini-batch and scales at test time instead.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise InputError(f"stochastic depth needs a drop probability in [0, 1), not {probability}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        survives = torch.empty([x.shape[0], 1, 1, 1], dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * (survives / keep)

    def extra_repr(self) -> str:
        return f"probability={self.probability:g}"
