"""A float32 file as the function that it approximates: the same graph, operator by operator, in float64 arithmetic.

onnxruntime's CPU provider has no float64 convolution, so the graph runs in the reference evaluator of the onnx package.
It is slow where it loops in Python (convolutions, scatter), knows no negative padding and gathers from 64 entries at
most: those operators are given here, most of them by PyTorch's kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from ..errors import InputError

Array = NDArray[Any]


class Evaluator:
    """Runs a model in NumPy and PyTorch, without onnxruntime."""

    def __init__(self, model: onnx.ModelProto) -> None:
        try:
            self._evaluator = ReferenceEvaluator(model, new_ops=OPERATORS)
        except NotImplementedError as error:  # the onnx package says so for an operator that it has not
            raise InputError(
                f"the file cannot be evaluated without its model: {' '.join(str(error).split())}"
            ) from error

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """The named outputs."""
        with np.errstate(all="ignore"):  # infinities show in the results
            return dict(zip(outputs, self._evaluator.run(list(outputs), dict(feeds)), strict=True))


def as_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with float64 wherever it says float32; stored values keep their float32 digits."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    graph = twin.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _widen(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
            elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    return twin


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
        )


def only(model: onnx.ModelProto, outputs: Collection[str]) -> onnx.ModelProto:
    """The part of the graph that computes `outputs`; its inputs stay as they are."""
    needed = set(outputs)
    kept = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    graph = helper.make_graph(
        kept[::-1],
        model.graph.name,
        list(model.graph.input),
        [value for value in model.graph.output if value.name in outputs],
        [tensor for tensor in model.graph.initializer if tensor.name in needed],
    )
    part = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    helper.set_model_props(part, {prop.key: prop.value for prop in model.metadata_props})
    return part


# Operators ---------------------------------------------------------------------------------------------------


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, order="C"))


class Pad(OpRun):
    """Pad, where a negative amount crops."""

    op_domain = ""

    def _run(
        self,
        data: Array,
        pads: Array,
        value: Array | None = None,
        axes: Array | None = None,
        mode: str = "constant",
    ) -> tuple[Array]:
        at = range(data.ndim) if axes is None else [int(axis) % data.ndim for axis in axes]
        before = dict(zip(at, map(int, pads[: len(at)]), strict=True))
        after = dict(zip(at, map(int, pads[len(at) :]), strict=True))
        crop = tuple(
            slice(max(-before.get(i, 0), 0), size - max(-after.get(i, 0), 0))
            for i, size in enumerate(data.shape)
        )
        amounts = [(max(before.get(i, 0), 0), max(after.get(i, 0), 0)) for i in range(data.ndim)]
        if mode != "constant":
            return (np.pad(data[crop], amounts, mode=mode),)  # type: ignore[call-overload]
        filling = 0 if value is None else np.asarray(value).reshape(-1)[0]
        return (np.pad(data[crop], amounts, mode="constant", constant_values=filling),)


class Conv(OpRun):
    """Conv in one to three dimensions, with explicit padding."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        auto_pad: str = "NOTSET",
        dilations: Any = None,
        group: int = 1,
        kernel_shape: Any = None,
        pads: Any = None,
        strides: Any = None,
    ) -> tuple[Array]:
        n = x.ndim - 2
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[n]
        padded = F.pad(_tensor(x), _torch_pads(pads, n))
        bias = None if b is None else _tensor(b)
        return (convolve(padded, _tensor(w), bias, strides or 1, 0, dilations or 1, group).numpy(),)


class ConvTranspose(OpRun):
    """ConvTranspose in one to three dimensions, with explicit padding."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        auto_pad: str = "NOTSET",
        dilations: Any = None,
        group: int = 1,
        kernel_shape: Any = None,
        output_padding: Any = None,
        output_shape: Any = None,
        pads: Any = None,
        strides: Any = None,
    ) -> tuple[Array]:
        n = x.ndim - 2
        transpose = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[n]
        y = transpose(_tensor(x), _tensor(w), None, strides or 1, 0, 0, group, dilations or 1)
        # The full result, zeros behind it for the output padding, then the pads cut off.
        ends = [
            extra - end
            for extra, end in zip(output_padding or [0] * n, (pads or [0] * 2 * n)[n:], strict=True)
        ]
        starts = [-start for start in (pads or [0] * 2 * n)[:n]]
        y = F.pad(y, _torch_pads([*starts, *ends], n))
        return ((y if b is None else y + _tensor(b).reshape(-1, *[1] * n)).numpy(),)


class ScatterElements(OpRun):
    """ScatterElements that replaces or adds."""

    op_domain = ""

    def _run(
        self, data: Array, indices: Array, updates: Array, axis: int = 0, reduction: str = "none"
    ) -> tuple[Array]:
        base, source = _tensor(data), _tensor(updates)
        index = _tensor(np.where(indices < 0, indices + data.shape[axis], indices))
        if reduction == "add":
            return (base.scatter_add(axis, index, source).numpy(),)
        return (base.scatter(axis, index, source).numpy(),)


class GatherElements(OpRun):
    """GatherElements, also along axes of more than 64 entries."""

    op_domain = ""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        return (np.take_along_axis(data, np.where(indices < 0, indices + data.shape[axis], indices), axis),)


OPERATORS = [Pad, Conv, ConvTranspose, ScatterElements, GatherElements]


def _torch_pads(pads: Sequence[int] | None, n: int) -> list[int]:
    """ONNX order (all starts, all ends) to PyTorch's (last axis first, start and end together)."""
    if not pads:
        return [0] * (2 * n)
    return [amount for axis in reversed(range(n)) for amount in (pads[axis], pads[axis + n])]
