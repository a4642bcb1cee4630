"""Weights read straight from an ONNX file: onnxruntime does not give them out, and `onnx` may not be there.

An ONNX file is one protobuf message. Only the fields that lead to a tensor are declared here, under their numbers in
`onnx.proto`; protobuf skips over all others. The types live in a pool of their own, so that they never meet those of
`onnx`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from ..errors import FileError
from .session import check_readable
from .vectors import listed

Array = NDArray[Any]

_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "StringStringEntryProto": {"key": (1, "string"), "value": (2, "string")},
    "TensorProto": {
        "dims": (1, "repeated int64"),
        "data_type": (2, "int32"),
        "float_data": (4, "repeated float"),
        "int32_data": (5, "repeated int32"),
        "name": (8, "string"),
        "raw_data": (9, "bytes"),
        "double_data": (10, "repeated double"),
        "external_data": (13, "repeated StringStringEntryProto"),
        "data_location": (14, "int32"),
    },
    "GraphProto": {"initializer": (5, "repeated TensorProto")},
    "ModelProto": {"graph": (7, "GraphProto")},
}
"""Field names of onnx.proto with their numbers and types."""

_DTYPES: dict[int, str] = {1: "<f4", 10: "<f2", 11: "<f8"}
"""TensorProto.DataType: how its numbers lie in `raw_data`, little endian on every machine."""
_REFUSED: dict[int, str] = {2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 16: "bfloat16"}
_EXTERNAL = 1


def read_weights(source: str | os.PathLike[str] | bytes, names: Iterable[str]) -> dict[str, Array]:
    """The initializers called `names`, in that order, each in its own type: float64, float32 or float16.

    Parameters
    ----------
    source : path of an ONNX file, or the bytes of a model. Data stored beside the file is read from the file's folder.
    names : names of initializers; in a file of bnrewrite those of the parameters.

    Raises
    ------
    FileError : the file or the data beside it is missing or damaged; it has no such initializer; the initializer is of
        another type; its data is said to lie outside the folder of the file.
    """
    file = "the model" if isinstance(source, bytes) else f"'{os.fspath(source)}'"
    folder = None if isinstance(source, bytes) else Path(source).parent
    model = _parsed(source, file)
    wanted = list(names)
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    if missing := [name for name in wanted if name not in found]:
        raise FileError(
            f"{file} holds no weights called {listed(missing)}. "
            f'Files exported with params="inputs" hold none: there they are fed.'
        )
    return {name: _array(found[name], file, folder) for name in wanted}


def _parsed(source: str | os.PathLike[str] | bytes, file: str) -> Any:
    if not isinstance(source, bytes):
        check_readable(source)
        source = Path(source).read_bytes()
    model = _model_class()()
    try:
        model.ParseFromString(source)
    except DecodeError as error:
        raise FileError(f"{file} is damaged, or no ONNX file: {error}.") from error
    return model


@cache
def _model_class() -> type[Message]:
    """ModelProto, as far as it is declared above."""
    field = descriptor_pb2.FieldDescriptorProto
    package = "bnrewrite.weights"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    for message, fields in _MESSAGES.items():
        declared = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            *repeated, kind = kind.split()
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            entry = declared.field.add(name=name, number=number, label=label)
            if kind in _MESSAGES:
                entry.type, entry.type_name = field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                entry.type = field.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.ModelProto"))


def _array(tensor: Any, file: str, folder: Path | None) -> Array:
    """A tensor as an array of its own: it neither shares memory with the message nor keeps it alive."""
    shape = tuple(tensor.dims)
    if tensor.data_type not in _DTYPES:
        kind = _REFUSED.get(tensor.data_type, f"type {tensor.data_type} of ONNX")
        raise FileError(
            f"{file}: '{tensor.name}' holds {kind}. Weights are read as float32, float64 or float16: "
            f"export the model in one of them."
        )
    dtype = np.dtype(_DTYPES[tensor.data_type])
    if min(shape, default=0) < 0:
        raise FileError(f"{file} is damaged: '{tensor.name}' has shape {list(shape)}.")
    count = math.prod(shape)
    if tensor.data_location == _EXTERNAL:
        values = _external(tensor, file, folder, dtype, count)
    elif tensor.HasField("raw_data"):
        size = len(tensor.raw_data)
        if size != count * dtype.itemsize:
            raise FileError(
                f"{file} is damaged: '{tensor.name}' has {size} bytes, {count * dtype.itemsize} expected."
            )
        values = np.frombuffer(tensor.raw_data, dtype)
    else:
        values = _listed_values(tensor, file, dtype)
    if len(values) != count:
        raise FileError(f"{file} is damaged: '{tensor.name}' has {len(values)} numbers, {count} expected.")
    return values.reshape(shape).astype(dtype.newbyteorder("="), copy=True)


def _listed_values(tensor: Any, file: str, dtype: np.dtype[Any]) -> Array:
    """Numbers that stand one by one in the field of their type; of float16 the bits, as integers."""
    if dtype.itemsize > 2:
        return np.array(tensor.float_data if dtype.itemsize == 4 else tensor.double_data, dtype)
    bits = np.array(tensor.int32_data, np.int64)
    if ((bits < 0) | (bits > 0xFFFF)).any():
        raise FileError(f"{file} is damaged: '{tensor.name}' has numbers that are no float16.")
    return bits.astype("<u2").view(dtype)


def _external(tensor: Any, file: str, folder: Path | None, dtype: np.dtype[Any], count: int) -> Array:
    """Numbers that stand in another file of the same folder: `location`, from byte `offset`, `length` bytes."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    location = place.get("location", "")
    if folder is None:
        raise FileError(
            f"{file} was given as bytes, but '{tensor.name}' lies in the file '{location}': give the path."
        )
    data = (folder / location).resolve()
    if not location or "\0" in location or not data.is_relative_to(folder.resolve()):
        raise FileError(
            f"{file} says that '{tensor.name}' lies in '{location}', outside of its own folder: it is not read."
        )
    check_readable(data)
    size = data.stat().st_size
    try:
        offset = int(place.get("offset", 0))
        length = int(place.get("length", size - offset))
    except ValueError as error:
        raise FileError(f"{file} is damaged: the place of '{tensor.name}' is no number ({error}).") from error
    if offset < 0 or length != count * dtype.itemsize or offset + length > size:
        raise FileError(
            f"{file} is damaged: '{tensor.name}' needs {count * dtype.itemsize} bytes and is said to have {length} "
            f"from byte {offset} of '{data}', which has {size}."
        )
    return np.fromfile(data, dtype, count=count, offset=offset)
