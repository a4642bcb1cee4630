"""Every reference network: the GraphModule and the ONNX file against double backward, at two batch sizes."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import onnxruntime
import pytest
import torch
from reference import direction, relative_error, truth

import bnrewrite
from bnrewrite.compiler import compile_joint, door_check
from bnrewrite.emit.graph_module import build
from bnrewrite.emit.onnx import lower
from bnrewrite.models import MODELS
from bnrewrite.options import Options

GRAPH_BAR = 1e-10  # the contract's; what is left is rounding, grown by the conditioning of fifty BatchNorms
ONNX_BAR = 1e-9  # the contract's
BATCHES = (2, 7)  # the least that BatchNorm allows, and another; neither is the example's
LARGE = ("resnet18",)  # one of the two, for time


LONG = {
    "densenet121",
    "densenet_bc_cifar",
    "efficientnet_b0",
    "mobilenet_v2",
    "resnet50",
    "vgg11_bn",
    "vgg16_bn",
}
"""Two minutes and more of what the other networks show in less; `BNREWRITE_ALL=1` includes them, and
`python -m benchmarks.networks` measures them with the rest."""


@pytest.mark.parametrize("name", sorted(MODELS if "BNREWRITE_ALL" in os.environ else MODELS.keys() - LONG))
def test_float64(name: str) -> None:
    """One joint graph, both ways out of it."""
    entry = MODELS[name]
    model = entry.build_small(dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        joint = compile_joint(model, entry.example(dtype=torch.float64), Options())
    gm = build(joint, door_check(joint))
    options = onnxruntime.SessionOptions()
    options.enable_mem_reuse = False  # as the runtime opens it: planning takes longer than all the calls
    session = onnxruntime.InferenceSession(lower(joint, metadata={}).SerializeToString(), options)
    v = direction(model)
    for batch in BATCHES[1:] if name in LARGE or name in LONG else BATCHES:
        x, y = entry.example(batch, dtype=torch.float64, seed=3)
        loss, grad, hvp = truth(model, x, y, v, random_off=joint.meta["random_off"])

        found = gm(x, y, v)
        assert float(found[0]) == pytest.approx(float(loss), rel=GRAPH_BAR)
        assert relative_error(found[1], grad) <= GRAPH_BAR
        assert relative_error(found[2], hvp) <= GRAPH_BAR

        feed = {"input": x, "target": y, **{f"v.{key}": part for key, part in v.items()}}
        results = session.run(None, {key: value.numpy() for key, value in feed.items()})
        outputs = dict(zip([output.name for output in session.get_outputs()], results, strict=True))
        assert float(outputs["loss"]) == pytest.approx(float(loss), rel=ONNX_BAR)
        assert relative_error({key: outputs[f"grad.{key}"] for key in v}, grad) <= ONNX_BAR
        assert relative_error({key: outputs[f"hvp.{key}"] for key in v}, hvp) <= ONNX_BAR


@pytest.mark.parametrize("name", ["mlp_bn", "lenet5", "resnet8_digits", "resnet20"])
def test_float32_file(name: str, tmp_path: Path) -> None:
    """The float32 file stays within three times PyTorch's own float32 error (`verify` measures both). The same for
    every network: `python -m benchmarks.networks`."""
    entry = MODELS[name]
    model, example = entry.build_small(), entry.example()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bnrewrite.export_onnx(model, tmp_path / "curvature.onnx", example)
    report = bnrewrite.verify(tmp_path / "curvature.onnx", model, example)
    assert report.passed, str(report)
