"""docs/runtime.md is true: its Python, its command lines and its JavaScript run, and find the same numbers."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import ROOT, blocks
from scipy.sparse.linalg import eigsh
from torch import nn

import bnrewrite
from bnrewrite import cli, runtime
from bnrewrite.models import digits, resnet8_digits
from bnrewrite.runtime import eigen

PAGE = ROOT / "docs" / "runtime.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo leaves behind, of an untrained network and a few digits."""
    folder = tmp_path_factory.mktemp("page")
    demo = folder / "bnrewrite-demo"
    demo.mkdir()
    torch.manual_seed(0)
    model = resnet8_digits()
    x, y = (part[:8] for part in digits("test"))
    bnrewrite.export_onnx(model, demo / "curvature.onnx", (x[:8], y[:8]), bn="batch")
    bnrewrite.export_onnx(model, demo / "running.onnx", (x[:8], y[:8]), bn="running")
    torch.save(model.state_dict(), demo / "weights.pt")
    np.savez(demo / "digits.npz", input=x.numpy(), target=y.numpy())
    return folder


def test_python_and_command_lines_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page. Numbers are coarse and the long run is short."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        eigen, "eigsh", lambda operator, **options: eigsh(operator, **(options | {"tol": 0.1}))
    )
    namespace: dict[str, Any] = {}
    for block in sorted((*blocks(PAGE, "python"), *blocks(PAGE, "sh")), key=lambda block: block.line):
        if block.language == "python":
            block.run(namespace)
            continue
        (words,) = map(shlex.split, block.text.splitlines())
        short = ["--samples", "4", "--steps", "4", "--probes", "2"] if words[1] == "curvature" else []
        assert cli.main([*words[1:], *short]) == 0
    assert namespace["plan"].bytes <= namespace["plan"].budget_bytes
    assert abs(namespace["moved"].loss - namespace["c"].loss) < 0.5
    names = {file.name for file in folder.iterdir()}
    assert {"movable.onnx", "run.ckpt", "results.json", "spectrum.svg", "report.html"} <= names


def test_every_estimator_is_in_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in (
        "eigs", "trace", "diagonal", "spectral_density", "layer_traces", "quadratic_form", "solve", "sensitivity",
        "landscape",
    ):  # fmt: skip
        assert f"| `c.{name}(" in text
        assert callable(getattr(runtime.Curvature, name))


def test_the_same_numbers_in_javascript(tmp_path: Path) -> None:
    """With Node, and onnxruntime-node from the folder in BNREWRITE_NODE_MODULES or from npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None:
        pytest.skip("there is no Node here")
    installed = os.environ.get("BNREWRITE_NODE_MODULES")
    if installed is not None:
        (tmp_path / "node_modules").symlink_to(Path(installed).resolve())
    elif npm is None or not _install(npm, tmp_path):
        pytest.skip("onnxruntime-node cannot be installed here")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(20, 6), torch.randint(3, (20,))
    bnrewrite.export_onnx(model, tmp_path / "curvature.onnx", (x[:4], y[:4]))
    data = {"shape": [20, 6], "input": x.reshape(-1).tolist(), "target": y.tolist()}
    (tmp_path / "data.json").write_text(json.dumps(data), encoding="utf-8")
    (block,) = blocks(PAGE, "js")
    (tmp_path / "curvature.mjs").write_text(block.text, encoding="utf-8")
    done = subprocess.run(
        [node, "curvature.mjs", "curvature.onnx", "data.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    c = runtime.open(tmp_path / "curvature.onnx", (x.numpy(), y.numpy()))
    assert found["loss"] == pytest.approx(c.loss, rel=1e-6)
    assert found["gradient_norm"] == pytest.approx(np.linalg.norm(c.space.flatten(c.grad())), rel=1e-5)
    assert found["eigenvalue"] == pytest.approx(c.eigs(1).values[0], rel=1e-4)


def _install(npm: str, folder: Path) -> bool:
    """Its scripts would fetch what only CUDA needs."""
    words = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "onnxruntime-node"]
    try:
        return (
            subprocess.run(words, cwd=folder, capture_output=True, check=False, timeout=120).returncode == 0
        )
    except subprocess.TimeoutExpired:
        return False
