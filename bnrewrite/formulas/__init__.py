"""The closed forms themselves, on NumPy arrays and torch tensors: docs/formulas.md lists them.

`products` has BatchNorm and products with its derivatives, `dense` the derivatives as tensors, `network` the network
with one hidden layer around it; `phases` is what these and the compiled graphs are made of.
"""

from __future__ import annotations

from .dense import (
    Extremes,
    definiteness,
    hessian,
    hessian_backpropagation,
    hessian_blocks,
    jacobian,
    residual,
)
from .network import Activation, NetworkGradient, network_gradient, network_loss
from .products import (
    Gradient,
    adjoint,
    adjoint_tangent,
    batch_norm,
    hvp,
    jvp,
    residual_vector_product,
    tangent,
    vjp,
)

__all__ = [
    "Activation",
    "Extremes",
    "Gradient",
    "NetworkGradient",
    "adjoint",
    "adjoint_tangent",
    "batch_norm",
    "definiteness",
    "hessian",
    "hessian_backpropagation",
    "hessian_blocks",
    "hvp",
    "jacobian",
    "jvp",
    "network_gradient",
    "network_loss",
    "residual",
    "residual_vector_product",
    "tangent",
    "vjp",
]
