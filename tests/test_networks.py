"""Every reference network: the GraphModule and the ONNX file against double backward, at three batch sizes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from reference import direction, relative_error, truth
from torch import fx, nn

import bnrewrite
from bnrewrite.compiler import compile_joint, door_check
from bnrewrite.emit.graph_module import build
from bnrewrite.emit.onnx import lower
from bnrewrite.models import MODELS
from bnrewrite.options import Options

GRAPH_BAR = 1e-10  # the contract's; what is left is rounding, grown by the conditioning of fifty BatchNorms
ONNX_BAR = 1e-9  # the contract's
BATCHES = (None, 2, 7)  # the example's, the least that BatchNorm allows, and another


@pytest.fixture(scope="module", params=sorted(MODELS))
def compiled(
    request: pytest.FixtureRequest,
) -> tuple[str, nn.Module, fx.GraphModule, onnxruntime.InferenceSession]:
    """Network in float64, its GraphModule and its session, from one joint graph."""
    entry = MODELS[request.param]
    model = entry.build_small(dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        joint = compile_joint(model, entry.example(dtype=torch.float64), Options())
    session = onnxruntime.InferenceSession(lower(joint, metadata={}).SerializeToString())
    return request.param, model, build(joint, door_check(joint)), session


@pytest.mark.parametrize("batch", BATCHES)
def test_float64(compiled, batch: int | None) -> None:
    name, model, gm, session = compiled
    x, y = MODELS[name].example(batch, dtype=torch.float64, seed=3)
    v = direction(model)
    loss, grad, hvp = truth(model, x, y, v)

    found = gm(x, y, v)
    assert float(found[0]) == pytest.approx(float(loss), rel=GRAPH_BAR)
    assert relative_error(found[1], grad) <= GRAPH_BAR
    assert relative_error(found[2], hvp) <= GRAPH_BAR

    feed = {"input": x, "target": y, **{f"v.{key}": part for key, part in v.items()}}
    outputs = dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {key: value.numpy() for key, value in feed.items()}),
            strict=True,
        )
    )
    assert float(outputs["loss"]) == pytest.approx(float(loss), rel=ONNX_BAR)
    assert relative_error({key: outputs[f"grad.{key}"] for key in v}, grad) <= ONNX_BAR
    assert relative_error({key: outputs[f"hvp.{key}"] for key in v}, hvp) <= ONNX_BAR


@pytest.mark.parametrize("name", sorted(MODELS))
def test_float32_file(name: str, tmp_path: Path) -> None:
    """The file of the float32 network stays within three times PyTorch's own float32 error (`verify` measures both)."""
    entry = MODELS[name]
    model, example = entry.build_small(), entry.example()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bnrewrite.export_onnx(model, tmp_path / "curvature.onnx", example)
    report = bnrewrite.verify(tmp_path / "curvature.onnx", model, example)
    assert report.passed, str(report)
    assert np.isfinite([row.error for row in report.rows]).all()
