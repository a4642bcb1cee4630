"""The main job on real input: curvature of a small ResNet before and after it learns to read handwritten digits.

train resnet8_digits  ->  curvature.onnx  ->  verify against PyTorch  ->  run in onnxruntime on held-out digits
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import runtime
from .compiler import export_onnx
from .console import print_note, print_table, progress_bar, spinner
from .errors import FileError, InputError
from .files import written_whole
from .models import digits, resnet8_digits
from .verification import verify

EPOCHS = 12
BATCH = 64
LEARNING_RATE = 3e-3
MODEL = "bnrewrite.models:resnet8_digits"


@dataclass(frozen=True)
class Sharpness:
    """Curvature at one point: v is the normalised gradient, `eigenvalue` the largest one of the Hessian."""

    loss: float
    gradient_norm: float
    along_gradient: float
    eigenvalue: float
    residual: float
    products: int


def run(directory: Path, *, epochs: int = EPOCHS, seed: int = 0, held_out: int | None = None) -> bool:
    """Run the demo in `directory`, which is made if need be; returns whether the verification passed.

    `held_out`: how many of the held-out digits to take the curvature over; all of them by default.

    Writes `initial.onnx` and `curvature.onnx` (before and after training), `weights.pt` (state dict) and `digits.npz`
    (the held-out digits). Raises FileError where the directory cannot be made or written, InputError without
    scikit-learn, which holds the digits.
    """
    _make(directory)
    train, (x, y) = _digits("train", seed), _digits("test", seed)
    test = x[:held_out], y[:held_out]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = resnet8_digits()

    _export(model, test, directory / "initial.onnx")
    accuracy, seconds = fit(model, train, test, epochs, seed)
    _export(model, test, directory / "curvature.onnx")
    with written_whole(directory / "weights.pt") as path:
        torch.save(model.state_dict(), path)
    with written_whole(directory / "digits.npz") as path:
        np.savez(path, input=test[0].numpy(), target=test[1].numpy())
    print(
        f"Trained ResNet-8 on {len(train[0])} digits for {epochs} epochs in {seconds:.1f} s: "
        f"it reads {accuracy:.1%} of {len(test[0])} held-out digits (running statistics).\n"
    )

    with spinner("verifying") as say:
        report = verify(directory / "curvature.onnx", model, test, seed=seed, progress=say)
    print(f"{report}\n")

    before = _measure(directory / "initial.onnx", directory / "digits.npz", "before training", seed)
    after = _measure(directory / "curvature.onnx", directory / "digits.npz", "after training", seed)
    _show(before, after, len(test[0]))
    _show_next(directory)
    return report.passed


def fit(
    model: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], epochs: int, seed: int
) -> tuple[float, float]:
    """Train `model` in place by Adam with a one-cycle schedule; returns the test accuracy and the seconds it took."""
    x, y = train
    steps = len(x) // BATCH
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * steps)
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    with progress_bar("training", epochs * steps) as advance:
        for epoch in range(epochs):
            order = torch.randperm(len(x), generator=generator)
            for batch in order[: steps * BATCH].view(steps, BATCH):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
                schedule.step()
                advance(f"epoch {epoch + 1}, loss {loss.item():.4f}")
    return accuracy(model, *test), time.perf_counter() - start


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The fraction of `x` that the model classifies right with running statistics; its mode is left as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        right = (model(x).argmax(1) == y).double().mean().item()
    for module, training in modes.items():
        module.training = training
    return right


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"the directory '{directory}' cannot be made: {error.strerror}.") from error


def _digits(split: str, seed: int) -> tuple[Tensor, Tensor]:
    try:
        return digits(split, seed=seed)
    except ImportError as error:
        raise InputError(str(error)) from error


def _export(model: nn.Module, example: tuple[Tensor, Tensor], path: Path) -> None:
    start = time.perf_counter()
    with spinner(f"exporting {path.name}"):
        export_onnx(model, path, (example[0][:BATCH], example[1][:BATCH]), bn="batch")
    print_note(f"wrote {path} in {time.perf_counter() - start:.1f} s")


def _measure(file: Path, data: Path, when: str, seed: int) -> Sharpness:
    """Curvature from the file alone, in onnxruntime."""
    with spinner(f"largest eigenvalue {when}"):
        c = runtime.open(file, data)
        gradient = c.space.flatten(c.grad())
        norm = float(np.linalg.norm(gradient))
        v = gradient / norm
        top = c.eigs(k=1, which="LA", tol=1e-4, seed=seed)
    return Sharpness(
        c.loss, norm, float(v @ c.hvp(v)), float(top.values[0]), float(top.residuals[0]), top.products
    )


def _show(before: Sharpness, after: Sharpness, count: int) -> None:
    rows = [
        ["loss", f"{before.loss:.4f}", f"{after.loss:.4f}"],
        ["gradient norm |g|", f"{before.gradient_norm:.4f}", f"{after.gradient_norm:.4f}"],
        ["v.Hv along v = g / |g|", f"{before.along_gradient:.3f}", f"{after.along_gradient:.3f}"],
        ["largest eigenvalue of H", f"{before.eigenvalue:.3f}", f"{after.eigenvalue:.3f}"],
        ["  its residual", f"{before.residual:.1e}", f"{after.residual:.1e}"],
        ["  products H v", str(before.products), str(after.products)],
    ]
    title = f"In onnxruntime, on {count} held-out digits, batch statistics"
    print_table(["", ">before training", ">after training"], rows, title)


def _show_next(directory: Path) -> None:
    file = directory / "curvature.onnx"
    called = "python -m bnrewrite" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
    program = "bnrewrite" if shutil.which("bnrewrite") else called
    print("Next:")
    print(f"  {program} inspect {file}")
    print(
        f"  {program} verify {file} --model {MODEL} --weights {directory / 'weights.pt'} "
        f"--data {directory / 'digits.npz'}"
    )
