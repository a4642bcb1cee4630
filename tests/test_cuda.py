"""Graphs on a GPU: numbers, where there is one; and, on tensors that only say that they are there, what a CUDA graph
needs: that a call stays on the GPU, reads no number back and uploads none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from reference import direction, relative_error, truth
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import bnrewrite
from bnrewrite.emit.layout import channels_last
from bnrewrite.errors import InputError
from bnrewrite.passes.graph import JointGraph

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")


class Net(nn.Module):
    """3 x 3, depthwise and pointwise convolutions, max-pooling, a skip, and a hidden layer with BatchNorm1d."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.pointwise = nn.Sequential(nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.wide = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Sequential(nn.Linear(32, 6), nn.BatchNorm1d(6), nn.SiLU(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = nn.functional.max_pool2d(nn.functional.relu(x + self.pointwise(self.depthwise(x))), 2)
        return self.head(self.wide(x).flatten(1))


def network() -> Net:
    torch.manual_seed(0)
    return Net().double()


def data(n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(n)
    x = torch.randn(n, 2, 8, 8, generator=g, dtype=torch.float64)
    return x.to(dtype), torch.randint(3, (n,), generator=g)


def there(tensor: Tensor) -> Tensor:
    """One that says that it is on a GPU, of the same shape and strides, and holds nothing (inside `FakeTensorMode`)."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")


def move(module: nn.Module) -> None:
    """All parameters and buffers `there`."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(there(parameter), requires_grad=parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, there(buffer))


class StaysThere(TorchDispatchMode):
    """Raises where an operation makes a tensor on the CPU; counts operations."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        self.count += 1
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                assert tensor.device.type == "cuda", f"{function} makes a tensor on the {tensor.device}."
        return found


@contextmanager
def watched() -> Iterator[StaysThere]:
    with StaysThere() as watch:
        yield watch
    assert watch.count > 100


@pytest.mark.parametrize(("vectors", "fuse"), [(None, False), (2, True)], ids=["one", "two, fused"])
def test_a_call_stays_on_the_gpu(vectors: int | None, fuse: bool) -> None:
    """Else it could not be captured: reading a number back raises in a `FakeTensorMode`, as it does in a capture."""
    model = network().float()
    gm = bnrewrite.transform(model, data(6, torch.float32), vectors=vectors, fuse=fuse)
    shapes = {name: (vectors or 1, *p.shape) for name, p in model.named_parameters()}
    with FakeTensorMode():
        move(gm)
        v = {n: torch.empty(s if vectors else s[1:], device="cuda") for n, s in shapes.items()}
        x, y = map(there, data(6, torch.float32))
        with watched():
            _, _, hvp = gm(x, y, v)
    assert [part.shape for part in hvp.values()] == [part.shape for part in v.values()]


def test_an_apply_stays_on_the_gpu() -> None:
    model = network().float()
    primal, apply = bnrewrite.linearize(model, data(6, torch.float32))
    with FakeTensorMode():
        move(primal)
        move(apply)
        v = {name: there(p) for name, p in model.named_parameters()}
        x, y = map(there, data(6, torch.float32))
        with watched():
            apply(primal(x, y)[2], v)


def test_the_door_reads_no_target_elsewhere() -> None:
    """It looks at classes on the CPU only. A `FakeTensor` it lets through at once: the calls above do not show it."""
    gm = bnrewrite.transform(network(), data(6))
    gm.bnrewrite_check.check_target(torch.empty(6, dtype=torch.int64, device="meta"))
    with pytest.raises(InputError, match="class 3"):
        gm.bnrewrite_check.check_target(torch.full((6,), 3))


def test_the_watch_sees_what_leaves_the_gpu() -> None:
    with FakeTensorMode(), StaysThere():
        x = torch.empty(3, device="cuda")
        with pytest.raises(AssertionError, match="makes a tensor on the cpu"):
            x.cpu()
        with pytest.raises(Exception, match=r"aten\._local_scalar_dense"):
            x.sum().item()


@pytest.mark.parametrize(("device", "last"), [("cpu", False), ("cuda", True)])
def test_channels_are_last_on_a_gpu(device: str, last: bool) -> None:
    """3 x 3 convolutions, which the CPU computes with the channels first."""
    graph = fx.Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    y = graph.call_function(
        torch.ops.aten.convolution.default, (x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    )
    graph.output((y,))
    with FakeTensorMode():
        for node, shape in ((x, (2, 8, 4, 4)), (w, (8, 8, 3, 3)), (y, (2, 8, 4, 4))):
            node.meta["val"] = torch.empty(shape, device=device)
    assert channels_last(JointGraph(graph, [], ["loss"])) is last


@pytest.fixture
def exact() -> Iterator[None]:
    """cuDNN without TF32, of ten bits, which PyTorch lets it use for convolutions in float32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def on_the_gpu(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: part.cuda() for name, part in parts.items()}


@on_gpu
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("compiled_there", [False, True], ids=["moved", "compiled there"])
def test_numbers_on_a_gpu(compiled_there: bool, dtype: torch.dtype) -> None:
    """float64 agrees to rounding, float32 to its own; whether the graph came from there or was moved."""
    x, y = data(5, dtype)
    v = {name: part.to(dtype) for name, part in direction(network()).items()}
    expected = truth(network(), x.double(), y, {name: part.double() for name, part in v.items()})[2]
    model, example = network().to(dtype), data(6, dtype)
    if compiled_there:
        model, example = model.cuda(), (example[0].cuda(), example[1].cuda())
    gm = bnrewrite.transform(model, example).to("cuda")
    _, _, hvp = gm(x.cuda(), y.cuda(), on_the_gpu(v))
    assert all(part.is_cuda for part in hvp.values())
    bar = 1e-12 if dtype == torch.float64 else 1e-4
    assert relative_error({name: part.cpu().double() for name, part in hvp.items()}, expected) < bar


@on_gpu
@pytest.mark.usefixtures("exact")
def test_a_cuda_graph_computes_the_same() -> None:
    """As docs/performance.md says: captured once, replayed with another batch and another direction in its memory."""
    model = network().cuda()
    x, y = (part.cuda() for part in data(6))
    gm = bnrewrite.transform(model, (x, y))
    v = on_the_gpu(direction(network()))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            gm(x, y, v)
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        _, _, hvp = gm(x, y, v)
    other = torch.Generator().manual_seed(1)
    x.copy_(torch.randn(x.shape, generator=other, dtype=x.dtype))
    for part in v.values():
        part.copy_(torch.randn(part.shape, generator=other, dtype=part.dtype))
    captured.replay()
    expected = truth(network(), x.cpu(), y.cpu(), {name: part.cpu() for name, part in v.items()})[2]
    assert relative_error({name: part.cpu() for name, part in hvp.items()}, expected) < 1e-12
