"""A joint graph as a `torch.export` archive: `load(path).module()(input, target, v) -> (loss, grad, *products)`."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from ..files import written_whole
from ..passes.graph import Input, JointGraph


def program(module: fx.GraphModule, joint: JointGraph, example: tuple[Any, Any]) -> ExportedProgram:
    """`module`, the GraphModule of `joint`, as an ExportedProgram whose batch is as symbolic as that of `joint`.

    `example` is `(input, target)`: of its tensors only shapes and types are used, and they are not kept. Its batch
    size should equal no other size.
    """
    placeholders = [node for node in joint.graph.nodes if node.op == "placeholder"]
    vals = {e.name: node.meta["val"] for node, e in zip(placeholders, joint.inputs, strict=True)}
    own = {e.name: _tensor(example, e) for e in joint.inputs if e.kind != "vector"}
    vectors = [e.name for e in joint.inputs if e.kind == "vector"]
    v = {name.removeprefix("v."): _like(own[name.removeprefix("v.")], vals[name]) for name in vectors}
    symbolic = {id(own[e.name]): _axes(vals[e.name]) for e in joint.inputs if e.kind in ("input", "target")}
    symbolic |= {id(v[name.removeprefix("v.")]): _axes(vals[name]) for name in vectors}
    arguments = (*example, v)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        exported = torch.export.export(
            module,
            arguments,
            dynamic_shapes=pytree.tree_map(lambda leaf: symbolic.get(id(leaf)), arguments),
            strict=False,
        )
    exported.example_inputs = None  # the user's data has no place in the file
    return exported


def save(exported: ExportedProgram, path: str | os.PathLike[str], metadata: dict[str, str]) -> None:
    """Write `exported`, with `metadata` as extra files, whole or not at all; FileError where that fails."""
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        torch.export.save(exported, stream, extra_files=dict(metadata))


def _tensor(example: tuple[Any, Any], entry: Input) -> Tensor:
    """The model's or the caller's tensor for one input of the graph."""
    if entry.tensor is not None:
        return entry.tensor
    value: Any = example[0 if entry.kind == "input" else 1]
    for key in entry.path:
        value = value[key]
    assert isinstance(value, Tensor)
    return value


def _like(tensor: Tensor, val: Tensor) -> Tensor:
    """A direction for `tensor`; several of them where the graph takes several."""
    several = [int(size) for size in val.shape[: val.dim() - tensor.dim()]]
    return torch.zeros([*several, *tensor.shape], dtype=val.dtype, device=tensor.device)


def _axes(val: Tensor) -> dict[int, Any]:
    return {axis: Dim.AUTO for axis, size in enumerate(val.shape) if isinstance(size, torch.SymInt)}
