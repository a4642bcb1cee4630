"""The reference networks with their activations exchanged and their BatchNorm layers kept, held or taken out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from bnrewrite.models import digits, efficientnet_b0, lenet5, mlp_bn, resnet8_digits

from .settings import Case

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}
NORMS = {
    "none": "no BatchNorm",
    "fixed": "BatchNorm, statistics held",
    "batch": "BatchNorm, batch statistics",
}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
LAYERS = (nn.Conv2d, nn.Linear)

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Network:
    """A network for the digits, enlarged to `pixels` a side; `dtype` is that of the products."""

    title: str
    make: Callable[[], nn.Module]
    pixels: int
    dtype: torch.dtype = torch.float64

    def data(self, split: str, count: int | None, dtype: torch.dtype) -> Data:
        """The first `count` digits of a split, or all of them."""
        x, y = (part[:count] for part in digits(split, dtype=dtype))
        if x.shape[-1] != self.pixels:
            x = interpolate(x, (self.pixels, self.pixels), mode="bilinear")
        return x, y


NETWORKS = {
    "mlp_bn": Network("MLP", lambda: mlp_bn(hidden=(8, 6)), 8),
    "lenet5": Network("LeNet5", lenet5, 28),
    "resnet8_digits": Network("ResNet-8", resnet8_digits, 8),
    # A product of all its layers takes seconds in float64.
    "efficientnet_b0": Network(
        "EfficientNet-B0", functools.partial(efficientnet_b0, 10, 1, 0.0, 0.0), 32, torch.float32
    ),
}


def built(case: Case, dtype: torch.dtype | None = None) -> nn.Module:
    """The network of `case`, in evaluation mode; the gates of squeeze-and-excitation keep their sigmoid."""
    network = NETWORKS[case.network]
    model = network.make().to(dtype or network.dtype)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, tuple(ACTIVATIONS.values())):  # type: ignore[arg-type]
                setattr(module, name, ACTIVATIONS[case.activation]())
            elif case.norm == "none" and isinstance(child, BATCH_NORMS):
                setattr(module, name, nn.Identity())
    return model.eval()


def draw(model: nn.Module, seed: int) -> None:
    """Glorot's uniform weights, biases 0, BatchNorm with weight 1 and bias 0: Keras's defaults, as in seed 004's code.

    The same seed gives the same numbers in every type.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, LAYERS):
            weight = torch.empty(module.weight.shape, dtype=torch.float64)
            nn.init.xavier_uniform_(weight, generator=generator)
            with torch.no_grad():
                module.weight.copy_(weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, BATCH_NORMS):
            module.reset_parameters()


def hold_statistics(model: nn.Module, x: Tensor) -> None:
    """Make the running statistics those of the batch `x`, so that on it nothing but the derivatives changes."""

    def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, BATCH_NORMS)
        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
        module.get_buffer("running_mean").copy_(inputs[0].mean(axes))
        module.get_buffer("running_var").copy_(inputs[0].var(axes, correction=0))

    hooks = [m.register_forward_pre_hook(take) for m in model.modules() if isinstance(m, BATCH_NORMS)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()


def layers(model: nn.Module, most: int = 1000) -> dict[str, str]:
    """The modules with weights other than BatchNorm's, in order, with a title each; at most `most`, evenly spaced."""
    found: dict[str, str] = {}
    counts = dict.fromkeys(LAYERS, 0)
    for name, module in model.named_modules():
        if isinstance(module, LAYERS):
            kind = nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Linear
            counts[kind] += 1
            found[name] = f"{'conv' if kind is nn.Conv2d else 'dense'} {counts[kind]}"
    names = list(found)
    if len(names) > most:
        names = [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]
    return {name: found[name] for name in names}
