"""Activation functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from onnx_harness import Case, N, X, Y, grid, into, normal

aten = torch.ops.aten
CASES: list[Case] = []
case = into(CASES)

WIDE = normal(N, 40, scale=4)
for name, activation in {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": lambda x: (F.elu(x), F.elu(x, alpha=0.7)),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, alpha=0.6),
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "hardtanh": lambda x: F.hardtanh(x, -0.7, 1.3),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "softplus": lambda x: (F.softplus(x), F.softplus(x, beta=2.5, threshold=10)),
    "softsign": F.softsign,
    "threshold": lambda x: F.threshold(x, 0.3, -1.0),
    "logsigmoid": F.logsigmoid,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "prelu": lambda x: F.prelu(x, torch.full((1,), 0.25, dtype=x.dtype)),
    "glu": F.glu,
}.items():
    case(name, activation, WIDE)
    case(f"{name} at 0", activation, normal(N, 40, scale=1e-3))
case("softplus tail", F.softplus, grid(-30.0, -25.0, -20.0))
case("log_sigmoid_forward", lambda x: aten.log_sigmoid_forward(x), WIDE)
case("threshold_backward", lambda g, x: aten.threshold_backward(g, x, 0), X, Y)
case(
    "activation gradients",
    lambda g, x: (
        aten.sigmoid_backward(g, x),
        aten.tanh_backward(g, x),
        aten.hardtanh_backward(g, x, -0.5, 0.5),
        aten.leaky_relu_backward(g, x, 0.1, False),
    ),
    X,
    Y,
)
