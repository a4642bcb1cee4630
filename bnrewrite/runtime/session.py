"""One exported file in onnxruntime: what it takes, what it gives, and what it says about itself.

The file describes itself twice: the inputs and outputs of its graph (names, types, shapes) and a JSON under
`bnrewrite` in its metadata (loss, BatchNorm sites, parameters, classes). Both are read through onnxruntime alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as _ort

from ..errors import FileError, InputError, NumericalError

METADATA_KEY = "bnrewrite"
DATA_ROOTS = ("input", "target")

ORT_ERRORS: tuple[type[Exception], ...] = (
    _ort.Fail,
    _ort.InvalidArgument,
    _ort.InvalidGraph,
    _ort.InvalidProtobuf,
    _ort.EngineError,
    _ort.EPFail,
    _ort.NoModel,
    _ort.NoSuchFile,
    _ort.NotImplemented,
    _ort.RuntimeException,
)
"""What onnxruntime raises: it has no common base class of its own."""

_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}

Kind = Literal["data", "vector", "parameter", "residual"]
Array = NDArray[Any]


@dataclass(frozen=True)
class Argument:
    """One input of the graph. `shape` holds numbers, and names for sizes that are free (the batch axis is `N`)."""

    name: str
    kind: Kind
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    def described(self) -> str:
        return f"{self.dtype} [{', '.join(str(size or '?') for size in self.shape)}]"


class Described(Protocol):
    """What says of itself what it takes: a file, or files that work together."""

    name: str
    meta: dict[str, Any]

    def of_kind(self, kind: Kind) -> list[Argument]: ...


class Session:
    """An exported file, ready to run.

    Parameters
    ----------
    source : path of the file, or the bytes of a model.
    providers, session_options : as for `onnxruntime.InferenceSession`; by default the CPU, and no planned reuse of
        memory, which takes long to plan and saves none here.

    Raises
    ------
    FileError : the file is missing, unreadable, damaged, or was not written by bnrewrite.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        *,
        providers: Sequence[Any] | None = None,
        session_options: onnxruntime.SessionOptions | None = None,
    ) -> None:
        self.name = "the model" if isinstance(source, bytes) else os.fspath(source)
        self._session = _start(source, self.name, providers, session_options)
        self.meta: dict[str, Any] = _metadata(self._session, self.name)
        self.arguments = {
            argument.name: argument for argument in map(self._argument, self._session.get_inputs())
        }
        self.outputs: list[str] = [output.name for output in self._session.get_outputs()]

    def _argument(self, node: Any) -> Argument:
        if node.type not in _TYPES:
            raise FileError(
                f"'{self.name}': input '{node.name}' has type {node.type}, which NumPy cannot hold."
            )
        kind, shape = self._kind(node.name), tuple(node.shape)
        one = kind == "vector" and self.vectors is not None
        return Argument(node.name, kind, np.dtype(_TYPES[node.type]), shape[1:] if one else shape)

    def _kind(self, name: str) -> Kind:
        # Without a number behind it: a parameter of a module of that name.
        if self.meta.get("part") == "apply" and re.fullmatch(r"residual\.\d+", name):
            return "residual"
        if name.startswith("v.") and name.removeprefix("v.") in self.meta["parameters"]:
            return "vector"
        # A parameter may be called "input.weight" too; the file lists the names of all of them.
        if name.split(".")[0] in DATA_ROOTS and name not in self.meta.get("parameter_order", ()):
            return "data"
        return "parameter"

    def of_kind(self, kind: Kind) -> list[Argument]:
        """The inputs of one kind, in the order of the file."""
        return [argument for argument in self.arguments.values() if argument.kind == kind]

    @property
    def products(self) -> list[str]:
        """The products that the file computes: `hvp`, `ggn`, `residual`."""
        return list(self.meta["products"])

    @property
    def vectors(self) -> int | None:
        """How many directions the file takes in one call; `None` where vectors have no such axis."""
        return self.meta.get("vectors")

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64: the type of the vectors (of the loss where there are none), and so of all arithmetic."""
        vectors = self.of_kind("vector")
        loss = next((output for output in self._session.get_outputs() if output.name == "loss"), None)
        return vectors[0].dtype if loss is None or vectors else np.dtype(_TYPES[loss.type])

    def evaluate(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Evaluate the graph on checked arrays as it is: with `vectors=K`, K directions and K products."""
        try:
            values = self._session.run(list(outputs), dict(feeds))
        except ORT_ERRORS as error:
            raise NumericalError(f"onnxruntime stopped in '{self.name}': {one_line(error)}") from error
        return dict(zip(outputs, values, strict=True))

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Evaluate the graph on checked arrays, for one direction; all outputs, or those named."""
        results = self.evaluate(self._widened(feeds), list(self.outputs if outputs is None else outputs))
        if self.vectors is None:
            return results
        wide = {f"{product}.{name}" for product in self.products for name in self.meta["parameters"]}
        return {name: value[0] if name in wide else value for name, value in results.items()}

    def _widened(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """In a file for K directions the others are zero."""
        if self.vectors is None:
            return dict(feeds)
        widened = dict(feeds)
        for argument in self.of_kind("vector"):
            v = feeds[argument.name]
            widened[argument.name] = np.zeros([self.vectors, *v.shape], v.dtype)
            widened[argument.name][0] = v
        return widened


def _start(
    source: str | os.PathLike[str] | bytes,
    name: str,
    providers: Sequence[Any] | None,
    options: onnxruntime.SessionOptions | None,
) -> onnxruntime.InferenceSession:
    if not isinstance(source, bytes):
        check_readable(source)
    names = [entry if isinstance(entry, str) else entry[0] for entry in providers or ()]
    if missing := [entry for entry in names if entry not in onnxruntime.get_available_providers()]:
        raise InputError(f"onnxruntime has no execution provider '{missing[0]}' on this machine.")
    options = default_options() if options is None else options
    try:
        return onnxruntime.InferenceSession(
            source if isinstance(source, bytes) else os.fspath(source),
            options,
            providers=list(providers or ["CPUExecutionProvider"]),
        )
    except ORT_ERRORS as error:
        raise FileError(f"'{name}' cannot be opened by onnxruntime: {one_line(error)}") from error


def default_options() -> onnxruntime.SessionOptions:
    """How sessions are started where nothing else is asked for."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # whatever it would log as an error is raised as well
    # The planner of memory takes time quadratic in the number of nodes (DenseNet-BC: half of the start, deep
    # attention networks: minutes); calls take as long and no more memory without it.
    options.enable_mem_reuse = False
    return options


def check_readable(path: str | os.PathLike[str]) -> None:
    """Raise FileError unless `path` is a file that can be read."""
    file = Path(path)
    if not file.exists():
        raise FileError(f"there is no file '{file}'.")
    if not file.is_file():
        raise FileError(f"'{file}' is not a file.")
    if not os.access(file, os.R_OK):
        raise FileError(f"'{file}' cannot be read: permission denied.")


def _metadata(session: onnxruntime.InferenceSession, name: str) -> dict[str, Any]:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise FileError(
            f"'{name}' was not written by bnrewrite: it lacks the '{METADATA_KEY}' entry in its metadata."
        )
    try:
        meta = json.loads(text)
    except json.JSONDecodeError as error:
        raise FileError(
            f"'{name}' is damaged: its '{METADATA_KEY}' metadata is no JSON ({error})."
        ) from error
    missing = (
        [key for key in ("parameters", "products", "loss") if key not in meta]
        if isinstance(meta, dict)
        else None
    )
    if missing is None or missing:
        what = "an object" if missing is None else f"'{missing[0]}'"
        raise FileError(f"'{name}' is damaged: its '{METADATA_KEY}' metadata lacks {what}.")
    return meta


def one_line(error: BaseException) -> str:
    """The message of an error of another library as one line, without onnxruntime's error codes."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
