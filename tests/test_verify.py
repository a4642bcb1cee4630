"""`verify` passes files that are right, fails files with a planted error, and says which parameter is wrong."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import bnrewrite
from bnrewrite.emit.onnx_reference import OPERATORS, Evaluator
from bnrewrite.errors import BnrewriteError, FileError, InputError
from bnrewrite.verification.oracle import Oracle
from bnrewrite.verification.report import Report, Row, relative_error
from bnrewrite.verification.self_check import _most_settled


def tiny(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).to(dtype)


class Images(nn.Module):
    """Every operator that the float64 twin of a float32 file has a kernel of its own for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(3 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn(self.conv(x)))
        y = self.pool(torch.relu(self.norm(self.up(y))))
        return self.fc(self.drop(y.flatten(1)))


class OwnLoss(nn.Module):
    """A model that returns its loss, and takes two inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = tiny()

    def forward(self, a: Tensor, b: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(self.net(a) * b, target)


def example(dtype: torch.dtype = torch.float64, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 4, generator=generator, dtype=dtype), torch.randint(
        3, (size,), generator=generator
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are right."""
    folder = tmp_path_factory.mktemp("verify")
    bnrewrite.export_onnx(tiny(), folder / "tiny.onnx", example(), products=("hvp", "ggn"))
    bnrewrite.export_onnx(tiny(torch.float32), folder / "tiny32.onnx", example(torch.float32))
    return folder


def changed(source: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(source)
    change(model)
    onnx.save(model, target)
    return target


def replace_output(model: onnx.ModelProto, name: str, op: str, *operands: str) -> None:
    """Put one more node behind an output; what else reads the value still gets the right one."""
    for node in model.graph.node:
        for values in (node.input, node.output):
            for i, value in enumerate(values):
                if value == name:
                    values[i] = f"{name}.right"
    model.graph.node.append(helper.make_node(op, [f"{name}.right", *operands], [name]))


def scale_output(name: str, factor: float, op: str = "Mul") -> Callable[[onnx.ModelProto], None]:
    """Multiply one output by `factor` (or add it)."""

    def change(model: onnx.ModelProto) -> None:
        kind = next(o.type.tensor_type.elem_type for o in model.graph.output if o.name == name)
        value = np.array(factor, helper.tensor_dtype_to_np_dtype(kind))
        model.graph.initializer.append(numpy_helper.from_array(value, "planted"))
        replace_output(model, name, op, "planted")

    return change


def scale_initializer(name: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == name:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, name))

    return change


def failed(report: Report) -> set[str]:
    return {row.quantity for row in report.rows if not row.passed}


# Files that are right ----------------------------------------------------------------------------------------


def test_right_files_pass_with_their_model(folder: Path) -> None:
    for name, dtype in (("tiny.onnx", torch.float64), ("tiny32.onnx", torch.float32)):
        report = bnrewrite.verify(folder / name, tiny(dtype), example(dtype))
        assert report.passed, str(report)
        assert {"weights", "loss", "grad", "hvp[0]", "hvp[1]"} <= {row.quantity for row in report.rows}
    assert {row.bar for row in bnrewrite.verify(folder / "tiny.onnx", tiny()).rows} == {0.0, 1e-9}


def test_right_files_pass_without_their_model(folder: Path) -> None:
    for name in ("tiny.onnx", "tiny32.onnx"):
        report = bnrewrite.verify(folder / name)
        assert report.passed, str(report)
        assert "hvp[1] against differences of grad" in {row.quantity for row in report.rows}


def test_arrays_and_tensors_are_the_same_data(folder: Path) -> None:
    x, y = example()
    tensors = bnrewrite.verify(folder / "tiny.onnx", tiny(), (x, y))
    arrays = bnrewrite.verify(folder / "tiny.onnx", tiny(), (x.numpy(), y.numpy()))
    assert tensors == arrays


def test_seeds_and_number_of_vectors(folder: Path) -> None:
    one, two = (bnrewrite.verify(folder / "tiny32.onnx", vectors=1, seed=seed) for seed in (0, 1))
    assert "hvp[1] against differences of grad" not in {row.quantity for row in one.rows}
    assert one != two
    assert one == bnrewrite.verify(folder / "tiny32.onnx", vectors=1, seed=0)


def test_the_model_is_not_changed(folder: Path) -> None:
    model = tiny(torch.float32).eval()
    before = copy.deepcopy(model.state_dict())
    bnrewrite.verify(folder / "tiny32.onnx", model, example(torch.float32))
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())


def test_images_with_dropout_and_mixed_statistics(tmp_path: Path) -> None:
    """One BatchNorm on batch statistics, one on running ones; dropout off; the verified model in another mode."""
    model = Images()
    model.norm.eval()
    model.norm.running_mean.uniform_(-1, 1)
    x, y = torch.randn(6, 2, 6, 6), torch.randint(4, (6,))
    with pytest.warns(UserWarning, match="'drop' act as in evaluation mode"):
        bnrewrite.export_onnx(model, tmp_path / "images.onnx", (x, y), products=("hvp", "residual"))
    for mode in (True, False):
        report = bnrewrite.verify(tmp_path / "images.onnx", model.train(mode), (x, y))
        assert report.passed, str(report)
    report = bnrewrite.verify(tmp_path / "images.onnx")
    assert report.passed, str(report)


def test_loss_of_its_own_and_several_inputs(tmp_path: Path) -> None:
    model = OwnLoss()
    data = ((torch.randn(8, 4).double(), torch.randn(8, 3).double()), torch.randn(8, 3).double())
    bnrewrite.export_onnx(model, tmp_path / "own.onnx", data, loss=None)
    for pair in (data, None):
        report = bnrewrite.verify(tmp_path / "own.onnx", model, pair)
        assert report.passed, str(report)


def test_loss_module_parameters_as_inputs_and_derivatives_by_the_input(tmp_path: Path) -> None:
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]).double(), label_smoothing=0.1)
    path = tmp_path / "inputs.onnx"
    bnrewrite.export_onnx(
        tiny(), path, example(), loss=loss, params="inputs", wrt=["1.*"], products=("ggn", "hvp")
    )
    with pytest.raises(
        InputError, match=r"was made with the loss CrossEntropyLoss\(\), which has no name: pass it"
    ):
        bnrewrite.verify(path, tiny(), example())
    report = bnrewrite.verify(path, tiny(), example(), loss=loss)
    assert report.passed, str(report)
    assert "weights" not in {row.quantity for row in report.rows}
    with pytest.raises(InputError, match="takes its parameters as inputs, so it has no point of its own"):
        bnrewrite.verify(path)
    bnrewrite.export_onnx(tiny(), tmp_path / "x.onnx", example(), wrt="input")
    for model in (tiny(), None):
        report = bnrewrite.verify(tmp_path / "x.onnx", model, example(size=5))
        assert report.passed, str(report)


def test_a_zero_gradient_passes(tmp_path: Path) -> None:
    """A bias before BatchNorm has zero gradient and curvature: both sides are rounding errors."""
    bnrewrite.export_onnx(tiny(), tmp_path / "bias.onnx", example(), wrt=["0.bias"])
    for model in (tiny(), None):
        report = bnrewrite.verify(tmp_path / "bias.onnx", model, example())
        assert report.passed, str(report)


# Planted errors ----------------------------------------------------------------------------------------------

PLANTED = {
    "loss": ("loss", {"loss"}),
    "grad.3.bias": ("3.bias", {"grad"}),
    "hvp.0.weight": ("0.weight", {"hvp[0]", "hvp[1]"}),
    "ggn.3.weight": ("3.weight", {"ggn[0]", "ggn[1]"}),
}


@pytest.mark.parametrize("output", PLANTED)
def test_a_scaled_output_is_found_and_named(folder: Path, tmp_path: Path, output: str) -> None:
    parameter, rows = PLANTED[output]
    path = changed(folder / "tiny.onnx", tmp_path / "wrong.onnx", scale_output(output, 1 + 1e-6))
    report = bnrewrite.verify(path, tiny(), example())
    assert failed(report) == rows
    for row in report.rows:
        if not row.passed:
            assert row.worst[0].parameter == parameter
            assert row.worst[0].share > 0.99
    assert f"FAILED: {', '.join(sorted(rows))}" in str(report)
    assert f"  {parameter}: error 1.0e-06, 100% of the whole" in str(report)


def test_the_two_parts_of_the_hessian_are_compared_with_differences(folder: Path, tmp_path: Path) -> None:
    bnrewrite.export_onnx(tiny(), tmp_path / "parts.onnx", example(), products=("residual", "ggn"))
    for model in (tiny(), None):
        report = bnrewrite.verify(tmp_path / "parts.onnx", model, example())
        assert report.passed, str(report)
    sums = {
        "ggn[0] + residual[0] against differences of grad",
        "ggn[1] + residual[1] against differences of grad",
    }
    assert sums <= {row.quantity for row in report.rows}
    scaled = scale_output("residual.0.weight", 1 + 1e-3)
    wrong = changed(tmp_path / "parts.onnx", tmp_path / "wrong.onnx", scaled)
    assert failed(bnrewrite.verify(wrong, tiny(), example())) == {"residual[0]", "residual[1]"}
    assert sums <= failed(bnrewrite.verify(wrong))


def test_a_scaled_output_is_found_without_the_model(folder: Path, tmp_path: Path) -> None:
    wrong = changed(folder / "tiny.onnx", tmp_path / "wrong.onnx", scale_output("hvp.0.weight", 1 + 1e-5))
    report = bnrewrite.verify(wrong)
    assert {"hvp[0] against differences of grad", "hvp[1] against differences of grad"} <= failed(report)
    assert (
        next(row for row in report.rows if row.quantity.startswith("hvp[0]")).worst[0].parameter == "0.weight"
    )
    assert "hvp linear" not in failed(report)

    wrong = changed(folder / "tiny.onnx", tmp_path / "wrong.onnx", scale_output("grad.3.weight", 1 + 1e-4))
    report = bnrewrite.verify(wrong)
    assert "grad.v[0] against differences of loss" in failed(report)

    wrong = changed(folder / "tiny.onnx", tmp_path / "wrong.onnx", scale_output("ggn.3.weight", 1 + 1e-6))
    assert failed(bnrewrite.verify(wrong)) == {"ggn symmetric"}


@pytest.mark.parametrize("product", ["hvp", "ggn"])
def test_what_is_not_linear_or_not_semidefinite_is_found(folder: Path, tmp_path: Path, product: str) -> None:
    def negate_all(model: onnx.ModelProto) -> None:
        for output in [o.name for o in model.graph.output if o.name.startswith(f"{product}.")]:
            replace_output(model, output, "Neg")

    add_one = scale_output(f"{product}.3.bias", 1.0, "Add")
    wrong = changed(folder / "tiny.onnx", tmp_path / "wrong.onnx", add_one)
    assert f"{product} linear" in failed(bnrewrite.verify(wrong))
    if product == "ggn":
        wrong = changed(folder / "tiny.onnx", tmp_path / "wrong.onnx", negate_all)
        assert failed(bnrewrite.verify(wrong)) == {"ggn semidefinite"}


def test_a_wrong_float32_product_is_found(folder: Path, tmp_path: Path) -> None:
    """Float32 hides 1e-6, but not 1e-4, even without the model."""
    wrong = changed(folder / "tiny32.onnx", tmp_path / "wrong.onnx", scale_output("hvp.0.weight", 1 + 1e-4))
    assert failed(bnrewrite.verify(wrong, tiny(torch.float32), example(torch.float32))) == {
        "hvp[0]",
        "hvp[1]",
    }
    report = bnrewrite.verify(wrong)
    assert {"hvp[0] against differences of grad", "hvp[1] against differences of grad"} <= failed(report)


@pytest.mark.parametrize("name", ["0.weight", "1.bias"])
def test_other_weights_are_found_by_name(folder: Path, tmp_path: Path, name: str) -> None:
    model = tiny()
    with torch.no_grad():
        model.get_parameter("1.bias").fill_(0.5)
    bnrewrite.export_onnx(model, tmp_path / "right.onnx", example())
    wrong = changed(tmp_path / "right.onnx", tmp_path / "wrong.onnx", scale_initializer(name, 1 + 1e-6))
    report = bnrewrite.verify(wrong, model, example())
    assert {"weights", "grad", "hvp[0]"} <= failed(report)
    row = report.rows[0]
    assert row.note == f"the file holds other values than the model for '{name}'"
    assert row.worst[0].parameter == name


def test_other_running_statistics_are_found(tmp_path: Path) -> None:
    model = tiny()
    model[1].running_mean.normal_()
    bnrewrite.export_onnx(model, tmp_path / "right.onnx", example(), bn="running")
    assert bnrewrite.verify(tmp_path / "right.onnx", model, example()).passed
    wrong = changed(
        tmp_path / "right.onnx", tmp_path / "wrong.onnx", scale_initializer("1.running_mean", 1 + 1e-5)
    )
    report = bnrewrite.verify(wrong, model, example())
    assert "weights" in failed(report)
    assert "'1.running_mean'" in report.rows[0].note


def test_a_nan_never_passes(folder: Path, tmp_path: Path) -> None:
    wrong = changed(folder / "tiny.onnx", tmp_path / "wrong.onnx", scale_output("hvp.3.bias", math.nan))
    report = bnrewrite.verify(wrong, tiny(), example())
    assert failed(report) == {"hvp[0]", "hvp[1]"}
    assert report.rows[3].worst[0].parameter == "3.bias"
    assert json.loads(report.to_json())["rows"][3]["error"] is None


# The oracle --------------------------------------------------------------------------------------------------


def test_oracle_against_explicit_matrices() -> None:
    """H and J^T H_L J written out by torch.func on a tiny smooth network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(5, 3).double(), torch.tensor([0, 1, 1, 0, 1])
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def unflatten(w: Tensor) -> dict[str, Tensor]:
        parts = torch.split(w, [shape.numel() for shape in shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def logits(w: Tensor) -> Tensor:
        return torch.func.functional_call(model, unflatten(w), (x,))

    def loss(z: Tensor) -> Tensor:
        return nn.functional.cross_entropy(z, y)

    w = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    v = torch.randn(w.shape).double()
    jacobian = torch.func.jacrev(logits)(w).reshape(10, -1)
    curvature = torch.func.hessian(lambda z: loss(z.view(5, 2)))(logits(w).reshape(-1))
    expected = {
        "hvp": torch.func.hessian(lambda u: loss(logits(u)))(w) @ v,
        "ggn": jacobian.T @ curvature @ jacobian @ v,
    }
    found = Oracle(model, "cross_entropy", {}, list(shapes), torch.float64).evaluate(
        x, y, [unflatten(v)], ["hvp", "ggn"]
    )
    for product, truth in expected.items():
        flat = torch.cat([part.reshape(-1) for part in found.products[product][0].values()])
        assert torch.allclose(flat, truth, rtol=0, atol=1e-13)


def test_oracle_takes_the_modes_of_the_file() -> None:
    model = Images().double()
    x, y = torch.randn(4, 2, 6, 6).double(), torch.randint(4, (4,))
    names = [name for name, _ in model.named_parameters()]

    def loss(**statistics: str) -> float:
        sites = [{"module": module, "statistics": kind} for module, kind in statistics.items()]
        oracle = Oracle(model, "cross_entropy", {"sites": sites}, names, torch.float64)
        assert not oracle.draws_random_numbers(x, y)
        return float(oracle.evaluate(x, y, [], []).loss)

    model.drop.eval()
    expected = nn.functional.cross_entropy(copy.deepcopy(model)(x), y).item()
    model.eval()
    assert loss(bn="batch", norm="batch") == pytest.approx(expected, rel=1e-14)
    assert loss(bn="running", norm="running") == pytest.approx(
        nn.functional.cross_entropy(model(x), y).item(), rel=1e-14
    )
    assert len({loss(bn=a, norm=b) for a in ("batch", "running") for b in ("batch", "running")}) == 4


# The float64 twin ----------------------------------------------------------------------------------------------


def one_node(op: str, inputs: dict[str, np.ndarray], **attributes: Any) -> onnx.ModelProto:
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in inputs.items()
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op, list(inputs), ["y"], **attributes)], "g", values, [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


OPERATOR_CASES: list[tuple[str, dict[str, np.ndarray], dict[str, Any]]] = [
    ("Conv", {"x": normal(2, 4, 9), "w": normal(6, 2, 3)}, {"group": 2, "pads": [2, 1], "strides": [2]}),
    ("Conv", {"x": normal(2, 3, 7, 8), "w": normal(4, 3, 3, 2), "b": normal(4)}, {"dilations": [2, 1], "pads": [1, 0, 2, 1]}),  # noqa: E501
    ("Conv", {"x": normal(1, 2, 4, 5, 4), "w": normal(3, 2, 2, 2, 2)}, {"strides": [1, 2, 1]}),
    ("ConvTranspose", {"x": normal(2, 4, 5), "w": normal(4, 3, 3)}, {"strides": [2], "pads": [1, 2]}),
    (
        "ConvTranspose",
        {"x": normal(2, 4, 4, 3), "w": normal(4, 2, 3, 3), "b": normal(4)},
        {"group": 2, "strides": [2, 3], "output_padding": [1, 2], "pads": [1, 0, 1, 2]},
    ),
    ("ConvTranspose", {"x": normal(1, 2, 3, 3, 3), "w": normal(2, 2, 2, 2, 2)}, {"dilations": [1, 2, 1]}),
    ("Pad", {"x": normal(4, 5, 6), "p": whole(1, -1, 0, -2, 2, -3)}, {}),
    ("Pad", {"x": normal(4, 5), "p": whole(1, 2), "v": np.array(3, np.float32), "a": whole(-1)}, {}),
    ("Pad", {"x": normal(4, 5), "p": whole(1, 2, 2, 1)}, {"mode": "reflect"}),
    ("Pad", {"x": normal(4, 5), "p": whole(1, 2, 2, 1)}, {"mode": "edge"}),
    ("ScatterElements", {"x": normal(4, 3), "i": whole(0, -1, 2).reshape(1, 3), "u": normal(1, 3)}, {"axis": 0}),
    ("ScatterElements", {"x": normal(3, 4), "i": whole(0, 0, -1).reshape(1, 3), "u": normal(1, 3)}, {"axis": 1, "reduction": "add"}),  # noqa: E501
    ("GatherElements", {"x": normal(70, 3), "i": whole(69, -1, 5).reshape(1, 3)}, {"axis": 0}),
    ("GatherElements", {"x": normal(3, 70), "i": whole(69, -2, 5).reshape(3, 1)}, {"axis": 1}),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(OPERATOR_CASES)), ids=lambda i: f"{OPERATOR_CASES[i][0]}-{i}")
def test_own_operators_of_the_twin_against_onnxruntime(case: int) -> None:
    op, inputs, attributes = OPERATOR_CASES[case]
    model = one_node(op, inputs, **attributes)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, inputs)
    found = Evaluator(model).run(inputs, ["y"])["y"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_every_own_operator_of_the_twin_has_a_case() -> None:
    assert {operator.__name__ for operator in OPERATORS} == {op for op, _, _ in OPERATOR_CASES}


# Refusals ----------------------------------------------------------------------------------------------------


class Drawing(nn.Module):
    """Draws random numbers while it trains, by no dropout module."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x) if self.training else x


def test_refusals(folder: Path, tmp_path: Path) -> None:
    path = folder / "tiny.onnx"
    renamed = nn.ModuleDict({"other": nn.Linear(1, 1)})
    wider = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    noisy = nn.Sequential(*tiny(), Drawing())
    x, y = example()
    hard = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Hardsigmoid(), nn.Linear(5, 3)).double()
    cases: list[tuple[Callable[[], Report], type[BnrewriteError], str]] = [
        (lambda: bnrewrite.verify(tmp_path / "none.onnx"), FileError, "there is no file"),
        (
            lambda: bnrewrite.verify(path, renamed),
            InputError,
            "does not fit the file: it has no parameter '0.weight'",
        ),
        (
            lambda: bnrewrite.verify(path, wider),
            InputError,
            r"'0.weight' has shape \[6, 4\], in the file \[5, 4\]",
        ),
        (lambda: bnrewrite.verify(path, noisy), InputError, "draws random numbers, which the file does not"),
        (
            lambda: bnrewrite.verify(path, hard),
            InputError,
            "PyTorch has no second derivative to compare with",
        ),
        (lambda: bnrewrite.verify(path, 3), InputError, "model must be an nn.Module, .*, not int"),  # type: ignore[arg-type]
        (
            lambda: bnrewrite.verify(path, vectors=0),
            InputError,
            "vectors must be a whole number of at least 1",
        ),
        (lambda: bnrewrite.verify(path, loss="mse"), InputError, "pass the model too, or neither"),
        (lambda: bnrewrite.verify(path, None, (x, y + 3)), InputError, "target holds class"),
        (lambda: bnrewrite.verify(path, tiny(), (x[:, :2], y)), InputError, r"input has shape \[8, 2\]"),
    ]
    for ask, kind, message in cases:
        with pytest.raises(kind, match=message):
            ask()


def test_a_site_that_the_model_lacks(folder: Path) -> None:
    model = tiny()
    stripped = nn.Sequential(model[0], nn.Identity(), model[2], model[3])
    stripped[1].weight, stripped[1].bias = model[1].weight, model[1].bias
    assert bnrewrite.verify(folder / "tiny.onnx", stripped, example()).passed is False
    del stripped[1]
    with pytest.raises(InputError, match="the model does not fit the file: it has no parameter"):
        bnrewrite.verify(folder / "tiny.onnx", stripped)


def test_differences_that_never_settle_are_no_reference() -> None:
    noise = [{"x": np.array(value)} for value in (1.0, 2.0, 3.0)]
    with pytest.raises(
        InputError, match=r"differences still change by 3e-01\): verify the file with its model"
    ):
        _most_settled(noise, 0.0).bar()
    settled = _most_settled([{"x": np.array(value)} for value in (1.0, 2.0, 2.0 + 1e-5, 2.1)], 0.0)
    assert settled.value == {"x": np.array(2.0)}
    assert settled.bar() == pytest.approx(5e-5, rel=1e-3)


def test_data_that_cannot_be_guessed(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(8, 3)).double()
    tokens, y = torch.randint(7, (6, 2)), torch.randint(3, (6,))
    bnrewrite.export_onnx(model, tmp_path / "tokens.onnx", (tokens, y))
    assert bnrewrite.verify(tmp_path / "tokens.onnx", model, (tokens, y)).passed
    with pytest.raises(InputError, match="'input' holds int64 of a range that the file does not say"):
        bnrewrite.verify(tmp_path / "tokens.onnx", model)


# The report --------------------------------------------------------------------------------------------------


def test_report() -> None:
    report = Report("f.onnx", "truth", "float64", [Row("loss", 1e-12, 1e-9), Row("grad", 2e-3, 1e-9)])
    assert not report.passed
    assert failed(report) == {"grad"}
    assert json.loads(report.to_json()) == {
        "file": "f.onnx",
        "against": "truth",
        "dtype": "float64",
        "passed": False,
        "rows": [
            {"quantity": "loss", "error": 1e-12, "bar": 1e-9, "note": "", "worst": [], "passed": True},
            {"quantity": "grad", "error": 2e-3, "bar": 1e-9, "note": "", "worst": [], "passed": False},
        ],
    }
    assert not Report("f.onnx", "truth", "float64", []).passed


def test_relative_error() -> None:
    a, b = {"x": np.array([3.0, 0.0]), "y": np.array(4.0)}, {"x": np.array([0.0, 0.0]), "y": np.array(4.0)}
    assert relative_error(a, b) == pytest.approx(3 / 4)
    assert relative_error({"x": np.array(1e-3)}, {"x": np.array(0.0)}) == pytest.approx(1e-3)
    assert relative_error({"x": np.array(1e-9)}, {"x": np.array(0.0)}, floor=1e-3) == pytest.approx(1e-6)
