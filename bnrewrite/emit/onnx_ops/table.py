"""The table of lowerings (ATen overload -> ONNX nodes) and what all lowerings share.

A lowering is

    @lowering(torch.ops.aten.add.Tensor)
    def add(b: Builder, node: fx.Node, x, y, *, alpha) -> str | Size | int | tuple[str | None, ...]

Arguments come in the order of the operator's schema, defaults filled in, keyword-only ones by keyword. A tensor is the
name of its ONNX value, a SymInt a `Size`, a SymFloat a `Real`; numbers, lists, dtypes and None come as they are. Shapes
and types are read from FakeTensors: `val(node)` for the result, `arg_vals(node)` for the arguments.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnx import helper
from torch import fx
from torch.fx.node import map_arg

from ...errors import InputError, UnsupportedOp
from ..builder import Builder, Flag, Real, Size

Lowering = Callable[..., Any]
Dim = int | torch.SymInt | Size
"""One dimension of a shape: known, symbolic as PyTorch writes it, or symbolic as an ONNX value."""

LOWERINGS: dict[Any, Lowering] = {}

_NUMPY = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
}


def lowering(*targets: Any) -> Callable[[Lowering], Lowering]:
    """Register a function as the lowering of `targets` (ATen overloads, or Python functions on sizes)."""

    def register(function: Lowering) -> Lowering:
        for target in targets:
            if target in LOWERINGS:
                raise ValueError(f"two lowerings for {target}")
            LOWERINGS[target] = function
        return function

    return register


def lower_node(b: Builder, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
    """Lower one call; `env` maps earlier nodes to their values. Raises `UnsupportedOp` where no lowering exists."""
    function = LOWERINGS.get(node.target)
    if function is None:
        raise unsupported(node)
    args, kwargs = _normalised(node)
    return function(b, node, *_resolve(args, env), **_resolve(kwargs, env))


def unsupported(node: fx.Node, advice: str = "") -> UnsupportedOp:
    """The error for `node`: names the operation and where in the model it came from (raise what this returns)."""
    return UnsupportedOp(
        op=node.meta.get("decomposed", node.target),
        where=location(node),
        advice=advice or "It has no ONNX lowering.",
    )


def location(node: fx.Node) -> str:
    """Where `node` comes from: module path and source line; its own name where nothing is known."""
    module = node.meta.get("site") or node.meta.get("module") or ""
    frames = [line.strip() for line in str(node.meta.get("stack_trace") or "").splitlines()]
    line = node.meta.get("where") or next((f for f in reversed(frames) if f.startswith("File ")), "")
    named = f"module '{module}'" if module else f"node {node.name}"
    return f"{named} ({line})" if line else named


# --- values, shapes, types -------------------------------------------------------------------------------------------


def val(node: Any) -> Any:
    """The FakeTensor (or SymInt, or tuple) that `node` computes; anything that is no node is its own value."""
    return node.meta["val"] if isinstance(node, fx.Node) else node


def arg_vals(node: fx.Node) -> list[Any]:
    """The values of all positional arguments in schema order: FakeTensors, SymInts, and plain values as they are."""
    return [map_arg(arg, val) for arg in _normalised(node)[0]]


def np_dtype(of: Any) -> Any:
    """NumPy type of a tensor or a torch dtype."""
    dtype = of.dtype if isinstance(of, torch.Tensor) else of
    if dtype not in _NUMPY:
        raise InputError(
            f"ONNX export knows no {dtype}; convert the model, for example with model.to(torch.float32)."
        )
    return _NUMPY[dtype]


def onnx_dtype(of: Any) -> int:
    """ONNX element type (`TensorProto.DataType`) of a tensor or a torch dtype."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(np_dtype(of))))


def is_static(dim: Any) -> bool:
    """Whether a dimension is a plain number."""
    return isinstance(dim, int)


def shape(v: torch.Tensor) -> list[Any]:
    """The shape of `v`: ints, and SymInts where a dimension is symbolic (never where its value is known)."""
    return [int(str(d)) if str(d).isdigit() else d for d in v.shape]


def static_shape(v: torch.Tensor) -> list[int]:
    """The shape of `v` where no dimension is symbolic; raises `ValueError` otherwise."""
    sizes = shape(v)
    if not all(is_static(d) for d in sizes):
        raise ValueError(f"shape {tuple(sizes)} is not static")
    return sizes


def dims(b: Builder, x: str, v: torch.Tensor) -> list[int | Size]:
    """The shape of value `x` (whose FakeTensor is `v`): ints, and a Size where a dimension is symbolic."""
    return [d if is_static(d) else size_of(b, d) or b.size(x, i) for i, d in enumerate(shape(v))]


def size_of(b: Builder, dim: Any) -> Any:
    """A symbolic dimension as a `Size`, an int as itself, `None` if no value computed so far has that size."""
    if is_static(dim) or isinstance(dim, Size):
        return dim
    return b.symbol(str(dim))


def same_dim(p: Any, q: Any) -> bool:
    """Whether two dimensions are known to be equal; never guards on a symbol."""
    return type(p) is type(q) and (p == q if is_static(p) or isinstance(p, Size) else str(p) == str(q))


def same_shape(p: Sequence[Any], q: Sequence[Any]) -> bool:
    """Whether two shapes are known to be equal."""
    return len(p) == len(q) and all(same_dim(i, j) for i, j in zip(p, q, strict=True))


def numel_is_one(v: torch.Tensor) -> bool:
    """Whether a tensor is known to have exactly one element."""
    return all(is_static(d) and d == 1 for d in shape(v))


def axis(dim: int, rank: int) -> int:
    """A possibly negative axis counted from the front (a 0-d tensor takes 0 and -1)."""
    return dim % max(rank, 1)


def axes(dim: int | Sequence[int] | None, rank: int) -> list[int]:
    """A dim argument (int, list, None or empty = all) as sorted axes counted from the front."""
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return list(range(rank))
    given = [dim] if isinstance(dim, int) else list(dim)
    return sorted({axis(d, rank) for d in given}) if rank else []


# --- small ONNX helpers ----------------------------------------------------------------------------------------------


def cast(b: Builder, x: str, source: Any, target: Any) -> str:
    """`x` (a tensor or dtype `source`) as torch dtype `target`; no node where they agree, none for a constant."""
    have = source.dtype if isinstance(source, torch.Tensor) else source
    if have == target:
        return x
    array = b.constant(x)
    if array is not None:
        return b.const(array.astype(np_dtype(target)), np_dtype(target))
    return b.op("Cast", x, to=onnx_dtype(target))


def number(b: Builder, value: Any, dtype: torch.dtype) -> str:
    """A Python number or a symbolic Size, Real or Flag as a 0-d value of `dtype`."""
    if not isinstance(value, str):
        return b.const(value, np_dtype(dtype))
    source = {Size: torch.int64, Real: torch.float64, Flag: torch.bool}[type(value)]
    return b.op("Squeeze", cast(b, value, source, dtype), b.const([0], np.int64))


def factor(b: Builder, x: Any, v: Any, like: torch.Tensor, *, divides: bool = False) -> str:
    """One operand (as in `operand`) of a product or quotient that has the shape and type of `like`.

    onnxruntime moves a constant of one element into a MatMul beside it, as a float32 attribute (of a divisor the
    inverse): in float64 it is repeated along the shortest axis, unless float32 holds it exactly.
    """
    sizes = shape(like)
    choices = [(size, i) for i, size in enumerate(sizes) if is_static(size) and size > 1]
    if like.dtype != torch.float64 or isinstance(x, (Size, Real)) or not choices:
        return operand(b, x, v, like.dtype)
    size, at = min(choices)
    repeated = [size] + [1] * (len(sizes) - 1 - at)
    if not isinstance(v, torch.Tensor):
        exact = exact_in_float32(1 / x if divides and x else x)
        return number(b, x, like.dtype) if exact else b.const(np.full(repeated, x), np.float64)
    value = cast(b, x, v, like.dtype)
    if v.dim() < 2 and numel_is_one(v) and b.producer(value) is None:
        return b.op("Expand", value, b.ints(repeated))
    return value


def exact_in_float32(value: Any) -> bool:
    """Whether a number survives as a float32 attribute."""
    return isinstance(value, (int, float)) and float(np.float32(value)) == float(value)


def operand(b: Builder, x: Any, v: Any, dtype: torch.dtype) -> str:
    """One operand of an element-wise op as a value of `dtype`: tensor `x` with FakeTensor `v`, or a number."""
    return cast(b, x, v, dtype) if isinstance(v, torch.Tensor) else number(b, x, dtype)


def reshape(b: Builder, x: str, to: Sequence[Dim], source: Sequence[Dim] | None = None) -> str:
    """Reshape `x` to shape `to`, as a constant shape wherever ONNX's 0 (copy) and -1 (infer) can say it.

    `source` is the present shape of `x`; with it, equal shapes cost no node and a leading batch axis is copied. At most
    one symbolic dimension of `to` may have a size that no earlier value has.
    """
    if source is not None and same_shape(to, source):
        return x
    spec: list[Any] = [d if is_static(d) else None for d in to]
    # 0 copies a dimension and a -1 beside a dimension of size 0 is ambiguous: empty tensors spell everything out.
    empty = 0 in spec
    if source is not None and not empty:
        for i in range(len(to) - 1, -1, -1):
            if spec[i] is None and spec.count(None) > 1 and i < len(source) and same_dim(to[i], source[i]):
                spec[i] = 0
    sizes = (
        {i: size_of(b, to[i]) for i, d in enumerate(spec) if d is None}
        if empty or spec.count(None) > 1
        else {}
    )
    if None in spec and not empty:
        inferred = next((i for i, size in sizes.items() if size is None), spec.index(None))
        spec[inferred] = -1
    for i, size in sizes.items():
        if spec[i] is None:
            if size is None:
                raise ValueError(f"no value of size {to[i]} is known to reshape to {tuple(to)}")
            spec[i] = size
    return b.op("Reshape", x, b.ints(spec), **({"allowzero": 1} if empty else {}))


def unsqueeze(b: Builder, x: str, at: Sequence[int]) -> str:
    """Insert axes of size 1 at positions `at` of the result."""
    return b.op("Unsqueeze", x, b.const(list(at), np.int64)) if at else x


def squeeze(b: Builder, x: str, at: Sequence[int]) -> str:
    """Remove the axes `at`, each of size 1."""
    return b.op("Squeeze", x, b.const(list(at), np.int64)) if at else x


def transpose(b: Builder, x: str, order: Sequence[int]) -> str:
    """Permute axes: axis i of the result is axis order[i] of `x`."""
    order = [int(i) for i in order]
    return x if order == sorted(order) else b.op("Transpose", x, perm=order)


def slice_axis(b: Builder, x: str, dim: int, start: int | Size, end: int | Size, step: int = 1) -> str:
    """`x[start:end:step]` along axis `dim`."""
    one = b.const([step], np.int64)
    return b.op(
        "Slice", x, b.ints([start]), b.ints([end]), b.const([dim], np.int64), *([one] if step != 1 else [])
    )


def expand(b: Builder, x: str, to: Sequence[Dim], source: Sequence[Dim]) -> str:
    """Broadcast `x` (of shape `source`) to shape `to`; Expand works both ways, so kept dimensions are said as 1."""
    lead = len(to) - len(source)
    padded: list[Dim] = [1] * lead + list(source)
    wanted = [1 if same_dim(s, d) else size_of(b, d) for s, d in zip(padded, to, strict=True)]
    if any(w is None for w in wanted):
        raise ValueError(f"no value is known with a size that {tuple(to)} needs")
    if all(is_static(w) and w == 1 for w in wanted):
        return unsqueeze(b, x, list(range(lead)))
    return b.op("Expand", x, b.ints(wanted))


def _normalised(node: fx.Node) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of a call in schema order with defaults; keyword-only ones by name."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return list(node.args), dict(node.kwargs)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for i, parameter in enumerate(schema.arguments):
        given = (
            node.args[i] if i < len(node.args) else node.kwargs.get(parameter.name, parameter.default_value)
        )
        if parameter.kwarg_only:
            kwargs[parameter.name] = given
        else:
            args.append(given)
    return args, kwargs


def _resolve(structure: Any, env: dict[fx.Node, Any]) -> Any:
    """Nodes replaced by their ONNX values, FX's immutable lists by plain ones."""
    if isinstance(structure, fx.Node):
        return env[structure]
    if isinstance(structure, (list, tuple)):
        return [_resolve(item, env) for item in structure]
    if isinstance(structure, dict):
        return {key: _resolve(item, env) for key, item in structure.items()}
    return structure


@lowering(operator.getitem)
def getitem(b: Builder, node: fx.Node, values: Sequence[Any], index: int) -> Any:
    """One output of an operation that returns several."""
    picked = values[index]
    if picked is None:
        raise unsupported(node, f"Output {index} of {node.args[0]} has no ONNX lowering.")
    return picked
