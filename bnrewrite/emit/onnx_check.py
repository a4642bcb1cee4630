"""Checks a model by the ONNX standard, of any size.

Protobuf cannot serialise past 2 GB, and shape inference reads no weights: the check runs on a copy in which large
initializers are inputs of the same type and shape.
"""

from __future__ import annotations

import onnx
from onnx import helper

# Shape-like constants are smaller than this and must stay: shape inference reads them.
_LARGE_BYTES = 1 << 16


def nbytes(tensor: onnx.TensorProto) -> int:
    """Size of an initializer's data in bytes (all of ours are raw)."""
    return len(tensor.raw_data)


def without_large_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every large initializer is an input."""
    graph = model.graph
    large = [tensor for tensor in graph.initializer if nbytes(tensor) > _LARGE_BYTES]
    inputs = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in large]
    skeleton = onnx.GraphProto(name=graph.name, doc_string=graph.doc_string)
    skeleton.node.extend(graph.node)
    skeleton.input.extend([*graph.input, *inputs])
    skeleton.output.extend(graph.output)
    skeleton.initializer.extend(tensor for tensor in graph.initializer if nbytes(tensor) <= _LARGE_BYTES)
    light = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    light.opset_import.extend(model.opset_import)
    light.graph.CopyFrom(skeleton)
    return light


def check(model: onnx.ModelProto) -> None:
    """Raises `onnx.checker.ValidationError` or `onnx.shape_inference.InferenceError` if the model is not valid ONNX.

    Types and shapes are inferred in strict mode through the whole graph and compared with the declared outputs.
    """
    light = without_large_data(model)
    onnx.checker.check_model(light)
    onnx.shape_inference.infer_shapes(light, check_type=True, strict_mode=True, data_prop=True)
