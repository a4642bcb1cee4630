"""`bnrewrite curvature`, `sensitivity` and `landscape`: results, pictures, pages, partial runs, and refusals."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import bnrewrite
from bnrewrite import cli, runtime

Call = Callable[..., "Done"]


class Done(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> Done:
        capsys.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with its weights, one that takes them, and data; 149 parameters."""
    folder = tmp_path_factory.mktemp("running")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 5), nn.Linear(5, 3)
    ).double()
    x, y = torch.randn(30, 6, dtype=torch.float64), torch.randint(3, (30,))
    bnrewrite.export_onnx(model, folder / "c.onnx", (x, y), products=("hvp", "ggn", "residual"))
    bnrewrite.export_onnx(model, folder / "inputs.onnx", (x, y), params="inputs")
    torch.save(model.state_dict(), folder / "weights.pt")
    np.savez(folder / "weights.npz", **{name: p.detach().numpy() for name, p in model.named_parameters()})
    np.savez(folder / "data.npz", input=x.numpy(), target=y.numpy())
    np.savez(folder / "more.npz", input=x.numpy()[:7] + 1, target=y.numpy()[:7])
    np.savez(folder / "objects.npz", input=np.array([{}]), target=np.array([1]))
    nan = x.numpy().copy()
    nan[12, 3] = np.nan
    np.savez(folder / "nan.npz", input=nan, target=y.numpy())
    return folder


def test_curvature_alone_is_the_largest_eigenvalue(call: Call, folder: Path) -> None:
    done = call("curvature", folder / "c.onnx", "--data", folder / "data.npz")
    assert (done.status, done.err) == (0, "")
    c = runtime.open(folder / "c.onnx", folder / "data.npz")
    assert re.search(rf"^ *loss +{c.loss:.6g}$", done.out, re.MULTILINE)
    assert re.search(rf"^ *eigenvalue 1 of H +{c.eigs().values[0]:.6g} +residual", done.out, re.MULTILINE)
    assert "30 samples in 1 batch, batch statistics, 149 parameters" in done.out


def test_everything_as_json_pictures_page_and_arrays(call: Call, folder: Path, tmp_path: Path) -> None:
    done = call(
        "curvature", folder / "c.onnx", "--data", folder / "data.npz", "--batch", 15, "--top", 4, "--which", "LA",
        "--trace", "--diagonal", "--density", "--layers", "--samples", 20, "--steps", 12, "--probes", 2, "--seed", 3,
        "--threads", 1, "--provider", "CPUExecutionProvider",
        "--json", "-", "--plot", tmp_path / "c.svg", "--report", tmp_path / "c.html", "--arrays", tmp_path / "c.npz",
    )  # fmt: skip
    assert (done.status, done.err) == (0, "")
    found = json.loads(done.out)
    x, y = (np.load(folder / "data.npz")[key] for key in ("input", "target"))
    c = runtime.open(folder / "c.onnx", [(x[:15], y[:15]), (x[15:], y[15:])])
    assert found["loss"] == pytest.approx(c.loss, rel=1e-14)
    assert found["data"] == {"source": str(folder / "data.npz"), "batches": 2, "samples": 30}
    np.testing.assert_allclose(found["eigs"]["values"], c.eigs(4, which="LA").values, rtol=1e-8)
    assert found["trace"]["value"] == pytest.approx(c.trace(samples=20, seed=3).value, rel=1e-12)
    layers = c.layer_traces(tol=0.05, samples=20, seed=3)
    assert {row["name"]: row["trace"] for row in found["layers"]["layers"]} == pytest.approx(layers.traces)
    np.testing.assert_allclose(
        found["density"]["density"], c.spectral_density(steps=12, probes=2, seed=3).density
    )
    arrays = np.load(tmp_path / "c.npz")
    np.testing.assert_allclose(
        arrays["diagonal"], c.diagonal(samples=20, seed=3).values, rtol=1e-9, atol=1e-12
    )
    assert arrays["eigenvectors"].shape == (149, 4)
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")
    page = (tmp_path / "c.html").read_text()
    assert "0.weight" in page and "data.npz" in page
    shown = call(
        "curvature", folder / "c.onnx", "--data", folder / "data.npz", "--matrix", "ggn", "--trace", "--diagonal",
        "--density", "--layers", "--top", 1, "--samples", 20, "--json", tmp_path / "c.json",
    )  # fmt: skip
    assert shown.status == 0
    for text in (
        "trace of G",
        "spectrum of G within",
        "diagonal of G",
        "tr(G_l) / n_l",
        "Diagonal of G (xdiag, 20",
    ):
        assert text in shown.out
    assert json.loads((tmp_path / "c.json").read_text())["matrix"] == "ggn"
    page = tmp_path / "r.html"
    shown = call(
        "curvature",
        folder / "c.onnx",
        "--data",
        folder / "data.npz",
        "--matrix",
        "residual",
        "--report",
        page,
    )
    assert shown.status == 0 and "eigenvalue 1 of R" in shown.out
    assert "what the model itself curves, R = H - G" in page.read_text()


def test_several_files_are_batches(call: Call, folder: Path) -> None:
    files = folder / "data.npz", folder / "more.npz"
    done = call("curvature", folder / "c.onnx", "--data", files[0], "--data", files[1], "--json", "-")
    found = json.loads(done.out)
    assert found["data"]["batches"] == 2 and found["data"]["samples"] == 37
    pairs = [tuple(np.load(file)[key] for key in ("input", "target")) for file in files]
    assert found["loss"] == pytest.approx(runtime.open(folder / "c.onnx", pairs).loss, rel=1e-14)


def test_sensitivity(call: Call, folder: Path, tmp_path: Path) -> None:
    arguments = (
        "sensitivity",
        folder / "c.onnx",
        "--data",
        folder / "data.npz",
        "--bits",
        "2,3,8",
        "--samples",
        20,
    )
    done = call(
        *arguments, "--mean-bits", 3.5, "--prune", 0.25, "--masks", tmp_path / "masks.npz", "--json", "-",
        "--plot", tmp_path / "s.png", "--report", tmp_path / "s.html",
    )  # fmt: skip
    assert (done.status, done.err) == (0, "")
    found = json.loads(done.out)
    c = runtime.open(folder / "c.onnx", folder / "data.npz")
    expected = c.sensitivity((2, 3, 8), samples=20)
    assert [row["name"] for row in found["layers"]] == ["0.weight", "3.weight", "4.weight"]
    weights = np.load(folder / "weights.npz")
    for row in found["layers"]:
        w = weights[row["name"]]
        step = np.abs(w).max(axis=1, keepdims=True) / 3  # 3 bits: -3 to 3
        error = np.sum((np.rint(w / step) * step - w) ** 2)
        assert row["errors"]["3"] == pytest.approx(error, rel=1e-12)
        assert row["scores"]["3"] == pytest.approx(expected.traces.means[row["name"]] * error, rel=1e-9)
    assert found["assignment"]["bytes"] <= found["assignment"]["budget_bytes"] == 3.5 * 114 / 8
    assert found["assignment"]["bits"] == expected.assign(mean_bits=3.5).bits
    masks = np.load(tmp_path / "masks.npz")
    assert sum(int((~masks[name]).sum()) for name in masks.files) == round(0.25 * 114)
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    shown = call(*arguments, "--budget", 60)
    assert shown.status == 0 and "of 60 bytes" in shown.out and "score at 8 bits" in shown.out


@pytest.mark.parametrize("directions", ["random", "eigs"])
def test_landscape(call: Call, folder: Path, tmp_path: Path, directions: str) -> None:
    arguments = (
        "landscape",
        folder / "inputs.onnx",
        "--data",
        folder / "data.npz",
        "--points",
        5,
        "--extent",
        0.2,
    )
    done = call(
        *arguments, "--weights", folder / "weights.pt", "--directions", directions, "--json", tmp_path / "l.json",
        "--plot", tmp_path / "l.png",
    )  # fmt: skip
    assert (done.status, done.err) == (0, "")
    found = json.loads((tmp_path / "l.json").read_text())
    plane = np.array(found["loss"])
    assert plane.shape == (5, 5)
    assert plane[2, 2] == pytest.approx(found["centre"], rel=1e-12)
    c = runtime.open(
        folder / "inputs.onnx", folder / "data.npz", parameters=dict(np.load(folder / "weights.npz"))
    )
    assert found["centre"] == pytest.approx(c.loss, rel=1e-14)
    if directions == "eigs":  # second differences through the centre are the eigenvalues
        near = c.landscape(directions="eigs", points=3, extent=1e-4)
        for line, value in zip((near.loss[1], near.loss[:, 1]), near.eigenvalues or (), strict=True):
            assert (line[0] - 2 * line[1] + line[2]) / 1e-8 == pytest.approx(value, rel=1e-3)
    else:
        same = call(*arguments, "--weights", folder / "weights.npz")
        assert "loss over 5x5 points along two random filter-normalised directions, batch" in same.out


# Long runs -----------------------------------------------------------------------------------------------------


def started(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    program = "import sys; sys.modules['torch'] = None\nfrom bnrewrite.cli import main\nsys.exit(main())"
    words = [
        str(word) for word in ("curvature", folder / "c.onnx", "--data", folder / "data.npz", *arguments)
    ]
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_an_interrupted_run_leaves_a_partial_result(folder: Path, tmp_path: Path) -> None:
    """Without PyTorch at that. The run stores its steps, and goes on from them."""
    forever = (
        "--top",
        1,
        "--layers",
        "--samples",
        10**9,
        "--tol",
        1e-9,
        "--json",
        "-",
        "--checkpoint",
        tmp_path / "run",
    )
    process = started(folder, *forever)
    while not (tmp_path / "run").exists() or (tmp_path / "run").stat().st_size < 40_000:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopping after this step; Ctrl-C again ends at once" in err
    assert "stopped early: the results are partial, and marked so" in err
    found = json.loads(out)
    assert found["complete"] is False and found["eigs"]["complete"] is True
    layers = found["layers"]
    assert layers["complete"] is False and layers["samples"] > 5
    again = runtime.open(folder / "c.onnx", folder / "data.npz", checkpoint=tmp_path / "run")
    expected = again.layer_traces(samples=layers["samples"])
    assert {row["name"]: row["trace"] for row in layers["layers"]} == expected.traces


def test_a_run_that_goes_on_ends_with_the_same_numbers(call: Call, folder: Path, tmp_path: Path) -> None:
    arguments = (
        "curvature", folder / "c.onnx", "--data", folder / "data.npz", "--top", 2, "--trace", "--density", "--steps", 9,
        "--samples", 20, "--json", "-",
    )  # fmt: skip
    records = []
    for more in ((), ("--checkpoint", tmp_path / "run"), ("--checkpoint", tmp_path / "run")):
        record = json.loads(call(*arguments, *more).out)
        for name in ("eigs", "trace", "density"):
            del record[name]["seconds"]
        records.append(record)
    assert records[0] == records[1] == records[2]


# Refusals ------------------------------------------------------------------------------------------------------

DATA = "--data @/data.npz"
WRONG = {
    "no data": ("curvature @/c.onnx", "Missing option '--data'"),
    "no file": (f"curvature @/none.onnx {DATA}", "there is no file '.*none.onnx'"),
    "corrupted file": (f"curvature @/broken.onnx {DATA}", "'.*broken.onnx' cannot be opened by onnxruntime"),
    "foreign data": ("curvature @/c.onnx --data @/c.onnx", "'.*c.onnx' is no .npz file of plain arrays"),
    "pickles": ("curvature @/c.onnx --data @/objects.npz", "pickled objects are refused"),
    "no input": ("curvature @/c.onnx --data @/weights.npz", "has no array called 'input', 'target'"),
    "NaN": ("curvature @/c.onnx --data @/data.npz --data @/nan.npz", "batch 1 of the data: input holds NaN"),
    "class": ("curvature @/c.onnx --data @/class.npz", "target holds class 3, but the model has classes 0 to 2"),
    "shape": ("curvature @/c.onnx --data @/shape.npz", r"input has shape \[30, 5\], the file takes float64 \[N, 6\]"),
    "empty": ("curvature @/c.onnx --data @/empty.npz", "the batch is empty"),
    "rest of one": (f"curvature @/c.onnx {DATA} --batch 29", "batch 1 of the data: the BatchNorm in module '1' needs"),
    "two files cut": (f"curvature @/c.onnx {DATA} {DATA} --batch 5", "batch= cuts one pair"),
    "top": (f"curvature @/c.onnx {DATA} --top 150", "k must be a whole number from 1 to 149, the dimension"),
    "steps": (f"curvature @/c.onnx {DATA} --density --steps 150", "steps must be at most 149, the dimension"),
    "tol": (f"curvature @/c.onnx {DATA} --trace --tol 0", "tol must be a relative error above 0"),
    "product": (f"curvature @/inputs.onnx {DATA} --weights @/weights.npz --matrix ggn", "does not hold ggn, only hvp"),
    "provider": (f"curvature @/c.onnx {DATA} --provider TPU", "has no execution provider 'TPU'"),
    "picture": (f"curvature @/c.onnx {DATA} --plot @/x.gif", "is no picture: give a name that ends in .png or .svg"),
    "folder": (f"curvature @/c.onnx {DATA} --report @/none/x.html", "there is no directory '.*none'"),
    "checkpoint": (f"curvature @/c.onnx {DATA} --checkpoint @/weights.pt", "no checkpoint of bnrewrite, or is damaged"),
    "weights": (f"curvature @/c.onnx {DATA} --weights @/weights.npz", "holds its parameters: it takes none"),
    "no weights": (f"curvature @/inputs.onnx {DATA}", "takes its parameters as inputs: give parameters="),
    "bits": (f"sensitivity @/c.onnx {DATA} --bits 2,x", "'2,x' is no list of bit widths"),
    "one bit": (f"sensitivity @/c.onnx {DATA} --bits 1,4", "bits must be a whole number from 2 to 16, not 1"),
    "small budget": (f"sensitivity @/c.onnx {DATA} --mean-bits 1.5 --samples 2", "the budget of .* is too small"),
    "two budgets": (f"sensitivity @/c.onnx {DATA} --mean-bits 4 --budget 9", "give the budget as --mean-bits or"),
    "masks": (f"sensitivity @/c.onnx {DATA} --masks @/m.npz", "--masks saves what --prune finds"),
    "prune": (f"sensitivity @/c.onnx {DATA} --prune 2 --samples 2", "fraction of weights to prune must be from 0 to 1"),
    "fixed": (f"landscape @/c.onnx {DATA}", "holds its weights, so they cannot be moved: export it with"),
    "extent": (f"landscape @/inputs.onnx {DATA} --weights @/weights.npz --extent 0", "extent"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line(call: Call, folder: Path, case: str) -> None:
    (folder / "broken.onnx").write_bytes((folder / "c.onnx").read_bytes()[:2000])
    data = dict(np.load(folder / "data.npz"))
    np.savez(folder / "class.npz", input=data["input"], target=data["target"] + 1)
    np.savez(folder / "shape.npz", input=data["input"][:, :5], target=data["target"])
    np.savez(folder / "empty.npz", input=data["input"][:0], target=data["target"][:0])
    before = set(folder.iterdir())
    words, message = WRONG[case]
    done = call(*(word.replace("@", str(folder)) for word in words.split()))
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("bnrewrite: error: ") and done.err.count("\n") == 1
    assert re.search(message, done.err), done.err
    assert set(folder.iterdir()) == before


def test_a_product_that_overflows_names_the_batch(folder: Path) -> None:
    """Finite data and weights, but the loss of the second batch is not."""
    data = dict(np.load(folder / "data.npz"))
    weights: dict[str, Any] = dict(np.load(folder / "weights.npz"))
    weights["4.weight"] = weights["4.weight"] * 1e200
    weights["3.weight"] = weights["3.weight"] * 1e200
    c = runtime.open(folder / "inputs.onnx", [(data["input"], data["target"])] * 2, parameters=weights)
    with pytest.raises(bnrewrite.errors.NumericalError, match="is NaN or infinite on batch 0 of the data"):
        c.trace()
