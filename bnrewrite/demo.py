"""The main job on real input: curvature of a small ResNet before and after it learns to read handwritten digits.

train resnet8_digits  ->  curvature.onnx  ->  verify against PyTorch  ->  run in onnxruntime on held-out digits
->  report.html: spectra before and after training, batch against running statistics, sensitivities by layer
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from . import runtime
from .compiler import export_onnx
from .console import estimates, print_note, print_table, progress_bar, spinner
from .errors import FileError, InputError
from .files import written_whole
from .models import digits, resnet8_digits
from .verification import verify

EPOCHS = 12
BATCH = 64
LEARNING_RATE = 3e-3
MODEL = "bnrewrite.models:resnet8_digits"

FILES = {"before": "initial.onnx", "after": "curvature.onnx", "running": "running.onnx"}
STEPS, PROBES = 40, 2
"""Of the spectral densities."""
SAMPLES = 60
"""Products at most, of a trace."""
_ESTIMATES = ("eigs", "density", "trace")


def run(directory: Path, *, epochs: int = EPOCHS, seed: int = 0, held_out: int | None = None) -> bool:
    """Run the demo in `directory`, which is made if need be; returns whether the verification passed.

    `held_out`: how many of the held-out digits to take the curvature over; all of them by default.

    Writes `initial.onnx` and `curvature.onnx` (before and after training), `running.onnx` (after, with running
    statistics), `weights.pt` (state dict), `digits.npz` (the held-out digits), `results.json` and `report.html`.
    Raises FileError where the directory cannot be made or written, InputError without scikit-learn, which holds the
    digits.
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
    _export(model, test, directory / "running.onnx", "running")
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

    results = _measured(directory, seed)
    _show(results, len(test[0]))
    with written_whole(directory / "results.json") as path:
        path.write_text(json.dumps(results, indent=2) + "\n")
    _report(results, directory / "report.html")
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


def _export(
    model: nn.Module, example: tuple[Tensor, Tensor], path: Path, bn: Literal["batch", "running"] = "batch"
) -> None:
    start = time.perf_counter()
    with spinner(f"exporting {path.name}"):
        export_onnx(model, path, (example[0][:BATCH], example[1][:BATCH]), bn=bn)
    print_note(f"wrote {path} in {time.perf_counter() - start:.1f} s")


def _measured(directory: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Curvature from the files alone, in onnxruntime: spectra of all three, layers of the trained network."""
    results: dict[str, dict[str, Any]] = {}
    data = directory / "digits.npz"
    common: dict[str, Any] = {
        "source": data.name, "top": 3, "which": "LA", "accuracy": 1e-4, "density": True, "trace": True, "steps": STEPS,
        "probes": PROBES, "samples": SAMPLES, "tol": 0.1, "seed": seed,
    }  # fmt: skip
    for name, file in FILES.items():
        with estimates() as progress:
            c = runtime.open(directory / file, data, progress=progress)
            results[name] = runtime.study(c, **common, layers=name == "after").record
            results[name]["file"] = file
            gradient = c.space.flatten(c.grad())
            v = gradient / np.linalg.norm(gradient)
            results[name]["along_gradient"] = float(c.quadratic_form(v))
            if name == "after":
                found = c.sensitivity((2, 3, 4, 6, 8), samples=SAMPLES, tol=0.1, seed=seed)
                results["sensitivity"] = {
                    **runtime.described(c, "sensitivity", data.name), **found.as_dict(), "file": file,
                    "assignment": found.assign(mean_bits=3.5).as_dict(),
                }  # fmt: skip
    return results


def _show(results: dict[str, dict[str, Any]], count: int) -> None:
    columns = [results[name] for name in FILES]
    rows = [
        ["loss", *(f"{found['loss']:.4f}" for found in columns)],
        ["gradient norm |g|", *(f"{found['gradient_norm']:.4f}" for found in columns)],
        ["v.Hv along v = g / |g|", *(f"{found['along_gradient']:.3f}" for found in columns)],
        ["largest eigenvalue of H", *(f"{found['eigs']['values'][0]:.3f}" for found in columns)],
        ["  its residual", *(f"{found['eigs']['residuals'][0]:.1e}" for found in columns)],
        ["trace of H", *(f"{found['trace']['value']:.1f}" for found in columns)],
        ["  its standard error", *(f"{found['trace']['standard_error']:.1g}" for found in columns)],
        ["products H v", *(str(sum(found[key]["products"] for key in _ESTIMATES)) for found in columns)],
    ]
    title = f"In onnxruntime, on {count} held-out digits"
    print_table(["", ">before training", ">after training", ">after, running statistics"], rows, title)


def _report(results: dict[str, dict[str, Any]], path: Path) -> None:
    from .report import report_of

    comparisons = [
        (
            "Before and after training",
            "The same network with its random weights and after training, batch statistics both times, on digits that "
            "it was not trained on.",
            [("before training", results["before"]), ("after training", results["after"])],
        ),
        (
            "Batch against running statistics",
            "The trained weights, once with the statistics of the batch, as in training, and once with the running "
            "averages, as in evaluation. These are two functions of the weights, and they bend differently: a tool "
            "that switches BatchNorm to evaluation mode measures the second where the first was asked for.",
            [("batch statistics", results["after"]), ("running statistics", results["running"])],
        ),
    ]
    report_of([results["after"], results["sensitivity"]], path, "ResNet-8 on handwritten digits", comparisons)
    print_note(f"wrote {path}: open it in a browser")


def _show_next(directory: Path) -> None:
    file, data = directory / "curvature.onnx", directory / "digits.npz"
    called = "python -m bnrewrite" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
    program = "bnrewrite" if shutil.which("bnrewrite") else called
    print("Next:")
    print(f"  {program} inspect {file}")
    print(f"  {program} verify {file} --model {MODEL} --weights {directory / 'weights.pt'} --data {data}")
    print(f"  {program} curvature {file} --data {data} --batch 60 --top 1")
