"""Where an operation serves one batch size only, the graph says so instead of failing at another one."""

from __future__ import annotations

import warnings

import pytest
import torch
from reference import direction, relative_error, truth
from torch import Tensor, nn

import bnrewrite
from bnrewrite import compiler
from bnrewrite.compiler import compile_joint
from bnrewrite.errors import CaptureError, UnsupportedOp
from bnrewrite.options import Options
from bnrewrite.passes.fixed_sizes import fixing_node
from bnrewrite.passes.rule import Linear


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(3, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.fc(x)).tanh()


def example(n: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, dtype=torch.float64), torch.randint(4, (n,))


def test_a_rule_that_reads_the_batch_as_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch's own decompositions sometimes do: found, said in one sentence, and right for that batch size."""

    def careless(x: Tensor) -> Tensor:
        count = x.shape[0].node.hint if isinstance(x.shape[0], torch.SymInt) else x.shape[0]
        return x.reshape([count, 4]) * 2

    monkeypatch.setitem(
        compiler.RULES,
        torch.ops.aten.tanh.default,
        Linear(careless, lambda y_bar, x: careless(y_bar)),
    )
    model = Net().double()
    with pytest.warns(UserWarning, match="serves batch size 6 only: .* reads it as a number"):
        gm = bnrewrite.transform(model, example())
    x, y = example()
    gm(x, y, direction(model))


def test_an_ordinary_graph_has_no_such_node() -> None:
    assert fixing_node(compile_joint(Net().double(), example(), Options()).graph) is None


class Solver(Net):
    def forward(self, x: Tensor) -> Tensor:
        gram = self.fc.weight @ self.fc.weight.mT + torch.eye(4, dtype=x.dtype)
        return self.bn(torch.linalg.solve(gram, self.fc(x).mT).mT)


class Complex(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(torch.fft.fft(self.fc(x)).abs())


def test_what_cannot_be_expressed_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"_linalg_check_errors.* acts on more than its result"):
        bnrewrite.transform(Solver().double(), example())
    with pytest.raises(UnsupportedOp, match="Complex numbers have no rules here"):
        bnrewrite.transform(Complex().double(), example())


class Inverse(Net):
    def forward(self, x: Tensor) -> Tensor:
        gram = self.fc.weight @ self.fc.weight.mT + torch.eye(4, dtype=x.dtype)
        return self.bn(self.fc(x) @ torch.inverse(gram)) * torch.det(gram)


class Sampler(nn.Module):
    """Moves pixels by what it sees: grid_sample, whose own derivative knows one batch size only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn(self.conv(x))
        return nn.functional.grid_sample(h, h[:, :2].tanh().permute(0, 2, 3, 1), align_corners=False).mean(
            (2, 3)
        )


class Bilinear(Net):
    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(4, 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rrelu(self.pair(self.bn(self.fc(x)), x), training=False)


@pytest.mark.parametrize("model", [Inverse(), Sampler(), Bilinear()], ids=lambda m: type(m).__name__)
def test_written_out_operations_serve_any_batch_size(model: nn.Module) -> None:
    model = model.double()
    shape = (2, 5, 5) if isinstance(model, Sampler) else (3,)
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, *shape, generator=draw, dtype=torch.float64), torch.randint(4, (7,), generator=draw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gm = bnrewrite.transform(model, (x[:6], y[:6]))
    v = direction(model)
    assert relative_error(gm(x, y, v)[2], truth(model, x, y, v)[2]) < 1e-11
