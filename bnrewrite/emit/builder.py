"""A small builder of ONNX graphs: nodes and constants go in one at a time, names and provenance come for free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Size(str):
    """Name of an int64 ONNX value of shape [1] that holds a symbolic size (a SymInt of the FX graph)."""

    __slots__ = ()


class Real(str):
    """Name of a float64 ONNX value of shape [1] that holds a symbolic real number (a SymFloat of the FX graph)."""

    __slots__ = ()


class Flag(str):
    """Name of a bool ONNX value of shape [1] that holds a symbolic truth value (a SymBool of the FX graph)."""

    __slots__ = ()


Scalar = int | Size
Symbolic = Size | Real | Flag

# Reductions that still had `axes` as an attribute before this opset; ReduceSum changed at 13.
_AXES_INPUT_SINCE = 18


class Builder:
    """Collects nodes and initializers; names are unique, equal constants and equal nodes are stored once.

    A *scope* (node name prefix and metadata) applies to every node that is emitted while it is open, so a lowering
    function never deals with names or provenance.
    """

    def __init__(self, opset: int = 18) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._emitted: dict[tuple[int, bytes], tuple[str, ...]] = {}
        self._producers: dict[str, onnx.NodeProto] = {}
        self._symbols: dict[str, tuple[str, int] | Symbolic] = {}
        self._taken: set[str] = set()
        self._prefix = ""
        self._metadata: dict[str, str] = {}

    @contextmanager
    def scope(self, prefix: str, metadata: dict[str, str] | None = None) -> Iterator[None]:
        """Name every node emitted inside `<prefix>.<OpType>` (made unique) and attach `metadata_props`."""
        outer = self._prefix, self._metadata
        self._prefix, self._metadata = prefix, metadata or {}
        try:
            yield
        finally:
            self._prefix, self._metadata = outer

    def unique(self, name: str) -> str:
        """`name`, or `name_1`, `name_2`, ... if it is taken; reserves what it returns."""
        candidate, count = name, 0
        while candidate in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        self._taken.add(candidate)
        return candidate

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Emit one node with one output; an absent optional input is `""`. Returns the name of the output."""
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: str, outputs: int, **attributes: Any) -> tuple[str, ...]:
        """Emit one node with several outputs; returns their names. A node emitted before is not emitted again."""
        # str(): protobuf takes no subclasses of str such as Size.
        node = helper.make_node(op_type, [str(x) for x in inputs], [], **attributes)
        key = (outputs, node.SerializeToString(deterministic=True))
        if key in self._emitted:
            return self._emitted[key]
        node.name = self.unique(f"{self._prefix}.{op_type}" if self._prefix else op_type)
        names = tuple(self.unique(f"{node.name}.{i}" if i else f"{node.name}.out") for i in range(outputs))
        node.output.extend(names)
        for entry, text in self._metadata.items():
            prop = node.metadata_props.add()
            prop.key, prop.value = entry, text
        self.nodes.append(node)
        self._emitted[key] = names
        self._producers.update(dict.fromkeys(names, node))
        return names

    def producer(self, x: str) -> onnx.NodeProto | None:
        """The node that computes `x`; `None` for an input, a parameter or a constant."""
        return self._producers.get(x)

    def const(self, value: Any, dtype: Any) -> str:
        """A constant of NumPy type `dtype` (scalar, list or array), stored once; returns its name."""
        array = np.ascontiguousarray(np.asarray(value, dtype=dtype)).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.unique(f"const.{len(self._constants)}")
            self._constants[key] = name
            self._arrays[name] = array
            self.initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def constant(self, x: str) -> np.ndarray | None:
        """The array behind a value made by `const`, else `None` (what folds in Python asks here)."""
        return self._arrays.get(x)

    def ints(self, values: Sequence[Scalar]) -> str:
        """A 1-D int64 value made of Python ints and symbolic sizes (what Reshape, Expand, Slice, Pad want)."""
        if not any(isinstance(v, Size) for v in values):
            return self.const([int(v) for v in values], np.int64)
        parts: list[str] = []
        run: list[int] = []
        for v in values:
            if isinstance(v, Size):
                if run:
                    parts.append(self.const(run, np.int64))
                    run = []
                parts.append(v)
            else:
                run.append(int(v))
        if run:
            parts.append(self.const(run, np.int64))
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=0)

    def size(self, x: str, axis: int) -> Size:
        """The size of `x` along `axis` (counted from the front) as a symbolic size."""
        return Size(self.op("Shape", x, start=axis, end=axis + 1))

    def declare(self, symbol: str, source: tuple[str, int] | Symbolic) -> None:
        """Say where the symbolic size written `symbol` can be read: axis i of a value, or itself. First one stands."""
        self._symbols.setdefault(symbol, source)

    def symbol(self, symbol: str) -> Symbolic | None:
        """The value of a declared symbolic expression (one Shape node for each, at its first use), else `None`."""
        source = self._symbols.get(symbol)
        if not isinstance(source, tuple):
            return source
        size = self._symbols[symbol] = self.size(*source)
        return size

    def reduce(self, op_type: str, x: str, axes: Sequence[int], keepdims: bool) -> str:
        """One of ONNX's Reduce operators over non-negative `axes` (all given explicitly; none: `x` itself)."""
        if not axes:
            return x
        if op_type == "ReduceSum" or self.opset >= _AXES_INPUT_SINCE:
            return self.op(op_type, x, self.const(list(axes), np.int64), keepdims=int(keepdims))
        return self.op(op_type, x, axes=list(axes), keepdims=int(keepdims))
