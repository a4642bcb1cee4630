"""What is in a model, or in an exported file: BatchNorm sites, operations and where their rules come from, sizes."""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import losses
from .capture import capture
from .compiler import rule_of
from .emit.onnx_reading import summarise
from .errors import FileError, UnsupportedOp
from .losses import Loss
from .passes.graph import CapturedGraph
from .rules.table import RULES
from .runtime.session import Session


def inspect_model(
    model: nn.Module,
    example: tuple[Any, Any],
    *,
    loss: Loss = "cross_entropy",
    bn: str | None = None,
    random: str = "off",
) -> dict[str, Any]:
    """Sites, operations and parameters of a model, without differentiating it.

    `operations`: for each ATen operation how often it occurs and its rule: `"hand-written"`, `"derived"` from PyTorch's
    own derivative, or `"none"`.
    """
    captured = capture(model, example, losses.resolve(loss), keep=RULES.keys(), bn=bn, random=random)
    return {
        "kind": "model",
        "loss": losses.describe(loss),
        "sites": captured.meta["sites"],
        "operations": _operations(captured),
        "parameters": {name: list(parameter.shape) for name, parameter in model.named_parameters()},
        "random_off": captured.meta["random_off"],
        "dynamic_batch": captured.meta["dynamic_batch"],
    }


def _operations(captured: CapturedGraph) -> list[dict[str, Any]]:
    counts: Counter[str] = Counter()
    rules: dict[str, str] = {}
    for node in captured.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if not isinstance(node.meta.get("val"), (torch.Tensor, tuple, list)):
            continue  # arithmetic on sizes
        name = str(node.target).removeprefix("aten.")
        counts[name] += 1
        if node.target in RULES:
            rules[name] = "hand-written"
        else:
            try:
                rule_of(node)
                rules[name] = "derived"
            except UnsupportedOp:
                rules[name] = "none"
    return [{"operation": name, "count": count, "rule": rules[name]} for name, count in counts.most_common()]


def inspect_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Inputs, outputs, sites, operators and size of an exported file; FileError where it is not ours."""
    session = Session(path)
    summary = summarise(path)
    meta = session.meta
    return {
        "kind": "onnx",
        "file": session.name,
        "dtype": str(session.dtype),
        "loss": meta["loss"],
        "products": meta["products"],
        "version": meta.get("version"),
        "sites": [site | {"nodes": summary.sites.get(site["module"], {})} for site in meta.get("sites", [])],
        "parameters": meta["parameters"],
        "random_off": meta.get("random_off", []),
        "dynamic_batch": meta.get("dynamic_batch"),
    } | {key: value for key, value in asdict(summary).items() if key != "sites"}


def is_torch_file(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a TorchScript or torch.export file that bnrewrite wrote."""
    return zipfile.is_zipfile(path) and _metadata_entry(path) is not None


def inspect_torch_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What an exported TorchScript or torch.export file says of itself; FileError where it is none of ours.

    Nothing in the file is executed or unpickled.
    """
    file = Path(path)
    try:
        entry = _metadata_entry(file)
        with zipfile.ZipFile(file) as archive:
            meta = json.loads(archive.read(entry or ""))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise FileError(f"'{file}' is no TorchScript or .pt2 file that bnrewrite wrote.") from error
    return {"kind": "torch", "file": str(file), "bytes": file.stat().st_size} | meta


def _metadata_entry(path: str | os.PathLike[str]) -> str | None:
    with zipfile.ZipFile(path) as archive:
        return next((name for name in archive.namelist() if name.endswith("extra/bnrewrite")), None)
