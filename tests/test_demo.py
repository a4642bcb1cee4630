"""The demo: trains, exports, verifies and measures real digits; what it prints and leaves behind can be used."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bnrewrite import cli, demo, runtime
from bnrewrite.errors import FileError
from bnrewrite.models import digits, resnet8_digits

pytest.importorskip("sklearn")

HELD_OUT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run: three epochs, curvature over a few digits."""
    return tmp_path_factory.mktemp("demo") / "new" / "place"


def test_short_run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "STEPS", 8)
    monkeypatch.setattr(demo, "SAMPLES", 12)
    assert demo.run(folder, epochs=3, seed=1, held_out=HELD_OUT)
    captured = capsys.readouterr()
    assert {file.name for file in folder.iterdir()} == {
        "initial.onnx",
        "curvature.onnx",
        "running.onnx",
        "weights.pt",
        "digits.npz",
        "results.json",
        "report.html",
    }
    out = captured.out
    assert re.search(
        r"Trained ResNet-8 on 1438 digits for 3 epochs in [\d.]+ s: it reads \d+\.\d% of 40 held-out", out
    )
    assert "passed: all 5 errors are within their bars" in out
    notes = [line for line in captured.err.splitlines() if ", step " not in line]
    assert [line.split(":")[1].split()[0] for line in notes] == ["note"] * 4

    # The numbers of the table against PyTorch on the saved weights.
    model = resnet8_digits()
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    x, y = digits("test", seed=1)
    parameters = list(model.double().parameters())
    loss = nn.functional.cross_entropy(model(x[:HELD_OUT].double()), y[:HELD_OUT])
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    norm = torch.stack([g.square().sum() for g in gradient]).sum().sqrt()
    v = [(g / norm).detach() for g in gradient]
    product = torch.autograd.grad(sum((g * w).sum() for g, w in zip(gradient, v, strict=True)), parameters)
    along = sum((h * w).sum() for h, w in zip(product, v, strict=True))
    assert abs(after(out, "loss") - loss.item()) < 1e-4
    assert abs(after(out, "gradient norm |g|") - norm.item()) < 1e-4
    assert abs(after(out, "v.Hv along v = g / |g|") - float(along)) < 2e-3
    assert after(out, "largest eigenvalue of H") >= after(out, "v.Hv along v = g / |g|") - 1e-3
    c = runtime.open(folder / "curvature.onnx", (x[:HELD_OUT].numpy(), y[:HELD_OUT].numpy()))
    assert abs(c.eigs(which="LA", seed=7).values[0] - after(out, "largest eigenvalue of H")) < 1e-3

    # The commands that it prints.
    commands = [line.strip() for line in out.split("Next:\n")[1].splitlines()]
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command)
        start = next(i for i, word in enumerate(words) if word in ("inspect", "verify", "curvature"))
        assert cli.main(words[start:]) == 0, command


def test_report(folder: Path) -> None:
    """Three spectra, two comparisons, layers and widths; the numbers are those of the results beside it."""
    results = json.loads((folder / "results.json").read_text())
    assert [results[name]["statistics"] for name in ("before", "after", "running")] == [
        "batch",
        "batch",
        "running",
    ]
    for name, found in results.items():
        assert found["complete"], name
    spectrum = results["after"]
    assert len(spectrum["layers"]["layers"]) == 23
    assert spectrum["density"]["support"][1] >= spectrum["eigs"]["values"][0] * (1 - 1e-2)
    assert (
        results["sensitivity"]["assignment"]["bytes"] <= results["sensitivity"]["assignment"]["budget_bytes"]
    )
    page = (folder / "report.html").read_text()
    for text in ("Before and after training", "Batch against running statistics", "layer3.0.conv2.weight"):
        assert text in page
    assert page.count("<img") >= 5


def after(out: str, row: str) -> float:
    """The number after training, with batch statistics, in a row of the table."""
    (found,) = re.findall(rf"^ *{re.escape(row)} +[-\d.e]+ +(\S+) +[-\d.e]+$", out, re.MULTILINE)
    return float(found)


def test_training_reads_the_digits() -> None:
    """As long as the demo trains by default: well past the 97 % that it promises, in seconds."""
    torch.manual_seed(0)
    model = resnet8_digits()
    right, _ = demo.fit(model, digits("train"), digits("test"), demo.EPOCHS, seed=0)
    assert right > 0.97
    assert model.training  # exported with batch statistics afterwards


def test_runs_are_reproducible() -> None:
    train = tuple(part[:256] for part in digits("train"))
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        model = resnet8_digits()
        demo.fit(model, train, train, 1, seed)
        weights.append(model.fc.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_command_and_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"the directory '.*file' cannot be made"):
        demo.run(tmp_path / "file")
    calls = []
    monkeypatch.setattr(demo, "run", lambda *a, **k: calls.append((a, k)) or len(calls) == 1)
    assert cli.main(["demo"]) == 0
    assert cli.main(["demo", "there", "--epochs", "2", "--seed", "5"]) == 1
    assert calls == [
        ((Path("bnrewrite-demo"),), {"epochs": demo.EPOCHS, "seed": 0}),
        ((Path("there"),), {"epochs": 2, "seed": 5}),
    ]
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    capsys.readouterr()
    assert cli.main(["demo", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err == (
        "bnrewrite: error: the digits come with scikit-learn, which is not installed: pip install bnrewrite[demo]\n"
    )


def test_accuracy_leaves_the_mode_alone() -> None:
    model = resnet8_digits()
    model.bn1.eval()
    x, y = (part[:32] for part in digits("test"))
    right = demo.accuracy(model, x, y)
    assert [module.training for module in (model, model.bn1, model.fc)] == [True, False, True]
    predicted = model.eval()(x).argmax(1)
    assert right == np.mean((predicted == y).numpy())
