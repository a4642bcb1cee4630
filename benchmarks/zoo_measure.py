"""One model of the zoo, measured: prints its row as JSON after every stage, so that a run cut short still tells.

python -m benchmarks.zoo_measure LIBRARY/NAME [--no-float32]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import bnrewrite
from bnrewrite.errors import InputError
from bnrewrite.verification.oracle import Evaluation, Oracle

from .zoo_models import Entry, entries

GRAPH_BAR, ONNX_BAR = 1e-10, 1e-9
BATCHES = (2, 3)  # the example's, and another
Row = dict[str, Any]


class SmoothTwice(TorchFunctionMode):
    """Writes the activations for which PyTorch has no second derivative by ones for which it has."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "").rstrip("_")
        if name == "hardsigmoid":
            return F.relu6(args[0] + 3) / 6
        if name == "hardswish":
            return args[0] * F.relu6(args[0] + 3) / 6
        return function(*args, **(kwargs or {}))


@contextmanager
def float64_throughout() -> Iterator[None]:
    """`x.float()` leaves float64 as it is: some models cast to float32 inside, where no float64 study can follow."""
    original = Tensor.float

    def keep(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self if self.dtype == torch.float64 else original(self, *args, **kwargs)

    Tensor.float = keep  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Tensor.float = original  # type: ignore[method-assign]


def measure(entry: Entry, folder: Path, float32: bool) -> Iterator[Row]:
    """The row of one model, more of it with every stage; `stage` is the one under way, 'done' at the end."""
    row: Row = {"library": entry.library, "name": entry.name, "stage": "build"}
    model, shape = entry.smallest()
    model = model.double()
    row |= {"shape": list(shape), "parameters": sum(p.numel() for p in model.parameters())}
    yield row | {"stage": "transform"}

    example = entry.example(BATCHES[0], shape, seed=2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        clock = time.perf_counter()
        gm = bnrewrite.transform(model, example, loss=entry.loss)
        row["transform_s"] = time.perf_counter() - clock
    fixed = [str(w.message) for w in said if "batch size" in str(w.message)]
    row |= {"nodes": len(gm.graph.nodes), "dynamic": not fixed, "note": " ".join(fixed)}
    yield row | {"stage": "truth"}

    v = _directions(model)
    data = [entry.example(batch, shape, seed=3) for batch in BATCHES[: 1 if fixed else 2]]
    truths = []
    for x, y in data:
        truth, written = _truth(entry, model, gm.meta["bnrewrite"], x, y, v)
        truths.append(truth)
    if written:
        row["note"] += " truth with hard activations written out"
    yield row | {"stage": "graph"}

    for (x, y), truth in zip(data, truths, strict=True):
        _, grad, hvp = gm(x, y, v)
        _worst(row, "graph_grad", relative(grad, truth.grad))
        _worst(row, "graph_hvp", relative(hvp, truth.products["hvp"][0]))
    del gm
    yield row | {"stage": "export"}

    file = folder / "double.onnx"
    clock = time.perf_counter()
    bnrewrite.export_onnx(model, file, example, loss=entry.loss)
    row["export_s"] = time.perf_counter() - clock
    yield row | {"stage": "session"}
    clock = time.perf_counter()
    session = _session(file)
    row["session_s"] = time.perf_counter() - clock
    yield row | {"stage": "onnx"}
    for (x, y), truth in zip(data, truths, strict=True):
        outputs = _run(session, x, y, v)
        _worst(row, "onnx_grad", relative({k: outputs[f"grad.{k}"] for k in v}, truth.grad))
        _worst(row, "onnx_hvp", relative({k: outputs[f"hvp.{k}"] for k in v}, truth.products["hvp"][0]))
    del session
    file.unlink()
    if float32:
        yield row | {"stage": "float32"}
        row |= _float32(entry, shape, folder / "single.onnx", written)
    yield row | {"stage": "done"}


def _directions(model: torch.nn.Module) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(p.shape, generator=g, dtype=torch.float64)
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def _truth(
    entry: Entry, model: torch.nn.Module, meta: Mapping[str, Any], x: Tensor, y: Tensor, v: dict[str, Tensor]
) -> tuple[Evaluation, bool]:
    """Double backward on the untouched model; the second says whether hard activations had to be written out."""
    oracle = Oracle(model, entry.loss, {"random_off": meta["random_off"]}, list(v), torch.float64)
    try:
        return oracle.evaluate(x, y, [v], ["hvp"]), False
    except InputError:
        with SmoothTwice():
            return oracle.evaluate(x, y, [v], ["hvp"]), True


def _float32(entry: Entry, shape: tuple[int, ...], file: Path, written: bool) -> Row:
    """Errors of the float32 file over their bars, the worst quantity, by `bnrewrite.verify`."""
    model, _ = entry.smallest()
    example = entry.example(BATCHES[0], shape, seed=2)
    x, y = (t.to(torch.float32) if t.is_floating_point() else t for t in example)
    bnrewrite.export_onnx(model, file, (x, y), loss=entry.loss)
    named = None if isinstance(entry.loss, str) else entry.loss

    def report() -> Any:
        return bnrewrite.verify(file, model, (x, y), loss=named, vectors=1)

    if written:
        with SmoothTwice():
            found = report()
    else:
        found = report()
    worst = max(found.rows, key=lambda r: r.error / r.bar if r.bar else np.inf if r.error else 0.0)
    return {"float32": worst.error, "float32_bar": worst.bar, "float32_of": worst.quantity}


def _session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.enable_mem_reuse = (
        False  # its planner takes time quadratic in the nodes, and saves nothing (see runtime)
    )
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, x: Tensor, y: Tensor, v: dict[str, Tensor]) -> dict[str, Any]:
    given = {"input": x, "target": y, **{f"v.{name}": part for name, part in v.items()}}
    feed = {argument.name: given[argument.name].numpy() for argument in session.get_inputs()}
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


def relative(found: Mapping[str, Any], expected: Mapping[str, Tensor]) -> float:
    """Error over all parts together; not a number counts as infinite."""
    difference = total = 0.0
    for name, reference in expected.items():
        value = torch.as_tensor(found[name])
        difference += float((value - reference).square().sum())
        total += float(reference.square().sum())
    error = (difference / total) ** 0.5 if total else difference**0.5
    return error if error == error else float("inf")


def _worst(row: Row, key: str, error: float) -> None:
    row[key] = max(row.get(key, 0.0), error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--no-float32", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    entry = next(e for e in entries() if f"{e.library}/{e.name}" == arguments.model)
    row: Row = {"library": entry.library, "name": entry.name, "stage": "build"}
    with tempfile.TemporaryDirectory() as folder, float64_throughout():
        try:
            for state in measure(entry, Path(folder), not arguments.no_float32):
                row = state
                print(json.dumps(row), flush=True)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in a stage is the finding
            reason = " ".join(str(error).split())[:400]
            print(json.dumps(row | {"reason": f"{type(error).__name__}: {reason}"}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
