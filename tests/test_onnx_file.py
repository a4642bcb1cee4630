"""The ONNX file as a whole: names, shapes, provenance, metadata, what is kept and dropped, and how it is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx_harness import TRACED_WITH, run, trace

from bnrewrite import __version__
from bnrewrite.emit.onnx import lower, save
from bnrewrite.errors import BnrewriteError, FileError, InputError
from bnrewrite.passes.graph import Input, JointGraph

WEIGHT = torch.arange(12.0).view(3, 4)
UNUSED = torch.ones(2)


def joint_graph(weight: torch.Tensor = WEIGHT) -> JointGraph:
    """loss = sum((x w^T)^2), grad = 2 (x w^T)^T x, hvp with the same formula; the target is not read."""

    def function(x: Any, y: Any, w: Any, unused: Any, v: Any) -> Any:
        z = x @ w.t()
        return (z * z).sum(), 2 * (z.t() @ x), 2 * ((x @ v.t()).t() @ x)

    x, y = torch.randn(TRACED_WITH, 4), torch.randint(0, 3, (TRACED_WITH,))
    joint = trace(function, [x, y, weight, UNUSED, weight])
    joint.inputs = [
        Input("input", "input"),
        Input("target", "target"),
        Input("fc.weight", "parameter", weight),
        Input("fc.unused", "buffer", UNUSED),
        Input("v.fc.weight", "vector"),
    ]
    joint.outputs = ["loss", "grad.fc.weight", "hvp.fc.weight"]
    return joint


def shapes(values: Any) -> dict[str, list[Any]]:
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def session(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


def feeds(n: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "input": rng.standard_normal((n, 4), dtype=np.float32),
        "target": np.zeros(n, dtype=np.int64),
        "v.fc.weight": rng.standard_normal((3, 4), dtype=np.float32),
    }


def check_results(results: list[np.ndarray], inputs: dict[str, np.ndarray], w: np.ndarray) -> None:
    x, v = inputs["input"], inputs["v.fc.weight"]
    wanted = [((x @ w.T) ** 2).sum(), 2 * (x @ w.T).T @ x, 2 * (x @ v.T).T @ x]
    for got, want in zip(results, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_names_shapes_and_values() -> None:
    model = lower(joint_graph())
    inputs, outputs = shapes(model.graph.input), shapes(model.graph.output)
    assert inputs["input"] == ["N", 4]
    assert inputs["v.fc.weight"] == [3, 4]
    assert list(inputs) == ["input", "target", "v.fc.weight"]  # the target is not read and stays
    assert outputs == {"loss": [], "grad.fc.weight": [3, 4], "hvp.fc.weight": [3, 4]}
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(stored["fc.weight"], WEIGHT.numpy())
    assert "fc.unused" not in stored
    check_results(session(model).run(None, feeds()), feeds(), WEIGHT.numpy())


def test_parameters_as_inputs() -> None:
    model = lower(joint_graph(), params="inputs")
    assert list(shapes(model.graph.input)) == ["input", "target", "fc.weight", "v.fc.weight"]
    assert "fc.weight" not in {t.name for t in model.graph.initializer}
    w = np.random.default_rng(1).standard_normal((3, 4), dtype=np.float32)
    check_results(session(model).run(None, {**feeds(), "fc.weight": w}), feeds(), w)


def test_model_metadata() -> None:
    model = lower(joint_graph(), metadata={"bnrewrite": '{"loss": "mse"}'}, opset=19, batch_name="batch")
    assert {p.key: p.value for p in model.metadata_props} == {"bnrewrite": '{"loss": "mse"}'}
    assert (model.producer_name, model.producer_version) == ("bnrewrite", __version__)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 19)]
    assert shapes(model.graph.input)["input"] == ["batch", 4]
    assert model.doc_string == "Computes loss, grad, hvp in one graph of standard operators."


def test_provenance() -> None:
    joint = joint_graph()
    calls = [node for node in joint.graph.nodes if node.op == "call_function"]
    for node in calls[:3]:
        node.meta.update(site="layer1.0.bn1", role="y_dot")
    calls[3].meta["module"] = "fc"
    model = lower(joint)
    site = [n for n in model.graph.node if n.metadata_props]
    assert site
    assert all(n.name.startswith("layer1.0.bn1.y_dot.") for n in site)
    assert {p.key: p.value for p in site[0].metadata_props} == {
        "bnrewrite.site": "layer1.0.bn1",
        "bnrewrite.role": "y_dot",
    }
    assert any(n.name.startswith(f"fc.{calls[3].name}.") for n in model.graph.node)
    names = [n.name for n in model.graph.node]
    assert len(set(names)) == len(names)


def test_values_are_named_after_quantities() -> None:
    joint = joint_graph()
    calls = [node for node in joint.graph.nodes if node.op == "call_function"]
    calls[1].meta["quantity"] = ("fc", "linear", "y")
    calls[2].meta["quantity"] = ("", "mul", "y")
    calls[-3].meta["quantity"] = ("", "pow", "x_bar")
    model = lower(joint)
    values = {name for node in model.graph.node for name in node.output}
    assert {"fc.y", "mul.y", "loss", "grad.fc.weight", "hvp.fc.weight"} <= values
    onnx.checker.check_model(model, full_check=True)
    check_results(session(model).run(None, feeds()), feeds(), WEIGHT.numpy())


def test_outputs_that_are_inputs_or_twice_the_same() -> None:
    x = torch.randn(TRACED_WITH, 4)
    joint = trace(lambda x: (x, x + 1, x + 1, x, torch.full((2,), 3.0)), [x])
    model = lower(joint)
    assert [o.name for o in model.graph.output] == ["o0", "o1", "o2", "o3", "o4"]
    assert sorted(n.op_type for n in model.graph.node) == ["Add"] + ["Identity"] * 4
    results = run(model, [x[:5]])
    for got, want in zip(results, [x[:5], x[:5] + 1, x[:5] + 1, x[:5], torch.full((2,), 3.0)], strict=True):
        np.testing.assert_array_equal(got, want.numpy())


def test_an_output_read_by_other_nodes_keeps_its_readers() -> None:
    x = torch.randn(TRACED_WITH, 4)
    model = lower(trace(lambda x: (x.exp(), x.exp().sum(0)), [x]))
    first, second = run(model, [x[:3]])
    np.testing.assert_allclose(first.sum(0), second, rtol=1e-6)
    assert "Identity" not in {n.op_type for n in model.graph.node}


def test_refusals() -> None:
    with pytest.raises(InputError, match="opset 16 is not supported; choose one from 17 to 21"):
        lower(joint_graph(), opset=16)
    with pytest.raises(InputError, match='params must be "initializers" or "inputs"'):
        lower(joint_graph(), params="weights")  # type: ignore[arg-type]
    clash = joint_graph()
    clash.inputs[2] = Input("input", "parameter", WEIGHT)
    with pytest.raises(InputError, match="would be called 'input'"):
        lower(clash)
    short = joint_graph()
    short.outputs = ["loss"]
    with pytest.raises(BnrewriteError, match="returns 3 values for 1 outputs"):
        lower(short)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_save(tmp_path: Path) -> None:
    path = tmp_path / "curvature.onnx"
    save(lower(joint_graph()), path)
    assert os.listdir(tmp_path) == ["curvature.onnx"]
    check_results(session(path).run(None, feeds()), feeds(), WEIGHT.numpy())


def test_save_with_data_beside(tmp_path: Path) -> None:
    path = tmp_path / "curvature.onnx"
    weight = torch.randn(300, 4)
    model = lower(joint_graph(weight), metadata={"bnrewrite": "{}"})
    save(model, path, one_file_bytes=1000)
    assert sorted(os.listdir(tmp_path)) == ["curvature.onnx", "curvature.onnx.data"]
    assert path.stat().st_size < weight.numel() * 4
    loaded = onnx.load(str(path))
    assert loaded.metadata_props == model.metadata_props
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in loaded.graph.initializer}
    np.testing.assert_array_equal(stored["fc.weight"], weight.numpy())
    inputs = feeds() | {"v.fc.weight": weight.numpy()}
    check_results(session(path).run(None, inputs), inputs, weight.numpy())
    assert next(
        t for t in model.graph.initializer if t.name == "fc.weight"
    ).raw_data  # the model itself is unchanged


def test_save_replaces_a_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "curvature.onnx"
    path.write_text("old")
    save(lower(joint_graph()), path)
    onnx.checker.check_model(str(path))


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lower(joint_graph())
    with pytest.raises(
        FileError, match=r"cannot write .*nowhere.*: No such file or directory\. Choose a file in"
    ):
        save(model, tmp_path / "nowhere" / "curvature.onnx")
    with pytest.raises(FileError, match="is a directory"):
        save(model, tmp_path)
    path = tmp_path / "curvature.onnx"
    path.write_text("old")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FileError, match="No space left on device"):
        save(model, path, one_file_bytes=0)
    assert os.listdir(tmp_path) == ["curvature.onnx"]
    assert path.read_text() == "old"
