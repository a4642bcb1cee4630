"""Writes an ONNX model to disk: whole or not at all, with its weights beside it where one file cannot hold them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx

from ..errors import FileError
from .onnx_check import nbytes

# A protobuf message ends at 2 GiB; the graph itself needs a little of it.
ONE_FILE_BYTES = (1 << 31) - (1 << 24)
# Tensors smaller than this stay in the model file: shapes and numbers that readers want at once.
_INLINE_BYTES = 1024
_ALIGNMENT = 4096  # so that a runtime can map the tensors into memory


def save(
    model: onnx.ModelProto, path: str | os.PathLike[str], *, one_file_bytes: int = ONE_FILE_BYTES
) -> None:
    """Write `model` to `path`; if its weights take more than `one_file_bytes`, they go to `<path>.data` beside it.

    A failure leaves nothing behind and never half a file. Raises `FileError` where the path cannot be written.
    """
    save_all({Path(path): model}, one_file_bytes=one_file_bytes)


def save_all(models: Mapping[Path, onnx.ModelProto], *, one_file_bytes: int = ONE_FILE_BYTES) -> None:
    """The same for several models at once, in one directory: all of them or none.

    Everything is written and checked in a directory of its own next to the paths and moved into place at the end.
    """
    workshop = None
    target = next(iter(models))
    try:
        workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        written: list[Path] = []
        for target, model in models.items():
            written += _write(model, workshop / target.name, one_file_bytes)
            if target.is_dir():
                raise IsADirectoryError(f"{target} is a directory")
        for file in written:
            os.replace(file, target.parent / file.name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(
            f"cannot write {target}: {reason}. Choose a file in an existing, writable directory with enough space."
        ) from error
    finally:
        if workshop is not None:
            shutil.rmtree(workshop, ignore_errors=True)


def pair_paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """`curvature.primal.onnx` and `curvature.apply.onnx` for `curvature.onnx`."""
    return Path(path).with_suffix(".primal.onnx"), Path(path).with_suffix(".apply.onnx")


def fingerprint(models: Iterable[onnx.ModelProto]) -> str:
    """A name for models that belong together: equal only where graphs and weights are equal."""
    digest = hashlib.sha256()
    for model in models:
        graph = model.graph
        for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
            digest.update(part.SerializeToString(deterministic=True))
    return digest.hexdigest()[:32]


def _write(model: onnx.ModelProto, path: Path, one_file_bytes: int) -> list[Path]:
    """The model file, and before it the data file where there is one."""
    if sum(nbytes(tensor) for tensor in model.graph.initializer) <= one_file_bytes:
        path.write_bytes(model.SerializeToString())
        return [path]
    data = path.with_name(f"{path.name}.data")
    path.write_bytes(_with_data_in(model, data).SerializeToString())
    # By path: the model does not fit into one message together with its data.
    onnx.checker.check_model(str(path))
    return [data, path]


def _with_data_in(model: onnx.ModelProto, data: Path) -> onnx.ModelProto:
    """A copy of `model` without the bytes of its large initializers, which are appended to `data`."""
    graph = onnx.GraphProto(name=model.graph.name, doc_string=model.graph.doc_string)
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    with data.open("wb") as stream:
        for tensor in model.graph.initializer:
            if nbytes(tensor) < _INLINE_BYTES:
                graph.initializer.append(tensor)
                continue
            stream.write(b"\0" * (-stream.tell() % _ALIGNMENT))
            place = {"location": data.name, "offset": stream.tell(), "length": nbytes(tensor)}
            stream.write(tensor.raw_data)
            entry = graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            entry.data_location = onnx.TensorProto.EXTERNAL
            for key, value in place.items():
                entry.external_data.add(key=key, value=str(value))
    light = onnx.ModelProto(
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        doc_string=model.doc_string,
    )
    light.opset_import.extend(model.opset_import)
    light.metadata_props.extend(model.metadata_props)
    light.graph.CopyFrom(graph)
    return light
