"""A run that was killed goes on where it was and ends with the same numbers; another run's checkpoint is refused."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bnrewrite
from bnrewrite import runtime
from bnrewrite.errors import FileError, InputError
from bnrewrite.runtime.checkpoint import Checkpoint

DATA = [
    (np.random.default_rng(i).standard_normal((n, 6)), np.random.default_rng(i).integers(0, 3, n))
    for i, n in enumerate((9, 5))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)).double()
    example = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    bnrewrite.export_onnx(model, folder / "one.onnx", example)
    bnrewrite.export_onnx(model, folder / "inputs.onnx", example, params="inputs")
    bnrewrite.export_onnx(model, folder / "block.onnx", example, vectors=4)
    np.savez(folder / "weights.npz", **{name: p.detach().numpy() for name, p in model.named_parameters()})
    return folder


TASKS: dict[str, Callable[[runtime.Curvature], Any]] = {
    "eigs": lambda c: c.eigs(3).vectors,
    "hutchinson": lambda c: c.trace(method="hutchinson", tol=None, samples=20).value,
    "xtrace": lambda c: c.trace(method="xtrace", tol=None, samples=40).value,
    "hutch++": lambda c: c.trace(method="hutch++", tol=None, samples=60).value,
    "hutchinson diagonal": lambda c: c.diagonal(method="hutchinson", tol=None, samples=20).standard_error,
    "xdiag": lambda c: c.diagonal(method="xdiag", tol=None, samples=40).standard_error,
    "low rank": lambda c: c.low_rank(matrix="hessian", samples=60).values,
    "density": lambda c: c.spectral_density(steps=8, probes=4).density,
    "layers": lambda c: list(c.layer_traces(samples=20).standard_errors.values()),
    "solve": lambda c: c.solve(c.grad(), damping=2.0, tol=1e-11)[1].x,
}


class Killed(BaseException):
    """Nothing in the runtime catches it."""


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("file", ["one.onnx", "block.onnx"])
def test_the_same_numbers_after_a_restart(folder: Path, tmp_path: Path, task: str, file: str) -> None:
    ask = TASKS[task]
    uninterrupted = runtime.open(folder / file, DATA)
    expected = ask(uninterrupted)
    total = counted(uninterrupted)

    def kill(name: str, done: int, most: int, estimate: str) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise Killed

    steps = 0
    c = runtime.open(folder / file, DATA, progress=kill, checkpoint=tmp_path / "run")
    with pytest.raises(Killed):
        ask(c)
    again = runtime.open(folder / file, DATA, checkpoint=tmp_path / "run")
    assert np.array_equal(ask(again), expected)
    assert 0 < counted(again) < total
    third = runtime.open(folder / file, DATA, checkpoint=tmp_path / "run")
    assert np.array_equal(ask(third), expected)
    assert counted(third) <= (1 if task == "solve" else 0)  # its residual is computed, never stored


COUNTS: dict[int, list[int]] = {}


def counted(c: runtime.Curvature) -> int:
    """Vectors that went through the file."""
    return sum(COUNTS.get(id(c._over), []))


@pytest.fixture(autouse=True)
def _count(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnrewrite.runtime.over_data import OverData

    COUNTS.clear()
    plain = OverData.products

    def counting(self: OverData, product: str, rows: Any) -> Any:
        COUNTS.setdefault(id(self), []).append(len(rows))
        return plain(self, product, rows)

    monkeypatch.setattr(OverData, "products", counting)


KILLED = """
import os, sys, numpy as np
from bnrewrite import runtime
data = [(np.random.default_rng(i).standard_normal((n, 6)), np.random.default_rng(i).integers(0, 3, n))
        for i, n in enumerate((9, 5))]
def report(task, done, total, estimate):
    if done >= 12:
        os.kill(os.getpid(), 9)
c = runtime.open(sys.argv[1], data, checkpoint=sys.argv[2], progress=report)
c.layer_traces(samples=30)
"""


def test_a_process_that_is_killed_loses_nothing(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, folder / "one.onnx", tmp_path / "run"], check=False)
    assert done.returncode == -9
    c = runtime.open(folder / "one.onnx", DATA, checkpoint=tmp_path / "run")
    assert c.layer_traces(samples=30) == runtime.open(folder / "one.onnx", DATA).layer_traces(samples=30)
    assert counted(c) == 18


def test_other_seeds_and_samples_are_other_tasks(folder: Path, tmp_path: Path) -> None:
    for seed, samples in ((0, 12), (1, 12), (0, 20)):
        c = runtime.open(folder / "one.onnx", DATA, checkpoint=tmp_path / "run")
        found = c.layer_traces(samples=samples, seed=seed)
        assert found == runtime.open(folder / "one.onnx", DATA).layer_traces(samples=samples, seed=seed)
    assert counted(c) == 8  # twelve of the twenty probes were known


def test_what_it_belongs_to(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    runtime.open(folder / "one.onnx", DATA, checkpoint=run)
    with pytest.raises(
        InputError, match=r"the checkpoint '.*run' belongs to another exported file: give the name"
    ):
        runtime.open(folder / "block.onnx", DATA, checkpoint=run)
    with pytest.raises(InputError, match="belongs to another data set"):
        runtime.open(folder / "one.onnx", DATA[::-1], checkpoint=run)
    weights = dict(np.load(folder / "weights.npz"))
    runtime.open(folder / "inputs.onnx", DATA, parameters=weights, checkpoint=tmp_path / "other")
    weights["0.bias"] = weights["0.bias"] + 1
    with pytest.raises(InputError, match="belongs to another parameters"):
        runtime.open(folder / "inputs.onnx", DATA, parameters=weights, checkpoint=tmp_path / "other")


def test_files_that_are_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, and longer than a header of one hundred bytes " * 4)
    with pytest.raises(FileError, match=r"'.*text' is no checkpoint of bnrewrite, or is damaged"):
        runtime.open(folder / "one.onnx", DATA, checkpoint=tmp_path / "text")
    assert (tmp_path / "text").read_text().startswith("this is no database")
    with pytest.raises(FileError, match="is a directory"):
        runtime.open(folder / "one.onnx", DATA, checkpoint=tmp_path)
    with pytest.raises(FileError, match="there is no directory"):
        runtime.open(folder / "one.onnx", DATA, checkpoint=tmp_path / "none" / "run")
    other = sqlite3.connect(tmp_path / "foreign")
    other.execute("CREATE TABLE steps (a INTEGER)")
    other.commit()
    other.close()
    with pytest.raises(FileError, match=r"no checkpoint of bnrewrite.*a database of another program"):
        runtime.open(folder / "one.onnx", DATA, checkpoint=tmp_path / "foreign")


def test_arrays_come_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnrewrite.runtime.checkpoint._PIECE", 100)  # many pieces
    stored = Checkpoint(tmp_path / "run", {"a": "b"})
    arrays = {"x": np.arange(60.0).reshape(3, 20), "n": np.array(7), "none": np.zeros((0, 3), np.float32)}
    stored.save("task", 4, arrays)
    stored.close()
    again = Checkpoint(tmp_path / "run", {"a": "b"})
    found = again.load("task", 4)
    assert found is not None and set(found) == set(arrays)
    for name, array in arrays.items():
        assert np.array_equal(found[name], array) and found[name].dtype == array.dtype
        assert found[name].shape == array.shape
    assert again.load("task", 5) is None
    again.forget("task")
    assert again.load("task", 4) is None
