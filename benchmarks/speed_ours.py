"""Every way in which bnrewrite computes a product: graphs in PyTorch, files in onnxruntime."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import bnrewrite
from bnrewrite.runtime import Session
from bnrewrite.runtime.session import default_options

from .speed_cases import Parts, Point
from .speed_method import Method, Prepared, Stages, one, rows


@contextmanager
def _silent() -> Iterator[None]:
    """Without the warning that dropout acts as in evaluation mode: here it is in that mode for every method."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _graph(point: Point, product: str, vectors: int | None, fuse: bool = False) -> Prepared:
    stages = Stages()
    with _silent(), stages.step("transform"):
        gm = bnrewrite.transform(
            point.model, (point.x, point.y), products=(product,), vectors=vectors, fuse=fuse
        )
    if vectors is None:
        v = point.vectors[0]
        return Prepared(lambda: gm(point.x, point.y, v), lambda found: one(found[2]), stages.seconds)
    stacked = point.stacked
    return Prepared(
        lambda: gm(point.x, point.y, stacked), lambda found: rows(found[2], vectors), stages.seconds
    )


def transform(point: Point) -> Prepared:
    """Loss, gradient and H v in one call."""
    return _graph(point, "hvp", None)


def transform_fused(point: Point) -> Prepared:
    """The same with what stands between convolutions compiled."""
    return _graph(point, "hvp", None, fuse=True)


def transform_ggn(point: Point) -> Prepared:
    """Loss, gradient and G v in one call."""
    return _graph(point, "ggn", None)


def transform_block(point: Point) -> Prepared:
    """Loss, gradient and K products in one call."""
    return _graph(point, "hvp", len(point.vectors))


def transform_block_fused(point: Point) -> Prepared:
    """The same with what stands between convolutions compiled."""
    return _graph(point, "hvp", len(point.vectors), fuse=True)


def _apply(point: Point, vectors: int | None, product: str = "hvp", fuse: bool = False) -> Prepared:
    stages = Stages()
    with _silent(), stages.step("linearize"):
        primal, apply = bnrewrite.linearize(
            point.model, (point.x, point.y), products=(product,), vectors=vectors, fuse=fuse
        )
    with stages.step("primal"):
        _, _, residuals = primal(point.x, point.y)
    if vectors is None:
        v = point.vectors[0]
        return Prepared(lambda: apply(residuals, v), one, stages.seconds)
    stacked = point.stacked
    return Prepared(lambda: apply(residuals, stacked), lambda found: rows(found, vectors), stages.seconds)


def apply(point: Point) -> Prepared:
    """H v from residuals that are kept."""
    return _apply(point, None)


def apply_fused(point: Point) -> Prepared:
    """The same with what stands between convolutions compiled."""
    return _apply(point, None, fuse=True)


def apply_ggn(point: Point) -> Prepared:
    """G v from residuals that are kept."""
    return _apply(point, None, "ggn")


def apply_block(point: Point) -> Prepared:
    """K products from residuals that are kept."""
    return _apply(point, len(point.vectors))


def _sessions(point: Point, stages: Stages, linearize: bool) -> list[Session]:
    """The exported file or pair, opened with as many threads as PyTorch has."""
    options = default_options()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        with _silent(), stages.step("export"):
            files = bnrewrite.export_onnx(
                point.model, Path(folder) / "c.onnx", (point.x, point.y), linearize=linearize
            )
        with stages.step("session"):
            return [Session(file, session_options=options) for file in files]


def _feeds(v: Parts) -> dict[str, Any]:
    return {f"v.{name}": part.numpy() for name, part in v.items()}


def _hvp(outputs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return one({n.removeprefix("hvp."): part for n, part in outputs.items() if n.startswith("hvp.")})


def onnx(point: Point) -> Prepared:
    """Loss, gradient and H v in onnxruntime."""
    stages = Stages()
    (session,) = _sessions(point, stages, linearize=False)
    feeds = {"input": point.x.numpy(), "target": point.y.numpy(), **_feeds(point.vectors[0])}
    return Prepared(lambda: session.evaluate(feeds, session.outputs), _hvp, stages.seconds)


def onnx_apply(point: Point) -> Prepared:
    """The apply part of a pair in onnxruntime."""
    stages = Stages()
    primal, apply = _sessions(point, stages, linearize=True)
    with stages.step("primal"):
        found = primal.evaluate({"input": point.x.numpy(), "target": point.y.numpy()}, primal.outputs)
    residuals = {argument.name: found[argument.name] for argument in apply.of_kind("residual")}
    feeds = {**residuals, **_feeds(point.vectors[0])}
    return Prepared(lambda: apply.evaluate(feeds, apply.outputs), _hvp, stages.seconds)


OURS: dict[str, Method] = {
    "transform": Method("transform: loss, gradient, H v", "hvp", transform, memory=True),
    "transform_fused": Method(
        "transform, fuse=True: loss, gradient, H v", "hvp", transform_fused, memory=True
    ),
    "onnx": Method("onnxruntime: loss, gradient, H v", "hvp", onnx, memory=True),
    "apply": Method("linearize: apply", "apply", apply),
    "apply_fused": Method("linearize, fuse=True: apply", "apply", apply_fused),
    "onnx_apply": Method("onnxruntime: apply of a pair", "apply", onnx_apply),
    "transform_block": Method("transform, {K} at once", "hvp", transform_block, block=True),
    "transform_block_fused": Method(
        "transform, fuse=True, {K} at once", "hvp", transform_block_fused, block=True
    ),
    "apply_block": Method("linearize: apply, {K} at once", "apply", apply_block, block=True),
    "transform_ggn": Method("transform: loss, gradient, G v", "ggn", transform_ggn),
    "apply_ggn": Method("linearize: apply, G v", "ggn", apply_ggn),
}
"""By their names on the command line."""
