"""Is an exported file right? Its numbers in onnxruntime, against PyTorch in float64 or against its own differences.

With the model, loss, gradient and every product are compared with PyTorch's double backward in float64:

    float64 file    relative error over the whole vector at most 1e-9
    float32 file    at most 3 times the error of PyTorch's own float32 double backward against the same truth, its worst
                    over the inputs and a few copies of them changed by one rounding (a ReLU within rounding of its kink
                    decides between 1e-6 and 1e-2)

Without it, the file is compared with itself: see `self_check`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..emit.onnx_reading import load, tensors
from ..errors import InputError
from ..losses import NAMED, Loss
from ..runtime.data import checked_feeds
from ..runtime.parameters import fitted_parameters
from ..runtime.session import Array, Session
from ..runtime.vectors import listed
from ..sources import Model, as_module
from .example import ROUNDED_COPIES, nested, random_pair, random_vectors, rounded_copies
from .oracle import Evaluation, Oracle
from .report import Parts, Report, Row, relative_error, worst_parts, zero_floor
from .self_check import self_check

FLOAT64_BAR = 1e-9
FLOAT32_FACTOR = 3.0
# Loss and short vectors can come out of PyTorch right to the last bit by luck: a few roundings are always granted.
FLOAT32_FLOOR = 8 * float(np.finfo(np.float32).eps)

Progress = Callable[[str], None]


def verify(
    path: str | os.PathLike[str],
    model: Model | None = None,
    example_inputs: tuple[Any, Any] | None = None,
    *,
    loss: Loss = None,
    vectors: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Compare an exported ONNX file with PyTorch's double backward, or with itself.

    Parameters
    ----------
    path : the file that `export_onnx` wrote.
    model : the network it was made from, with the same weights; it is not changed. Left out, the products are compared
        with central differences of the file's own gradient.
    example_inputs : `(input, target)`, tensors or arrays; random ones of the file's shapes if left out.
    loss : needed only where the file was made with a loss that has no name (a module or a callable).
    vectors : how many random vectors v to try.
    seed : of the vectors and the random inputs.
    progress : called with a few words before each long step.

    Returns
    -------
    Report : one row for each quantity with its error and its bar; `report.passed`, `print(report)`.

    Raises
    ------
    FileError : the file is missing, damaged or not ours.
    InputError : model, loss or inputs do not fit the file.
    """
    say = progress or (lambda _: None)
    if isinstance(vectors, bool) or not isinstance(vectors, int) or vectors < 1:
        raise InputError(f"vectors must be a whole number of at least 1, not {vectors!r}.")
    model = None if model is None else as_module(model)
    session = Session(path)
    if part := session.meta.get("part"):
        raise InputError(
            f"'{session.name}' is the {part} part of a pair, and verify takes single files: export once without "
            "linearize=True. Both parts are cut from the graph of that file."
        )
    if session.dtype not in (np.float32, np.float64):
        raise InputError(
            f"'{session.name}' computes in {session.dtype}; only float32 and float64 can be verified."
        )
    pair = random_pair(session, seed) if example_inputs is None else example_inputs
    feeds, size = checked_feeds(pair, session)
    directions = random_vectors(session, vectors, size, seed)
    if model is None:
        if loss is not None:
            raise InputError(
                "loss says how to compute the truth from a model: pass the model too, or neither."
            )
        against = "differences of its own gradient"
        found = {} if session.of_kind("parameter") else run_file(session, feeds, directions)
        rows = self_check(session, path, feeds, directions, found, say)
    else:
        against = "PyTorch's double backward in float64"
        rows = _against_model(session, path, model, _loss(session, loss), feeds, directions, say)
    return Report(session.name, against, str(session.dtype), rows)


def _loss(session: Session, given: Loss) -> Loss:
    if given is not None:
        return given
    named = session.meta["loss"]
    if named == "model":
        return None
    if named not in NAMED:
        raise InputError(
            f"'{session.name}' was made with the loss {named}, which has no name: pass it as loss= (in Python)."
        )
    return named


def _against_model(
    session: Session,
    path: str | os.PathLike[str],
    model: nn.Module,
    loss: Loss,
    feeds: Mapping[str, Array],
    directions: Sequence[dict[str, Array]],
    say: Progress,
) -> list[Row]:
    _check_fit(session, model)
    rows, parameters = [], {}
    own = {
        name: p.detach().cpu().numpy() for name, p in model.named_parameters() if p.dtype != torch.bfloat16
    }
    if session.of_kind("parameter"):
        parameters = fitted_parameters(session, own)
    else:
        rows.append(_compare_weights(path, model))

    say("PyTorch's double backward in float64")
    wrt = list(session.meta["parameters"])
    input, target = nested("input", feeds), nested("target", feeds)
    vectors = [{name: torch.from_numpy(part) for name, part in v.items()} for v in directions]
    exact = Oracle(model, loss, session.meta, wrt, torch.float64)
    if exact.draws_random_numbers(input, target):
        raise InputError(
            "the model draws random numbers, which the file does not: put the modules that draw them into evaluation "
            "mode, as when the file was made."
        )
    truth = _quantities(exact.evaluate(input, target, vectors, session.products))
    floors = _floors(truth, model, wrt, directions)

    say("the file in onnxruntime")
    found = run_file(session, {**feeds, **parameters}, directions)

    bars = dict.fromkeys(truth, FLOAT64_BAR)
    if session.dtype == np.float32:
        peer = Oracle(model, loss, session.meta, wrt, torch.float32)
        bars = dict.fromkeys(truth, FLOAT32_FLOOR)
        for number, copy in enumerate(rounded_copies(feeds)):
            say(f"PyTorch's double backward in float32 ({number + 1} of {ROUNDED_COPIES + 1})")
            theirs = _quantities(
                peer.evaluate(nested("input", copy), nested("target", copy), vectors, session.products)
            )
            for name in truth:
                error = relative_error(theirs[name], truth[name], floors[name])
                bars[name] = max(bars[name], FLOAT32_FACTOR * error)
    for name in truth:
        error = relative_error(found[name], truth[name], floors[name])
        rows.append(Row(name, error, bars[name], worst=worst_parts(found[name], truth[name])))
    return rows


def run_file(
    session: Session, feeds: Mapping[str, Array], directions: Sequence[Mapping[str, Array]]
) -> dict[str, dict[str, NDArray[Any]]]:
    """`loss`, `grad`, and for vector i `hvp[i]`, `ggn[i]`, `residual[i]`: each a dict by parameter name."""
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for i, v in enumerate(directions):
        results = session.run({**feeds, **{f"v.{name}": part for name, part in v.items()}})
        if i == 0:
            found["loss"] = {"loss": results["loss"]}
            found["grad"] = {name: results[f"grad.{name}"] for name in v}
        for product in session.products:
            found[f"{product}[{i}]"] = {name: results[f"{product}.{name}"] for name in v}
    return found


def _quantities(evaluation: Evaluation) -> dict[str, Parts]:
    """The oracle's results under the names of `run_file`."""
    tensors = {"loss": {"loss": evaluation.loss}, "grad": evaluation.grad}
    for product, results in evaluation.products.items():
        tensors |= {f"{product}[{i}]": result for i, result in enumerate(results)}
    return {name: {key: t.detach().numpy() for key, t in parts.items()} for name, parts in tensors.items()}


def _floors(
    truth: Mapping[str, Parts],
    model: nn.Module,
    wrt: Sequence[str],
    directions: Sequence[Mapping[str, Array]],
) -> dict[str, float]:
    """Sizes below which the quantities of `truth` count as zero."""
    named = dict(model.named_parameters())
    weights = sum(float(named[name].detach().double().square().sum()) for name in wrt if name in named) ** 0.5
    loss = float(truth["loss"]["loss"])
    floors = {"loss": 0.0, "grad": zero_floor(loss, weights)}
    for i, v in enumerate(directions):
        length = sum(float(np.square(part, dtype=np.float64).sum()) for part in v.values()) ** 0.5
        floors |= {name: zero_floor(loss, weights, length) for name in truth if name.endswith(f"[{i}]")}
    return floors


def _check_fit(session: Session, model: nn.Module) -> None:
    """Raise unless the model has every parameter of the file in its shape."""
    own = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    inputs = {argument.name for argument in session.of_kind("data")}
    shapes = {
        name: shape for name, shape in session.meta["parameters"].items() if name in own or name not in inputs
    }
    missing = [name for name in shapes if name not in own]
    if missing:
        raise InputError(f"the model does not fit the file: it has no parameter {listed(missing)}.")
    for name, shape in shapes.items():
        if own[name] != list(shape):
            raise InputError(
                f"the model does not fit the file: its parameter '{name}' has shape {own[name]}, in the file {shape}."
            )


def _compare_weights(path: str | os.PathLike[str], model: nn.Module) -> Row:
    """Parameters and buffers stored in the file against those of the model, as the file's type rounds them."""
    own = {name: t.detach().cpu() for name, t in [*model.named_parameters(), *model.named_buffers()]}
    stored = tensors(load(path), own.keys())
    wrong = {}
    for name, array in stored.items():
        expected = own[name].to(torch.from_numpy(np.array(array)).dtype).numpy()
        if array.shape != expected.shape or not np.array_equal(array, expected, equal_nan=True):
            wrong[name] = (array, expected)
    if not wrong:
        return Row("weights", 0.0, 0.0, f"{len(stored)} tensors are the model's own")
    error = max(
        relative_error({"": a.astype(float)}, {"": e.astype(float)}) if a.shape == e.shape else np.inf
        for a, e in wrong.values()
    )
    fitting = {name: (a, e) for name, (a, e) in wrong.items() if a.shape == e.shape}
    return Row(
        "weights",
        float(error),
        0.0,
        f"the file holds other values than the model for {listed(list(wrong))}",
        worst_parts({n: a for n, (a, _) in fitting.items()}, {n: e for n, (_, e) in fitting.items()}),
    )
