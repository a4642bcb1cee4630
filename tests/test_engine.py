"""Files of several directions and pairs of primal and apply: the same numbers as a single file, with less work."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bnrewrite
from bnrewrite import runtime
from bnrewrite.errors import FileError, InputError
from bnrewrite.runtime.session import Session

SIZES = (9, 5, 7)
DATA = [
    (np.random.default_rng(n).standard_normal((n, 2, 5, 5)), np.random.default_rng(n).integers(0, 3, n))
    for n in SIZES
]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)
    ).double()  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    example = torch.from_numpy(DATA[0][0]), torch.from_numpy(DATA[0][1])
    model, products = network(), ("hvp", "ggn", "residual")
    bnrewrite.export_onnx(model, folder / "single.onnx", example, products=products)
    bnrewrite.export_onnx(model, folder / "block.onnx", example, products=products, vectors=3)
    bnrewrite.export_onnx(model, folder / "pair.onnx", example, products=products, linearize=True)
    bnrewrite.export_onnx(model, folder / "both.onnx", example, products=products, linearize=True, vectors=3)
    bnrewrite.export_onnx(model, folder / "fed.onnx", example, linearize=True, params="inputs")
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was run."""
    counted: Counter[str] = Counter()
    plain = Session.evaluate

    def evaluate(self: Session, feeds: Any, outputs: Any) -> Any:
        counted[Path(self.name).name] += 1
        return plain(self, feeds, outputs)

    monkeypatch.setattr(Session, "evaluate", evaluate)
    return counted


FILES = ["block.onnx", "pair.onnx", "pair.primal.onnx", "pair.apply.onnx", "both.onnx"]


@pytest.mark.parametrize("name", FILES)
def test_the_same_numbers(folder: Path, name: str) -> None:
    one, other = (runtime.open(folder / file, DATA) for file in ("single.onnx", name))
    v = np.random.default_rng(0).standard_normal((one.space.size, 5))
    for matrix in ("hessian", "ggn", "residual"):
        expected = one.operator(matrix) @ v  # type: ignore[arg-type]
        np.testing.assert_allclose(other.operator(matrix) @ v, expected, atol=1e-13)  # type: ignore[arg-type]
        np.testing.assert_allclose(other.operator(matrix) @ v[:, 0], expected[:, 0], atol=1e-13)  # type: ignore[arg-type]
    assert other.loss == pytest.approx(one.loss, rel=1e-14)
    np.testing.assert_allclose(other.space.flatten(other.grad()), one.space.flatten(one.grad()), atol=1e-14)
    np.testing.assert_allclose(other.eigs(3).values, one.eigs(3).values, rtol=1e-9)
    found = [c.trace(method="hutchinson", tol=None, samples=12) for c in (one, other)]
    assert len({t.samples // 12 for t in found}) == 1
    assert float(other.quadratic_form(v[:, 0])) == pytest.approx(v[:, 0] @ one.hvp(v[:, 0]), rel=1e-11)
    assert one.weights().keys() == other.weights().keys()


def test_probes_do_not_depend_on_the_block(folder: Path) -> None:
    traces = [
        runtime.open(folder / name, DATA).layer_traces(samples=24).traces for name in ("single.onnx", *FILES)
    ]
    for found in traces[1:]:
        assert found == pytest.approx(traces[0], rel=1e-10)


def test_several_directions_in_one_call(folder: Path, calls: Counter[str]) -> None:
    c = runtime.open(folder / "block.onnx", DATA)
    c.operator() @ np.ones((c.space.size, 7))  # three calls for seven directions
    assert calls == {"block.onnx": 3 * len(DATA)}
    _ = c.loss  # came along
    assert calls == {"block.onnx": 3 * len(DATA)}


def test_residuals_once_for_each_batch(folder: Path, calls: Counter[str]) -> None:
    c = runtime.open(folder / "pair.onnx", DATA)
    for _ in range(4):
        c.hvp(np.ones(c.space.size))
    assert (c.loss, c.grad().keys()) == (c.loss, c.space.shapes.keys())
    assert calls == {"pair.primal.onnx": len(DATA), "pair.apply.onnx": 4 * len(DATA)}


def test_residuals_that_do_not_fit(
    folder: Path, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the first batch are kept, the others computed once in every pass, for a whole block of directions."""
    v = np.random.default_rng(0).standard_normal((147, 8))
    expected = runtime.open(folder / "single.onnx", DATA).operator() @ v
    one = runtime.open(folder / "pair.onnx", DATA[:1])
    one.hvp(np.ones(one.space.size))
    size = one.engine._bytes  # type: ignore[attr-defined]
    monkeypatch.setattr("bnrewrite.runtime.engine.RESIDUAL_BYTES", size)
    calls.clear()
    c = runtime.open(folder / "pair.onnx", DATA)
    for _ in range(2):
        np.testing.assert_allclose(c.operator() @ v, expected, atol=1e-13)
    assert calls == {"pair.primal.onnx": 1 + 2 * (len(DATA) - 1), "pair.apply.onnx": 16 * len(DATA)}


def test_a_landscape_needs_the_primal_only(folder: Path, calls: Counter[str]) -> None:
    weights = dict(network().named_parameters())
    c = runtime.open(folder / "fed.onnx", DATA, parameters=weights)
    before = c.hvp(np.ones(c.space.size))
    calls.clear()
    plane = c.landscape(points=3)
    assert calls == {"fed.primal.onnx": 9 * len(DATA)}
    assert plane.loss[1, 1] == pytest.approx(c.loss, rel=1e-14)
    assert len(np.unique(plane.loss)) == 9
    assert np.array_equal(c.hvp(np.ones(c.space.size)), before), "residuals of the point itself"


def test_parts_that_do_not_belong_together(folder: Path, tmp_path: Path) -> None:
    example = torch.from_numpy(DATA[0][0]), torch.from_numpy(DATA[0][1])
    other = network()
    with torch.no_grad():
        other[0].weight.mul_(2)
    bnrewrite.export_onnx(other, tmp_path / "pair.onnx", example, linearize=True)
    shutil.copy(folder / "pair.apply.onnx", tmp_path / "pair.apply.onnx")
    with pytest.raises(FileError, match="come from different exports: export both anew"):
        runtime.open(tmp_path / "pair.onnx", DATA)
    (tmp_path / "pair.apply.onnx").unlink()
    with pytest.raises(FileError, match=r"there is no file '.*pair.apply.onnx'"):
        runtime.open(tmp_path / "pair.primal.onnx", DATA)
    shutil.copy(folder / "pair.primal.onnx", tmp_path / "alone.onnx")
    with pytest.raises(FileError, match=r"is the primal part of a pair: name the files <name>\.primal\.onnx"):
        runtime.open(tmp_path / "alone.onnx", DATA)
    shutil.copy(folder / "single.onnx", tmp_path / "pair.apply.onnx")
    with pytest.raises(FileError, match=r"'.*pair.apply.onnx' is not the apply part of a pair"):
        runtime.open(tmp_path / "pair.onnx", DATA)
    with pytest.raises(InputError, match="batch 0 of the data: input has shape"):
        _ = runtime.open(folder / "pair.onnx", [(DATA[0][0][:, :1], DATA[0][1])]).loss


def test_a_single_file_of_that_name_comes_first(folder: Path, tmp_path: Path, calls: Counter[str]) -> None:
    for part in ("primal", "apply"):
        shutil.copy(folder / f"pair.{part}.onnx", tmp_path / f"c.{part}.onnx")
    shutil.copy(folder / "single.onnx", tmp_path / "c.onnx")
    _ = runtime.open(tmp_path / "c.onnx", DATA).loss
    assert set(calls) == {"c.onnx"}
