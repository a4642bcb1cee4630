"""Norms over other groups than BatchNorm's, and parametrised weights: exact, and the batch stays symbolic.

Each norm stands between two curved parts of a small network; the networks share one graph (one capture), their
gradients and products are apart and compared apart, at another batch size than the example's.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import onnxruntime
import pytest
import torch
from reference import direction, relative_error, truth
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bnrewrite.compiler import compile_joint, door_check
from bnrewrite.emit.graph_module import build
from bnrewrite.emit.onnx import lower
from bnrewrite.options import Options

EXACT = 1e-11  # three layers; LayerNorm over three elements takes small differences of them

CHANNELS = 6
CONV = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
Make = Callable[[], nn.Module]


class Last(nn.Module):
    """A norm over the channels of an image, as ConvNeXt writes it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class Own(nn.Module):
    """LayerNorm of the channels from primitives, as older networks write it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(CHANNELS)), nn.Parameter(torch.zeros(CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        var = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(var + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Standardized(nn.Conv2d):
    """A convolution whose weight is normalised by `batch_norm`, as networks without norms of activations do."""

    def forward(self, x: Tensor) -> Tensor:
        weight = nn.functional.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, eps=1e-3
        )
        return nn.functional.conv2d(x, weight.reshape_as(self.weight), self.bias, padding=1)


def running(norm: nn.Module) -> nn.Module:
    norm.running_mean, norm.running_var = torch.randn(CHANNELS), torch.rand(CHANNELS) + 0.5  # type: ignore[assignment]
    return norm.eval()


VECTORS: dict[str, Make] = {
    "layer_norm": lambda: nn.LayerNorm(CHANNELS),
    "layer_norm plain": lambda: nn.LayerNorm(CHANNELS, elementwise_affine=False, eps=0.5),
    "layer_norm no bias": lambda: nn.LayerNorm(CHANNELS, bias=False),
    "rms_norm": lambda: nn.RMSNorm(CHANNELS),
    "rms_norm plain": lambda: nn.RMSNorm(CHANNELS, eps=0.1, elementwise_affine=False),
    "group_norm": lambda: nn.GroupNorm(2, CHANNELS),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(CHANNELS, CHANNELS)),
    "weight_norm rows": lambda: parametrizations.weight_norm(nn.Linear(CHANNELS, CHANNELS), dim=1),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(CHANNELS, CHANNELS)).eval(),
    "normalize": lambda: Normalize(),
}
SIGNALS: dict[str, Make] = {
    "group_norm": lambda: nn.GroupNorm(3, CHANNELS, eps=0.1),
    "instance_norm": lambda: nn.InstanceNorm1d(CHANNELS),
    "instance_norm running": lambda: running(
        nn.InstanceNorm1d(CHANNELS, affine=True, track_running_stats=True)
    ),
    "local_response_norm": lambda: nn.LocalResponseNorm(3, alpha=0.5),
}
IMAGES: dict[str, Make] = {
    "layer_norm all": lambda: nn.LayerNorm((CHANNELS, 3, 4)),
    "layer_norm width": lambda: nn.LayerNorm(4),
    "layer_norm channels": lambda: Last(nn.LayerNorm(CHANNELS)),
    "layer_norm primitives": lambda: Own(),
    "rms_norm channels": lambda: Last(nn.RMSNorm(CHANNELS)),
    "group_norm": lambda: nn.GroupNorm(3, CHANNELS),
    "group_norm one": lambda: nn.GroupNorm(1, CHANNELS, affine=False),
    "instance_norm": lambda: nn.InstanceNorm2d(CHANNELS, affine=True),
    "instance_norm tracking": lambda: nn.InstanceNorm2d(CHANNELS, affine=True, track_running_stats=True),
    "instance_norm running": lambda: running(nn.InstanceNorm2d(CHANNELS, track_running_stats=True)),
    "local_response_norm": lambda: nn.LocalResponseNorm(5, alpha=0.5, beta=0.6, k=2.0),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)),
    "spectral_norm": lambda: parametrizations.spectral_norm(
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    ).eval(),
    "standardized weight": lambda: Standardized(CHANNELS, CHANNELS, 3, padding=1),
}
VOLUMES: dict[str, Make] = {
    "group_norm": lambda: nn.GroupNorm(2, CHANNELS),
    "instance_norm": lambda: nn.InstanceNorm3d(CHANNELS, affine=True),
    "local_response_norm": lambda: nn.LocalResponseNorm(2),
}
RANKS = {"vectors": VECTORS, "signals": SIGNALS, "images": IMAGES, "volumes": VOLUMES}
SIZES = {0: (), 1: (5,), 2: (3, 4), 3: (2, 3, 2)}


class Normalize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1) * 3


class Around(nn.Module):
    def __init__(self, norm: nn.Module, rank: int) -> None:
        super().__init__()
        self.first = CONV[rank](3, CHANNELS) if rank == 0 else CONV[rank](3, CHANNELS, 1)
        self.norm, self.last = norm, nn.Linear(CHANNELS, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.norm(torch.tanh(self.first(x))))
        return self.last(z if z.dim() == 2 else z.flatten(2).mean(2))


class All(nn.Module):
    def __init__(self, nets: list[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x) for net in self.nets], 2)


def randomised(model: nn.Module) -> nn.Module:
    """Affine parts away from ones and zeros, which would hide terms."""
    with torch.no_grad():
        for part in model.parameters():
            if part.dim() == 1:
                part.add_(0.3 * torch.randn_like(part))
    return model.double()


@pytest.mark.parametrize("kind", RANKS)
def test_norms(kind: str) -> None:
    torch.manual_seed(0)
    rank = list(RANKS).index(kind)
    model = randomised(All([Around(make(), rank) for make in RANKS[kind].values()]))
    example, (x, y) = (
        (torch.randn(n, 3, *SIZES[rank], dtype=torch.float64), torch.randint(3, (n, len(model.nets))))
        for n in (6, 5)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a fixed batch size would be one
        joint = compile_joint(model, example, Options())
    v = direction(model)
    found = dict(zip(("loss", "grad", "hvp"), build(joint, door_check(joint))(x, y, v), strict=True))
    session = onnxruntime.InferenceSession(lower(joint, metadata={}).SerializeToString())
    feed = {"input": x, "target": y, **{f"v.{name}": part for name, part in v.items()}}
    outputs = session.run(None, {name: part.numpy() for name, part in feed.items()})
    file = dict(zip([output.name for output in session.get_outputs()], outputs, strict=True))
    loss, grad, hvp = truth(model, x, y, v)
    assert float(found["loss"]) == pytest.approx(float(loss), rel=EXACT)
    for index, name in enumerate(RANKS[kind]):
        names = [key for key in v if key.startswith(f"nets.{index}.")]
        for part, expected in (("grad", grad), ("hvp", hvp)):
            own = {key: expected[key] for key in names}
            assert relative_error({key: found[part][key] for key in names}, own) < EXACT, name
            assert relative_error({key: file[f"{part}.{key}"] for key in names}, own) < 10 * EXACT, name


def test_weight_norm_of_the_truth() -> None:
    """PyTorch's own second derivative of weight normalization is wrong; the truth is what its gradient changes by."""
    torch.manual_seed(0)
    model = randomised(Around(VECTORS["weight_norm"](), 0))
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randint(3, (5,))
    v, start, step = direction(model), copy.deepcopy(model.state_dict()), 1e-5

    def gradient(t: float) -> dict[str, Tensor]:
        model.load_state_dict({name: part + t * v[name] for name, part in start.items()})
        loss = nn.functional.cross_entropy(model(x), y)
        return dict(zip(v, torch.autograd.grad(loss, list(model.parameters())), strict=True))

    plus, minus = gradient(step), gradient(-step)
    model.load_state_dict(start)
    # Central differences: step^2 of the next terms, and roundings over the step.
    differences = {name: (plus[name] - minus[name]) / (2 * step) for name in v}
    assert relative_error(differences, truth(model, x, y, v)[2]) < 1e-7
