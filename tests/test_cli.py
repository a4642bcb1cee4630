"""The command line: what each command prints, and that every wrong input gets one line and exit status 2."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import bnrewrite
from bnrewrite import cli
from bnrewrite.models import mlp_bn

MLP = "bnrewrite.models:mlp_bn"

FACTORIES = """
import torch
from torch import nn

print("imported")  # must not reach stdout

def tiny(num_classes=3):
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, num_classes))

def with_dropout():
    return nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.BatchNorm1d(5), nn.Linear(5, 3))

class OwnLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = tiny()
    def forward(self, x, target):
        return nn.functional.cross_entropy(self.net(x), target)

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)
    def forward(self, x, z):
        return self.a(x) * self.b(z)

class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else -self.fc(x)

class Pairs(nn.Module):
    def forward(self, x):
        return x, x

def eigen():
    class Eigen(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)
        def forward(self, x):
            return torch.linalg.eigvals(self.fc(x)[:3, :3]).real
    return Eigen()

def broken():
    raise ValueError("no such luck")

def number():
    return 3

module = tiny()
"""


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Done]]:
    """Run `main` in this process; paths and modules that it adds are taken back."""
    path, modules = list(sys.path), set(sys.modules)

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(status, captured.out, captured.err)

    yield run
    sys.path[:] = path
    for name in {"factories", "failing", "needing"} & set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of factories, an exported model, its weights and data."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "factories.py").write_text(FACTORIES)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    bnrewrite.export_onnx(model, folder / "tiny.onnx", (x, y))
    torch.save(model.state_dict(), folder / "tiny.pt")
    np.savez(folder / "data.npz", input=x.numpy(), target=y.numpy())
    return folder


# What comes out ------------------------------------------------------------------------------------------------


def test_export_verify_and_inspect(call: Callable[..., Done], folder: Path, tmp_path: Path) -> None:
    """A reference network needs nothing but its name, and the same name means the same weights."""
    file = tmp_path / "mlp.onnx"
    done = call("export", "--onnx", MLP, "-o", file, "--product", "hvp,ggn")
    assert (done.status, done.err) == (0, "")
    assert re.fullmatch(
        r".*mlp\.onnx: loss, grad, hvp, ggn of bnrewrite.models:mlp_bn in float32, 2 BatchNorm sites, "
        r"\d+ nodes, [\d.]+ kB, [\d.]+ s\n",
        done.out,
    )

    done = call("verify", file, "--model", MLP)
    assert (done.status, done.err) == (0, "")
    assert "against PyTorch's double backward in float64" in done.out
    assert re.search(r"^ggn\[1\] .* ok$", done.out, re.MULTILINE)
    assert done.out.endswith("passed: all 7 errors are within their bars\n")

    done = call("verify", file, "--model", MLP, "--seed", 1)
    assert (done.status, done.err) == (1, "")
    assert "the file holds other values than the model for 'layers.0.weight'" in done.out
    assert "FAILED: weights, loss, grad" in done.out

    done = call("inspect", file)
    assert (done.status, done.err) == (0, "")
    assert re.search(r"layers\.1 +Nx64 +batch +yes +1e-05 +models/mlp.py:\d+ +\d+$", done.out, re.MULTILINE)
    assert re.search(r"input +v\.\* +float32 +8 tensors, as the parameters$", done.out, re.MULTILINE)
    assert re.search(r"MatMul +\d+$", done.out, re.MULTILINE)
    assert "8 parameters with 6,666 entries" in done.out


def test_verify_without_a_model_and_with_data(call: Callable[..., Done], folder: Path) -> None:
    for data in ((), ("--data", folder / "data.npz")):
        done = call("verify", folder / "tiny.onnx", *data)
        assert (done.status, done.err) == (0, "")
        assert "hvp[0] against differences of grad" in done.out
    model = f"{folder / 'factories.py'}:tiny"
    done = call(
        "verify",
        folder / "tiny.onnx",
        "--model",
        model,
        "--weights",
        folder / "tiny.pt",
        "--data",
        folder / "data.npz",
    )
    assert (done.status, done.err) == (0, "imported\n")
    assert done.out.endswith("passed: all 5 errors are within their bars\n")


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_inspect_what_was_written_for_torch(call: Callable[..., Done], tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"mlp.{'pt' if kind == 'torchscript' else kind}"
    assert call("export", f"--{kind}", MLP, "-o", file).status == 0
    done = call("inspect", file)
    assert (done.status, done.err) == (0, "")
    assert re.search(r"layers\.1 +Nx64 +batch +yes +1e-05 +models/mlp.py:\d+", done.out)
    assert "8 parameters with 6,666 entries" in done.out


def test_structure_of_a_model(call: Callable[..., Done], folder: Path, tmp_path: Path) -> None:
    tiny, picture = f"{folder / 'factories.py'}:tiny", tmp_path / "tiny.svg"
    done = call("inspect", tiny, "--input", 4, "--plot", picture)
    assert (done.status, done.err) == (0, "imported\n")
    assert (
        "mixes samples in one place" in done.out and "BatchNorm1d" in done.out and "what exists" in done.out
    )
    assert picture.read_text().startswith("<?xml")
    found = json.loads(
        call("inspect", tiny, "--input", 4, "--structure", "--bn", "running", "--json", "-").out
    )
    assert found["kind"] == "structure" and found["model_simd"] is True and found["mixing"] == []


def test_inspect_model(call: Callable[..., Done], folder: Path) -> None:
    done = call("inspect", f"{folder / 'factories.py'}:tiny", "--input", 4)
    assert done.status == 0
    assert re.search(r"^ 1 +Nx5 +batch +yes +1e-05 ", done.out, re.MULTILINE)
    assert re.search(r"linear\.default +2 +hand-written$", done.out, re.MULTILINE)
    assert "imported" not in done.out


def test_json(call: Callable[..., Done], folder: Path, tmp_path: Path) -> None:
    exported = call("export", MLP, "-o", tmp_path / "m.onnx", "--json", "-")
    assert json.loads(exported.out)["products"] == ["hvp"]
    assert [site["module"] for site in json.loads(exported.out)["sites"]] == ["layers.1", "layers.4"]
    verified = json.loads(call("verify", folder / "tiny.onnx", "--json", "-").out)
    assert verified["passed"] is True
    inspected = json.loads(call("inspect", MLP, "--json", "-").out)
    assert inspected["parameters"] == {name: list(p.shape) for name, p in mlp_bn().named_parameters()}
    assert {row["operation"]: row["rule"] for row in inspected["operations"]}[
        "batch_norm.default"
    ] == "hand-written"
    done = call("inspect", folder / "tiny.onnx", "--json", tmp_path / "out.json")
    assert "BatchNorm sites" in done.out
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["opset"] == 18
    assert found["bytes"] == (folder / "tiny.onnx").stat().st_size
    assert sum(found["nodes"].values()) == len(onnx.load(folder / "tiny.onnx").graph.node)


def test_export_options(call: Callable[..., Done], folder: Path, tmp_path: Path) -> None:
    """Each option reaches the file."""
    file, factories = tmp_path / "f.onnx", folder / "factories.py"

    def exported(*arguments: object) -> dict[str, Any]:
        done = call("export", "--onnx", *arguments, "-o", file, "--json", "-")
        assert done.status == 0, done.err
        return json.loads(done.out)

    def inputs(found: dict[str, Any]) -> dict[str, Any]:
        return {name: (dtype, shape) for name, dtype, shape in found["inputs"]}

    found = exported(
        f"{factories}:tiny",
        "--input",
        "4",
        "--classes",
        7,
        "--dtype",
        "float64",
        "--opset",
        20,
        "--bn",
        "running",
    )
    assert inputs(found)["v.3.weight"] == ("float64", [7, 5])
    assert found["opset"] == 20
    assert found["sites"][0]["statistics"] == "running"

    found = exported(
        f"{factories}:tiny", "--input", "4", "--wrt", "3.*", "--wrt", "1.weight", "--params", "inputs"
    )
    assert list(found["parameters"]) == ["1.weight", "3.weight", "3.bias"]
    assert "0.weight" in inputs(found)

    found = exported(f"{factories}:Two", "--input", "4", "--input", "2", "--loss", "mse", "--batch", 5)
    assert inputs(found)["input.1"] == ("float32", ["N", 2])
    assert inputs(found)["target"] == ("float32", ["N", 3])

    found = exported(
        f"{factories}:OwnLoss", "--input", "4", "--loss", "none", "--classes", 3, "--wrt", "input"
    )
    assert list(found["parameters"]) == ["input"]
    assert call("verify", file, "--model", f"{factories}:OwnLoss").status == 0

    found = exported(f"{factories}:module", "--input", "4", "--loss", "bce_with_logits")
    assert found["loss"] == "bce_with_logits"


def test_notes_come_after_the_work(call: Callable[..., Done], folder: Path, tmp_path: Path) -> None:
    factory = f"{folder / 'factories.py'}:with_dropout"
    done = call("export", factory, "--input", 4, "-o", tmp_path / "f.onnx")
    assert done.status == 0
    assert re.search(
        r"^bnrewrite: note: random numbers are switched off: '1' act as .*\n\Z", done.err, re.MULTILINE
    )
    done = call("export", factory, "--input", 4, "--random", "error", "-o", tmp_path / "g.onnx")
    assert_refused(done, "module '1' draws random numbers")


def test_the_factory_is_seeded_and_the_generator_left_alone(
    call: Callable[..., Done], folder: Path, tmp_path: Path
) -> None:
    state = torch.random.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        call("export", f"{folder / 'factories.py'}:tiny", "--input", 4, "-o", tmp_path / name, "--seed", seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert call("inspect", tmp_path / "a").status == 0  # a file by any name
    weights = {
        name: {t.name: t.raw_data for t in onnx.load(tmp_path / name).graph.initializer}["0.weight"]
        for name in "abc"
    }
    assert weights["a"] == weights["b"] != weights["c"]


# Weights -------------------------------------------------------------------------------------------------------


def test_forms_of_weights(call: Callable[..., Done], folder: Path, tmp_path: Path) -> None:
    state = torch.load(folder / "tiny.pt", weights_only=True)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pt")
    torch.save(
        {"model": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "parallel.pt"
    )
    torch.save({n: t for n, t in state.items() if "num_batches" not in n}, tmp_path / "old.pth")
    from safetensors.torch import save_file

    save_file(state, tmp_path / "tensors.safetensors")
    for name in ("nested.pt", "parallel.pt", "old.pth", "tensors.safetensors"):
        model = f"{folder / 'factories.py'}:tiny"
        done = call("verify", folder / "tiny.onnx", "--model", model, "--weights", tmp_path / name)
        assert done.status == 0, done.out + done.err


def test_float64_weights_keep_their_digits(call: Callable[..., Done], folder: Path, tmp_path: Path) -> None:
    state = {
        n: t.double() / 3 if t.is_floating_point() else t for n, t in torch.load(folder / "tiny.pt").items()
    }
    torch.save(state, tmp_path / "double.pt")
    arguments = (f"{folder / 'factories.py'}:tiny", "--weights", tmp_path / "double.pt")
    call("export", *arguments, "--input", 4, "--dtype", "float64", "-o", tmp_path / "f.onnx")
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "f.onnx").graph.initializer}
    assert np.array_equal(stored["0.weight"], state["0.weight"].numpy())


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_export_for_torch(call: Callable[..., Done], folder: Path, tmp_path: Path, kind: str) -> None:
    """The file holds the weights that were given, and the command says what it wrote."""
    file = tmp_path / "tiny.pt"
    arguments = (f"{folder / 'factories.py'}:tiny", "--weights", folder / "tiny.pt", "--input", 4)
    done = call("export", f"--{kind}", *arguments, "--product", "hvp,ggn", "--json", "-", "-o", file)
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert (found["products"], found["dtype"]) == (["hvp", "ggn"], "float32")
    assert found["bytes"] == file.stat().st_size and sum(found["nodes"].values()) > 50
    load = torch.jit.load if kind == "torchscript" else lambda file: torch.export.load(file).module()
    weights = torch.load(folder / "tiny.pt", weights_only=True)
    stored = load(file).state_dict()
    assert stored and all(torch.equal(part, weights[name]) for name, part in stored.items())


# Refusals ------------------------------------------------------------------------------------------------------


def assert_refused(done: Done, message: str) -> None:
    """Exit status 2, nothing on stdout, one line on stderr (after what the user's own code prints)."""
    own = [line for line in done.err.splitlines() if line != "imported"]
    assert done.status == 2, done
    assert done.out == ""
    assert len(own) == 1, done.err
    assert re.search(f"^bnrewrite: error: .*{message}", own[0]), done.err


# Name of the case: (command line, message). `@` stands for the folder of files, `NET` for a factory in it.
REFUSALS: dict[str, tuple[str, str]] = {
    "no command": ("walk", "No such command 'walk'"),
    "no option": ("export MLP -o y --fast", "No such option"),
    "no model": ("export -o y", "Missing argument 'MODEL'"),
    "no output": ("export MLP", "Missing option '-o'"),
    "choice": ("export MLP -o y --bn eval", "Invalid value for '--bn': 'eval' is not one of"),
    "loss": ("export MLP -o y --loss huber", "Invalid value for '--loss'"),
    "number": ("export MLP -o y --batch many", "Invalid value for '--batch'"),
    "shape": ("export MLP -o y --input 3xx4", "'3xx4' is no shape; write the sizes of one sample"),
    "zero size": ("export MLP -o y --input 3x0", "'3x0' is no shape"),
    # MODEL
    "form of MODEL": ("export resnet18 -o y", "'resnet18' does not name a model: MODEL is"),
    "no module": ("export no.where:net -o y", "there is no module 'no' to import"),
    "relative module": ("export .models:net -o y", "is no name of a module"),
    "no factory": ("export bnrewrite.models:resnet1 -o y", "has no 'resnet1'. Did you mean resnet18"),
    "no file": ("export @/none.py:tiny -o y", "there is no file '.*none.py'"),
    "failing file": ("export @/failing.py:tiny -o y", "failed while it was run: ZeroDivisionError: division"),
    "exiting file": ("export @/exiting.py:tiny -o y", "failed while it was run: SystemExit: 3"),
    "needing file": ("export @/needing.py:tiny -o y", "ModuleNotFoundError: No module named 'not_there'"),
    "failing factory": ("export NET:broken -o y", "could not make a model: ValueError: no such luck"),
    "no module made": ("export NET:number -o y", "gave no model: model must be an nn.Module"),
    "not a factory": ("export NET:torch -o y", "is a module, not a function or class"),
    "arguments": ("export torch.nn:Linear -o y", "could not make a model: TypeError"),
    # The example
    "no input": ("export NET:tiny -o y", "Say it with --input, for example --input 3x64x64"),
    "wrong input": ("export MLP -o y --input 5", r"cannot take an input of shape \[16, 5\]: RuntimeError"),
    "surplus input": ("export NET:tiny --input 4 --input 4 -o y", r"of shape \[16, 4\] and \[16, 4\]: TypeError"),
    "two outputs": ("export NET:Pairs --input 4 -o y", "the model returns a tuple"),
    "classes": ("export NET:module --input 4 --classes 9 -o y", "--classes 9, but the model has 3"),
    "own loss": ("export NET:OwnLoss --input 4 --loss none -o y", "say the number of classes"),
    # The compiler
    "wrt": ("export MLP --wrt conv* -o y", "no parameter matches 'conv\\*'"),
    "product": ("export MLP --product hvp,jvp -o y", "must be one of 'hvp', 'ggn', 'residual', not 'jvp'"),
    "two kinds": ("export MLP --pt2 --torchscript -o y", "choose one of --onnx, --torchscript and --pt2, not"),
    "other kind": ("export MLP --pt2 --opset 18 -o y", "--opset is for ONNX files: leave it out with --pt2"),
    "opset": ("export MLP --opset 9 -o y", "opset 9 is not supported"),
    "branch": ("export NET:Branch --input 4 -o y", "data-dependent control flow at .*factories.py:"),
    "operation": ("export NET:eigen --input 4 -o y --loss mse", "linalg_eig"),
    # Files to write
    "folder": ("export MLP -o @", "is a directory: give the name of a file"),
    "no folder": ("export MLP -o @/none/y.onnx", "there is no directory '.*none'"),
    "json folder": ("inspect MLP --json @/none/y", "there is no directory '.*none'"),
    # Weights
    "no weights": ("export MLP --weights none.pt -o y", "there is no file 'none.pt'"),
    "other weights": ("export MLP --weights @/tiny.pt -o y", "it lacks 'layers.0.weight', .*has no '0.weight'"),
    "wrong shapes": ("export NET:tiny --input 4 --weights @/shape.pt -o y", "'0.weight' has shape .2., in the model"),
    "pickled weights": ("export MLP --weights @/pickled.pt -o y", "pickled objects are never executed here"),
    "text weights": ("export MLP --weights @/text.onnx -o y", "cannot be read as a checkpoint|more than tensors"),
    "list of weights": ("export MLP --weights @/list.pt -o y", "holds no state dict"),
    "safetensors": ("export MLP --weights @/bad.safetensors -o y", "cannot be read as safetensors"),
    # Files to read
    "no file to verify": ("verify @/none.onnx", "there is no file"),
    "corrupt file": ("verify @/text.onnx", "cannot be opened by onnxruntime"),
    "foreign file": ("verify @/foreign.onnx", "was not written by bnrewrite"),
    "foreign file to inspect": ("inspect @/foreign.onnx", "was not written by bnrewrite"),
    "structure of a file": ("inspect @/tiny.onnx --structure", "--structure and --plot are for models"),
    "structure as text": ("inspect MLP --plot structure.txt", "pictures are written as .png or .svg"),
    "weights without model": ("verify @/tiny.onnx --weights x", "give --model too"),
    "other model": ("verify @/tiny.onnx --model MLP", "does not fit the file: it has no parameter '0.weight'"),
    "no data": ("verify @/tiny.onnx --data @/none.npz", "there is no file"),
    "wrong data": ("verify @/tiny.onnx --data @/wrong.npz", "target holds class 3, but the model has classes 0 to 2"),
    "no data file": ("verify @/tiny.onnx --data @/text.onnx", "is no .npz file of plain arrays"),
}  # fmt: skip


@pytest.fixture(scope="module")
def bad_files(folder: Path) -> Path:
    (folder / "failing.py").write_text("1 / 0\n")
    (folder / "exiting.py").write_text("raise SystemExit(3)\n")
    (folder / "needing.py").write_text("import not_there\n")
    (folder / "text.onnx").write_text("hello")
    (folder / "bad.safetensors").write_text("hello")
    state = torch.load(folder / "tiny.pt", weights_only=True)
    torch.save(state | {"0.weight": torch.zeros(2)}, folder / "shape.pt")
    torch.save(nn.Linear(2, 2), folder / "pickled.pt")
    torch.save([torch.zeros(2)], folder / "list.pt")
    np.savez(folder / "wrong.npz", input=np.zeros((4, 4), np.float32), target=np.array([0, 1, 2, 3]))
    model = onnx.load(folder / "tiny.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "foreign.onnx")
    return folder


@pytest.mark.parametrize("case", REFUSALS)
def test_wrong_input(
    call: Callable[..., Done], bad_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, message = REFUSALS[case]
    words = (
        arguments.replace("MLP", MLP).replace("NET", "@/factories.py").replace("@", str(bad_files)).split()
    )
    assert_refused(call(*words), message)
    assert list(tmp_path.iterdir()) == []  # no file, whole or half


def test_a_failed_export_leaves_the_old_file(
    call: Callable[..., Done], bad_files: Path, tmp_path: Path
) -> None:
    (tmp_path / "old.onnx").write_text("precious")
    assert call("export", MLP, "--opset", "9", "-o", tmp_path / "old.onnx").status == 2
    assert (tmp_path / "old.onnx").read_text() == "precious"
    assert [file.name for file in tmp_path.iterdir()] == ["old.onnx"]


def test_safetensors_may_be_absent(
    call: Callable[..., Done], bad_files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    done = call("export", MLP, "--weights", bad_files / "bad.safetensors", "-o", tmp_path / "y")
    assert_refused(done, "needs the package safetensors, which is not installed")


def test_no_permission(call: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any work; asked of the system, since root may write everywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert_refused(call("export", MLP, "-o", tmp_path / "y"), "y' cannot be written: permission denied")
    (tmp_path / "f.onnx").write_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
    assert_refused(call("verify", tmp_path / "f.onnx"), "f.onnx' cannot be read: permission denied")


def test_interruption_and_the_unforeseen(
    call: Callable[..., Done], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(error: BaseException) -> Callable[..., Any]:
        def inspect_file(path: object) -> Any:
            raise error

        return inspect_file

    monkeypatch.setattr("bnrewrite.inspection.inspect_file", raising(KeyboardInterrupt()))
    assert call("inspect", folder / "tiny.onnx") == Done(130, "", "bnrewrite: error: interrupted.\n")
    monkeypatch.setattr("bnrewrite.inspection.inspect_file", raising(RuntimeError("a\nb")))
    done = call("inspect", folder / "tiny.onnx")
    assert_refused(done, r"RuntimeError: a b \(not foreseen: .*BNREWRITE_TRACEBACK=1")
    monkeypatch.setenv("BNREWRITE_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        call("inspect", folder / "tiny.onnx")


def test_help_and_version(call: Callable[..., Done]) -> None:
    for arguments in (
        (),
        ("--help",),
        ("-h",),
        ("export", "--help"),
        ("verify", "--help"),
        ("inspect", "-h"),
        ("demo", "-h"),
    ):
        done = call(*arguments)
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith("Usage: bnrewrite")
    assert call("--version").out == f"bnrewrite, version {bnrewrite.__version__}\n"


# As a program --------------------------------------------------------------------------------------------------


def program(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_help_does_not_load_torch() -> None:
    code = "import sys; from bnrewrite.cli import main; s = main(['--help']); sys.exit(s or 'torch' in sys.modules)"
    done = program("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "verify" in done.stdout


def test_module_and_exit_status(folder: Path) -> None:
    done = program("-m", "bnrewrite", "verify", folder / "none.onnx")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("bnrewrite: error: there is no file")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_leaves(folder: Path) -> None:
    """`bnrewrite inspect ... | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "bnrewrite", "inspect", str(folder / "tiny.onnx")]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
