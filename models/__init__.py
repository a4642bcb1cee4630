"""Reference networks with BatchNorm, each written from its paper, and one small real data set.

Every factory runs without arguments, so it can be named on a command line as ``bnrewrite.models:resnet18``.
`MODELS` lists them with a small example input; `example_for("resnet18")` looks one up by the factory's name.
No weights are downloaded; the parameters of the ImageNet networks have the names that torchvision's have.
"""

if __name__ != "bnrewrite.models":  # two names for one folder would load every class twice
    raise ImportError(
        f"this folder is the package bnrewrite.models, but it was imported as {__name__!r}: "
        "write `import bnrewrite.models` (or `from bnrewrite.models import ...`) instead"
    )

from .data import digits
from .densenet import densenet121, densenet_bc_cifar
from .efficientnet import efficientnet_b0
from .lenet import lenet5
from .mlp import mlp_bn
from .mobilenet import mobilenet_v2
from .registry import MODELS, Entry, example_for
from .resnet import resnet8, resnet8_digits, resnet18, resnet20, resnet50
from .vgg import vgg11_bn, vgg16_bn

__all__ = [
    "MODELS",
    "Entry",
    "densenet121",
    "densenet_bc_cifar",
    "digits",
    "efficientnet_b0",
    "example_for",
    "lenet5",
    "mlp_bn",
    "mobilenet_v2",
    "resnet8",
    "resnet8_digits",
    "resnet18",
    "resnet20",
    "resnet50",
    "vgg11_bn",
    "vgg16_bn",
]
