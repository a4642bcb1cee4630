"""The runtime: numbers against PyTorch's double backward in float64, data in every form, and refusals by message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from reference import dense_hessian
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

import bnrewrite
from bnrewrite import runtime
from bnrewrite.errors import FileError, InputError, NumericalError


def tiny(dtype: torch.dtype = torch.float64) -> nn.Module:
    """53 parameters, smooth, BatchNorm in the middle."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def batch(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((size, 4)), rng.integers(0, 3, size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported files that all tests read."""
    folder = tmp_path_factory.mktemp("runtime")
    x, y = (torch.from_numpy(a) for a in batch(8))
    bnrewrite.export_onnx(tiny(), folder / "tiny.onnx", (x, y), products=("hvp", "ggn"))
    bnrewrite.export_onnx(tiny(torch.float32), folder / "tiny32.onnx", (x.float(), y))
    bnrewrite.export_onnx(tiny(), folder / "inputs.onnx", (x, y), params="inputs")
    bnrewrite.export_onnx(tiny(), folder / "by_input.onnx", (x, y), wrt="input")
    bnrewrite.export_onnx(tiny(), folder / "few.onnx", (x, y), wrt=["1.*"])
    bnrewrite.export_onnx(
        Pair(), folder / "pair.onnx", ({"left": x, "right": x[:, :2]}, torch.randn(8, 3).double()), loss="mse"
    )
    return folder


class Pair(nn.Module):
    """Two inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.norm = nn.Linear(4, 3), nn.Linear(2, 3), nn.BatchNorm1d(3)
        self.double()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.norm(self.a(left) * torch.sigmoid(self.b(right)))


# Numbers -------------------------------------------------------------------------------------------------------


def test_loss_gradient_and_products(folder: Path) -> None:
    data = batch(8)
    loss, gradient, hessian = dense_hessian(tiny(), [data])
    c = runtime.open(folder / "tiny.onnx", data)
    v = np.random.default_rng(1).standard_normal(c.space.size)
    assert c.loss == pytest.approx(loss, rel=1e-13)
    np.testing.assert_allclose(c.space.flatten(c.grad()), gradient, rtol=0, atol=1e-14)
    np.testing.assert_allclose(c.hvp(v), hessian @ v, rtol=0, atol=1e-13)
    assert list(c.grad()) == [name for name, _ in tiny().named_parameters()]


def test_ggn_is_the_hessian_where_the_model_is_linear(folder: Path) -> None:
    """In the last layer alone, logits are linear in the weights: there G = H."""
    c = runtime.open(folder / "tiny.onnx", batch(8))
    v = {name: np.zeros(shape) for name, shape in c.space.shapes.items()}
    v["3.weight"] = np.random.default_rng(0).standard_normal(v["3.weight"].shape)
    np.testing.assert_allclose(c.ggn(v)["3.weight"], c.hvp(v)["3.weight"], atol=1e-14)
    np.testing.assert_allclose(c.ggn(v)["3.bias"], c.hvp(v)["3.bias"], atol=1e-14)
    assert np.abs(c.ggn(v)["0.weight"] - c.hvp(v)["0.weight"]).max() > 1e-3


def test_dict_and_flat_are_the_same_vector(folder: Path) -> None:
    c = runtime.open(folder / "tiny.onnx", batch(8))
    v = np.random.default_rng(1).standard_normal(c.space.size)
    parts = c.space.unflatten(v)
    for product in (c.hvp, c.ggn):
        assert np.array_equal(c.space.flatten(product(parts)), product(v))
    assert np.array_equal(c.space.flatten(parts), v)
    torch_parts = {name: nn.Parameter(torch.from_numpy(part)) for name, part in parts.items()}
    assert np.array_equal(c.space.flatten(c.hvp(torch_parts)), c.hvp(v))


def test_float32_file(folder: Path) -> None:
    data = batch(8)
    _, gradient, hessian = dense_hessian(tiny(), [data])
    c = runtime.open(folder / "tiny32.onnx", data)
    v = np.random.default_rng(1).standard_normal(c.space.size)
    assert c.engine.dtype == np.float32
    assert np.linalg.norm(c.hvp(v) - hessian @ v) < 1e-5 * np.linalg.norm(hessian @ v)
    assert np.linalg.norm(c.space.flatten(c.grad()) - gradient) < 1e-5 * np.linalg.norm(gradient)
    assert c.hvp(v).dtype == np.float64


def test_operator(folder: Path) -> None:
    data = batch(8)
    hessian = dense_hessian(tiny(), [data])[2]
    c = runtime.open(folder / "tiny.onnx", data)
    operator = c.operator()
    assert isinstance(operator, LinearOperator)
    assert operator.shape == hessian.shape
    assert operator.dtype == np.float64
    np.testing.assert_allclose(operator @ np.eye(c.space.size), hessian, atol=1e-13)
    assert operator.products == c.space.size
    np.testing.assert_allclose(operator.T @ np.ones(c.space.size), hessian.sum(0), atol=1e-13)
    np.testing.assert_allclose(operator.H @ np.ones(c.space.size), hessian.sum(0), atol=1e-13)
    ggn = c.operator("ggn") @ np.eye(c.space.size)
    np.testing.assert_allclose(ggn, ggn.T, atol=1e-14)
    assert np.linalg.eigvalsh(ggn).min() > -1e-13


@pytest.mark.parametrize("which", ["LM", "LA", "SA"])
@pytest.mark.parametrize("k", [1, 4])
def test_eigs(folder: Path, which: Any, k: int) -> None:
    data = batch(8)
    exact = np.linalg.eigvalsh(dense_hessian(tiny(), [data])[2])
    order = {"LM": np.argsort(-np.abs(exact)), "LA": np.argsort(-exact), "SA": np.argsort(exact)}[which]
    found = runtime.open(folder / "tiny.onnx", data).eigs(k=k, which=which)
    np.testing.assert_allclose(found.values, exact[order][:k], rtol=1e-8)
    assert found.vectors.shape == (len(exact), k)
    assert found.residuals.max() < 1e-6
    assert found.products > k
    assert len(str(found).splitlines()) == k


def test_residuals_are_those_of_the_pairs(folder: Path) -> None:
    data = batch(8)
    hessian = dense_hessian(tiny(), [data])[2]
    found = runtime.open(folder / "tiny.onnx", data).eigs(k=2, tol=1e-2)  # loose, so that there is a residual
    errors = hessian @ found.vectors - found.vectors * found.values
    np.testing.assert_allclose(found.residuals, np.linalg.norm(errors, axis=0), rtol=1e-6, atol=1e-13)


def test_eigs_are_reproducible(folder: Path) -> None:
    c = runtime.open(folder / "tiny.onnx", batch(8))
    first, second, other = (c.eigs(k=1, tol=1e-2, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.vectors, second.vectors)
    assert not np.array_equal(first.vectors, other.vectors)


def test_eigs_of_a_small_matrix_and_of_all_of_it(folder: Path) -> None:
    c = runtime.open(folder / "few.onnx", batch(8))  # gamma and beta: ten entries
    dense = c.operator() @ np.eye(10)
    np.testing.assert_allclose(c.eigs(k=10, which="SA").values, np.linalg.eigvalsh(dense), atol=1e-13)
    np.testing.assert_allclose(c.eigs(k=1, which="LA").values, np.linalg.eigvalsh(dense)[-1:], atol=1e-13)


# Data ----------------------------------------------------------------------------------------------------------


class Loader:
    """Batches that are made anew at each pass, as a data loader does."""

    def __init__(self, *passes: list[tuple[Any, Any]]) -> None:
        self.passes, self.count = passes, 0

    def __iter__(self) -> Any:
        self.count += 1
        return iter(self.passes[min(self.count, len(self.passes)) - 1])


def test_several_batches_are_a_weighted_mean(folder: Path) -> None:
    data = [batch(3, 1), batch(9, 2)]
    loss, gradient, hessian = dense_hessian(tiny(), data)
    v = np.random.default_rng(1).standard_normal(len(gradient))
    for source in (
        data,
        Loader(data),
        (pair for pair in data),
        [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in data],
    ):
        c = runtime.open(folder / "tiny.onnx", source)
        np.testing.assert_allclose(c.hvp(v), hessian @ v, atol=1e-13)
        assert c.loss == pytest.approx(loss, rel=1e-13)
        np.testing.assert_allclose(c.space.flatten(c.grad()), gradient, atol=1e-14)
        assert c.eigs().values[0] == pytest.approx(max(np.linalg.eigvalsh(hessian), key=abs), rel=1e-8)
    union = runtime.open(folder / "tiny.onnx", tuple(np.concatenate(a) for a in zip(*data, strict=True)))
    assert abs(union.loss - loss) > 1e-3  # batch statistics: the union is another function


def test_two_batches_in_a_tuple_are_batches_and_not_x_and_y(folder: Path) -> None:
    first, second = batch(4, 1), batch(4, 2)
    c = runtime.open(folder / "tiny.onnx", (first, second))
    assert c.loss == pytest.approx(dense_hessian(tiny(), [first, second])[0], rel=1e-13)


def test_npz(folder: Path, tmp_path: Path) -> None:
    x, y = batch(8)
    np.savez(tmp_path / "data.npz", input=x, target=y, other=np.zeros(3))
    assert (
        runtime.open(folder / "tiny.onnx", tmp_path / "data.npz").loss
        == runtime.open(folder / "tiny.onnx", (x, y)).loss
    )
    z = np.random.default_rng(0).standard_normal((8, 3))
    np.savez(tmp_path / "pair.npz", **{"input.left": x, "input.right": x[:, :2], "target": z})
    by_name = runtime.open(folder / "pair.onnx", ({"left": x, "right": x[:, :2]}, z))
    assert runtime.open(folder / "pair.onnx", tmp_path / "pair.npz").loss == by_name.loss


def test_float_types_are_converted_and_integers_widened(folder: Path) -> None:
    x, y = batch(8)
    c = runtime.open(folder / "tiny.onnx", (x.astype(np.float32), y.astype(np.uint8)))
    assert c.loss == pytest.approx(runtime.open(folder / "tiny.onnx", (x, y)).loss, rel=1e-6)


def test_parameters_as_inputs(folder: Path) -> None:
    model = tiny()
    own = runtime.open(folder / "tiny.onnx", batch(8))
    given = runtime.open(folder / "inputs.onnx", batch(8), parameters=dict(model.named_parameters()))
    v = np.random.default_rng(1).standard_normal(own.space.size)
    np.testing.assert_allclose(given.hvp(v), own.hvp(v), rtol=0, atol=1e-14)
    other = {name: p.detach().numpy() * 2 for name, p in model.named_parameters()}
    assert runtime.open(folder / "inputs.onnx", batch(8), parameters=other).loss != own.loss


def test_derivatives_by_the_input(folder: Path) -> None:
    x, y = batch(6)
    c = runtime.open(folder / "by_input.onnx", (x, y))
    assert c.space.shapes == {"input": (6, 4)}
    points = torch.from_numpy(x).requires_grad_(True)
    loss = nn.functional.cross_entropy(tiny()(points), torch.from_numpy(y))
    (expected,) = torch.autograd.grad(loss, points)
    np.testing.assert_allclose(c.grad()["input"], expected.numpy(), atol=1e-14)
    assert c.hvp(np.ones(24)).shape == (24,)
    with pytest.raises(InputError, match="one Hessian for each batch: give a single batch"):
        _ = runtime.open(folder / "by_input.onnx", [batch(6), batch(6, 1)]).loss


# No torch ------------------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # any import of it fails
import numpy as np
from bnrewrite import runtime
x, y = np.load(sys.argv[2])["input"], np.load(sys.argv[2])["target"]
c = runtime.open(sys.argv[1], sys.argv[2])
v = np.ones(c.space.size)
c.loss, c.grad(), c.hvp(v), c.ggn(c.space.unflatten(v)), c.operator("ggn") @ v
several = runtime.open(sys.argv[1], [(x, y), (x, y)], checkpoint=sys.argv[3])
several.eigs(k=2)
for method in ("hutchinson", "hutch++", "xtrace", "exact"):
    several.trace(method=method, samples=12)
for method in ("hutchinson", "xdiag", "exact"):
    several.saliency(several.diagonal(method=method, samples=12))
several.spectral_density(steps=5, probes=2), several.layer_traces(samples=4), several.quadratic_form(v)
several.solve(several.grad(), damping=9.0)
several.sensitivity(samples=4).assign(mean_bits=4)
runtime.study(several, top=1, trace=True, diagonal=True, density=True, layers=True, samples=4, steps=4)
weights = several.weights()
runtime.open(sys.argv[4], (x, y), parameters=weights).landscape(points=2, directions="eigs")
try:
    runtime.open(sys.argv[1], (x[:, :1], y))
except ValueError as error:
    print(error)
print(f"{c.loss:.12f}")
"""


def test_works_without_torch(folder: Path, tmp_path: Path) -> None:
    x, y = batch(8)
    np.savez(tmp_path / "data.npz", input=x, target=y)
    done = subprocess.run(
        [
            *(sys.executable, "-c", WITHOUT_TORCH, folder / "tiny.onnx", tmp_path / "data.npz"),
            *(tmp_path / "run", folder / "inputs.onnx"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loss = runtime.open(folder / "tiny.onnx", (x, y)).loss
    assert done.stdout.splitlines() == [
        "input has shape [8, 1], the file takes float64 [N, 4].",
        f"{loss:.12f}",
    ]


# Refusals ------------------------------------------------------------------------------------------------------

X, Y = batch(8)


def at(array: np.ndarray, index: Any, value: Any) -> np.ndarray:
    changed = array.copy()
    changed[index] = value
    return changed


WRONG_DATA: dict[str, tuple[Any, str]] = {
    "shape": ((X[:, :3], Y), r"input has shape \[8, 3\], the file takes float64 \[N, 4\]"),
    "rank": ((X[0], Y), r"input has shape \[4\], the file takes float64 \[N, 4\]"),
    "sizes differ": ((X, Y[:5]), r"input has 8 samples, but target has 5"),
    "integer input": ((X.astype(int), Y), "input must hold floating-point numbers .float64., not int64"),
    "float target": ((X, Y.astype(float)), "target must hold integers .int64., not float64"),
    "text": ((X.astype(str), Y), "input must hold floating-point numbers"),
    "class too large": ((X, at(Y, 2, 3)), "target holds class 3, but the model has classes 0 to 2"),
    "negative class": ((X, at(Y, 2, -1)), "target holds class -1, but the model has classes 0 to 2"),
    "NaN": ((at(X, (1, 1), np.nan), Y), "input holds NaN or infinity"),
    "infinity": ((at(X, (1, 1), np.inf), Y), "input holds NaN or infinity"),
    "empty batch": ((X[:0], Y[:0]), "the batch is empty"),
    "one sample": ((X[:1], Y[:1]), "the BatchNorm in module '1' needs a batch of at least 2"),
    "ragged": (([[1.0], [1.0, 2.0]], Y), "input is no array of numbers, but a list"),
    "no pair": ([X, X, X], "batch 0 of the data: a batch must be a pair"),
    "no data at all": ([], "data holds no batch"),
    "a number": (3, "data must be a pair .x, y., the path of an .npz file, or an iterable of pairs, not int"),
    "several inputs": (
        ({"a": X}, Y),
        "the file takes 'input', 'target', but the data gives 'input.a', 'target'",
    ),
    "named batch": ([(X, Y), (X, at(Y, 0, 7))], "batch 1 of the data: target holds class 7"),
    "changed batch": (
        Loader([(X, Y), (X, Y)], [(X, Y), (X + 1, Y)]),
        "batch 1 of the data is not the one that came",
    ),
    "fewer batches": (Loader([(X, Y), (X, Y)], [(X, Y)]), "data gave 2 batches first and 1 now"),
    "more batches": (Loader([(X, Y)], [(X, Y), (X, Y)]), "batch 1 of the data is not the one that came"),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_wrong_data(folder: Path, case: str) -> None:
    data, message = WRONG_DATA[case]
    with pytest.raises(InputError, match=message):
        use_twice(folder / "tiny.onnx", data)


def use_twice(file: Path, data: Any) -> None:
    c = runtime.open(file, data)
    c.hvp(np.ones(c.space.size))
    c.hvp(np.ones(c.space.size))


def test_values_that_overflow_the_type_of_the_file(folder: Path) -> None:
    with pytest.raises(InputError, match="input holds NaN or infinity"):
        runtime.open(folder / "tiny32.onnx", (X * 1e300, Y))


def test_wrong_vectors(folder: Path) -> None:
    c = runtime.open(folder / "tiny.onnx", (X, Y))
    parts = c.space.unflatten(np.ones(c.space.size))
    missing = {name: part for name, part in parts.items() if name != "3.bias"}
    wrong: list[tuple[Any, str]] = [
        (np.ones(5), r"v has shape \[5\], but the 6 parameters of the file have 53 entries"),
        (missing, "v has no entry for '3.bias'"),
        ({**parts, "extra": np.ones(2)}, "v has entries that the file does not know: 'extra'"),
        ({**parts, "3.bias": np.ones(4)}, r"v\['3.bias'\] has shape \[4\], the file has \[3\]"),
        ({**parts, "3.bias": np.full(3, np.nan)}, r"v\['3.bias'\] holds NaN or infinity"),
        (np.full(53, np.inf), "v holds NaN or infinity"),
        (np.full(53, "a"), "v must hold real numbers"),
        (np.full(53, 1j), "v must hold real numbers"),
    ]
    for v, message in wrong:
        with pytest.raises(InputError, match=message):
            c.hvp(v)


def test_wrong_questions(folder: Path) -> None:
    c = runtime.open(folder / "tiny32.onnx", (X, Y))
    refusals: list[tuple[Any, str]] = [
        (lambda: c.ggn(np.ones(53)), "does not hold ggn, only hvp: export it with products=.*'ggn'"),
        (lambda: c.operator("fisher"), "matrix must be 'hessian', 'ggn' or 'residual', not 'fisher'"),  # type: ignore[arg-type]
        (lambda: c.operator("ggn"), "does not hold ggn"),
        (lambda: c.eigs(k=54), "k must be a whole number from 1 to 53, the dimension of the matrix, not 54"),
        (lambda: c.eigs(k=0), "k must be a whole number from 1 to 53"),
        (lambda: c.eigs(which="XX"), "which must be one of 'LM', 'LA', 'SA', not 'XX'"),  # type: ignore[arg-type]
        (
            lambda: runtime.open(folder / "tiny.onnx", (X, Y), parameters={}),
            "holds its parameters: it takes none",
        ),
        (
            lambda: runtime.open(folder / "inputs.onnx", (X, Y)),
            "takes its parameters as inputs: give parameters=",
        ),
        (
            lambda: runtime.open(folder / "inputs.onnx", (X, Y), parameters={"0.weight": X}),
            "give parameters= with '0.bias', '1.weight', '1.bias' and 2 more",
        ),
        (
            lambda: runtime.open(
                folder / "inputs.onnx",
                (X, Y),
                parameters={n: np.ones(2) for n, _ in tiny().named_parameters()},
            ),
            r"parameter '0.weight' is float64 \[2\], the file takes float64 \[5, 4\]",
        ),
        (
            lambda: runtime.open(folder / "tiny.onnx", (X, Y), providers=["None"]),
            "has no execution provider 'None'",
        ),
    ]
    for ask, message in refusals:
        with pytest.raises(InputError, match=message):
            ask()


def test_results_that_are_not_finite_name_the_batch(folder: Path) -> None:
    c = runtime.open(folder / "tiny.onnx", [(X, Y), (X, Y)])
    with pytest.raises(NumericalError, match=r"hvp\..* is NaN or infinite on batch 0 of the data"):
        c.hvp(np.full(53, 1e308))


def test_no_convergence_is_said(folder: Path) -> None:
    c = runtime.open(folder / "tiny.onnx", (X, Y))
    with pytest.raises(
        NumericalError, match=r"Lanczos found \d of 5 eigenvalues in \d+ products: allow more"
    ):
        c.eigs(k=5, which="SA", tol=1e-15, maxiter=1)


def foreign(**metadata: str) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, metadata)
    return model.SerializeToString()


WRONG_FILES: dict[str, tuple[bytes, str]] = {
    "not onnx": (b"hello", "cannot be opened by onnxruntime"),
    "empty": (b"", "cannot be opened by onnxruntime"),
    "not ours": (foreign(), "was not written by bnrewrite: it lacks the 'bnrewrite' entry in its metadata"),
    "no JSON": (foreign(bnrewrite="{"), "is damaged: its 'bnrewrite' metadata is no JSON"),
    "no object": (foreign(bnrewrite="[]"), "is damaged: its 'bnrewrite' metadata lacks an object"),
    "no parameters": (
        foreign(bnrewrite='{"loss": "mse"}'),
        "is damaged: its 'bnrewrite' metadata lacks 'parameters'",
    ),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_files(tmp_path: Path, case: str) -> None:
    content, message = WRONG_FILES[case]
    (tmp_path / "file.onnx").write_bytes(content)
    with pytest.raises(FileError, match=message):
        runtime.open(tmp_path / "file.onnx", (X, Y))


def test_missing_and_cut_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no file '.*none.onnx'"):
        runtime.open(tmp_path / "none.onnx", (X, Y))
    with pytest.raises(FileError, match="is not a file"):
        runtime.open(tmp_path, (X, Y))
    content = (folder / "tiny.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match="cannot be opened by onnxruntime"):
        runtime.open(tmp_path / "cut.onnx", (X, Y))


def test_wrong_npz(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "names.npz", x=X, y=Y)
    np.savez(tmp_path / "objects.npz", input=np.array([{}, None], dtype=object), target=Y)
    np.save(tmp_path / "one.npy", X)
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "whole.npz", input=X, target=Y)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    for name, message in {
        "names.npz": "has no array called 'input', 'target'; it holds 'x', 'y'",
        "objects.npz": "pickled objects are refused",
        "one.npy": "holds one array without a name",
        "text.npz": "is no .npz file of plain arrays",
        "cut.npz": "is no .npz file of plain arrays",
        "none.npz": "there is no file",
    }.items():
        with pytest.raises(FileError, match=message):
            runtime.open(folder / "tiny.onnx", tmp_path / name)


def test_metadata_is_the_documented_json(folder: Path) -> None:
    model = onnx.load(folder / "tiny.onnx")
    meta = json.loads({prop.key: prop.value for prop in model.metadata_props}["bnrewrite"])
    assert runtime.Session(folder / "tiny.onnx").meta == meta
    assert meta["products"] == ["hvp", "ggn"]
    assert meta["parameters"] == {name: list(p.shape) for name, p in tiny().named_parameters()}
