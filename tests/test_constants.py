"""What depends on numbers alone is a constant of the file; factors of one element stay exact in a float64 file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from reference import direction, relative_error, truth
from torch import Tensor, nn

import bnrewrite

EXACT = 1e-13


class Positions(nn.Module):
    """Sines of positions in float32 and a mask, both made anew in every forward."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(30, dtype=torch.float32).view(5, 6)
        mask = torch.ones(5, 6).tril() > 0
        batch = torch.arange(x.shape[0]).view(-1, 1, 1)
        return self.lin(torch.where(mask, x + (places / 7).sin(), x) + 0.1 * batch).tanh().mean(1)


class Factors(nn.Module):
    """Parameters and a buffer of one element beside matrix products; none of them is a float32 number."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 4))
        self.a, self.b = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor([0.7]))
        self.register_buffer("c", torch.tensor(0.1))
        self.double()
        for tensor in (self.a.data, self.b.data, self.c):
            tensor += 0.01 / 3

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w) * self.a + (x @ (self.w * self.b)) / self.b + (x * self.c) @ self.w


@pytest.mark.parametrize(
    ("model", "shape"), [(Positions, (5, 6)), (Factors, (6,))], ids=["positions", "factors"]
)
def test_a_file_is_exact(model: type[nn.Module], shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = model().double()
    x, y = torch.randn(3, *shape, dtype=torch.float64), torch.tensor([0, 3, 1])
    v = direction(net)
    _, grad, hvp = truth(net, x, y, v)
    bnrewrite.export_onnx(net, tmp_path / "c.onnx", (x[:2], y[:2]))
    session = onnxruntime.InferenceSession(tmp_path / "c.onnx", providers=["CPUExecutionProvider"])
    feed = {"input": x.numpy(), "target": y.numpy(), **{f"v.{name}": t.numpy() for name, t in v.items()}}
    results: dict[str, np.ndarray] = dict(
        zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True)
    )
    assert relative_error({name: results[f"grad.{name}"] for name in grad}, grad) < EXACT
    assert relative_error({name: results[f"hvp.{name}"] for name in hvp}, hvp) < EXACT


def test_what_depends_on_numbers_alone_is_computed_once(tmp_path: Path) -> None:
    net = Positions().double()
    example = torch.randn(3, 5, 6, dtype=torch.float64), torch.tensor([0, 3, 1])
    bnrewrite.export_onnx(net, tmp_path / "c.onnx", example)
    used = {node.op_type for node in onnx.load(tmp_path / "c.onnx").graph.node}
    assert not used & {"Sin", "Trilu"}
    assert "Range" in used, "the batch is counted when the graph runs"
    session = onnxruntime.InferenceSession(tmp_path / "c.onnx", providers=["CPUExecutionProvider"])
    v = direction(net)
    for n in (2, 5):
        x, y = torch.randn(n, 5, 6, dtype=torch.float64), torch.randint(0, 4, (n,))
        feed = {"input": x.numpy(), "target": y.numpy(), **{f"v.{name}": t.numpy() for name, t in v.items()}}
        assert abs(float(session.run(["loss"], feed)[0]) - truth(net, x, y, v)[0]) < EXACT


class InItsOwnType(nn.Module):
    """Numbers made in the type of the data: more digits of them after `double()`."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x * (torch.arange(4, dtype=x.dtype) / 7).sin())


def test_a_graph_keeps_what_a_conversion_makes_more_exact() -> None:
    net = InItsOwnType()
    gm = bnrewrite.transform(net, (torch.randn(3, 4), torch.tensor([0, 2, 1]))).double()
    net.double()
    x, y, v = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0]), direction(net)
    _, _, hvp = gm(x, y, v)
    assert relative_error(hvp, truth(net, x, y, v)[2]) < EXACT
