"""Weights from a file, quantization, bit widths under a budget, pruning: arrays against definitions and brute force."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import bnrewrite
from bnrewrite.errors import FileError, InputError
from bnrewrite.runtime.allocation import assign
from bnrewrite.runtime.pruning import prune, saliency
from bnrewrite.runtime.quantization import quantized, scores, squared_error
from bnrewrite.runtime.weights import read_weights

Array = NDArray[Any]


def model_of(*tensors: onnx.TensorProto) -> onnx.ModelProto:
    """A model that holds these initializers, among nodes, inputs and other things to skip over."""
    node = helper.make_node("Identity", ["x"], ["y"], name="the only node", doc_string="text")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy")
    graph = helper.make_graph([node], "graph", [x], [y], initializer=tensors)
    return helper.make_model(graph, producer_name="a test")


def saved(folder: Path, model: onnx.ModelProto, **options: Any) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path, **options)
    return path


def some(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def tensor(kind: int, values: Array, raw: bool) -> onnx.TensorProto:
    """`values` in the bytes of the tensor, or one by one in the list that its type has."""
    values = values.astype(helper.tensor_dtype_to_np_dtype(kind))
    made = helper.make_tensor("w", kind, values.shape, values.tobytes() if raw else values.ravel(), raw=raw)
    assert made.HasField("raw_data") is raw
    return made


# Weights from a file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
@pytest.mark.parametrize("shape", [(3, 2, 2), (5,), (), (0, 4)], ids=str)
def test_every_form_of_a_tensor(tmp_path: Path, kind: int, raw: bool, shape: tuple[int, ...]) -> None:
    made = tensor(kind, some(*shape), raw)
    model = model_of(made, numpy_helper.from_array(some(2), "other"))
    wanted = numpy_helper.to_array(made)
    for source in (saved(tmp_path, model), model.SerializeToString()):
        (found,) = read_weights(source, ["w"]).values()
        assert found.dtype == wanted.dtype and found.shape == shape
        np.testing.assert_array_equal(found, wanted)
        found[...] = 0  # its own memory


def test_data_beside_the_file(tmp_path: Path) -> None:
    tensors = {name: some(30, 4, seed=seed).astype(np.float32) for seed, name in enumerate("abc")}
    model = model_of(*(numpy_helper.from_array(value, name) for name, value in tensors.items()))
    path = saved(tmp_path, model, save_as_external_data=True, location="all.data", size_threshold=0)
    assert path.stat().st_size < 1000
    found = read_weights(str(path), "ca")
    assert list(found) == ["c", "a"]
    for name, value in found.items():
        np.testing.assert_array_equal(value, tensors[name])
        value[...] = 0
    with pytest.raises(
        FileError, match=r"given as bytes, but 'a' lies in the file 'all.data': give the path"
    ):
        read_weights(path.read_bytes(), ["a"])
    with (tmp_path / "all.data").open("r+b") as stream:
        stream.truncate(900)
    np.testing.assert_array_equal(read_weights(path, "a")["a"], tensors["a"])
    with pytest.raises(
        FileError, match=r"'b' needs 480 bytes and is said to have 480 from byte 480 of .* has 900"
    ):
        read_weights(path, "ab")
    (tmp_path / "all.data").unlink()
    with pytest.raises(FileError, match=r"there is no file '.*all.data'"):
        read_weights(path, "a")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ({"location": "../secret"}, "outside of its own folder"),
        ({"location": "sub/../../secret"}, "outside of its own folder"),
        ({"location": "link"}, "outside of its own folder"),
        ({"location": "{folder}/../secret"}, "outside of its own folder"),
        ({}, "outside of its own folder"),
        ({"location": "near", "offset": "-8", "length": "64"}, "is said to have 64 from byte -8"),
        ({"location": "near", "offset": "one"}, "the place of 'w' is no number"),
        ({"location": "near", "length": "16"}, "needs 64 bytes and is said to have 16"),
        ({"location": "."}, "is not a file"),
    ],
    ids=str,
)
def test_data_beside_the_file_that_is_refused(tmp_path: Path, place: dict[str, str], said: str) -> None:
    folder = tmp_path / "here"
    (folder / "sub").mkdir(parents=True)
    for file in (tmp_path / "secret", folder / "near"):
        file.write_bytes(bytes(64))
    (folder / "link").symlink_to(tmp_path / "secret")
    made = onnx.TensorProto(
        name="w", data_type=TensorProto.DOUBLE, dims=[8], data_location=TensorProto.EXTERNAL
    )
    for key, value in place.items():
        made.external_data.add(key=key, value=value.format(folder=folder))
    path = folder / "model.onnx"
    path.write_bytes(model_of(made).SerializeToString())
    with pytest.raises(FileError, match=said):
        read_weights(path, ["w"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"raw_data": bytes(15)}, r"damaged: 'w' has 15 bytes, 16 expected"),
        ({"raw_data": bytes(16), "dims": [2, 3]}, r"damaged: 'w' has 16 bytes, 48 expected"),
        ({"raw_data": bytes(16), "dims": [-1, -2]}, r"damaged: 'w' has shape \[-1, -2\]"),
        ({"raw_data": bytes(16), "dims": [1 << 40, 1 << 40]}, "damaged: 'w' has 16 bytes"),
        ({"double_data": [1.0]}, "damaged: 'w' has 1 numbers, 2 expected"),
        ({"data_type": TensorProto.FLOAT16, "int32_data": [1, -1]}, "numbers that are no float16"),
        (
            {"data_type": TensorProto.BFLOAT16, "raw_data": bytes(4)},
            "'w' holds bfloat16. Weights are read as float32",
        ),
        ({"data_type": TensorProto.INT64, "raw_data": bytes(16)}, "'w' holds int64"),
        ({"data_type": TensorProto.FLOAT8E4M3FN, "raw_data": bytes(2)}, "'w' holds type 17 of ONNX"),
    ],
    ids=str,
)
def test_damaged_tensors(change: dict[str, Any], said: str) -> None:
    made = onnx.TensorProto(**{"name": "w", "data_type": TensorProto.DOUBLE, "dims": [2], **change})
    with pytest.raises(FileError, match=said):
        read_weights(model_of(made).SerializeToString(), ["w"])


def test_damaged_files(tmp_path: Path) -> None:
    whole = model_of(numpy_helper.from_array(some(40), "w")).SerializeToString()
    path = tmp_path / "cut.onnx"
    for size in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:size])
        with pytest.raises(
            FileError, match=r"cut.onnx' (is damaged, or no ONNX file|holds no weights called 'w')"
        ):
            read_weights(path, ["w"])
    path.write_bytes(b"\xff" * 50)
    with pytest.raises(FileError, match="is damaged, or no ONNX file"):
        read_weights(path, ["w"])
    with pytest.raises(FileError, match="there is no file"):
        read_weights(tmp_path / "none.onnx", ["w"])
    with pytest.raises(
        FileError, match=r"holds no weights called 'b', 'c', 'd' and 1 more.*params=\"inputs\""
    ):
        read_weights(whole, "wbcde")


def test_weights_of_an_exported_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)).double()
    path = tmp_path / "curvature.onnx"
    bnrewrite.export_onnx(model, path, (torch.randn(4, 1, 4, 4).double(), torch.zeros(4, dtype=torch.int64)))
    found = read_weights(path, [name for name, _ in model.named_parameters()])
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(found[name], parameter.detach().numpy())


def test_neither_onnx_nor_torch_is_needed(tmp_path: Path) -> None:
    path = saved(tmp_path, model_of(numpy_helper.from_array(np.arange(3.0), "w")))
    code = (
        "import sys; sys.modules['onnx'] = sys.modules['torch'] = None\n"
        "from bnrewrite.runtime.weights import read_weights\n"
        f"print(read_weights({str(path)!r}, ['w'])['w'].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[0.0, 1.0, 2.0]\n"


# Quantization ----------------------------------------------------------------------------------------------------


def test_quantized_by_hand() -> None:
    """3 bits: levels -3 to 3. Scales are 3 / 3 and 0.6 / 3; 1.4 and -0.29 go to 1 and -0.2, a row of zeros stays."""
    w = np.array([[3.0, 1.4, -2.6, 0.2], [0.6, -0.29, 0.11, -0.6], [0.0, 0.0, 0.0, 0.0]])
    wanted = np.array([[3.0, 1.0, -3.0, 0.0], [0.6, -0.2, 0.2, -0.6], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(quantized(w, 3), wanted, rtol=1e-15)
    assert squared_error(w, 3) == pytest.approx(0.4**2 + 0.4**2 + 0.2**2 + 2 * 0.09**2, rel=1e-13)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_every_entry_goes_to_the_nearest_level_of_its_channel(bits: int, axis: int) -> None:
    w = some(4, 5, 3)
    q = quantized(w, bits, axis)
    for part, found in zip(np.moveaxis(w, axis, 0), np.moveaxis(q, axis, 0), strict=True):
        levels = np.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))
        grid = np.abs(part).max() * levels / levels[-1]
        distance = np.abs(part.reshape(-1, 1) - grid).min(axis=1)
        np.testing.assert_allclose(np.abs(found - part).ravel(), distance, rtol=0, atol=1e-14)
        assert np.unique(found).size <= levels.size
        assert np.abs(found).max() == np.abs(part).max()  # the largest entry is a level itself


def test_quantized_keeps_shape_and_type() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        assert quantized(some(2, 3).astype(dtype), 4).dtype == dtype
    assert quantized(torch.ones(2, 2), 4).dtype == np.float32
    assert quantized(np.zeros((0, 3)), 4).shape == (0, 3)
    assert quantized(np.zeros((3, 0)), 4).shape == (3, 0)
    assert quantized(np.array(0.3), 2) == 0.3
    np.testing.assert_array_equal(quantized(np.zeros(4), 2), np.zeros(4))


def test_vectors_have_one_scale() -> None:
    np.testing.assert_array_equal(quantized(np.array([1.0, 0.6, 0.4, -0.1]), 2), [1.0, 1.0, 0.0, 0.0])


def test_tiny_and_huge_weights_are_quantized_alike() -> None:
    w = some(3, 50)
    w /= np.abs(w).max(axis=1, keepdims=True)
    for size in (2.0**-1060, 2.0**1000):  # subnormal: 14 bits are left of each entry
        rough = 2.0**-14 if size < 1 else 1e-15
        np.testing.assert_allclose(quantized(w * size, 4) / size, quantized(w, 4), rtol=0, atol=rough)


@pytest.mark.parametrize("bits", [1, 17, 4.0, True, "4"])
def test_wrong_widths_are_refused(bits: Any) -> None:
    with pytest.raises(InputError, match="bits must be a whole number from 2 to 16"):
        quantized(some(2, 2), bits)


def test_errors_are_summed_in_float64() -> None:
    w = some(20, 30).astype(np.float32)
    assert squared_error(w, 16) == squared_error(w.astype(np.float64), 16)


def test_wrong_weights_are_refused() -> None:
    for w in (np.array([1.0, np.nan]), np.array([np.inf]), np.array([1, 2]), np.array(["a"])):
        with pytest.raises(InputError, match="must be finite floating point numbers"):
            squared_error(w, 4)
    with pytest.raises(InputError, match=r"no axis 2 in weights of shape \[3, 4\]"):
        quantized(some(3, 4), 4, axis=2)


def test_scores_are_average_trace_times_squared_error() -> None:
    weights = {"a": some(3, 4), "b": some(5, 2, seed=1)}
    found = scores({"a": 2.0, "b": -0.5, "not quantized": 1.0}, weights, (2, 8))
    for name, trace in (("a", 2.0), ("b", -0.5)):
        assert list(found[name]) == [2, 8]
        for bits in (2, 8):
            error = np.sum((quantized(weights[name], bits) - weights[name]) ** 2)
            assert found[name][bits] == pytest.approx(trace * error, rel=1e-15)
    with pytest.raises(InputError, match="no average trace for 'b'"):
        scores({"a": 1.0}, weights)
    with pytest.raises(InputError, match="the average trace of 'b' is nan"):
        scores({"a": 1.0, "b": float("nan")}, weights)


def test_score_is_twice_the_mean_rise_of_a_quadratic_loss() -> None:
    """The mean of d.H d / 2 over all signs of an error d with equal |d_i| is tr(H) / n * |d|^2 / 2."""
    n = 4
    a = some(n, n)
    hessian, w = a @ a.T, np.array([[1.0, 0.9, -0.9, 0.1]])
    error = squared_error(w, 2)
    assert error == pytest.approx(3 * 0.01, rel=1e-12)
    spread = np.sqrt(error / n)
    rises = [
        spread**2 * np.array(s) @ hessian @ np.array(s) / 2 for s in itertools.product((-1, 1), repeat=n)
    ]
    (found,) = scores({"w": np.trace(hessian) / n}, {"w": w}, [2])["w"].values()
    assert np.mean(rises) == pytest.approx(found / 2, rel=1e-12)


# Widths under a budget -------------------------------------------------------------------------------------------


def brute(table: dict[str, dict[int, float]], sizes: dict[str, int], budget_bits: float) -> float:
    """The least total score of all assignments within the budget."""
    best = np.inf
    for widths in itertools.product(*table.values()):
        if sum(size * b for size, b in zip(sizes.values(), widths, strict=True)) <= budget_bits:
            best = min(best, sum(abs(table[name][b]) for name, b in zip(table, widths, strict=True)))
    return best


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("decades", [0, 3, 12])
def test_assignment_is_the_best_of_all(seed: int, decades: int) -> None:
    """5 layers, 3 widths: all 243 assignments, at budgets from the smallest to the largest. The solver drops what is
    less than 1e-12 of the largest score, which matters where scores span more decades."""
    rng = np.random.default_rng(seed)
    sizes = {name: int(rng.integers(1, [40, 10**7][seed % 2])) for name in "abcde"}
    table = {
        name: {
            b: float(rng.uniform(0.2, 1) * 10.0 ** (decades * rng.uniform(-1, 1)) / 4**b) for b in (2, 4, 8)
        }
        for name in sizes
    }
    total = sum(sizes.values())
    for mean in (2, 2.25, 3, 4.1, 5, 6.5, 7.75, 8, 9):
        found = assign(table, sizes, mean_bits=mean)
        best, largest = (
            brute(table, sizes, mean * total + 1e-6),
            max(max(row.values()) for row in table.values()),
        )
        assert found.score == pytest.approx(best, rel=1e-11, abs=1e-11 * largest)
        assert found.score == pytest.approx(sum(table[n][b] for n, b in found.bits.items()), rel=1e-15)
        assert found.bytes == sum(sizes[n] * b for n, b in found.bits.items()) / 8
        assert found.bytes <= found.budget_bytes == pytest.approx(mean * total / 8, rel=1e-15)
        if decades < 12:  # no bit less would do
            assert assign(table, sizes, budget_bytes=found.bytes).bits == found.bits


@pytest.mark.parametrize("seed", range(20))
def test_scores_that_fall_in_any_way(seed: int) -> None:
    """Late or early, or rise: what a width saves need not shrink as widths grow."""
    rng = np.random.default_rng(seed)
    sizes = {name: int(rng.integers(1, 9)) for name in "abcdef"}
    table = {name: dict(zip((2, 3, 5, 8), rng.standard_normal(4).tolist(), strict=True)) for name in sizes}
    for mean in (2.5, 3, 4.25, 6):
        found = assign(table, sizes, mean_bits=mean)
        assert found.score == pytest.approx(brute(table, sizes, mean * sum(sizes.values())), rel=1e-14)


def test_nothing_reaches_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    """HiGHS prints lines of its own on tables like these (it does when called as it is)."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        sizes = {str(i): int(10 ** rng.uniform(2, 6.4)) for i in range(int(rng.integers(8, 60)))}
        base = {name: 10 ** rng.uniform(-6, 0) for name in sizes}
        table = {name: {b: base[name] / 4**b for b in (2, 3, 4, 6, 8)} for name in sizes}
        found = assign(table, sizes, mean_bits=4)
        assert found.bytes <= found.budget_bytes
    print("still there")
    assert capfd.readouterr().out == "still there\n"


def test_greedy_would_miss_it() -> None:
    """By gain for a bit, `small` goes first and leaves no room; widening `large` alone saves ten times as much."""
    table = {"small": {2: 2.0, 4: 0.0}, "large": {2: 10.0, 4: 0.0}}
    found = assign(
        table, {"small": 1, "large": 10}, budget_bytes=42 / 8
    )  # 22 bits at least, 20 more for `large`
    assert found.bits == {"small": 2, "large": 4}
    assert (found.score, found.bytes, found.budget_bytes) == (2.0, 5.25, 5.25)


def test_negative_scores_are_no_reward() -> None:
    """Negative curvature costs as much as positive: more bits where the error is larger in size."""
    table = {"a": {2: -8.0, 4: -1.0}, "b": {2: 5.0, 4: 1.0}}
    found = assign(table, {"a": 1, "b": 1}, mean_bits=3)
    assert found.bits == {"a": 4, "b": 2}
    assert found.score == 6.0


def test_no_width_is_wider_than_it_need_be() -> None:
    table = {
        "dead": {2: 0.0, 4: 0.0, 8: 0.0},
        "odd": {2: 1.0, 4: 0.5, 8: 0.7},
        "live": {2: 3.0, 4: 1.0, 8: 0.2},
    }
    found = assign(table, dict.fromkeys(table, 10), mean_bits=8)
    assert found.bits == {"dead": 2, "odd": 4, "live": 8}
    either = {"a": {2: 1.0, 4: 0.0}, "b": {2: 1.0, 4: 0.0}}  # 10 bits and 14 bits have the same score
    assert assign(either, {"a": 1, "b": 3}, budget_bytes=15 / 8).bits == {"a": 4, "b": 2}


def test_equal_layers() -> None:
    """Scores that are proportional to sizes in every digit: all assignments of one size are equally good."""
    sizes = {str(i): 100 for i in range(60)}
    found = assign({name: {4: 2.0, 8: 1.0} for name in sizes}, sizes, mean_bits=6)
    assert (found.score, found.bytes) == (90.0, 60 * 100 * 6 / 8)


def test_budget_is_read_as_written() -> None:
    """4.1 bits of 10 weights are 41 bits, although 4.1 * 10 of floating point numbers need not be."""
    for tenths in range(21, 80):
        found = assign({"a": {b: 1.0 / b for b in range(1, 80)}}, {"a": 10**6}, mean_bits=tenths / 10)
        assert found.budget_bytes == tenths * 10**5 / 8
        assert found.bits == {"a": tenths // 10}
    exact = assign({"a": {2: 2.0, 3: 0.0}, "b": {1: 1.0, 2: 0.0}}, {"a": 7, "b": 3}, mean_bits=2.7)
    assert exact.bits == {"a": 3, "b": 2}  # 27 of 27 bits
    assert json.loads(json.dumps(exact.as_dict())) == {
        "bits": {"a": 3, "b": 2}, "score": 0.0, "bytes": 3.375, "budget_bytes": 3.375,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"mean_bits": 1.9},
            r"2.375 bytes \(1.9 bits a weight\) is too small: .* take 2.5 bytes \(2 bits a weight\)",
        ),
        ({"budget_bytes": 2}, "budget of 2 bytes .* is too small"),
        ({}, "one of the two"),
        ({"mean_bits": 4, "budget_bytes": 9}, "one of the two"),
        ({"mean_bits": float("nan")}, "a number above 0, not nan"),
        ({"mean_bits": float("inf")}, "a number above 0, not inf"),
        ({"budget_bytes": -1}, "a number above 0, not -1"),
        ({"sizes": {"b": 3}, "mean_bits": 4}, "no size for the layer 'a'"),
        ({"sizes": {"a": 0, "b": 3}, "mean_bits": 4}, "size of 'a' must be a number of weights"),
        (
            {"scores": {"a": {2: float("nan")}, "b": {2: 1.0}}, "mean_bits": 4},
            "score of 'a' at 2 bits is nan",
        ),
        ({"scores": {"a": {}}, "mean_bits": 4}, "no score for 'a'"),
        ({"scores": {}, "mean_bits": 4}, "no layers"),
    ],
    ids=str,
)
def test_wrong_budgets_and_tables(options: dict[str, Any], said: str) -> None:
    table = {"a": {2: 1.0, 4: 0.5}, "b": {2: 1.0, 4: 0.5}}
    with pytest.raises(InputError, match=said):
        assign(**{"scores": table, "sizes": {"a": 7, "b": 3}, **options})


# Pruning ---------------------------------------------------------------------------------------------------------


def test_saliency_is_the_rise_of_a_diagonal_quadratic_loss() -> None:
    """f(w) = sum h_i (w_i - m_i)^2 / 2 at its minimum m: setting one weight to zero raises it by its saliency."""
    minimum, h = some(2, 3), np.abs(some(2, 3, seed=1))
    found = saliency({"w": minimum}, {"w": h})["w"]
    for index in np.ndindex(2, 3):
        w = minimum.copy()
        w[index] = 0
        assert found[index] == pytest.approx(np.sum(h * (w - minimum) ** 2) / 2, rel=1e-14)


def test_least_salient_weights_go() -> None:
    weights = {"a": some(7, 9), "b": some(30, seed=1).astype(np.float32), "c": some(seed=2)}
    sizes = {name: np.size(w) for name, w in weights.items()}
    values = saliency(weights, {name: some(*np.shape(w), seed=5) for name, w in weights.items()})
    flat = np.concatenate([np.abs(v).ravel() for v in values.values()])
    for fraction in (0.0, 0.1, 0.15, 1 / 3, 0.5, 0.99, 1.0, 1, 0):
        found = prune(values, fraction)
        count = round(fraction * flat.size)
        gone = np.concatenate([~mask.ravel() for mask in found.masks.values()])
        assert {name: mask.shape for name, mask in found.masks.items()} == {
            n: np.shape(w) for n, w in weights.items()
        }
        assert gone.sum() == sum(found.pruned.values()) == count
        np.testing.assert_array_equal(np.sort(flat[gone]), np.sort(flat)[:count])
        assert found.threshold == (np.sort(flat)[count - 1] if count else 0.0)
        for name, share in found.shares.items():
            assert share == found.pruned[name] / sizes[name]
        removed = sum(values[name][~mask].sum() for name, mask in found.masks.items())
        assert found.predicted_increase == pytest.approx(removed, rel=1e-12, abs=1e-15)


def test_exactly_the_fraction_goes_also_among_equals() -> None:
    values = {"a": np.zeros((4, 5)), "b": np.ones(5), "c": np.full(75, -1.0)}
    found = prune(values, 0.1)
    np.testing.assert_array_equal(found.masks["a"].ravel(), [False] * 10 + [True] * 10)
    found = prune(values, 0.22)
    assert found.pruned == {"a": 20, "b": 2, "c": 0}
    np.testing.assert_array_equal(found.masks["b"], [False, False, True, True, True])
    assert (found.threshold, found.predicted_increase) == (1.0, 2.0)
    assert prune({"a": np.ones(100)}, 0.29).pruned == {"a": 29}  # 0.29 * 100 is 28.999999999999996


def test_negative_saliencies_rank_by_their_size() -> None:
    found = prune({"w": np.array([-5.0, 0.1, -0.2, 3.0])}, 0.5)
    np.testing.assert_array_equal(found.masks["w"], [True, False, False, True])
    assert found.threshold == 0.2
    assert found.predicted_increase == pytest.approx(-0.1, rel=1e-15)
    assert json.loads(json.dumps(found.as_dict())) == {
        "fraction": 0.5, "threshold": 0.2, "predicted_increase": found.predicted_increase,
        "layers": [{"name": "w", "size": 4, "pruned": 2, "share": 0.5}],
    }  # fmt: skip


def test_wrong_saliencies_and_fractions() -> None:
    with pytest.raises(InputError, match="only one has 'b', 'c'"):
        saliency({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2), "c": np.ones(2)})
    with pytest.raises(InputError, match=r"'a': weights have shape \[2\], the diagonal has \[2, 1\]"):
        saliency({"a": np.ones(2)}, {"a": np.ones((2, 1))})
    with pytest.raises(InputError, match="'a': weights or diagonal hold NaN"):
        saliency({"a": np.ones(2)}, {"a": np.array([1.0, np.nan])})
    for fraction in (-0.1, 1.1, float("nan"), "0.5", None, True):
        with pytest.raises(InputError, match="must be from 0 to 1"):
            prune({"a": np.ones(2)}, fraction)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no weights to prune"):
        prune({}, 0.5)
