"""Looking into a file that was written: its tensors, its nodes, and the same graph with its parameters as inputs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..errors import FileError, InputError
from .onnx_check import nbytes
from .onnx_file import ONE_FILE_BYTES


def load(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model with all its tensors, also those stored beside it; FileError where it cannot be read."""
    try:
        return onnx.load(os.fspath(path))
    except (OSError, onnx.checker.ValidationError, ValueError) as error:  # data beside it: missing or cut
        raise FileError(
            f"'{os.fspath(path)}' cannot be read as ONNX: {' '.join(str(error).split())}"
        ) from error


def tensors(model: onnx.ModelProto, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """The initializers among `names`."""
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name in names
    }


def with_parameters_as_inputs(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """The same graph, in which the initializers among `names` are inputs: it can be run at any point."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    moved = [tensor for tensor in changed.graph.initializer if tensor.name in names]
    kept = [tensor for tensor in changed.graph.initializer if tensor.name not in names]
    changed.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in moved
    )
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(kept)
    return changed


def serialised(model: onnx.ModelProto) -> bytes:
    """The bytes of a model that is run from memory; InputError past the 2 GB that they can be."""
    if sum(nbytes(tensor) for tensor in model.graph.initializer) > ONE_FILE_BYTES:
        raise InputError(
            "the file holds more than 2 GB beside its parameters: it can only be verified with its model."
        )
    return model.SerializeToString()


@dataclass(frozen=True)
class Summary:
    """What is in a file: `inputs` and `outputs` as (name, type, shape), node counts by operator, sites by module."""

    opset: int
    inputs: list[tuple[str, str, list[int | str]]]
    outputs: list[tuple[str, str, list[int | str]]]
    nodes: dict[str, int]
    sites: dict[str, dict[str, int]]
    initializers: int
    bytes: int


def summarise(path: str | os.PathLike[str]) -> Summary:
    """Count what is in the valid file at `path`; `bytes` includes the data stored beside it."""
    model = onnx.load(os.fspath(path), load_external_data=False)
    sites: dict[str, Counter[str]] = {}
    for node in model.graph.node:
        props = {prop.key: prop.value for prop in node.metadata_props}
        if "bnrewrite.site" in props:
            sites.setdefault(props["bnrewrite.site"], Counter())[props.get("bnrewrite.role", "")] += 1
    return Summary(
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        inputs=[_described(value) for value in model.graph.input],
        outputs=[_described(value) for value in model.graph.output],
        nodes=dict(Counter(node.op_type for node in model.graph.node).most_common()),
        sites={name: dict(roles) for name, roles in sites.items()},
        initializers=len(model.graph.initializer),
        bytes=sum(file.stat().st_size for file in _files(Path(path), model)),
    )


def _described(value: onnx.ValueInfoProto) -> tuple[str, str, list[int | str]]:
    tensor = value.type.tensor_type
    kind = str(np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
    return value.name, kind, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]


def _files(path: Path, model: onnx.ModelProto) -> set[Path]:
    beside = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return {path, *(path.parent / name for name in beside if (path.parent / name).is_file())}
